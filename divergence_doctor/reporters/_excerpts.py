"""What does a sample to blame hold? The few values of it that the trace keeps."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.reporters._parts import Excerpt

if TYPE_CHECKING:
    from divergence_doctor.trace import Trace

#: A trace may come from a stranger: a larger picture, or longer row, is not shown.
_SIDE: Final = 256
_VALUES: Final = 256
_LEVELS: Final = frozenset(range(-1, 256))


def excerpts(trace: Trace, batch: int, sample: int) -> tuple[Excerpt, ...]:
    """Return what the trace keeps of the arrays of one sample; what makes no sense is left out."""
    rows = trace.table("excerpts").select(batch=batch, sample=sample).rows()
    return tuple(found for row in rows if (found := _excerpt(row)) is not None)


def _excerpt(row: dict[str, Any]) -> Excerpt | None:
    height, width, channels = (max(int(row[key]), 0) for key in ("height", "width", "channels"))
    values = _values(row["values"])
    if values is None:
        return None
    told = {"array": row["name"], "dtype": row["dtype"], "shape": row["shape"], "size": row["size"]}
    if not height:
        return Excerpt(**told, values=values[:_VALUES])
    fits = max(height, width) <= _SIDE and channels in {1, 3}
    if not fits or len(values) != height * width * channels or not _LEVELS.issuperset(values):
        return None
    return Excerpt(
        **told,
        values=values,
        height=height,
        width=width,
        channels=channels,
        low=row["low"],
        high=row["high"],
    )


def _values(text: str) -> tuple[float, ...] | None:
    """Return a JSON list of numbers, in which ``"nan"``, ``"inf"`` and ``"-inf"`` may stand."""
    try:
        found = json.loads(text)
        return tuple(_number(value) for value in found) if isinstance(found, list) else None
    except (ValueError, OverflowError, RecursionError):
        return None


def _number(value: Any) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError("not a number")  # noqa: TRY004 -- as json.loads says it of the rest
    return float(value) if not isinstance(value, str) else _SPELLED.get(value, math.nan)


_SPELLED: Final = {"nan": math.nan, "inf": math.inf, "-inf": -math.inf}
