"""Which change made the failure go away? Every trial, the untouched step first, then by breadth."""

from __future__ import annotations

import math
import textwrap
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.figures import _style
from divergence_doctor.figures._figure import Figure, columns
from divergence_doctor.figures._text import clean, count, drawable, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from divergence_doctor.trace import Trace

#: More rows than these are left out of the picture; its title says so.
_MOST: Final = 24
_GROUPS: Final = {
    0: "nothing changed (control)",
    1: "changes the point alone",
    2: "changes a family of things",
    3: "changes nearly everything",
}
_WORDS: Final = {"finite": "failure gone", "still-fails": "still fails", "not-run": "not run"}
_COLOURS: Final = {"finite": _style.BLUE, "still-fails": _style.NOT_FINITE}
_INKS: Final = {"finite": _style.BLUE, "still-fails": _style.NOT_FINITE_WORDS}
_MARKS: Final = {"finite": "o", "still-fails": "X"}
#: What lived is drawn before what failed, and that before what was not run.
_RANK: Final = {"finite": 0, "still-fails": 1}
#: Characters in a line of the words on the left and on the right, and lines of each.
_LEFT, _RIGHT, _LINES = 42, 44, 2
#: Heights of a row and of a heading, in inches.
_ROW, _HEADING = 0.46, 0.34


@final
@dataclass(frozen=True, slots=True)
class _Row:
    """One trial."""

    changed: str
    breadth: int
    outcome: str
    detail: str
    steps: int

    @property
    def place(self) -> tuple[int, int]:
        """Where it stands among the others: by breadth, what lived first."""
        return self.breadth, _RANK.get(self.outcome, 2)


@final
class Trials(Figure):
    """Steps that each trial lived, with what was changed and what came of it."""

    name: ClassVar[str] = "trials"
    title: ClassVar[str] = "The same steps with one thing changed"
    order: ClassVar[int] = 12
    needs: ClassVar[frozenset[str]] = columns("trials", "changed breadth outcome detail steps")

    def suits(self, trace: Trace) -> bool:
        """Say whether anything but the control was tried: alone it proves nothing."""
        return super().suits(trace) and bool((trace.table("trials")["breadth"] > 0).any())

    def caption(self, trace: Trace) -> str:
        """Return what the untouched step did, the narrowest change that mended it, and the rest."""
        rows = _rows(trace)
        said = [f"{count(len(rows), 'trial')} of the same steps with one thing changed"]
        controls = [row for row in rows if row.breadth == 0]
        if controls:
            lived = any(row.outcome == "finite" for row in controls)
            said.append(f"the untouched step {'did not fail again' if lived else 'still fails'}")
        tried = [row for row in rows if row.breadth > 0]
        mended = [row for row in tried if row.outcome == "finite"]
        if mended:
            others = f" and with {count(len(mended) - 1, 'other change')}" * (len(mended) > 1)
            said.append(f"it does not fail with {quoted(mended[0].changed)}{others}")
        for outcome, words in (("still-fails", "it still fails with"), ("not-run", "not run:")):
            number = sum(row.outcome == outcome for row in tried)
            if number:
                said.append(f"{words} {count(number, 'change')}")
        return "; ".join(said) + "."

    def draw(self, trace: Trace, canvas: Canvas) -> None:
        """Draw a row for each trial under the heading of its breadth."""
        every = _rows(trace)
        rows = _shown(every)
        headings = len({row.breadth for row in rows})
        canvas.set_size_inches(_style.WIDTH, 1.3 + _ROW * len(rows) + _HEADING * headings)
        cut = f" ({len(rows)} of {len(every)} shown)" if len(rows) < len(every) else ""
        canvas.suptitle(self.title + cut)
        axes = canvas.subplots()
        longest = max(1, *(row.steps for row in rows))
        axes.set_xlim(-0.02 * longest, 1.06 * longest)
        _lay_out(axes, rows)
        _number_steps(axes)


def _rows(trace: Trace) -> list[_Row]:
    """Return the trials in the order of the picture; one that served two causes stands once."""
    every = dict.fromkeys(_row(row) for row in trace.table("trials").rows())
    return sorted(every, key=lambda row: row.place)


def _row(row: dict[str, Any]) -> _Row:
    breadth = int(row["breadth"])
    changed = str(row["changed"]) or ("nothing" if breadth == 0 else str(row.get("name", "")))
    return _Row(
        changed, min(max(breadth, 0), 3), str(row["outcome"]), str(row["detail"]),
        max(int(row["steps"]), 0),
    )  # fmt: skip


def _shown(rows: Sequence[_Row]) -> list[_Row]:
    """Return the rows that fit: of too many, what was not run goes first, then what failed."""
    telling = sorted(range(len(rows)), key=lambda i: (rows[i].breadth > 0, rows[i].place[1]))
    return [rows[index] for index in sorted(telling[:_MOST])]


def _lay_out(axes: Axes, rows: Sequence[_Row]) -> None:
    """Draw headings and rows from top to bottom, in inches below the top of the axes."""
    at, heights, labels, previous = 0.0, [], [], None
    for row in rows:
        if row.breadth != previous:
            axes.axhline(at, color=_style.GRID, lw=0.8, zorder=0)
            axes.text(
                -0.01, at + 0.5 * _HEADING, _GROUPS[row.breadth], ha="right", va="center",
                transform=axes.get_yaxis_transform(), color=_style.FAINT, fontsize=8.5,
                fontweight="bold",
            )  # fmt: skip
            at, previous = at + _HEADING, row.breadth
        _draw_row(axes, row, at + 0.5 * _ROW)
        heights.append(at + 0.5 * _ROW)
        labels.append(_wrapped(row.changed, _LEFT))
        at += _ROW
    axes.set_yticks(heights, labels, fontsize=8.5)
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(at + 0.05, 0.0)
    axes.grid(visible=False, axis="y")


def _draw_row(axes: Axes, row: _Row, height: float) -> None:
    colour = _COLOURS.get(row.outcome, _style.FAINT)
    if row.outcome in _MARKS:
        axes.plot([0, row.steps], [height, height], color=colour, lw=5, alpha=0.45,
                  solid_capstyle="butt", zorder=2)  # fmt: skip
        axes.plot([row.steps], [height], marker=_MARKS[row.outcome], color=colour, markersize=8,
                  linestyle="none", clip_on=False, zorder=3)  # fmt: skip
    word = _WORDS.get(row.outcome, drawable(row.outcome))
    detail = f": {row.detail}" if row.detail else ""
    axes.text(
        1.02, height, _wrapped(word + detail, _RIGHT), transform=axes.get_yaxis_transform(),
        va="center", fontsize=8.5, linespacing=1.05, color=_INKS.get(row.outcome, _style.FAINT),
        fontweight="bold" if row.outcome == "finite" else "normal",
    )  # fmt: skip


def _wrapped(text: str, width: int) -> str:
    """Return words on at most two lines of so many characters."""
    flat = " ".join(clean(text).split())
    for length in range(_LINES * width, width, -6):
        lines = textwrap.wrap(drawable(flat, length), width, break_on_hyphens=False)
        if len(lines) <= _LINES:
            return "\n".join(lines)
    return drawable(flat, width)


def _number_steps(axes: Axes) -> None:
    from matplotlib.ticker import FuncFormatter, MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))
    axes.xaxis.set_major_formatter(
        FuncFormatter(lambda value, _: f"{value:,.0f}" if math.isfinite(value) else "")
    )
    axes.set_xlabel("steps that stayed finite")
