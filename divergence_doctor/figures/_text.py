"""How is a name or a number written in a picture? Cleaned, shortened, and never read as maths."""

from __future__ import annotations

import math
import unicodedata
from functools import cache
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Sequence

#: Characters that are not text: controls, format characters (right-to-left overrides among them),
#: surrogates, private use, unassigned code points, and the separators of lines and paragraphs.
_NOT_TEXT: Final = frozenset({"Cc", "Cf", "Cs", "Co", "Cn", "Zl", "Zp"})
_SUPERSCRIPTS: Final = str.maketrans("-0123456789", "⁻⁰¹²³⁴⁵⁶⁷⁸⁹")
#: A name longer than this is cut in the middle: its first and its last part tell it from others.
NAME_LENGTH: Final = 26
#: Of what several names begin with alike, so many characters are kept.
_SHARED: Final = 12
#: A caption is a sentence; longer names than this drown it.
_QUOTE_LENGTH: Final = 60
#: From here on a count is written as a figure with three digits.
_PLAIN_BELOW: Final = 10_000


def clean(text: str) -> str:
    """Return a text from a stranger's file on one line, control characters replaced by U+FFFD."""
    return "".join(map(_cleaned, text))


def _cleaned(character: str) -> str:
    category = unicodedata.category(character)
    if category in _NOT_TEXT:
        return "\ufffd"
    return " " if category == "Zs" else character  # one kind of space, told apart by nobody


def shorten(text: str, length: int = NAME_LENGTH) -> str:
    """Return the text cut in the middle to at most ``length`` characters."""
    if len(text) <= length:
        return text
    tail = (length - 1) * 3 // 5
    return f"{text[: length - 1 - tail]}…{text[-tail:]}"


def drawable(text: str, length: int = NAME_LENGTH) -> str:
    """Return a name as it can be drawn: clean, short, and of glyphs that the font holds.

    A character that the font lacks is written as its code point: two names in a script that the
    font does not know stay two names.
    """
    known = _glyphs()
    # Cut before and after: a name may be very long, and an escape is longer than its character.
    short = shorten(clean(shorten(text, 4 * length)), length)
    spelled = "".join(_spelled(c, known) for c in short)
    return shorten(spelled, length)


def _spelled(character: str, known: frozenset[int]) -> str:
    if character == "\ufffd":  # a large black glyph that stands out more than the name
        return "?"
    return character if ord(character) in known else f"\\u{ord(character):04x}"


def distinct(names: Sequence[str], length: int = NAME_LENGTH) -> list[str]:
    """Return names as they can be drawn side by side: two that differ stay two.

    Where cutting the middle makes several alike, what all of those share at their beginning goes
    instead, and of their end as much as there is no room for; the ends are cut at slashes.
    """
    labels = {name: drawable(name, length) for name in names}
    alike: dict[str, list[str]] = {}
    for name, label in labels.items():
        alike.setdefault(label, []).append(name)
    for group in alike.values():
        if len(group) > 1:
            labels |= dict(zip(group, _told_apart(group, length), strict=True))
    return [labels[name] for name in names]


def _told_apart(group: Sequence[str], length: int) -> list[str]:
    shared = _shared(group)
    start = max(group[0].rfind("/", 0, shared) + 1, shared - _SHARED)
    rest = [name[start:] for name in group]
    tail = _shared([name[::-1] for name in rest])
    before = "…" if start else ""
    labels = []
    for name in rest:
        whole, middle = f"{before}{name}", f"{before}{name[: len(name) - tail]}…"
        labels.append(drawable(whole if len(whole) <= length else middle, length))
    if len(set(labels)) == len(labels):
        return labels
    return [f"{label[: length - 6]} #{place}" for place, label in enumerate(labels, start=1)]


def _shared(names: Sequence[str]) -> int:
    """Return how many characters all names have alike from their beginning on."""
    first, last = min(names), max(names)  # what lies between shares what these two share
    pairs = enumerate(zip(first, last, strict=False))
    return next((place for place, (a, b) in pairs if a != b), min(len(first), len(last)))


def quoted(name: str) -> str:
    """Return a name in quotes for a caption: clean, and no longer than a sentence bears."""
    return f"'{clean(shorten(name, _QUOTE_LENGTH))}'"


def number(value: float) -> str:
    """Return a number with three significant digits, e.g. ``0.00123``, ``4.5e+10``, ``NaN``."""
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "+Inf" if value > 0 else "-Inf"
    return (
        f"{value:,.0f}" if value == round(value) and abs(value) < _PLAIN_BELOW else f"{value:.3g}"
    )


def rounded(value: float) -> str:
    """Return a positive number by its first digit, e.g. ``0.06``, ``4``, ``1e6``, ``2e-9``."""
    mantissa, _, exponent = f"{value:.0e}".partition("e")
    return f"{value:.1g}" if exponent in {"-02", "-01", "+00"} else f"{mantissa}e{int(exponent)}"


def count(value: int, noun: str) -> str:
    """Return a count with its noun, e.g. ``1 layer``, ``1,200 layers``."""
    return f"{value:,} {noun}" if value == 1 else f"{value:,} {noun}s"


def power_of_two(exponent: float) -> str:
    """Return ``2`` with the exponent raised, e.g. ``2⁻¹⁴``."""
    return f"2{str(round(exponent)).translate(_SUPERSCRIPTS)}"


@cache
def _glyphs() -> frozenset[int]:
    from matplotlib import font_manager

    font = font_manager.get_font(font_manager.findfont("DejaVu Sans"))
    return frozenset(font.get_charmap())
