"""``doctor compare``: where two traces part, and what was different before they did."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import typer


def compare(
    a: Annotated[Path, typer.Argument(metavar="A.h5", help="A trace, e.g. of a good step.")],
    b: Annotated[Path, typer.Argument(metavar="B.h5", help="The trace to lay beside it.")],
    *,
    tolerance: Annotated[
        float,
        typer.Option(min=0, max=1, help="Relative difference that counts as none; 0 for none."),
    ] = 1e-5,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")] = False,
    width: Annotated[
        int | None, typer.Option(min=40, help="Columns. [default: the terminal's]")
    ] = None,
) -> None:
    """Show where two traces part, and what differs before."""
    from divergence_doctor.cli import _comparison
    from divergence_doctor.cli._screen import Screen, say
    from divergence_doctor.comparison import compare as compared
    from divergence_doctor.trace import Trace

    traces = Trace.open(a), Trace.open(b)
    found = compared(*traces, tolerance=tolerance)
    if json:
        say(_comparison.as_json(found, (a, b)))
        return
    screen = Screen(width, whole_lines=True)
    _comparison.show(found, (a, b), traces, screen)
    screen.show()
