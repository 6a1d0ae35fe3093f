"""How is a verdict told? At most a screen, or the JSON of the report, on standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from divergence_doctor.cli._screen import say, width_of_output

if TYPE_CHECKING:
    from pathlib import Path

    from divergence_doctor.diagnosis import Diagnosis
    from divergence_doctor.reporters.terminal import Terminal
    from divergence_doctor.trace import Trace

#: In the order in which they are named, and how many of them the screen has room for.
_FILES: Final = ("report.html", "trace.h5", "report.md")
_MOST: Final = 2
#: Lines of a terminal.
_SCREEN: Final = 24
#: Longer lines are hard to read.
_WIDEST: Final = 100


def tell(trace: Trace, diagnosis: Diagnosis, folder: Path, *, as_json: bool) -> None:
    """Print the summary of a diagnosis and where its files are, or ``report.json`` alone."""
    if as_json:
        say((folder / "report.json").read_text(encoding="utf-8"))
        return
    tell_verdict(trace, diagnosis)
    tell_files(folder)


def tell_verdict(trace: Trace, diagnosis: Diagnosis) -> None:
    """Print the summary of a diagnosis, before there are any files."""
    from divergence_doctor.reporters import document

    say(_terminal().render(document(trace, diagnosis)))


def tell_files(folder: Path) -> None:
    """Print where the files of a diagnosis are."""
    files = [str(path) for path in sorted(folder.glob("*.zip"))]
    files += [str(folder / name) for name in _FILES if (folder / name).is_file()]
    say(_terminal().render_files(files[:_MOST]))


def _terminal() -> Terminal:
    from divergence_doctor.reporters.terminal import Terminal

    # The lines of the files follow on the same screen.
    return Terminal(
        width=min(width_of_output(), _WIDEST), height=_SCREEN - _MOST, color=sys.stdout.isatty()
    )
