from __future__ import annotations

import json
import resource
import subprocess
import sys
import zipfile

import pytest

from divergence_doctor.trace import TraceBuilder

FILES = ["figures", "report.html", "report.json", "report.md"]


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_reports_of_a_trace_are_written_without_a_copy_of_it(doctor, trace_file, elsewhere):
    said = doctor("report", trace_file)

    assert said.status == 0
    assert said.err == ""
    assert said.out.startswith("✗ Diverged: log-of-zero (DD201), confirmed")
    assert "files    trace-report/report.html\n" in said.out
    assert names(elsewhere) == ["trace-report"]
    assert names(elsewhere / "trace-report") == FILES
    assert trace_file.is_file()
    told = json.loads((elsewhere / "trace-report" / "report.json").read_text(encoding="utf-8"))
    assert told["diagnosis"]["cause"] == "log-of-zero"
    assert told["diagnosis"]["confirmed"] is True


def test_the_default_folder_is_named_after_the_trace(doctor, bare_file, elsewhere):
    assert doctor("report", bare_file).status == 0
    assert names(elsewhere) == ["bare-report"]


def test_json_is_strict_and_the_same_as_the_file_and_nothing_else_is_printed(
    doctor, bare_file, elsewhere
):
    def refuse(token):
        pytest.fail(f"{token} is no JSON")

    said = doctor("report", bare_file, "--json", "--out", "out")

    assert said.out == (elsewhere / "out" / "report.json").read_text(encoding="utf-8")
    told = json.loads(said.out, parse_constant=refuse)
    assert told["schema"] == "divergence-doctor/report/1"
    assert told["outcome"] == "diverged"
    assert told["diagnosis"]["cause"] == "unexplained"


def test_a_divergence_exits_3_only_when_asked_to(doctor, bare_file):
    assert doctor("report", bare_file, "--out", "a").status == 0
    assert doctor("report", bare_file, "--out", "b", "--fail-on-divergence").status == 3


def test_a_healthy_trace_exits_0_and_has_no_diagnosis(doctor, tmp_path):
    builder = TraceBuilder()
    builder.describe(outcome="healthy")
    builder.build().save(tmp_path / "healthy.h5")

    said = doctor("report", tmp_path / "healthy.h5", "--fail-on-divergence", "--json")

    assert said.status == 0
    told = json.loads(said.out)
    assert (told["outcome"], told["diagnosis"]) == ("healthy", None)


def test_an_empty_trace_is_inconclusive(doctor, tmp_path):
    TraceBuilder().build().save(tmp_path / "empty.h5")

    said = doctor("report", tmp_path / "empty.h5", "--json")

    assert said.status == 0
    assert json.loads(said.out)["outcome"] == "inconclusive"


def test_the_same_trace_gives_the_same_report(doctor, bare_file, elsewhere):
    for folder in ("a", "b"):
        doctor("report", bare_file, "--out", folder)

    for name in ("report.json", "report.md", "report.html"):
        assert (elsewhere / "a" / name).read_bytes() == (elsewhere / "b" / name).read_bytes()


def test_an_output_that_exists_is_kept_unless_forced(doctor, bare_file, elsewhere):
    doctor("report", bare_file, "--out", "out")
    (elsewhere / "out" / "notes.txt").write_text("mine")

    doctor("report", bare_file, "--out", "out").assert_refused(
        2, "error[output-exists]", "out exists already", "--force"
    )
    assert (elsewhere / "out" / "notes.txt").read_text() == "mine"

    assert doctor("report", bare_file, "--out", "out", "--force").status == 0
    assert names(elsewhere / "out") == ["report.html", "report.json", "report.md"]


def test_force_never_replaces_the_folder_that_holds_the_trace(doctor, bare_file):
    (bare_file.parent / "report.json").write_text("{}")

    doctor("report", bare_file, "--out", bare_file.parent, "--force").assert_refused(
        2, "error[output-holds-the-trace]", "bare.h5, which would be lost", "--out"
    )
    assert bare_file.is_file()


def test_a_trace_that_is_not_there_is_named(doctor, tmp_path, elsewhere):
    doctor("report", tmp_path / "gone.h5").assert_refused(
        2, "error[trace-not-found]", "gone.h5", "no file has this path"
    )
    assert names(elsewhere) == []


@pytest.mark.parametrize("content", [b"", b"hello", b"\x89HDF\r\n\x1a\n", "cut"])
def test_a_damaged_trace_is_refused_and_nothing_is_written(doctor, bare_file, content, elsewhere):
    whole = bare_file.read_bytes()
    bare_file.write_bytes(whole[: len(whole) // 2] if content == "cut" else content)

    doctor("report", bare_file).assert_refused(4, "bare.h5")
    assert names(elsewhere) == []


def test_a_disk_that_fills_up_is_told_and_leaves_nothing_behind(bare_file, elsewhere):
    def small_files():
        resource.setrlimit(resource.RLIMIT_FSIZE, (2_000, 2_000))

    done = subprocess.run(
        [sys.executable, "-m", "divergence_doctor", "report", bare_file, "--out", "out"],
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=small_files,
    )

    assert done.returncode == 2
    assert "out/report." in done.stderr
    assert "why: file too large" in done.stderr
    assert "fix: choose" in done.stderr
    assert "Traceback" not in done.stderr
    assert names(elsewhere) == []


def test_a_place_below_a_file_cannot_be_written(doctor, bare_file, elsewhere):
    (elsewhere / "file").write_text("mine")

    doctor("report", bare_file, "--out", "file/out").assert_refused(
        2, "error[cannot-write]", "file/out cannot be written", "not a directory", "--out"
    )
    assert names(elsewhere) == ["file"]


def test_a_zip_for_a_ticket_lies_beside_the_reports_and_is_named(doctor, trace_file, elsewhere):
    said = doctor("report", trace_file, "--out", "out", "--zip")

    assert said.status == 0
    assert "files    out/out.zip\n" in said.out
    assert names(elsewhere / "out") == [*FILES[:1], "out.zip", *FILES[1:]]
    with zipfile.ZipFile(elsewhere / "out" / "out.zip") as archive:
        assert {"report.html", "trace.h5", "CONTENTS.txt"} <= set(archive.namelist())


def test_what_is_redacted_names_nothing_of_the_users(doctor, trace_file, elsewhere):
    said = doctor("report", trace_file, "--out", "out", "--zip", "--redact")

    assert "layer_2" in said.out
    with zipfile.ZipFile(elsewhere / "out" / "out.zip") as archive:
        told = [archive.read(name) for name in archive.namelist() if "report" in name]
    told += [path.read_bytes() for path in (elsewhere / "out").glob("report.*")]
    assert len(told) == 6
    assert not any(b"dense_1" in content or b"losses.py" in content for content in told)
    assert b"losses.py:41" in trace_file.read_bytes()


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        (("--include-data",), ("error[data-without-zip]", "--zip")),
        (("--include-data", "--zip", "--redact"), ("error[redact-with-data]", "one of them")),
    ],
)
def test_flags_that_contradict_each_other_are_refused(doctor, bare_file, elsewhere, flags, words):
    doctor("report", bare_file, *flags).assert_refused(2, *words)
    doctor("replay", "model.keras", "batch.npz", *flags).assert_refused(2, *words)
    assert names(elsewhere) == []
