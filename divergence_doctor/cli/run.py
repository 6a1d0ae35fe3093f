"""``doctor run``: run a training script with the flight recorder attached, no code change."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Final, cast, final

import typer

if TYPE_CHECKING:
    from divergence_doctor.capture.attachment import Attachment
    from divergence_doctor.capture.callback import FlightRecorder
    from divergence_doctor.capture.options import OnFailure
    from divergence_doctor.capture.script import Script

#: What stands after the script is the script's own, whatever it looks like.
CONTEXT: Final = {"ignore_unknown_options": True, "allow_interspersed_args": False}


@final
class HandOver(BaseException):
    """Leaves the command line, so that the script runs outside of it and ends as Python has it."""

    def __init__(self, script: Script, attachment: Attachment) -> None:
        super().__init__()
        self.script: Final = script
        self.attachment: Final = attachment


def run(
    target: Annotated[
        str, typer.Argument(metavar="SCRIPT.py", help="The script; with -m, a module's name.")
    ],
    arguments: Annotated[
        list[str] | None, typer.Argument(metavar="ARGS", help="What the script is given.")
    ] = None,
    *,
    module: Annotated[bool, typer.Option("-m", help="SCRIPT is the name of a module.")] = False,
    crashes: Annotated[Path, typer.Option(help="Folder for the crash bundles.")] = Path("crashes"),
    on_failure: Annotated[
        str, typer.Option(metavar="stop|raise|continue", help="What fit does after a failing step.")
    ] = "stop",
    no_data: Annotated[
        bool, typer.Option("--no-data", help="Leave the batches out of the bundles.")
    ] = False,
    keep: Annotated[int, typer.Option(min=1, help="Bundles kept in the folder.")] = 3,
    signals: Annotated[
        bool, typer.Option("--signals", help="Write a bundle on SIGTERM and Ctrl-C as well.")
    ] = False,
) -> None:
    """Run a training script with the flight recorder attached."""
    from divergence_doctor.capture.attachment import Attachment
    from divergence_doctor.capture.options import Options
    from divergence_doctor.capture.script import Script

    folder = crashes.absolute()
    # A wrong option is told before the script runs, not hours later.
    Options(directory=folder, on_failure=cast("OnFailure", on_failure), keep=keep)

    def make() -> FlightRecorder:
        from divergence_doctor import FlightRecorder

        return FlightRecorder(
            folder,
            on_failure=cast("OnFailure", on_failure),
            data=not no_data,
            keep=keep,
            signals=signals,
        )

    script = Script(target, arguments or (), module=module)
    raise HandOver(script, Attachment(make))


def hand_over(handed: HandOver) -> None:
    """Run the script, and say at its end what was not recorded."""
    attachment = handed.attachment
    with attachment.waiting():
        try:
            handed.script.run()
        finally:
            attachment.end()
            if "keras" in sys.modules and not attachment.recorders:
                _tell_nothing_seen()


def _tell_nothing_seen() -> None:
    typer.echo(
        "divergence_doctor: no fit and no train_on_batch was run, so nothing was recorded; in a "
        "loop of your own: with recorder.step(batch) as step: ...",
        err=True,
    )
