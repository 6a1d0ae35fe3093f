"""``doctor verify``: is a crash bundle as it was written?"""

from __future__ import annotations

from pathlib import Path  # noqa: TC003 - Typer reads the annotations
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from collections.abc import Sequence

    from divergence_doctor.bundle import Bundle, Problem

_SCHEMA: Final = "divergence-doctor/verify/1"


def verify(
    bundle: Annotated[
        Path, typer.Argument(metavar="BUNDLE", help="A folder crash-... of the flight recorder.")
    ],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")] = False,
) -> None:
    """Compare every file of a crash bundle with its hash."""
    from divergence_doctor._clean import argument, clean
    from divergence_doctor.bundle import open_bundle
    from divergence_doctor.bundle import verify as compare
    from divergence_doctor.cli._screen import say
    from divergence_doctor.errors import RefusedError

    problems = compare(bundle)
    opened = None if problems else open_bundle(bundle)
    if json:
        say(_as_json(bundle, opened, problems))
    elif opened is None:
        _show_problems(bundle, problems)
    else:
        _show(opened)
    if problems:
        count = len(problems)
        raise RefusedError(
            "damaged-bundle",
            f"{clean(bundle.name or str(bundle))} is not as it was written",
            why=f"{problems[0].file}: {problems[0].says}"
            + (f"; and {count - 1} more" if count > 1 else ""),
            fix=f"copy it again, or save what is whole: doctor salvage {argument(bundle)}",
        )


def _show_problems(bundle: Path, problems: Sequence[Problem]) -> None:
    from divergence_doctor.cli._screen import Screen

    screen = Screen()
    screen.heading(f"✗ {bundle.name}: {len(problems)} problem{'' if len(problems) == 1 else 's'}")
    screen.table(
        ("file", "problem", "what is wrong"),
        [(problem.file, problem.what, problem.says) for problem in problems],
        left=("file", "problem", "what is wrong"),
    )
    screen.show()


def _show(bundle: Bundle) -> None:
    from divergence_doctor._clean import argument
    from divergence_doctor.cli._bundle_lines import lines
    from divergence_doctor.cli._screen import Screen

    screen = Screen()
    screen.text(f"✓ {bundle.path.name} is whole: every file is as it was written.", "green")
    for line in lines(bundle):
        screen.text(line)
    screen.text(f"explain   doctor replay {argument(bundle.path)}")
    screen.show()


def _as_json(path: Path, bundle: Bundle | None, problems: Sequence[Problem]) -> str:
    import json

    told: dict[str, Any] = {
        "schema": _SCHEMA,
        "path": str(path),
        "whole": bundle is not None,
        "problems": [
            {"file": problem.file, "what": problem.what, "says": problem.says}
            for problem in problems
        ],
    }
    if bundle is not None:
        told |= {
            "files": len(bundle.files),
            "bytes": sum(entry.size for entry in bundle.files.values()),
            "trigger": bundle.reason.get("trigger"),
            "step": bundle.reason.get("step"),
            "salvaged": bundle.manifest.get("salvaged") is True,
            "dropped": bundle.manifest.get("dropped", []),
        }
    return json.dumps(told, indent=2, allow_nan=False) + "\n"
