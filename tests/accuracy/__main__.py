"""``python -m tests.accuracy [PATTERN ...]``: put the cases before the doctor, print the table."""

from __future__ import annotations

import argparse
import fnmatch
import json
import os
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

from rich.console import Console

from tests.accuracy._case import PLACES, Answer, ask, names, seconds_of_import, write
from tests.accuracy._figures import figures
from tests.accuracy._tables import grids, markdown, rich

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from tests.accuracy._figures import Figures

#: ``import tensorflow`` is timed once before each so many cases, so that its median is taken under
#: the load that the cases' is.
CASES_AN_IMPORT = 16


def main(arguments: Sequence[str]) -> int:
    """Run the cases whose names match, and print what came of them."""
    options = _options(arguments)
    log = Console(stderr=True, width=None if sys.stderr.isatty() else 160)
    chosen = [name for name in names() if _matches(name, options.patterns)]
    if not chosen:
        log.print("no case matches")
        return 2
    answers, imports = run(
        chosen,
        jobs=options.jobs,
        tell=lambda answer: log.print(line(answer), markup=False, highlight=False),
    )
    halves = by_half(answers, imports)
    if options.json is not None:
        told = json.dumps(record(answers, halves), indent=1, allow_nan=False)
        options.json.write_text(told + "\n", encoding="utf-8")
    if options.markdown:
        print("\n\n".join(markdown(grid) for grid in grids(halves)))  # noqa: T201
    else:
        console = Console(width=None if sys.stdout.isatty() else 160)
        for grid in grids(halves):
            console.print(rich(grid))
        for name, half in halves.items():
            for wrong in half.confident_and_wrong:
                console.print(f"confident and wrong ({name} half): {wrong}", highlight=False)
    return 0 if all(answer.all_right for answer in answers) else 1


def run(
    chosen: Sequence[str], *, jobs: int, tell: Callable[[Answer], None]
) -> tuple[list[Answer], list[float]]:
    """Put cases before the doctor, and time ``import tensorflow`` in between.

    Args:
        chosen: names of the cases.
        jobs: how many commands run at a time.
        tell: told each answer, in the order of ``chosen``.

    Returns:
        The answers in the order of ``chosen``, and the seconds that the imports took.
    """
    with tempfile.TemporaryDirectory() as folder, ThreadPoolExecutor(jobs) as pool:
        # All are written before the first is asked: building models beside the commands would
        # slow them, and the seconds of a case would depend on which one comes next.
        written = {name: _write(name, Path(folder) / name) for name in chosen}
        asked: list[Any] = []
        imports = []
        for number, name in enumerate(chosen):
            if number % CASES_AN_IMPORT == 0:
                imports.append(pool.submit(seconds_of_import))
            asked.append(pool.submit(ask, name, written[name], Path(folder) / name / "out"))
        answers = []
        for future in asked:
            answers.append(future.result())
            tell(answers[-1])
        return answers, [future.result() for future in imports]


def by_half(answers: Sequence[Answer], imports: Sequence[float]) -> dict[str, Figures]:
    """Return the figures of the half that was tuned on and of the one that was held out.

    A half without a case is left out.
    """
    halves = {
        "tuning": [answer for answer in answers if not answer.held_out],
        "report": [answer for answer in answers if answer.held_out],
    }
    return {name: figures(half, imports) for name, half in halves.items() if half}


def record(answers: Sequence[Answer], halves: dict[str, Figures]) -> dict[str, Any]:
    """Return what a script needs: the figures of each half, and each case with what was said."""
    return {
        "halves": {name: half.record for name, half in halves.items()},
        "cases": [
            {
                "name": answer.name,
                "half": "report" if answer.held_out else "tuning",
                "right": answer.all_right,
                "expected": answer.expected,
                "outcome": None if answer.report is None else answer.report["outcome"],
                "said": {
                    key: answer.said.get(key)
                    for key in ("cause", "confidence", "confirmed", *PLACES)
                }
                if answer.said
                else None,
                "error": answer.error or None,
                "seconds": round(answer.seconds, 2),
            }
            for answer in answers
        ],
    }


def line(answer: Answer) -> str:
    """Return one case in one line: right, or what is wrong with what was said."""
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


def _options(arguments: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m tests.accuracy", description=__doc__)
    parser.add_argument(
        "patterns", nargs="*", metavar="PATTERN", help="cases whose names hold one of these"
    )
    parser.add_argument(
        "--jobs", type=int, default=min(2, os.cpu_count() or 1), help="commands at a time"
    )
    parser.add_argument("--markdown", action="store_true", help="print the tables as README's")
    parser.add_argument(
        "--json", type=Path, metavar="FILE", help="write figures and cases there, for a script"
    )
    return parser.parse_args(arguments)


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return not patterns or any(fnmatch.fnmatch(name, f"*{pattern}*") for pattern in patterns)


def _write(name: str, folder: Path) -> list[str]:
    folder.mkdir()
    return write(name, folder)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
