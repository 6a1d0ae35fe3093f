"""How do the reports come into the output folder? Each file whole, or not at all."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Final

from divergence_doctor.errors import OutputError
from divergence_doctor.reporters._document import document
from divergence_doctor.reporters._reporter import all_reporters

if TYPE_CHECKING:
    from divergence_doctor.diagnosis import Diagnosis
    from divergence_doctor.reporters._parts import Document
    from divergence_doctor.trace import Trace

#: Where the pictures lie beside the report.
FIGURES: Final = "figures"


def write_reports(trace: Trace, diagnosis: Diagnosis, folder: str | Path) -> list[Path]:
    """Write every report that suits the trace, and the figures, into an existing folder.

    A picture that cannot be drawn is left out and named in the report: the verdict matters more.

    Args:
        trace: the trace.
        diagnosis: its diagnosis.
        folder: the output folder; files of the same names are replaced.

    Returns:
        The files written: the reports by format, then the figures.

    Raises:
        OutputError: the folder is not there, or a file cannot be written (no space, no rights).
    """
    target = Path(folder)
    told = _drawn(document(trace, diagnosis))
    written = []
    for reporter in all_reporters():
        if reporter.filename is not None and reporter.suits(told):
            path = target / reporter.filename
            write_whole(path, reporter.render(told).encode("utf-8"))
            written.append(path)
    if told.pictures:
        _make_folder(target / FIGURES)
    for picture in told.pictures:
        path = target / FIGURES / f"{picture.name}.png"
        write_whole(path, picture.png)
        written.append(path)
    return written


def write_whole(path: Path, content: bytes) -> None:
    """Write a file beside its place, flush it to the disk, and move it there in one step.

    Raises:
        OutputError: it cannot be written; nothing is left behind.
    """
    beside = None
    try:
        handle, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        beside = Path(name)
        with os.fdopen(handle, "wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.chmod(0o644)
        beside.replace(path)
    except OSError as error:
        raise _cannot_write(path, error) from error
    finally:
        if beside is not None:
            # Gone already where the move succeeded; a full disk must not hide the first error.
            with suppress(OSError):
                beside.unlink()


def _make_folder(path: Path) -> None:
    try:
        path.mkdir(exist_ok=True)
    except OSError as error:
        raise _cannot_write(path, error) from error


def _cannot_write(path: Path, error: OSError) -> OutputError:
    return OutputError(
        "cannot-write-report",
        f"{path} cannot be written",
        why=(error.strerror or str(error)).lower(),
        fix="choose with --out a folder that exists, may be written to, and has space on its disk",
    )


def _drawn(told: Document) -> Document:
    """Return the document with the pictures that can be drawn, and a note for the others."""
    pictures, notes = [], list(told.notes)
    for picture in told.pictures:
        try:
            _ = (picture.svg, picture.png)
        except Exception as error:  # noqa: BLE001 -- figures may come from other packages
            notes.append(f"The figure {picture.name} could not be drawn: {error!r:.200}")
        else:
            pictures.append(picture)
    return replace(told, pictures=tuple(pictures), notes=tuple(notes))
