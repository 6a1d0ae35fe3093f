"""Run scripts, each in a process of its own, all forked from one that has imported TensorFlow.

``python -m tests._scripts`` reads jobs as JSON from standard input and writes their ends as JSON.
TensorFlow starts its threads with its first op, so that a process which only imported it can fork;
a run costs what it computes, without four seconds of import before it.
"""

from __future__ import annotations

import json
import os
import runpy
import subprocess
import sys
import tempfile
import traceback
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence


@dataclass(frozen=True)
class Job:
    """A script with its arguments, and the folder that it is run in."""

    script: str
    arguments: tuple[str, ...]
    folder: str


@dataclass(frozen=True)
class End:
    """How a script ended, and what it said."""

    status: int
    said: str


def run(jobs: Sequence[Job], *, seconds: int) -> list[End]:
    """Run scripts one after the other, without this package at hand.

    Args:
        jobs: what to run.
        seconds: most time for all of them together.
    """
    environment = {**os.environ, "TF_CPP_MIN_LOG_LEVEL": "3", "KERAS_BACKEND": "tensorflow"}
    done = subprocess.run(
        [sys.executable, "-m", "tests._scripts"],
        cwd=Path(__file__).parents[1],
        env=environment,
        input=json.dumps([asdict(job) for job in jobs]),
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return [End(**end) for end in json.loads(done.stdout.splitlines()[-1])]


def _forked(job: Job) -> End:
    with tempfile.TemporaryFile() as said:
        child = os.fork()
        if child == 0:
            os.dup2(said.fileno(), 1)
            os.dup2(said.fileno(), 2)
            os._exit(_ran(job))
        _, status = os.waitpid(child, 0)
        said.seek(0)
        return End(os.waitstatus_to_exitcode(status), said.read().decode("utf-8", "replace"))


def _ran(job: Job) -> int:
    """Run a script as its own process would, and return its exit status."""
    os.chdir(job.folder)
    sys.argv = [job.script, *job.arguments]
    # It stands alone: whoever has not installed this package must be able to run it.
    sys.modules["divergence_doctor"] = None  # type: ignore[assignment]
    sys.modules.pop("tests", None)
    status = 0
    try:
        runpy.run_path(job.script, run_name="__main__")
    except SystemExit as end:
        status = end.code if isinstance(end.code, int) else int(end.code is not None)
        if isinstance(end.code, str):
            sys.stderr.write(f"{end.code}\n")
    except BaseException:  # noqa: BLE001 - whatever it is, its process ends with it
        traceback.print_exc()
        status = 1
    sys.stdout.flush()
    sys.stderr.flush()
    return status


def main() -> None:
    """Read jobs, run them, write their ends."""
    import keras
    import tensorflow as tf

    del keras, tf
    jobs = [Job(**job) for job in json.load(sys.stdin)]
    sys.stdout.write(json.dumps([asdict(_forked(job)) for job in jobs]) + "\n")


if __name__ == "__main__":
    main()
