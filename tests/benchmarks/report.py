"""``python -m tests.benchmarks.report``: what `doctor report` costs on the longest of traces.

The command runs as a user runs it, in a process of its own, several times; the quickest counts, for
a busy machine only ever makes it slower. Processor time is told beside it for the same reason.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from tests.benchmarks._long_trace import LAYERS, STEPS, long_trace

#: What a reader is promised, in seconds.
PROMISED = 5.0


def say(text: str) -> None:
    """Print a line of the table."""
    sys.stdout.write(f"{text}\n")


def run(trace: Path, folder: Path, *flags: str) -> tuple[float, float]:
    """Return the seconds that passed and those of the processor."""
    before = os.times()
    start = time.perf_counter()
    subprocess.run(
        [sys.executable, "-m", "divergence_doctor", "report", trace, "--out", folder, *flags],
        check=True,
        stdout=subprocess.DEVNULL,
    )
    seconds = time.perf_counter() - start
    after = os.times()
    used = after.children_user + after.children_system
    return seconds, used - before.children_user - before.children_system


def main() -> None:
    """Print a table of what each way of asking costs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--layers", type=int, default=LAYERS)
    parser.add_argument("--steps", type=int, default=STEPS)
    parser.add_argument("--times", type=int, default=3)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        work = Path(name)
        path = work / "trace.h5"
        long_trace(layers=asked.layers, steps=asked.steps).save(path)
        say(f"{asked.layers} layers, {asked.steps} steps, {path.stat().st_size / 1e6:.1f} MB")
        say("| command | seconds | of the processor | report.html | zip |")
        say("| --- | --- | --- | --- | --- |")
        for flags in ((), ("--zip",), ("--zip", "--redact")):
            taken = []
            for turn in range(asked.times):
                folder = work / f"out{len(flags)}{turn}"
                taken.append(run(path, folder, *flags))
            seconds, used = (min(column) for column in zip(*taken, strict=True))
            page = (folder / "report.html").stat().st_size / 1e6
            packed = sum(one.stat().st_size for one in folder.glob("*.zip")) / 1e6
            say(
                f"| {' '.join(('report', *flags))} | {seconds:.2f} | {used:.2f} | {page:.2f} MB "
                f"| {packed:.2f} MB |"
            )
        say(f"promised of the first: under {PROMISED:.0f} s")


if __name__ == "__main__":
    main()
