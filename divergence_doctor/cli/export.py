"""``doctor export``: a trace as the files of another tool."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import typer


def export(
    target: Annotated[str, typer.Argument(metavar="FORMAT", help="tensorboard or csv")],
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE.h5", help="A trace that `doctor replay` wrote.")
    ],
    folder: Annotated[
        Path, typer.Argument(metavar="LOGDIR", help="The folder to write into, e.g. logs/crash.")
    ],
    *,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an earlier export in that folder.")
    ] = False,
) -> None:
    """Write a trace in the format of another tool."""
    from divergence_doctor.cli._screen import say
    from divergence_doctor.cli._suggest import known_one
    from divergence_doctor.exports import all_exports, write_export
    from divergence_doctor.trace import Trace

    wanted = known_one(target, all_exports(), what="format to export to", slug="unknown-format")
    for path in write_export(wanted, Trace.open(trace), folder, force=force):
        say(f"{path}\n")
