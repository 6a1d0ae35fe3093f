"""Does the same trace give the same bytes of every report and figure, wherever it is told?"""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.figures import all_figures
from divergence_doctor.reporters import write_reports
from divergence_doctor.trace import Trace
from tests.figures._runs import run

if TYPE_CHECKING:
    from pathlib import Path


def files(folder: Path) -> dict[str, bytes]:
    """Return what lies in a folder and below it."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def trace_file(runs, tmp_path_factory) -> Path:
    """Return the file of a run in which every report and every figure has something to tell."""
    trace = run(12)
    trace.context.update(runs.context)
    path = tmp_path_factory.mktemp("trace") / "trace.h5"
    trace.save(path)
    return path


def elsewhere(trace_file: Path, folder: Path, **environment: str) -> dict[str, bytes]:
    """Return the files that another process writes."""
    folder.mkdir()
    subprocess.run(
        [sys.executable, "-m", "divergence_doctor", "report", trace_file, "--out", folder / "out"],
        cwd=folder,
        env={**os.environ, **environment},
        capture_output=True,
        check=True,
        timeout=300,
    )
    return files(folder / "out")


@pytest.mark.slow
def test_other_processes_with_other_hash_seeds_write_the_same_bytes(trace_file, tmp_path):
    here = tmp_path / "here"
    here.mkdir()
    opened = Trace.open(trace_file)
    write_reports(opened, diagnose(opened), here)
    expected = files(here)
    assert {"report.html", "report.json", "report.md", "reproduce.py"} <= set(expected)
    drawn = {name.removeprefix("figures/") for name in expected if name.endswith(".png")}
    assert drawn == {f"{figure.name}.png" for figure in all_figures()}
    for seed, settings in (
        ("1", {"TZ": "Asia/Tokyo", "LC_ALL": "C.UTF-8"}),
        ("4000000000", {"COLUMNS": "50", "MPLBACKEND": "pdf", "OMP_NUM_THREADS": "1"}),
    ):
        written = elsewhere(trace_file, tmp_path / seed, PYTHONHASHSEED=seed, **settings)
        assert list(written) == list(expected)
        assert [name for name in expected if written[name] != expected[name]] == []


def test_a_trace_written_twice_is_one_file(trace_file, tmp_path):
    Trace.open(trace_file).save(tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == trace_file.read_bytes()
