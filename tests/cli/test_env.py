from __future__ import annotations

import platform
from importlib.metadata import version

import pytest


def test_the_block_names_python_and_the_packages_that_matter(doctor):
    said = doctor("env")

    facts = dict(line.split(":", 1) for line in said.out.splitlines() if ":" in line)
    assert facts["python"].strip().startswith(platform.python_version())
    for package in ("divergence_doctor", "tensorflow", "keras", "numpy", "h5py", "matplotlib"):
        assert facts[package].strip() == version(package)
    assert "cores usable" in facts["cpu"]
    assert facts["memory"].strip().endswith("GiB")


def test_the_block_is_fenced_so_that_a_ticket_shows_it_as_it_is(doctor):
    said = doctor("env")

    assert said.out.startswith("```text\n")
    assert said.out.endswith("\n```\n")


def test_only_flags_that_are_known_are_shown(doctor, monkeypatch):
    monkeypatch.setenv("TF_ENABLE_ONEDNN_OPTS", "0")
    monkeypatch.setenv("TF_SECRET_TOKEN", "hunter2")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "hunter2")

    said = doctor("env")

    assert "TF_ENABLE_ONEDNN_OPTS:      0\n" in said.out
    assert "hunter2" not in said.out


@pytest.mark.parametrize("bad", ["a\nb", "a\x1b[2Jb"])
def test_a_flag_cannot_break_out_of_its_line(doctor, monkeypatch, bad):
    monkeypatch.setenv("XLA_FLAGS", bad)

    lines = [line for line in doctor("env").out.splitlines() if line.startswith("XLA_FLAGS")]

    assert len(lines) == 1
    assert "\x1b" not in lines[0]


def test_the_home_folder_stays_at_home(doctor, monkeypatch):
    monkeypatch.setenv("HOME", "/home/alice")
    monkeypatch.setenv("XLA_FLAGS", "--xla_dump_to=/home/alice/dump")

    said = doctor("env")

    assert "--xla_dump_to=~/dump" in said.out
    assert "alice" not in said.out
