"""Does a report come to a run by the user's own client? MLflow's file store, W&B's offline mode."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest


@pytest.fixture
def mlflow_run(tmp_path, monkeypatch):
    """The client of a file store, and the id of a run in it."""
    for name in ("MLFLOW_DISABLE_TELEMETRY", "MLFLOW_ALLOW_FILE_STORE"):
        monkeypatch.setenv(name, "true")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", (tmp_path / "mlruns").as_uri())
    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient()
    experiment = client.create_experiment("keyword spotter")
    return client, client.create_run(experiment).info.run_id


def test_mlflow_takes_the_files_and_the_tags(doctor, mlflow_run, trace_file):
    client, run = mlflow_run

    said = doctor("attach", "mlflow", trace_file, run)

    assert said.status == 0, said.err
    assert f"run {run}" in said.out
    files = {Path(file.path).name for file in client.list_artifacts(run, "divergence")}
    assert {"report.html", "report.md", "report.json", "figures"} <= files
    assert "trace.h5" not in files
    tags = client.get_run(run).data.tags
    assert tags["divergence.cause"] == "log-of-zero"
    assert tags["divergence.outcome"] == "diverged"
    assert tags["divergence.confirmed"] == "yes"
    ids = [client.get_run(run).info.experiment_id]
    found = client.search_runs(ids, "tags.`divergence.cause` = 'log-of-zero'")
    assert [one.info.run_id for one in found] == [run]
    assert not client.search_runs(ids, "tags.`divergence.cause` = 'bad-input'")


def test_the_trace_goes_along_when_it_is_asked_for(doctor, mlflow_run, healthy_file):
    client, run = mlflow_run

    assert doctor("attach", "mlflow", healthy_file, run, "--with-trace").status == 0

    files = {Path(file.path).name for file in client.list_artifacts(run, "divergence")}
    assert "trace.h5" in files
    assert client.get_run(run).data.tags["divergence.cause"] == "none"


def test_a_run_that_is_not_there_is_named(doctor, mlflow_run, bare_file):
    doctor("attach", "mlflow", bare_file, "f" * 32).assert_refused(
        2, "error[cannot-attach]", "f" * 32, "not found", "MLFLOW_TRACKING_URI"
    )


@pytest.mark.parametrize("tracker", ["mlflow", "wandb"])
def test_a_client_that_is_missing_is_named_with_its_command(
    doctor, bare_file, monkeypatch, tracker
):
    monkeypatch.setitem(sys.modules, tracker, None)

    doctor("attach", tracker, bare_file, "run").assert_refused(
        2, "error[missing-package]", f"{tracker} is needed", f"pip install {tracker}"
    )


def test_an_unknown_tracker_is_answered_with_those_that_are_there(doctor, bare_file):
    doctor("attach", "mflow", bare_file, "run").assert_refused(
        2, "error[unknown-tracker]", "'mflow'", "did you mean mlflow?"
    )


def wandb_records(folder: Path) -> list:
    """Return the records that an offline run has kept for `wandb sync`.

    They lie in LevelDB's log format: blocks of 32 KiB, in them pieces with a CRC, a length and
    whether they are a whole record (1), its first piece (2), a middle one (3) or its last (4).
    """
    from wandb.proto import wandb_internal_pb2

    (path,) = folder.glob("wandb/offline-run-*/*.wandb")
    content = path.read_bytes()
    assert content.startswith(b":W&B")
    records, at, data = [], 7, b""
    while at + 7 <= len(content):
        if at % 32_768 > 32_768 - 7:
            at += 32_768 - at % 32_768
            continue
        length, kind = int.from_bytes(content[at + 4 : at + 6], "little"), content[at + 6]
        data += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            records.append(record)
            data = b""
    return records


@pytest.mark.slow
def test_wandb_keeps_the_report_for_the_next_sync(shell, trace_file, tmp_path):
    pytest.importorskip("wandb")

    said = shell(
        "attach", "wandb", trace_file, "team/spotter/abc123",
        WANDB_MODE="offline", WANDB_DIR=str(tmp_path), WANDB_ERROR_REPORTING="false",
    )  # fmt: skip

    assert said.status == 0, said.err
    assert "`wandb sync " in said.out
    records = wandb_records(tmp_path)
    (run,) = [record.run for record in records if record.HasField("run")][:1]
    assert (run.entity, run.project, run.run_id) == ("team", "spotter", "abc123")
    (artifact,) = [record.artifact for record in records if record.HasField("artifact")]
    files = {entry.path for entry in artifact.manifest.contents}
    assert {"report.html", "report.md", "report.json"} <= files
    assert "trace.h5" not in files
    told = {
        item.key or ".".join(item.nested_key): item.value_json
        for record in records
        for item in record.summary.update
    }
    assert told["divergence.cause"] == '"log-of-zero"'
    assert any("html" in value for key, value in told.items() if key.endswith("report"))


@pytest.mark.parametrize(
    ("run", "why"), [("a/b/c/d", "three words"), ("team//abc", "three words"), ("", "three words")]
)
def test_a_name_that_is_no_run_of_wandb_is_refused(doctor, bare_file, monkeypatch, run, why):
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")

    doctor("attach", "wandb", bare_file, run).assert_refused(2, "error[not-a-run]", why)


def test_wandb_that_is_switched_off_is_said_to_be(shell, bare_file):
    pytest.importorskip("wandb")

    said = shell("attach", "wandb", bare_file, "team/spotter/abc123", WANDB_MODE="disabled")

    said.assert_refused(2, "error[cannot-attach]", "switched off", "WANDB_MODE")


@pytest.mark.parametrize(
    ("run", "named"),
    [
        ("abc", {"id": "abc"}),
        ("spotter/abc", {"project": "spotter", "id": "abc"}),
        ("team/spotter/abc", {"entity": "team", "project": "spotter", "id": "abc"}),
        (
            "https://wandb.ai/team/spotter/runs/abc",
            {"entity": "team", "project": "spotter", "id": "abc"},
        ),
    ],
)
def test_a_run_is_named_by_its_path_or_its_address(run, named):
    from divergence_doctor.trackers.wandb import _named

    assert _named(run) == named
