"""``doctor salvage``: what is whole in a dump that was interrupted?"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer


def salvage(
    partial: Annotated[
        Path,
        typer.Argument(
            metavar="PARTIAL",
            help="A folder .crash-....partial that an interrupted dump left, or a damaged bundle.",
        ),
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(help="The bundle to make. [default: <its name>-salvaged]")
    ] = None,
) -> None:
    """Save what is whole in an interrupted dump as a bundle."""
    from divergence_doctor._clean import argument, clean
    from divergence_doctor.bundle import open_bundle
    from divergence_doctor.bundle import salvage as save
    from divergence_doctor.cli._bundle_lines import lines
    from divergence_doctor.cli._screen import Screen

    made = save(partial, out if out is not None else Path(_default_name(partial)))
    screen = Screen()
    screen.text(f"✓ What is whole of it is now {clean(str(made))}", "green")
    for line in lines(open_bundle(made)):
        screen.text(line)
    screen.text(f"explain   doctor replay {argument(made)}")
    screen.show()


def _default_name(partial: Path) -> str:
    """Return ``crash-...-salvaged`` for ``.crash-...-<random>.partial``."""
    name = partial.resolve().name
    if name.startswith(".") and name.endswith(".partial"):
        name = name[1:].removesuffix(".partial").rpartition("-")[0]
    return f"{name or 'bundle'}-salvaged"
