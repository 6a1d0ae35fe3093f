"""``doctor inspect``: what a trace holds, as tables in the terminal."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import typer


def inspect(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE.h5", help="A trace that `doctor replay` wrote.")
    ],
    *,
    layer: Annotated[
        str | None,
        typer.Option(
            metavar="PATTERN",
            help="Every tensor of one layer (its path, or the end of it); or the layers that a "
            "pattern with * and ? matches.",
        ),
    ] = None,
    step: Annotated[
        int | None, typer.Option(min=0, help="The step to show. [default: the failing one]")
    ] = None,
    sort: Annotated[
        str,
        typer.Option(
            metavar="COLUMN",
            help="Sort the layers by forward, gradient, weight, ratio, nonfinite, parameters "
            "(largest first), layer or class.",
        ),
    ] = "order",
    width: Annotated[
        int | None, typer.Option(min=40, help="Columns. [default: the terminal's]")
    ] = None,
) -> None:
    """Show a trace as tables: steps, layers, first bad op, trials."""
    from divergence_doctor.cli import _trace_tables
    from divergence_doctor.cli._screen import Screen
    from divergence_doctor.trace import Trace

    opened = Trace.open(trace)
    screen = Screen(width, whole_lines=True)
    if layer is not None and not _trace_tables.is_pattern(layer):
        _trace_tables.layer_tables(opened, screen, name=layer, step=step)
    else:
        _trace_tables.step_tables(opened, screen, step=step, sort=sort, pattern=layer)
    screen.show()
