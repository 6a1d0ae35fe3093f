"""The zip for a ticket: whole, small, the same bytes each time, and nobody's data."""

from __future__ import annotations

import errno
import io
import json
import math
import zipfile

import numpy as np
import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.errors import OutputError
from divergence_doctor.reporters import write_reports, write_ticket
from divergence_doctor.trace import Trace
from divergence_doctor.trace.synthetic import training_trace

HELD = {"batch": 0, "sample": 5, "name": "x", "role": "x", "size": 1, "values": "[77.125]"}
REPORTS = {"CONTENTS.txt", "report.html", "report.json", "report.md", "trace.h5"}


@pytest.fixture
def trace():
    x = np.full((8, 4), 0.5)
    x[5, 0] = math.nan
    cell = {"batch": 0, "sample": 5, "array": "x", "index": "5,1", "value": 77.125}
    return training_trace(
        losses=(1.0, math.nan),
        x=x,
        rows={"excerpts": [HELD], "culprits": [{**cell, "evidence": "outlier"}]},
    )


@pytest.fixture
def folder(trace, tmp_path):
    write_reports(trace, diagnose(trace), tmp_path)
    trace.save(tmp_path / "trace.h5")
    np.savez(tmp_path / "minimal_batch.npz", x=np.ones(3))
    (tmp_path / "notes.txt").write_text("mine")
    return tmp_path


def entries(path):
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None
        return {name: archive.read(name) for name in archive.namelist()}


def opened(files, tmp_path):
    (tmp_path / "again.h5").write_bytes(files["trace.h5"])
    return Trace.open(tmp_path / "again.h5")


def test_it_holds_reports_figures_and_trace_without_the_values_of_the_batch(
    trace, folder, tmp_path
):
    path = write_ticket(trace, folder, name="run-7")

    assert path == folder / "run-7.zip"
    files = entries(path)
    figures = {f"figures/{picture.name}" for picture in (folder / "figures").iterdir()}
    assert set(files) == REPORTS | figures
    assert len(figures) >= 3
    assert len(opened(files, tmp_path).table("excerpts")) == 0
    assert opened(files, tmp_path).table("culprits")["value"].tolist() == [64.0]
    assert b"77.1" in (folder / "report.html").read_bytes()
    assert not any(b"77.1" in content for name, content in files.items() if "report" in name)
    assert json.loads(files["report.json"])["outcome"] == "diverged"
    assert b"The values of the batch are left out" in files["report.md"]


def test_the_values_come_along_when_they_are_asked_for(trace, folder, tmp_path):
    files = entries(write_ticket(trace, folder, name="run-7", include_data=True))

    assert np.load(io.BytesIO(files["minimal_batch.npz"]))["x"].tolist() == [1.0, 1.0, 1.0]
    assert opened(files, tmp_path).table("excerpts")["values"].tolist() == ["[77.125]"]
    assert files["report.html"] == (folder / "report.html").read_bytes()
    assert b"minimal_batch.npz: the smallest part of the batch" in files["CONTENTS.txt"]


def test_the_same_trace_gives_the_same_bytes(trace, folder):
    first = write_ticket(trace, folder, name="a").read_bytes()
    second = write_ticket(trace, folder, name="b").read_bytes()
    assert first == second
    with zipfile.ZipFile(folder / "a.zip") as archive:
        assert {entry.date_time for entry in archive.infolist()} == {(1980, 1, 1, 0, 0, 0)}
        assert archive.namelist() == sorted(archive.namelist())


def test_a_disk_that_is_full_is_told_and_nothing_is_left_behind(trace, folder, monkeypatch):
    before = sorted(path.name for path in folder.iterdir())

    def full(*_arguments, **_options):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("divergence_doctor.trace.hdf5._sync_folder", full)
    with pytest.raises(OutputError) as caught:
        write_ticket(trace, folder, name="run-7", include_data=True)
    assert "no space left on device" in caught.value.why.lower()
    monkeypatch.setattr("tempfile.mkdtemp", full)
    with pytest.raises(OutputError) as caught:
        write_ticket(trace, folder, name="run-7", include_data=True)
    assert caught.value.slug == "cannot-write"
    assert sorted(path.name for path in folder.iterdir()) == before


def test_what_does_not_fit_is_left_out_and_named_the_report_last(trace, folder):
    limit = 80_000
    path = write_ticket(trace, folder, name="small", include_data=True, limit=limit)

    files = entries(path)
    assert path.stat().st_size < limit + 2_000
    assert {"report.md", "report.html", "report.json"} <= set(files)
    contents = files["CONTENTS.txt"].decode()
    left_out = [line for line in contents.splitlines() if "below 80,000 bytes: " in line]
    assert any("trace.h5 (" in line for line in left_out)
    assert len(left_out) + len(files) == 6 + len(list((folder / "figures").iterdir()))
