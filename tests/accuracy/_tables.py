"""How do the figures look? The same two tables for the terminal and for README."""

from __future__ import annotations

from typing import TYPE_CHECKING

from rich.table import Table

from tests.accuracy._figures import BINS, CONFIDENT

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from tests.accuracy._figures import Figures, Share

#: One table: its columns, and its rows.
Grid = tuple[list[str], list[list[str]]]

#: As the contract writes that there is none.
NONE = "–"  # noqa: RUF001


def grids(halves: Mapping[str, Figures]) -> tuple[Grid, Grid]:
    """Return the table of figures and the table of causes, one column (or three) for each half.

    Args:
        halves: figures by the name of the half they are of.
    """
    return _figures(halves), _causes(halves)


def rich(grid: Grid) -> Table:
    """Return a table for the terminal."""
    columns, rows = grid
    table = Table(*columns)
    for row in rows:
        table.add_row(*row)
    return table


def markdown(grid: Grid) -> str:
    """Return a table for README, without a line end."""
    columns, rows = grid
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _figures(halves: Mapping[str, Figures]) -> Grid:
    figures = list(halves.values())
    columns = ["figure", *(f"{name} half" for name in halves)]
    rows = [["cases (healthy among them)", *(_cases(one) for one in figures)]]
    rows += [[name, *(_share(one.shares[name]) for one in figures)] for name in figures[0].shares]
    return columns, [
        *rows,
        ["false causes on healthy runs", *(_of(one.false_causes) for one in figures)],
        [
            f"confident ({CONFIDENT:.0%} or more) and wrong",
            *(str(len(one.confident_and_wrong)) for one in figures),
        ],
        *_calibration(figures),
        ["median seconds a case", *(f"{one.seconds:.1f}" for one in figures)],
        ["the same, over `import tensorflow`", *(_times(one.imports) for one in figures)],
    ]


def _calibration(figures: Sequence[Figures]) -> list[list[str]]:
    """Return how often verdicts of each confidence were right, the surest last."""
    ends = [*BINS[1:], 1.0]
    return [
        [
            f"right at a confidence of {low:.0%} to {end:.0%}",
            *(_share(one.calibration[low]) for one in figures),
        ]
        for low, end in zip(BINS, ends, strict=True)
    ]


def _causes(halves: Mapping[str, Figures]) -> Grid:
    columns = ["cause"]
    for name in halves:
        columns += [f"{name}: cases", "recall", "precision"]
    rows = []
    for cause in sorted({cause for one in halves.values() for cause in one.causes}):
        row = [f"`{cause}`"]
        for one in halves.values():
            found = one.causes.get(cause)
            row += (
                [str(found.cases), _share(found.recall), _share(found.precision)]
                if found is not None
                else ["0", NONE, NONE]
            )
        rows.append(row)
    return columns, rows


def _cases(one: Figures) -> str:
    return f"{one.failing + one.controls} ({one.controls})"


def _of(share: Share) -> str:
    return f"{share.part} of {share.whole}" if share.whole else NONE


def _share(share: Share) -> str:
    if not share.whole:
        return NONE
    return f"{share.part} of {share.whole} ({share.part / share.whole:.0%})"


def _times(times: float | None) -> str:
    return NONE if times is None else f"{times:.1f}x"
