"""``doctor replay``: replay the failing step, name the cause, write trace and report."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from divergence_doctor.cli._progress import Progress
from divergence_doctor.cli._sharing import INCLUDE_DATA, REDACT, ZIP, sharing
from divergence_doctor.cli._tell import tell, tell_files, tell_verdict

if TYPE_CHECKING:
    from divergence_doctor.diagnosis import Diagnosis
    from divergence_doctor.trace import Trace

CHECKPOINT = Annotated[
    str,
    typer.Argument(
        metavar="CKPT", help="The checkpoint from before the failing step, or a crash bundle."
    ),
]
BATCHES = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="BATCH",
        help="The batch (.npz); several, or a folder, are steps. A crash bundle brings its own.",
    ),
]


def replay(  # noqa: PLR0913 - every flag of the command is a parameter of it
    checkpoint: CHECKPOINT,
    batches: BATCHES = None,
    *,
    out: Annotated[
        Path | None, typer.Option(help="Output folder. [default: <ckpt stem>-diagnosis]")
    ] = None,
    custom_objects: Annotated[
        list[str] | None,
        typer.Option(metavar="MODULE_OR_FILE", help="Import before loading; repeatable."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(metavar="MODULE_OR_FILE:FUNCTION", help="Factory of the compiled model."),
    ] = None,
    loss: Annotated[
        str | None, typer.Option(help="Loss to use instead of the checkpoint's.")
    ] = None,
    optimizer: Annotated[
        str | None, typer.Option(help="Optimizer to use instead of the checkpoint's.")
    ] = None,
    learning_rate: Annotated[
        float | None, typer.Option(help="Learning rate to use instead.")
    ] = None,
    step: Annotated[
        int | None,
        typer.Option(min=0, help="Checkpoint to open in a folder of them. [default: the latest]"),
    ] = None,
    steps: Annotated[
        int,
        typer.Option(
            min=1,
            help="Replay at most this many steps; of a crash bundle, those before the failure.",
        ),
    ] = 10,
    trials: Annotated[bool, typer.Option(help="Run the interventions that prove a cause.")] = True,
    budget: Annotated[float, typer.Option(min=0, help="Seconds for the trials.")] = 300.0,
    seed: Annotated[int, typer.Option(min=0, max=2**32 - 1, help="Seed where none is kept.")] = 0,
    jit: Annotated[
        bool | None,
        typer.Option("--jit/--no-jit", help="Was the step compiled by XLA? [default: as recorded]"),
    ] = None,
    as_trained: Annotated[
        bool | None,
        typer.Option(
            "--as-trained/--no-as-trained",
            help="Run the step as it was trained too. [default: where that is quick]",
        ),
    ] = None,
    trust: Annotated[
        bool, typer.Option("--trust", help="Allow what can run code on loading.")
    ] = False,
    json: Annotated[
        bool, typer.Option("--json", help="Print report.json to standard output.")
    ] = False,
    fail_on_divergence: Annotated[
        bool, typer.Option("--fail-on-divergence", help="Exit 3 when the step diverged.")
    ] = False,
    force: Annotated[
        bool, typer.Option("--force", help="Replace an existing output folder.")
    ] = False,
    zip_: ZIP = False,
    include_data: INCLUDE_DATA = False,
    redact: REDACT = False,
    time_limit: Annotated[
        float, typer.Option(min=1, help="Seconds that the replay may take.")
    ] = 3_600.0,
    memory_limit: Annotated[
        float | None, typer.Option(min=0.1, help="GiB it may take. [default: 90% of the machine]")
    ] = None,
) -> None:
    """Replay the failing step, prove the cause, write the report."""
    from divergence_doctor.examination import Request
    from divergence_doctor.postmortem import postmortem

    share = sharing(pack=zip_, redact=redact, include_data=include_data)
    request = Request(
        checkpoint=checkpoint,
        batches=tuple(batches or ()),
        custom_objects=tuple(custom_objects or ()),
        model=model,
        loss=loss,
        optimizer=optimizer,
        learning_rate=learning_rate,
        trust=trust,
        steps=steps,
        trials=trials,
        budget=budget,
        seed=seed,
        step=step,
        jit=jit,
        as_trained=as_trained,
    )
    folder = out if out is not None else Path(f"{_stem(checkpoint)}-diagnosis")
    with Progress(steps=steps) as progress:
        done = postmortem(
            request,
            folder,
            force=force,
            share=share,
            time_limit=time_limit,
            memory_limit=None if memory_limit is None else int(memory_limit * 2**30),
            on_tick=progress.show,
            on_verdict=_silent if json else progress.over(tell_verdict),
        )
    if json:
        tell(done.trace, done.diagnosis, done.folder, as_json=True)
    else:
        tell_files(done.folder)
    if done.limit is not None:
        typer.echo(f"{done.limit}; what was recorded until then is in {done.folder}", err=True)
        raise SystemExit(5)
    if fail_on_divergence and done.diagnosis.outcome == "diverged":
        raise SystemExit(3)


def _silent(_trace: Trace, _diagnosis: Diagnosis) -> None:
    """Say nothing yet: the JSON is printed once it is written."""


def _stem(checkpoint: str) -> str:
    name = Path(checkpoint).name or Path(checkpoint).resolve().name
    return name.removesuffix(".weights.h5").rsplit(".", 1)[0] or "checkpoint"
