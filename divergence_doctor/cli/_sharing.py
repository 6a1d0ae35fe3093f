"""Which flags say how a diagnosis is to be shared? The same for every command that writes one."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated

import typer

from divergence_doctor.errors import UsageError

if TYPE_CHECKING:
    from divergence_doctor.reporters import Sharing

ZIP = Annotated[
    bool, typer.Option("--zip", help="Pack everything for a ticket; no values of the batch.")
]
INCLUDE_DATA = Annotated[
    bool, typer.Option("--include-data", help="Leave the values of the batch in the zip.")
]
REDACT = Annotated[
    bool, typer.Option("--redact", help="Hide your names and values in every output.")
]


def sharing(*, pack: bool, redact: bool, include_data: bool) -> Sharing:
    """Return what the flags ask for.

    Raises:
        UsageError: they contradict each other.
    """
    from divergence_doctor.reporters import Sharing

    if include_data and redact:
        raise UsageError(
            "redact-with-data",
            "--include-data and --redact contradict each other",
            why="--redact hides the values of the batch, which --include-data would add",
            fix="give one of them",
        )
    if include_data and not pack:
        raise UsageError(
            "data-without-zip",
            "--include-data does nothing here",
            why="it says what goes into the zip, and no zip was asked for",
            fix="add --zip",
        )
    return Sharing(zip=pack, redact=redact, include_data=include_data)
