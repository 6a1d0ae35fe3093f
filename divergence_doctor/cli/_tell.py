"""How is a verdict told? At most a screen, or the JSON of the report, on standard output."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, Final

from divergence_doctor.cli._screen import say, width_of_output

if TYPE_CHECKING:
    from pathlib import Path

    from divergence_doctor.diagnosis import Diagnosis
    from divergence_doctor.trace import Trace

#: In the order in which they are named; the screen has room for two.
_FILES: Final = ("report.html", "trace.h5", "report.md")
#: Longer lines are hard to read.
_WIDEST: Final = 100


def tell(trace: Trace, diagnosis: Diagnosis, folder: Path, *, as_json: bool) -> None:
    """Print the summary of a diagnosis and where its files are, or ``report.json`` alone."""
    if as_json:
        say((folder / "report.json").read_text(encoding="utf-8"))
        return
    from divergence_doctor.reporters import document
    from divergence_doctor.reporters.terminal import Terminal

    files = [str(folder / name) for name in _FILES if (folder / name).is_file()][:2]
    terminal = Terminal(
        width=min(width_of_output(), _WIDEST), color=sys.stdout.isatty(), files=files
    )
    say(terminal.render(document(trace, diagnosis)))
