"""``python -m tests.accuracy [PATTERN ...]``: put the cases before the doctor, print the table."""

from __future__ import annotations

import fnmatch
import os
import statistics
import sys
import tempfile
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.console import Console
from rich.table import Table

from tests.accuracy._case import PLACES, Answer, ask, names

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

#: From here on a verdict counts as confident.
CONFIDENT = 0.8


def main(patterns: Sequence[str]) -> int:
    """Run the cases whose names match, and print what came of them."""
    console = Console(width=160 if not sys.stdout.isatty() else None)
    chosen = [
        name
        for name in names()
        if not patterns or any(fnmatch.fnmatch(name, f"*{pattern}*") for pattern in patterns)
    ]
    answers = []
    for name in chosen:
        with tempfile.TemporaryDirectory() as folder:
            answers.append(ask(name, Path(folder)))
        console.print(_line(answers[-1]), markup=False, highlight=False)
    if not answers:
        console.print("no case matches")
        return 2
    console.print(_causes(answers))
    console.print(_figures(answers))
    return 0 if all(answer.all_right for answer in answers) else 1


def _line(answer: Answer) -> str:
    if answer.report is None:
        return f"✗ {answer.name}: no report: {answer.error}"
    if answer.all_right:
        return f"✓ {answer.name} ({answer.seconds:.1f} s)"
    said = answer.said
    wrong = [
        f"{key} {got!r}, not {answer.expected.get(key)!r}"
        for key, got in [
            ("outcome", answer.report["outcome"]),
            ("cause", said.get("cause")),
            *((place, said.get(place)) for place in PLACES if place in answer.expected),
        ]
        if got != answer.expected.get(key)
    ]
    return f"✗ {answer.name}: {'; '.join(wrong)} ({answer.confidence:.0%} sure)"


def _causes(answers: Sequence[Answer]) -> Table:
    table = Table("cause", "cases", "recall", "precision", title="By cause")
    expected = Counter(answer.expected.get("cause") for answer in answers)
    said = Counter(answer.said.get("cause") for answer in answers)
    hits = Counter(answer.said.get("cause") for answer in answers if answer.cause_right)
    for cause in sorted((expected | said).keys() - {None}, key=str):
        table.add_row(
            str(cause), str(expected[cause]), _share(hits[cause], expected[cause]),
            _share(hits[cause], said[cause]),
        )  # fmt: skip
    return table


def _figures(answers: Sequence[Answer]) -> Table:
    table = Table("figure", "value", title="Over all cases")
    failing = [answer for answer in answers if not answer.control]
    controls = [answer for answer in answers if answer.control]
    right = [answer for answer in failing if answer.cause_right]
    table.add_row("outcome", _of(answer.outcome_right for answer in answers))
    table.add_row("cause", _of(answer.cause_right for answer in failing))
    for place in PLACES:
        asked = [answer.right(place) for answer in failing]
        table.add_row(place, _of(item for item in asked if item is not None))
    table.add_row("right causes confirmed", _of(bool(a.said["confirmed"]) for a in right))
    table.add_row(
        "false causes on controls", f"{sum(bool(a.said) for a in controls)} of {len(controls)}"
    )
    confident = [a for a in answers if a.said and a.confidence >= CONFIDENT]
    table.add_row("confident and wrong", str(sum(not a.cause_right for a in confident)))
    table.add_row("calibration", _calibration(answers))
    seconds = statistics.median(answer.seconds for answer in answers)
    table.add_row("median seconds a case", f"{seconds:.1f}")
    return table


def _calibration(answers: Sequence[Answer]) -> str:
    """Return how often verdicts of each confidence were right."""
    parts = []
    for low, high in ((0.0, 0.5), (0.5, 0.8), (0.8, 0.95), (0.95, 1.01)):
        of = [a.cause_right for a in answers if a.said and low <= a.confidence < high]
        if of:
            parts.append(f"{low:.2f}-{min(high, 1):.2f}: {sum(of)}/{len(of)}")
    return ", ".join(parts)


def _of(items: Iterable[bool]) -> str:
    found = list(items)
    return f"{sum(found)} of {len(found)} ({_share(sum(found), len(found))})"


def _share(part: int, whole: int) -> str:
    return f"{part / whole:.0%}" if whole else "–"  # noqa: RUF001 - as the contract writes none


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
