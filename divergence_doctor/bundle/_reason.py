"""What goes into ``reason.json``? Why the run died, in less than 64 KB, whatever it is given."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.bundle._json import encode
from divergence_doctor.bundle._manifest import MAX_REASON, REASON_SCHEMA

if TYPE_CHECKING:
    from collections.abc import Mapping

#: Characters that a text is cut to, in the middle; the second when the first is still too many.
_LENGTHS: Final = (16 << 10, 2 << 10, 256)
#: Without these the file says nothing; all that is left where the rest is beyond JSON.
_CORE: Final = ("trigger", "message", "step", "epoch", "loss")


def encode_reason(reason: Mapping[str, Any]) -> bytes:
    """Return the file's bytes, fewer than ``MAX_REASON``: long texts are cut in their middle."""
    for kept in (reason, {key: str(reason.get(key)) for key in _CORE}):
        for length in _LENGTHS:
            try:
                text = encode({"schema": REASON_SCHEMA, **_cut(kept, length)})
            except Exception:  # noqa: BLE001, S112 - a reason is written whatever it was given
                continue
            if len(text) < MAX_REASON:
                return text
    return encode({"schema": REASON_SCHEMA, "trigger": "unknown", "message": "it is too long"})


def _cut(reason: Mapping[str, Any], length: int) -> dict[str, Any]:
    return {key: _middle_out(value, length) for key, value in reason.items()}


def _middle_out(value: Any, length: int) -> Any:
    if not isinstance(value, str) or len(value) <= length:
        return value
    half = length // 2
    return f"{value[:half]}\n[... {len(value) - 2 * half:,} characters ...]\n{value[-half:]}"
