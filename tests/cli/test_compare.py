from __future__ import annotations

import json

import numpy as np
import pytest

from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace


@pytest.fixture
def good_file(tmp_path):
    """A trace of the run of ``trace_file``, as it was while it lived."""
    path = tmp_path / "good.h5"
    training_trace(losses=(0.9, 0.8), activation_absmax=(1.0, 0.5)).save(path)
    return path


def test_it_says_where_they_part_and_what_differs(doctor, good_file, trace_file):
    said = doctor("compare", good_file, trace_file)

    assert said.status == 0
    assert said.err == ""
    lines = said.out.splitlines()
    assert lines[0].startswith(f"A  {good_file}: healthy, 2 steps")
    assert lines[1].startswith(f"B  {trace_file}: diverged at step 1, log-of-zero (confirmed")
    assert "They part at step 0, forward, in layer dense_1: largest magnitude is 0.5" in said.out
    marked = [line for line in lines if line.startswith("▶")]
    assert any("dense_1" in line for line in marked)
    assert "Steps" in said.out


def test_two_of_the_same_are_the_same(doctor, trace_file):
    said = doctor("compare", trace_file, trace_file)

    assert said.status == 0
    assert "The steps do not part" in said.out
    assert "What differs" not in said.out
    assert "The same in both: batch, weights" in said.out


def test_the_json_is_strict_and_whole(doctor, good_file, trace_file):
    def refuse(token):
        raise AssertionError(token)

    said = doctor("compare", good_file, trace_file, "--json")
    told = json.loads(said.out, parse_constant=refuse)

    assert told["schema"] == "divergence-doctor/compare/1"
    assert told["same"] is False
    assert (told["a"]["outcome"], told["b"]["outcome"]) == ("healthy", "diverged")
    assert told["b"]["cause"] == "log-of-zero"
    assert told["parting"]["what"] == "dense_1"
    assert told["parting"]["phase"] == "forward"
    assert told["parted"][0] == told["parting"]


def test_figures_that_are_no_numbers_are_named_in_the_json(doctor, tmp_path):
    training_trace(losses=(0.9,)).save(tmp_path / "a.h5")
    training_trace(losses=(np.nan,)).save(tmp_path / "b.h5")

    told = json.loads(doctor("compare", tmp_path / "a.h5", tmp_path / "b.h5", "--json").out)

    losses = [gap for gap in told["parted"] if gap["phase"] == "loss"]
    assert [(gap["a"], gap["b"]) for gap in losses] == [(0.9, "nan")]


def test_a_file_that_is_not_there_is_refused(doctor, trace_file, tmp_path):
    doctor("compare", trace_file, tmp_path / "none.h5").assert_refused(2, "none.h5")


def test_a_tolerance_that_is_none_is_a_usage_error(doctor, trace_file):
    assert doctor("compare", trace_file, trace_file, "--tolerance", -1).status == 2


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_is_wider_than_asked_for(doctor, good_file, trace_file, width):
    said = doctor("compare", good_file, trace_file, "--width", width)

    assert max(map(len, said.out.splitlines())) <= width


def test_a_hostile_name_cannot_move_the_cursor(doctor, tmp_path):
    name = "\x1b[2J[bold]x[/bold]\nroot#"
    for letter, size in (("a", 1.0), ("b", 2.0)):
        training_trace(
            layers=("dense", name),
            losses=(np.nan,),
            activation_absmax=size,
            events=(SyntheticEvent("Log", layer=name),),
        ).save(tmp_path / f"{letter}.h5")

    said = doctor("compare", tmp_path / "a.h5", tmp_path / "b.h5")

    assert said.status == 0
    assert "\x1b" not in said.out
    assert "[bold]x[/bold]" in said.out
    assert not any(line.startswith("root#") for line in said.out.splitlines())
