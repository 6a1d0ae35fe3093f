"""What is a tracker? Where a team keeps its runs; a report is attached to one when it is asked for.

Nothing is sent but by ``doctor attach``, and only by the client that the user has installed and
configured: the doctor knows neither servers nor passwords.
"""

from __future__ import annotations

import shutil
import tempfile
from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final

from divergence_doctor import _plugins
from divergence_doctor._clean import clean
from divergence_doctor._optional import optional
from divergence_doctor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.diagnosis import Diagnosis

#: Folder of the report among a run's files.
FOLDER: Final = "divergence"
#: The tag that runs are searched by; what stands in it where no cause is to be named.
CAUSE: Final = "divergence.cause"
NO_CAUSE: Final = "none"
_LONGEST: Final = 400
TRACE: Final = "trace.h5"


@dataclass(frozen=True, slots=True)
class Reports:
    """What is attached to a run.

    Attributes:
        folder: holds the files, and nothing else.
        tags: short texts by name, ``divergence.cause`` among them.
    """

    folder: Path
    tags: Mapping[str, str]

    def files(self) -> list[str]:
        """Return the paths of the files below the folder."""
        return sorted(
            str(path.relative_to(self.folder)) for path in self.folder.rglob("*") if path.is_file()
        )


class Tracker(ABC):
    """One experiment tracker. A concrete tracker can be made without arguments."""

    #: What ``doctor attach`` calls it.
    name: ClassVar[str]
    #: The client's package, as it is imported and installed.
    package: ClassVar[str]

    def client(self, module: str | None = None) -> Any:
        """Return the user's client, or one module of it.

        Raises:
            MissingPackageError: it is not installed.
        """
        return optional(
            module or self.package, pip=self.package, to=f"to attach a report to a {self.name} run"
        )

    @abstractmethod
    def attach(self, run: str, reports: Reports) -> str:
        """Attach the files to a run, then set the tags; return where they stand now.

        Raises:
            MissingPackageError: the client is not installed.
            UsageError: there is no such run, or the client would not take them.
        """


@cache
def all_trackers() -> dict[str, Tracker]:
    """Return one instance of every tracker, by name."""
    kinds: tuple[type[Any], ...] = _plugins.load("divergence_doctor.trackers", Tracker)
    return {one.name: one for one in sorted((kind() for kind in kinds), key=lambda one: one.name)}


def attach(tracker: Tracker, trace: Path, run: str, *, with_trace: bool = False) -> tuple[str, int]:
    """Diagnose a trace, and attach its report to a run.

    Args:
        tracker: which one.
        trace: a ``trace.h5``.
        run: the run, as the tracker calls it.
        with_trace: attach the trace, too: it holds values of the batch.

    Returns:
        Where the report stands now, and how many files were attached.

    Raises:
        DoctorError: the trace is refused, or the tracker's client would not take the report.
    """
    from divergence_doctor.diagnosis import diagnose
    from divergence_doctor.reporters import write_reports
    from divergence_doctor.trace import Trace

    opened = Trace.open(trace)
    tracker.client()  # before the report is drawn: that takes seconds
    diagnosis = diagnose(opened)
    with tempfile.TemporaryDirectory(prefix="divergence-doctor-") as name:
        folder = Path(name) / FOLDER
        folder.mkdir()
        write_reports(opened, diagnosis, folder)
        if with_trace:
            shutil.copyfile(trace, folder / TRACE)
        reports = Reports(folder, tags_of(diagnosis))
        return tracker.attach(run, reports), len(reports.files())


def tags_of(diagnosis: Diagnosis) -> dict[str, str]:
    """Return what a run is tagged with: few words, and no names that could be long."""
    main = diagnosis.main
    tags = {
        "divergence.outcome": diagnosis.outcome,
        CAUSE: NO_CAUSE if main is None else main.finding.cause,
    }
    if main is not None:
        tags["divergence.confirmed"] = "yes" if main.confirmed else "no"
        tags["divergence.confidence"] = f"{main.finding.confidence:.2f}"
        tags["divergence.layer"] = main.finding.site.layer or ""
        tags["divergence.summary"] = main.finding.summary
    return {name: clean(value, _LONGEST) for name, value in tags.items()}


def refused(tracker: str, run: str, error: Exception, *, fix: str) -> UsageError:
    """Return the error of a client as one for the user.

    Args:
        tracker: its name.
        run: the run that was named.
        error: what the client raised.
        fix: the way out.
    """
    lines = str(error).strip().splitlines() or [type(error).__name__]
    return UsageError(
        "cannot-attach",
        f"the report was not attached to run {clean(run)} of {tracker}",
        why=clean(lines[0], _LONGEST),
        fix=fix,
    )
