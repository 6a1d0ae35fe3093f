from __future__ import annotations

import sys


def test_a_trace_becomes_an_event_file(doctor, trace_file, elsewhere):
    said = doctor("export", "tensorboard", trace_file, "logs/crash")

    assert said.status == 0
    assert said.err == ""
    written = list((elsewhere / "logs" / "crash").iterdir())
    assert [f"logs/crash/{path.name}" for path in written] == said.out.split()
    assert "tfevents" in written[0].name


def test_what_lies_there_already_is_kept(doctor, bare_file, elsewhere):
    (elsewhere / "logs").mkdir()
    (elsewhere / "logs" / "events.out.tfevents.1.host").write_bytes(b"theirs")
    doctor("export", "tensorboard", bare_file, "logs")

    doctor("export", "tensorboard", bare_file, "logs").assert_refused(
        2, "error[output-exists]", "divergence-doctor", "--force"
    )
    assert doctor("export", "tensorboard", bare_file, "logs", "--force").status == 0
    assert (elsewhere / "logs" / "events.out.tfevents.1.host").read_bytes() == b"theirs"
    assert len(list((elsewhere / "logs").iterdir())) == 2


def test_an_unknown_format_is_answered_with_those_that_are_there(doctor, bare_file):
    doctor("export", "tensrboard", bare_file, "logs").assert_refused(
        2, "error[unknown-format]", "'tensrboard'", "did you mean tensorboard?"
    )


def test_a_package_that_is_missing_is_named_with_its_command(doctor, bare_file, monkeypatch):
    monkeypatch.setitem(sys.modules, "tensorboard.compat.proto.event_pb2", None)

    doctor("export", "tensorboard", bare_file, "logs").assert_refused(
        2, "error[missing-package]", "tensorboard is needed", "pip install tensorboard"
    )


def test_a_folder_that_cannot_be_made_is_refused(doctor, bare_file, elsewhere):
    (elsewhere / "logs").write_text("a file")

    doctor("export", "tensorboard", bare_file, "logs/crash").assert_refused(2, "logs/crash")


def test_a_file_that_is_no_trace_writes_nothing(doctor, elsewhere):
    (elsewhere / "t.h5").write_text("hello")

    doctor("export", "tensorboard", "t.h5", "logs").assert_refused(4, "t.h5")
    assert not (elsewhere / "logs").exists()
