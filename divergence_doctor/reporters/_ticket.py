"""What goes with a ticket? One zip that any tracker takes, without the batch's values unless asked.

The same trace gives the same bytes: no dates, the names in order. What does not fit is left out and
named in the zip itself; the report always fits.
"""

from __future__ import annotations

import io
import shutil
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.output import guarded
from divergence_doctor.reporters._write import FIGURES, write_reports, write_whole
from divergence_doctor.trace.redaction import VALUES, withheld, without_values

if TYPE_CHECKING:
    from collections.abc import Iterable

    from divergence_doctor.trace import Trace

#: Bytes of a zip that GitHub takes: 25 MB, less what the directory of the zip needs.
LIMIT: Final = 24_500_000
#: Larger files are not even tried: they would have to shrink twentyfold.
_LARGEST: Final = 512 << 20
CONTENTS: Final = "CONTENTS.txt"
_TRACE: Final = "trace.h5"
_BATCH: Final = "minimal_batch.npz"
#: What only goes along when it is asked for: values of the batch, and weights.
_DATA: Final = frozenset({_BATCH, "before.keras", "before.weights.h5"})
#: What each file is, in the order in which they are wanted when there is no room for all.
_FILES: Final = {
    "report.md": "the report, to paste",
    "report.html": "the report, to open in a browser; it needs no network",
    "report.json": "the report, for scripts",
    "reproduce.py": "shows the failure with TensorFlow and NumPy alone",
    FIGURES: "the pictures",
    _BATCH: "the smallest part of the batch that still fails",
    _TRACE: "everything that was measured; opens with `doctor report`, `doctor inspect`, h5py",
    "before.keras": "the model as it was before the failing step, for reproduce.py",
    "before.weights.h5": "its weights alone",
}


@dataclass(frozen=True, slots=True)
class Sharing:
    """How a diagnosis is to be shared.

    Attributes:
        zip: pack everything for a ticket.
        redact: hide the user's names and the values of the batch in every output.
        include_data: leave the values of the batch in the zip.
    """

    zip: bool = False
    redact: bool = False
    include_data: bool = False


def write_ticket(
    trace: Trace,
    folder: Path,
    *,
    name: str,
    include_data: bool = False,
    limit: int = LIMIT,
) -> Path:
    """Pack reports, figures and trace into ``<folder>/<name>.zip``.

    Args:
        trace: the trace.
        folder: where the reports of the trace lie already.
        name: of the zip, without its ending.
        include_data: take the minimal batch along, and leave in what the trace holds of it.
        limit: bytes of the zip at most.

    Raises:
        OutputError: it cannot be written.
    """
    shared = include_data or VALUES in withheld(trace)
    work = guarded(folder, lambda: Path(tempfile.mkdtemp(dir=folder, prefix=".ticket.")))
    try:
        if shared:
            files = _collected(folder, data=include_data)
        else:
            # Judged and drawn again: nothing of what was taken out may stand in it anywhere.
            trace = without_values(trace)
            write_reports(trace, diagnose(trace), work)
            files = _collected(work, data=False)
        trace.save(work / _TRACE)
        files[_TRACE] = work / _TRACE
        content = _packed(files, limit)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    target = folder / f"{name}.zip"
    write_whole(target, content)
    return target


def _collected(folder: Path, *, data: bool) -> dict[str, Path]:
    """Return the files of a folder that belong to a ticket, by their names in it."""
    wanted = [
        name for name in _FILES if name not in {FIGURES, _TRACE} and (data or name not in _DATA)
    ]
    paths = [folder / name for name in wanted] + sorted((folder / FIGURES).glob("*.png"))
    return {path.relative_to(folder).as_posix(): path for path in paths if path.is_file()}


def _packed(files: dict[str, Path], limit: int) -> bytes:
    wanted = list(_FILES)
    order = sorted(files, key=lambda name: (wanted.index(name.partition("/")[0]), name))
    room, kept, left_out = limit, {}, []
    for name in order:
        size = files[name].stat().st_size
        entry = files[name].read_bytes() if size <= _LARGEST else b""
        packed = len(_zipped({name: entry})) if size <= _LARGEST else size
        if packed <= room:
            room -= packed
            kept[name] = entry
        else:
            left_out.append(f"{name} ({size:,} bytes)")
    kept[CONTENTS] = _contents(kept, left_out, limit).encode("utf-8")
    return _zipped(kept)


def _contents(kept: Iterable[str], left_out: Iterable[str], limit: int) -> str:
    there = {name.partition("/")[0] for name in kept}
    lines = [f"{name}: {what}" for name, what in _FILES.items() if name in there]
    lines += [f"left out, for the zip is to stay below {limit:,} bytes: {one}" for one in left_out]
    return "\n".join(["Written by divergence_doctor.", "", *lines, ""])


def _zipped(files: dict[str, bytes]) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w") as archive:
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, date_time=(1980, 1, 1, 0, 0, 0))
            entry.external_attr = 0o644 << 16
            entry.create_system = 3
            entry.compress_type = zipfile.ZIP_DEFLATED
            archive.writestr(entry, files[name], compresslevel=6)
    return stream.getvalue()
