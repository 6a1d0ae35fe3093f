"""The command line, run in this process and as a user runs it; and files for it to read."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from divergence_doctor.cli import main
from divergence_doctor.trace import TraceBuilder
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

ROOT = Path(__file__).parents[2]
SAMPLES = ROOT / "sample_runs"


@dataclass(frozen=True)
class Said:
    """What a command said, and its exit status."""

    status: int
    out: str
    err: str

    def assert_refused(self, status: int, *words: str) -> None:
        """Assert that it named the thing, the reason and the way out, and showed no traceback."""
        assert self.status == status, self.err
        lines = self.err.strip().splitlines()
        start = next(i for i, line in enumerate(lines) if line.startswith("error["))
        message, why, fix = lines[start : start + 3]
        assert why.startswith("  why: ")
        assert len(why) > len("  why: ")
        assert fix.startswith("  fix: ")
        assert len(fix) > len("  fix: ")
        for word in words:
            assert word in f"{message}\n{why}\n{fix}"
        assert "Traceback" not in self.err
        assert self.out == ""


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    """Work in an empty folder; temporary folders lie beside it, where litter would be seen."""
    folder, temporary = tmp_path / "here", tmp_path / "temporary"
    folder.mkdir()
    temporary.mkdir()
    monkeypatch.chdir(folder)
    monkeypatch.setenv("TMPDIR", str(temporary))
    monkeypatch.setattr("tempfile.tempdir", None)
    for name in ("COLUMNS", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    return folder


@pytest.fixture
def doctor(capsys, monkeypatch):
    """Run a command in this process, from its arguments to its exit status."""

    def run(*arguments: object) -> Said:
        monkeypatch.setattr(sys, "argv", ["doctor", *map(str, arguments)])
        monkeypatch.setattr(sys, "excepthook", sys.excepthook)
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        said = capsys.readouterr()
        return Said(int(ended.value.code or 0), said.out, said.err)

    return run


@pytest.fixture
def shell():
    """Run a command as a user does: a process of its own."""

    def run(*arguments: object, python: tuple[str, ...] = (), **environment: str) -> Said:
        done = subprocess.run(
            [sys.executable, *python, "-m", "divergence_doctor", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            env={**os.environ, **environment},
            timeout=300,
        )
        return Said(done.returncode, done.stdout, done.stderr)

    return run


@pytest.fixture
def trace_file(tmp_path):
    """A trace of two steps that broke in the log of a softmax, with the trials that prove it."""
    trials = [
        {"name": "control", "breadth": 0, "outcome": "still-fails", "changed": "nothing"},
        {
            "name": "safe-op",
            "cause": "log-of-zero",
            "breadth": 1,
            "outcome": "finite",
            "changed": "input of Log kept inside its domain",
            "detail": "loss 0.9 to 0.7 over 2 steps",
        },
    ]
    event = SyntheticEvent(
        "Log",
        layer="dense_1",
        source="losses.py:41",
        samples=(5,),
        inputs=([0.0, 1.0],),
        input_values=(0.0,),
        outputs=([-np.inf, 0.0],),
    )
    trace = training_trace(losses=(0.9, np.nan), events=(event,), trials=trials)
    path = tmp_path / "trace.h5"
    trace.save(path)
    return path


@pytest.fixture
def healthy_file(tmp_path):
    """A trace of a run that stays finite."""
    path = tmp_path / "healthy.h5"
    training_trace(losses=(1.0, 0.9, 0.8)).save(path)
    return path


@pytest.fixture
def bare_file(tmp_path):
    """A trace that says that it diverged, and no more: there is nothing in it to draw."""
    builder = TraceBuilder()
    builder.describe(outcome="diverged", outcome_because="the loss of step 0 is nan")
    path = tmp_path / "bare.h5"
    builder.build().save(path)
    return path


@pytest.fixture
def batch_file(tmp_path):
    """Write a batch from arrays, and return its path."""

    def write(name: str = "batch.npz", **arrays: object) -> Path:
        path = tmp_path / name
        np.savez(path, **{key: np.asarray(value) for key, value in arrays.items()})
        return path

    return write
