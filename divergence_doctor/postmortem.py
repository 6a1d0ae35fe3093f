"""From a dead run to a report: open, replay, judge, prove, report. All in one place."""

from __future__ import annotations

import importlib
import json
import os
import shutil
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Final

from divergence_doctor import errors, supervision
from divergence_doctor._clean import clean
from divergence_doctor.diagnosis import Diagnosis, diagnose
from divergence_doctor.errors import DoctorError
from divergence_doctor.examination import (
    BEFORE,
    ERROR,
    ERROR_STATUS,
    JOURNAL,
    MINIMAL_BATCH,
    PLACE,
    TRACE,
    Request,
    examine,
)
from divergence_doctor.figures import all_figures
from divergence_doctor.output import guarded, whole_folder
from divergence_doctor.reporters import Sharing, write_reports, write_ticket
from divergence_doctor.rules import all_rules
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.redaction import redacted

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Variables of the user's environment that the child keeps: what TensorFlow, CUDA and Python go by.
_KEPT: Final = frozenset(
    {"PATH", "HOME", "USER", "LANG", "TMPDIR", "LD_LIBRARY_PATH", "VIRTUAL_ENV", "TZ"}
)
_KEPT_PREFIXES: Final = ("PYTHON", "TF_", "CUDA", "NVIDIA", "XLA_", "OMP_", "KMP_", "MKL_", "LC_",
                         "KERAS", "ROCM", "HIP_", "DNNL_", "ONEDNN", "COVERAGE")  # fmt: skip
DEFAULT_TIME_LIMIT: Final = 3_600.0
_KEPT_HERE: Final = Sharing()


@dataclass(frozen=True, slots=True, repr=False)
class Postmortem:
    """What came of it.

    Attributes:
        trace: what was recorded.
        diagnosis: what it means.
        folder: where everything was written.
        limit: the limit that was hit, in words; None when the replay ran to its end.
    """

    trace: Trace
    diagnosis: Diagnosis
    folder: Path
    limit: str | None = None

    def __repr__(self) -> str:
        return f"<Postmortem {self.diagnosis.headline}, in {clean(str(self.folder))}>"

    def _repr_html_(self) -> str:
        """Return the verdict as a notebook shows it, and where the reports lie."""
        from divergence_doctor import _html

        parts = [f"The reports are in `{clean(str(self.folder))}`."]
        if self.limit is not None:
            parts.append(f"{clean(self.limit)}; what was recorded until then is told.")
        return self.diagnosis._repr_html_() + "".join(_html.paragraph(part) for part in parts)


def postmortem(  # noqa: PLR0913 - all but two have a default that does
    request: Request,
    out: str | Path,
    *,
    force: bool = False,
    share: Sharing = _KEPT_HERE,
    in_process: bool = False,
    time_limit: float = DEFAULT_TIME_LIMIT,
    memory_limit: int | None = None,
    on_tick: Callable[[supervision.Place], None] = lambda _place: None,
    on_verdict: Callable[[Trace, Diagnosis], None] = lambda _trace, _diagnosis: None,
) -> Postmortem:
    """Replay the failing step, diagnose it, and write trace and reports into a folder.

    Args:
        request: checkpoint, batches, and how to replay them.
        out: the output folder; it appears whole, or not at all.
        force: replace an output folder that exists.
        share: pack a zip for a ticket; hide names and values in everything that is written.
        in_process: replay in this process instead of a limited child (for notebooks).
        time_limit: seconds that the child may take.
        memory_limit: resident bytes that the child may take; nine tenths of the machine by default.
        on_tick: told about twenty times a second where the child is.
        on_verdict: told the verdict when it is known, while the reports are still to be written.

    Raises:
        DoctorError: an input cannot be understood or is refused, or the output cannot be written.
    """
    target = Path(out)
    if not in_process:
        _preflight(request)
    with whole_folder(target, force=force) as folder:
        if in_process:
            trace, limit = examine(request, folder), None
        else:
            trace, limit = _in_child(
                request,
                folder,
                time_limit=time_limit,
                memory_limit=memory_limit or supervision.default_memory_limit(),
                on_tick=on_tick,
            )
        if share.redact:
            trace = _redacted(trace, folder)
        diagnosis = diagnose(trace)
        on_verdict(trace, diagnosis)
        on_tick(supervision.Place(phase="writing the reports"))
        write_reports(trace, diagnosis, folder)
        if share.zip:
            name = target.resolve().name
            write_ticket(trace, folder, name=name, include_data=share.include_data)
    # The trace's columns are read when first asked for: from where it lies now.
    return Postmortem(trace if in_process else Trace.open(target / TRACE), diagnosis, target, limit)


def _preflight(request: Request) -> None:
    """Refuse what needs no TensorFlow to be refused, before anyone waits for its import."""
    from divergence_doctor.batches import read_batches
    from divergence_doctor.checkpoints import choose

    path = Path(request.checkpoint)
    kind = choose(path, request.options())
    kind.preflight(path, request.options())
    if not request.batches:
        kind.without_batch(path)
    read_batches([Path(batch) for batch in request.batches])


def _redacted(trace: Trace, folder: Path) -> Trace:
    """Hide names and values in what the replay has written, too: the batch goes, and weights."""
    redacted(trace).save(folder / TRACE)
    for path in folder.iterdir():
        if path.name != TRACE:
            path.unlink()
    return Trace.open(folder / TRACE)


# ---------------------------------------------------------------------- the child


def _in_child(
    request: Request,
    folder: Path,
    *,
    time_limit: float,
    memory_limit: int,
    on_tick: Callable[[supervision.Place], None],
) -> tuple[Trace, str | None]:
    with tempfile.TemporaryDirectory(prefix="divergence-doctor-") as name:
        work = Path(name)
        (work / "request.json").write_text(request.to_json(), encoding="utf-8")
        threading.Thread(target=_warm_up, daemon=True).start()
        ended = supervision.supervise(
            "divergence_doctor.examination",
            [str(work / "request.json"), str(os.getpid())],
            place=supervision.PlaceFile(work / PLACE),
            log=work / "log.txt",
            environment={**_recorded_flags(request), **_environment(os.environ)},
            time_limit=time_limit,
            memory_limit=memory_limit,
            on_tick=on_tick,
        )
        if ended.how == "finished":
            _raise_what_it_said(ended.status, work)
            _take(work, folder)
            return Trace.open(folder / TRACE), None
        trace = _what_was_recorded(work, ended)
        trace.save(folder / TRACE)
        limit = ended.sentence if ended.how in {"time", "memory"} else None
        return Trace.open(folder / TRACE), limit


def _warm_up() -> None:
    """Import, while the child works, what the reports will need: it takes a second."""
    for module in (
        "matplotlib.figure",
        "matplotlib.font_manager",
        "matplotlib.backends.backend_agg",
        "jinja2",
    ):
        # What fails here fails again where it is needed, and is told there.
        with suppress(Exception):
            importlib.import_module(module)
    with suppress(Exception):
        all_figures()
        all_rules()


def _recorded_flags(request: Request) -> dict[str, str]:
    """Return what the run that died ran under, for what is not set here."""
    from divergence_doctor.checkpoints import choose

    path = Path(request.checkpoint)
    return choose(path, request.options()).environment(path)


def _environment(whole: Mapping[str, str]) -> dict[str, str]:
    kept = {
        name: value
        for name, value in whole.items()
        if name in _KEPT or name.startswith(_KEPT_PREFIXES)
    }
    kept.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    kept["KERAS_BACKEND"] = "tensorflow"
    return kept


def _raise_what_it_said(status: int, work: Path) -> None:
    if status == ERROR_STATUS and (work / ERROR).is_file():
        fields = json.loads((work / ERROR).read_text(encoding="utf-8"))
        kind = errors.BY_NAME.get(fields["type"], DoctorError)
        raise kind(fields["slug"], fields["message"], why=fields["why"], fix=fields["fix"])
    if status != 0 or not (work / TRACE).is_file():
        log = (work / "log.txt").read_text(encoding="utf-8", errors="replace")
        lines = [clean(line, 400) for line in log.strip().splitlines()[-25:]]
        raise ChildBugError("\n".join(lines))


class ChildBugError(Exception):
    """The replay died of an error that the doctor did not expect: a bug in the doctor."""


def _take(work: Path, folder: Path) -> None:
    for name in (TRACE, MINIMAL_BATCH, *BEFORE):
        if (work / name).is_file():
            _copy(work / name, folder / name)
            if name in BEFORE:
                # Weights out of a bundle, which is for its owner's eyes.
                (folder / name).chmod(0o600)


def _copy(source: Path, target: Path) -> None:
    guarded(target, lambda: shutil.copyfile(source, target))


def _what_was_recorded(work: Path, ended: supervision.Ended) -> Trace:
    """Return the trace of a child that did not come to its end, out of its journal."""
    journal = work / JOURNAL
    builder = TraceBuilder.from_journal(journal) if journal.is_file() else TraceBuilder()
    died = {"how": ended.how, "status": ended.status, "place": str(ended.place), "peak": ended.peak}
    if builder.context.get("outcome") == "diverged":
        builder.describe(died=died)
    else:
        builder.describe(died=died, outcome="inconclusive", outcome_because=ended.sentence)
    return builder.build()
