"""How does something look in a notebook? Escaped, small, and in the notebook's own colours.

Plain elements with inline styles: a notebook that is not trusted, and GitHub's view of one, drop
style sheets and scripts. Text takes the colour around it, so that light and dark both read; colour
of our own stands in lines and marks only.
"""

from __future__ import annotations

import math
from html import escape
from typing import TYPE_CHECKING, Final

from divergence_doctor._clean import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: Okabe & Ito's colours, as in the figures.
COLOURS: Final = {"diverged": "#D55E00", "healthy": "#009E73", "inconclusive": "#E69F00"}
_LINE: Final = "1px solid rgba(128,128,128,.35)"
_CELL: Final = "padding:2px 12px 2px 0;text-align:{};vertical-align:top;white-space:pre-wrap"
#: Characters of one text.
_LONGEST: Final = 4_000
_WIDTH: Final = 160
_HEIGHT: Final = 28


def card(outcome: str, title: str, *parts: str) -> str:
    """Return the frame of a result: a bar in the outcome's colour, the title, then the parts.

    Args:
        outcome: ``diverged``, ``healthy`` or ``inconclusive``.
        title: plain text.
        parts: HTML.
    """
    colour = COLOURS.get(outcome, "#6B6B6B")
    return (
        f"<div style='border-left:4px solid {colour};padding:2px 0 2px 12px;max-width:60em'>"
        f"<div style='font-weight:600'>{_escaped(title)}</div>{''.join(parts)}</div>"
    )


def paragraph(text: str) -> str:
    """Return plain text as a paragraph; what stands between backticks as code."""
    return f"<p style='margin:.4em 0;white-space:pre-wrap'>{marked(text)}</p>"


def marked(text: str) -> str:
    """Return plain text escaped, what stands between backticks as code."""
    pieces = text.split("`")
    if len(pieces) % 2 == 0:
        return _escaped(text)
    return "".join(
        f"<code>{_escaped(piece)}</code>" if index % 2 else _escaped(piece)
        for index, piece in enumerate(pieces)
    )


def table(
    head: Sequence[str], rows: Iterable[Sequence[str]], *, left: Sequence[str] = (), most: int = 200
) -> str:
    """Return a table of plain text.

    Args:
        head: headings.
        rows: cells; what stands between backticks becomes code.
        left: headings of the columns that hold text; figures stand to the right.
        most: rows that are shown; how many more there are is told.
    """
    every = list(rows)
    sides = ["left" if name in left else "right" for name in head]
    cells = "".join(
        f"<th style='{_CELL.format(side)};border-bottom:{_LINE}'>{_escaped(name)}</th>"
        for name, side in zip(head, sides, strict=True)
    )
    body = "".join(
        "<tr style='background:none'>"
        + "".join(
            f"<td style='{_CELL.format(side)}'>{marked(cell)}</td>"
            for cell, side in zip(row, sides, strict=True)
        )
        + "</tr>"
        for row in every[:most]
    )
    more = f"<p><em>{len(every) - most:,} more</em></p>" if len(every) > most else ""
    return (
        "<table style='border-collapse:collapse;margin:.4em 0;color:inherit;font-size:inherit'>"
        f"<thead><tr>{cells}</tr></thead><tbody>{body}</tbody></table>{more}"
    )


def details(summary: str, inner: str) -> str:
    """Return HTML that is folded away behind a line of plain text."""
    return f"<details><summary>{_escaped(summary)}</summary>{inner}</details>"


def sparkline(values: Sequence[float], label: str) -> str:
    """Return a small line of values over steps, in powers of ten; a mark where one is not finite.

    Args:
        values: one per step; empty when there is nothing to draw (then nothing is returned).
        label: plain text for those who cannot see it.
    """
    heights = [_height(value) for value in values]
    known = [height for height in heights if height is not None]
    if len(values) < 2 or not known:
        return ""
    low, high = min(known), max(known)
    across = (_WIDTH - 8) / (len(values) - 1)
    places = [
        (4 + index * across, _HEIGHT / 2 if height is None else _up(height, low, high))
        for index, height in enumerate(heights)
    ]
    points = " ".join(
        f"{x:.1f},{y:.1f}" for (x, y), h in zip(places, heights, strict=True) if h is not None
    )
    marks = "".join(
        f"<circle cx='{x:.1f}' cy='{y:.1f}' r='3' fill='{COLOURS['diverged']}'/>"
        for (x, y), h in zip(places, heights, strict=True)
        if h is None
    )
    return (
        f"<svg role='img' aria-label='{_escaped(label)}' width='{_WIDTH}' height='{_HEIGHT}' "
        "style='vertical-align:middle'><polyline fill='none' stroke='currentColor' "
        f"stroke-width='1.5' points='{points}'/>{marks}</svg>"
    )


def _escaped(text: str) -> str:
    """Return text as HTML shows it: no markup, and nothing that hides or reorders characters."""
    return escape(clean(text, _LONGEST, multiline=True))


def _height(value: float) -> float | None:
    """Return a value on a scale of powers of ten that goes through zero; None for NaN and Inf."""
    if not math.isfinite(value):
        return None
    return math.copysign(math.log1p(abs(value) * 1e3), value)


def _up(height: float, low: float, high: float) -> float:
    share = (height - low) / (high - low) if high > low else 0.5
    return 4 + (1 - share) * (_HEIGHT - 8)
