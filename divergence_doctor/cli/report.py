"""``doctor report``: diagnose a trace again, by the rules of today, and write the reports."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from divergence_doctor.cli._sharing import INCLUDE_DATA, REDACT, ZIP, sharing
from divergence_doctor.cli._tell import tell


def report(
    trace: Annotated[
        Path, typer.Argument(metavar="TRACE.h5", help="A trace that `doctor replay` wrote.")
    ],
    *,
    out: Annotated[
        Path | None, typer.Option(help="Output folder. [default: <trace stem>-report]")
    ] = None,
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
) -> None:
    """Diagnose a trace again and write the reports."""
    from divergence_doctor.diagnosis import diagnose
    from divergence_doctor.output import whole_folder
    from divergence_doctor.reporters import write_reports, write_ticket
    from divergence_doctor.trace import Trace
    from divergence_doctor.trace.redaction import redacted

    asked = sharing(pack=zip_, redact=redact, include_data=include_data)
    opened = Trace.open(trace)
    opened = redacted(opened) if asked.redact else opened
    target = out if out is not None else Path(f"{trace.stem}-report")
    _check_keeps(trace, target)
    with whole_folder(target, force=force) as folder:
        diagnosis = diagnose(opened)
        write_reports(opened, diagnosis, folder)
        if asked.zip:
            name = target.resolve().name
            write_ticket(opened, folder, name=name, include_data=asked.include_data)
    tell(opened, diagnosis, target, as_json=json)
    if fail_on_divergence and diagnosis.outcome == "diverged":
        raise SystemExit(3)


def _check_keeps(trace: Path, target: Path) -> None:
    """Refuse to replace the folder that holds the trace: the trace would go with it."""
    from divergence_doctor._clean import clean
    from divergence_doctor.errors import OutputError

    if target.resolve() in trace.resolve().parents:
        raise OutputError(
            "output-holds-the-trace",
            f"{clean(str(target))} is not replaced",
            why=f"it holds the trace {clean(trace.name)}, which would be lost",
            fix="give another folder with --out",
        )
