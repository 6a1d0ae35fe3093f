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
        str | None, typer.Option(metavar="NAME", help="Every tensor of one layer instead.")
    ] = None,
    step: Annotated[
        int | None, typer.Option(min=0, help="The step to show. [default: the failing one]")
    ] = None,
    width: Annotated[
        int | None, typer.Option(min=40, help="Columns. [default: the terminal's]")
    ] = None,
) -> None:
    """Show a trace as tables: steps, layers, first bad op, trials."""
    from divergence_doctor.cli._screen import Screen
    from divergence_doctor.cli._trace_tables import layer_tables, step_tables
    from divergence_doctor.trace import Trace

    opened = Trace.open(trace)
    screen = Screen(width)
    if layer is None:
        step_tables(opened, screen, step=step)
    else:
        layer_tables(opened, screen, name=layer, step=step)
    screen.show()
