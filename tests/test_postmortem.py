"""Does the whole story end with the right cause? Every sample run, from files to verdict."""

from __future__ import annotations

import json
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator

from divergence_doctor.diagnosis import Diagnosis, diagnose
from divergence_doctor.examination import Request
from divergence_doctor.postmortem import postmortem
from divergence_doctor.replay.excerpts import SAMPLES
from divergence_doctor.reporters import Sharing, document
from divergence_doctor.reporters.json import Json, schema
from divergence_doctor.trace import Trace
from divergence_doctor.trace.redaction import redacted
from tests.reporters._schema import everything_named

ROOT = Path(__file__).parents[1]
SAMPLE_RUNS = sorted(path.parent for path in (ROOT / "sample_runs").glob("*/expected.toml"))
README = "doctor replay sample_runs/log_of_zero/model.keras sample_runs/log_of_zero/batch.npz"


def request_of(folder: Path) -> Request:
    custom = folder / "custom.py"
    return Request(
        checkpoint=str(folder / "model.keras"),
        batches=(str(folder / "batch.npz"),),
        custom_objects=(str(custom),) if custom.exists() else (),
    )


def expected_of(folder: Path) -> dict[str, Any]:
    return tomllib.loads((folder / "expected.toml").read_text(encoding="utf-8"))


def test_there_are_sample_runs():
    assert len(SAMPLE_RUNS) >= 10
    assert {"log_of_zero", "healthy"} <= {folder.name for folder in SAMPLE_RUNS}


@pytest.mark.slow
@pytest.mark.parametrize("folder", SAMPLE_RUNS, ids=lambda folder: folder.name)
def test_a_sample_run_is_explained(folder, examined):
    expected = expected_of(folder)

    trace, written = examined(folder)

    diagnosis = diagnose(trace)
    told: dict[str, Any] = {"outcome": diagnosis.outcome}
    if diagnosis.main is not None:
        finding = diagnosis.main.finding
        told |= {
            "cause": finding.cause,
            "stage": finding.stage,
            "layer": finding.site.layer,
            "op": finding.site.op,
            "samples": list(finding.samples),
            "step": finding.site.step,
        }
        assert diagnosis.main.confirmed
    assert {key: told.get(key) for key in expected} == expected
    assert (diagnosis.main is None) == ("cause" not in expected)
    # The file says what the process saw, and is judged the same without TensorFlow.
    assert diagnose(Trace.open(written / "trace.h5")).headline == diagnosis.headline
    # Nor does the verdict hang on what the user calls things, or on single values of the batch.
    assert _verdict(diagnose(redacted(trace))) == _verdict(diagnosis)
    assert set(trace.table("excerpts")["sample"]) == set(told.get("samples", ())[:SAMPLES])
    minimal = trace.context.get("minimal_batch")
    assert (written / "minimal_batch.npz").exists() == (minimal is not None)
    if expected.get("samples"):
        culprits = trace.context["culprits"]
        assert culprits["samples"] == expected["samples"]
        assert minimal["samples"] == expected["samples"][:1]
        # What the first producer names, and a trial has left out, takes few runs more.
        assert culprits["replays"] <= 1 + 2 * (len(expected["samples"]) - 1)
    report = json.loads(Json().render(document(trace, diagnosis)), parse_constant=pytest.fail)
    Draft202012Validator(everything_named(schema())).validate(report)


def _verdict(diagnosis: Diagnosis) -> list[tuple[Any, ...]]:
    return [
        (found.finding.cause, found.confirmed, found.finding.confidence, found.finding.samples)
        for found in diagnosis.findings
    ]


def doctor(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "divergence_doctor", *map(str, arguments)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )


@pytest.mark.slow
def test_the_command_of_the_readme_does_what_the_readme_says(tmp_path):
    assert README in (ROOT / "README.md").read_text(encoding="utf-8")

    done = doctor(*README.split()[1:], "--out", tmp_path / "out")

    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("✗ Diverged: log-of-zero (DD201), confirmed")
    assert "Log in layer log" in done.stdout
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "figures",
        "minimal_batch.npz",
        "report.html",
        "report.json",
        "report.md",
        "reproduce.py",
        "trace.h5",
    }
    assert any((tmp_path / "out" / "figures").glob("*.png"))
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert report["diagnosis"]["cause"] == "log-of-zero"
    assert report["diagnosis"]["samples"] == [5]

    shown = subprocess.run(
        [sys.executable, tmp_path / "out" / "reproduce.py"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )

    assert shown.returncode == 1, shown.stderr
    assert "Traceback" not in shown.stderr


@pytest.mark.slow
def test_a_sample_with_a_layer_of_its_own_takes_its_code(tmp_path):
    folder = Path("sample_runs/sqrt_at_zero")

    done = doctor(
        "replay",
        folder / "model.keras",
        folder / "batch.npz",
        "--custom-objects",
        folder / "custom.py",
        "--out",
        tmp_path / "out",
        "--json",
    )

    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["diagnosis"]["cause"] == "gradient-singularity"


@pytest.mark.slow
@pytest.mark.usefixtures("untouched")
def test_in_a_notebook_the_same_engine_runs_in_process(tmp_path):
    folder = ROOT / "sample_runs" / "healthy"

    told = []

    done = postmortem(
        request_of(folder),
        tmp_path / "out",
        in_process=True,
        on_verdict=lambda _, diagnosis: told.append((diagnosis, (tmp_path / "out").exists())),
    )

    # The verdict does not wait for the reports to be written.
    assert told == [(done.diagnosis, False)]
    assert done.folder == tmp_path / "out"
    assert done.limit is None
    assert (done.trace.outcome, done.diagnosis.outcome) == ("healthy", "healthy")
    assert (tmp_path / "out" / "report.md").is_file()


@pytest.mark.slow
def test_the_trace_can_still_be_read_when_the_folder_has_taken_its_name(tmp_path):
    folder = ROOT / "sample_runs" / "healthy"
    request = Request(
        checkpoint=str(folder / "model.keras"),
        batches=(str(folder / "batch.npz"),),
        steps=1,
    )

    done = postmortem(request, tmp_path / "out", share=Sharing(zip=True, redact=True))

    assert (tmp_path / "out" / "out.zip").is_file()
    told = "".join(path.read_text() for path in (tmp_path / "out").glob("report.*"))
    layers = Trace.open(tmp_path / "out" / "trace.h5").table("layers")["layer"]
    assert {"layer_1", "layer_2"} <= set(layers.tolist())
    assert "model.keras" not in told
    for name in ("weights", "slots", "updates"):
        table = done.trace.table(name)
        assert all(len(table[column]) == len(table) for column in table.columns)
