"""What may a string from a stranger's file look like? Printable, on one line, and not endless."""

from __future__ import annotations

import shlex
import unicodedata
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from pathlib import Path

#: Unicode categories that no name needs: controls, format marks (bidi overrides, zero width),
#: surrogates, private use, and the two line separators.
_UNPRINTABLE: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})

#: Characters of a path on Linux.
_LONGEST_PATH: Final = 4_096
_LAST_BYTE: Final = 0xFF
_LAST_OF_BASIC_PLANE: Final = 0xFFFF


def clean(text: str, limit: int = 120, *, multiline: bool = False) -> str:
    r"""Return ``text`` safe to hand to any sink that escapes for itself.

    Args:
        text: any string.
        limit: longest result in characters; what is over is cut from the middle.
        multiline: keep line feeds.

    Returns:
        The text in Unicode's composed form (NFC), unprintable characters spelled as ``\xNN`` or
        ``\uNNNN``, cut in the middle with an ellipsis where it is too long.
    """
    if len(text) > 4 * limit:
        text = text[: 2 * limit] + "…" + text[-2 * limit :]
    # Nearly every name is plain; asked for every call of every layer, so it must cost nothing.
    spelled = text if text.isascii() and text.isprintable() else _spelled(text, multiline)
    if len(spelled) <= limit:
        return spelled
    head = (limit - 1) // 2
    return f"{spelled[:head]}…{spelled[len(spelled) - (limit - 1 - head) :]}"


def argument(path: Path | str) -> str:
    """Return a path as it stands in a command that is to be pasted: never cut, and quoted."""
    return shlex.quote(clean(str(path), _LONGEST_PATH))


def _spelled(text: str, multiline: bool) -> str:  # noqa: FBT001 - clean's own keyword
    return "".join(
        character
        if unicodedata.category(character) not in _UNPRINTABLE or (multiline and character == "\n")
        else _spell(character)
        for character in unicodedata.normalize("NFC", text)
    )


def _spell(character: str) -> str:
    number = ord(character)
    if number <= _LAST_BYTE:
        return f"\\x{number:02x}"
    return f"\\u{number:04x}" if number <= _LAST_OF_BASIC_PLANE else f"\\U{number:08x}"
