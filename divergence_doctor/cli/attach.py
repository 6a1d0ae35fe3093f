"""``doctor attach``: a report to a run of the team's experiment tracker."""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import Annotated

import typer


def attach(
    tracker: Annotated[str, typer.Argument(metavar="TRACKER", help="mlflow or wandb")],
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE.h5", help="A trace that `doctor replay` wrote.")
    ],
    run: Annotated[
        str, typer.Argument(metavar="RUN", help="Its run: MLflow's run id, ENTITY/PROJECT/RUN_ID.")
    ],
    *,
    with_trace: Annotated[
        bool,
        typer.Option("--with-trace", help="Attach trace.h5 too; it holds values of the batch."),
    ] = False,
) -> None:
    """Attach a report to a run, by your own client."""
    from divergence_doctor.cli._screen import say
    from divergence_doctor.cli._suggest import known_one
    from divergence_doctor.trackers import all_trackers
    from divergence_doctor.trackers import attach as attached

    wanted = known_one(tracker, all_trackers(), what="tracker", slug="unknown-tracker")
    where, files = attached(wanted, trace, run, with_trace=with_trace)
    say(f"{files} files attached to {where}\n")
