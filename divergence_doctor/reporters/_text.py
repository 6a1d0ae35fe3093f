"""How does text that came from a model or a batch become safe to show, and a number readable?

Names in a trace were given by strangers. Every sink escapes for itself; here is what all of them
need first: no character that moves the cursor, hides or reorders text, and no endless name.
"""

from __future__ import annotations

import math
from typing import Final

from divergence_doctor._clean import clean

#: Longest text kept of any one string, and of any one name in a line or a table (characters).
TEXT_LIMIT: Final = 4_000
NAME_LIMIT: Final = 160
#: Stands where there is nothing to tell.
NONE: Final = "—"


def cleaned(text: str) -> str:
    """Return text with what is invisible spelled out, of at most 4,000 characters, on its lines."""
    return clean(text.replace("\t", "    "), TEXT_LIMIT, multiline=True)


def shorten(text: str, limit: int = NAME_LIMIT) -> str:
    """Return text of at most ``limit`` characters; the middle goes, and its length is told."""
    if len(text) <= limit:
        return text
    note = f" …[{len(text):,} characters]… "
    keep = max(limit - len(note), 2)
    return text[: keep - keep // 2] + note + text[len(text) - keep // 2 :]


def one_line(text: str) -> str:
    """Return text with every run of white space as one space."""
    return " ".join(text.split())


def number(value: object) -> str:
    """Return a value as a reader wants it: four digits, thousands apart, NaN and Inf by name."""
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return _float(value)
    return NONE if value is None else str(value)


def _float(value: float) -> str:
    if math.isfinite(value):
        return f"{value:.4g}"
    return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"


def measured(value: float | None) -> str:
    """Return a statistic, a dash where there is none (NaN is how a trace writes "none")."""
    return NONE if value is None or math.isnan(value) else number(value)


def quoted(name: str) -> str:
    """Return a name between backticks, as prose marks code; backticks in it become quotes."""
    return "`" + shorten(one_line(name)).replace("`", "'") + "`"


def code_pieces(text: str) -> list[tuple[bool, str]]:
    """Split prose at its backticks into (is code, text) pieces; a lone backtick is just text."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        parts[-2:] = ["'".join(parts[-2:])]
    return [(bool(index % 2), part) for index, part in enumerate(parts) if part]


def and_more(shown: int, total: int, what: str) -> str:
    """Return a sentence that announces what was left out; empty when nothing was."""
    return f"{total - shown:,} more of {total:,} {what} left out here." if total > shown else ""
