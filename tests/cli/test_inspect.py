from __future__ import annotations

import os
import pty
import subprocess
import sys

import numpy as np
import pytest

from divergence_doctor.trace import TraceBuilder
from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace


def section(out, heading):
    """Return the lines of one part, from its heading to the next empty line."""
    lines = out.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith(heading))
    end = next((i for i in range(start, len(lines)) if not lines[i]), len(lines))
    return lines[start:end]


def cells(lines, first):
    """Return the words of the row that begins with a word (a mark before it left out)."""
    rows = [line.lstrip("▶ ").split() for line in lines]
    return next(row for row in rows if row and row[0] == first)


def test_every_part_has_its_table(doctor, trace_file):
    said = doctor("inspect", trace_file)

    assert said.status == 0
    assert said.err == ""
    assert said.out.startswith("Diverged: log-of-zero (DD201), confirmed")
    for heading in ("Steps", "Layers at step 1", "Gradients of the", "First bad op", "Trials"):
        assert section(said.out, heading)


def test_the_failing_step_and_layer_are_marked(doctor, trace_file):
    said = doctor("inspect", trace_file)

    marked = [line for line in said.out.splitlines() if line.startswith("▶")]
    assert [line.split()[1] for line in marked] == ["1", "dense_1"]
    assert cells(section(said.out, "Steps"), "0")[:3] == ["0", "0.9", "0.001"]
    assert cells(section(said.out, "Steps"), "1")[:2] == ["1", "NaN"]


def test_the_first_bad_op_is_shown_with_what_went_in_and_out(doctor, trace_file):
    told = section(doctor("inspect", trace_file).out, "First bad op")

    assert told[1].startswith("Step 1, loss phase: Log in layer dense_1 at losses.py:41")
    row = " ".join(cells(told, "input"))
    assert "float32" in row
    assert "50%" in row


def test_the_trials_say_what_was_changed_and_what_came_of_it(doctor, trace_file):
    told = "\n".join(section(doctor("inspect", trace_file).out, "Trials"))

    assert "nothing" in told
    assert "still fails" in told
    assert "input of Log kept inside its domain" in told
    assert "failure gone" in told


def test_a_step_can_be_chosen(doctor, trace_file):
    said = doctor("inspect", trace_file, "--step", 0)

    assert section(said.out, "Layers at step 0")
    assert section(said.out, "Gradients of the variables at step 0")
    assert "First bad op" not in said.out


def test_a_step_that_was_not_replayed_is_a_usage_error(doctor, trace_file):
    doctor("inspect", trace_file, "--step", 7).assert_refused(
        2, "error[unknown-step]", "no step 7", "steps 0 to 1", "--step 1"
    )


def test_one_layer_is_shown_tensor_by_tensor(doctor, trace_file):
    said = doctor("inspect", trace_file, "--layer", "dense", "--step", 0)

    assert said.out.startswith("dense\nclass: Dense\n")
    rows = [line.split() for line in section(said.out, "Tensors")[3:]]
    assert {"output", "gradient", "update"} <= {row[1] for row in rows}
    assert {row[0] for row in rows} == {"0"}


def test_the_end_of_a_path_names_a_layer(doctor, tmp_path):
    training_trace(layers=("encoder/dense", "decoder/head")).save(tmp_path / "t.h5")

    assert doctor("inspect", tmp_path / "t.h5", "--layer", "head").out.startswith("decoder/head\n")


def test_an_ambiguous_end_of_a_path_is_answered_with_the_layers(doctor, tmp_path):
    training_trace(layers=("encoder/dense", "decoder/dense")).save(tmp_path / "t.h5")

    doctor("inspect", tmp_path / "t.h5", "--layer", "dense").assert_refused(
        2, "error[unknown-layer]", "2 layers end so: encoder/dense, decoder/dense"
    )


def test_an_unknown_layer_is_answered_with_those_that_are_alike(doctor, trace_file):
    doctor("inspect", trace_file, "--layer", "dens_1").assert_refused(
        2, "error[unknown-layer]", "'dens_1'", "did you mean dense_1"
    )


def test_a_healthy_trace_marks_nothing(doctor, healthy_file):
    said = doctor("inspect", healthy_file)

    assert said.out.startswith("Healthy: no divergence in 3 replayed steps\n")
    assert "▶" not in said.out
    assert section(said.out, "Layers at step 2")


def test_a_file_that_is_no_trace_is_refused(doctor, tmp_path):
    (tmp_path / "t.h5").write_text("hello")

    doctor("inspect", tmp_path / "t.h5").assert_refused(4, "t.h5")


def layer_names(out):
    """Return the names in the table of layers, in the order in which they stand."""
    lines = section(out, "Layers at step")
    rows = [line.lstrip("▶ ").split() for line in lines[3:]]
    return [row[0] for row in rows if "|" not in row[0] and ":" not in row[0]]


def test_the_layers_have_bars_over_the_steps_and_of_their_magnitudes(doctor, tmp_path):
    training_trace(losses=(1.0, 0.9, 0.8), activation_absmax=(4.0, 0.5)).save(tmp_path / "t.h5")

    told = section(doctor("inspect", tmp_path / "t.h5").out, "Layers at step 2")

    assert "steps 0-2" in told[1]
    assert "2^" in told[1]
    assert "▁▁▁" in next(line for line in told if "dense_1" in line)
    assert "█" in next(line for line in told if "dense_1" in line)


def test_a_step_that_was_not_finite_is_crossed(doctor, tmp_path):
    builder = TraceBuilder()
    for step, value in enumerate((1.0, 1e6, np.inf)):
        builder.add("steps", step=step, loss=1.0)
        row = {"step": step, "layer": "dense", "call": 0, "role": "output"}
        builder.add("activations", **row, **tensor([value]))
    builder.add("layers", order=0, layer="dense", layer_class="Dense")
    builder.build().save(tmp_path / "t.h5")

    told = section(doctor("inspect", tmp_path / "t.h5").out, "Layers")

    assert "▁█×" in next(line for line in told if "Dense" in line)  # noqa: RUF001


def test_a_pattern_shows_the_layers_that_it_matches(doctor, tmp_path):
    training_trace(layers=("encoder/one", "encoder/two", "decoder/one")).save(tmp_path / "t.h5")

    said = doctor("inspect", tmp_path / "t.h5", "--layer", "encoder/*")

    assert layer_names(said.out) == ["encoder/one", "encoder/two"]
    assert "encoder/one/kernel" in said.out
    assert "decoder" not in said.out
    assert layer_names(doctor("inspect", tmp_path / "t.h5", "--layer", "*/one").out) == [
        "encoder/one",
        "decoder/one",
    ]


def test_a_pattern_that_matches_nothing_is_a_usage_error(doctor, trace_file):
    doctor("inspect", trace_file, "--layer", "conv*").assert_refused(
        2, "error[unknown-layer]", "no layer matches 'conv*'"
    )


@pytest.mark.parametrize(
    ("by", "order"),
    [
        ("order", ["b", "c", "a"]),
        ("layer", ["a", "b", "c"]),
        ("forward", ["c", "a", "b"]),
        ("gradient", ["a", "b", "c"]),
    ],
)
def test_the_layers_are_sorted_by_what_is_asked_for(doctor, tmp_path, by, order):
    training_trace(
        layers=("b", "c", "a"), activation_absmax=(1.0, 9.0, 3.0), gradient_l2=(2.0, 1.0, 3.0)
    ).save(tmp_path / "t.h5")

    said = doctor("inspect", tmp_path / "t.h5", "--sort", by, "--layer", "*")

    assert layer_names(said.out) == order


def test_what_was_not_measured_is_sorted_last(doctor, tmp_path):
    builder = TraceBuilder()
    builder.add("steps", step=0, loss=1.0)
    for order, layer in enumerate(("unseen", "seen")):
        builder.add("layers", order=order, layer=layer)
    row = {"step": 0, "layer": "seen", "call": 0, "role": "output"}
    builder.add("activations", **row, **tensor([1.0]))
    builder.build().save(tmp_path / "t.h5")

    said = doctor("inspect", tmp_path / "t.h5", "--sort", "forward")

    assert layer_names(said.out) == ["seen", "unseen"]


def test_a_column_that_there_is_not_is_answered_with_those_there_are(doctor, trace_file):
    doctor("inspect", trace_file, "--sort", "gradent").assert_refused(
        2, "error[unknown-column]", "'gradent'", "did you mean gradient"
    )


def test_into_a_pipe_every_row_stands_whole_on_one_line(shell, tmp_path):
    name = "block/" + "x" * 110
    training_trace(layers=(name, "dense")).save(tmp_path / "t.h5")

    said = shell("inspect", tmp_path / "t.h5")

    assert "…" not in said.out.replace("|…|", "")
    assert "no room" not in said.out
    assert any(name in line and "Dense" in line for line in said.out.splitlines())


def test_what_has_no_room_is_named_and_nothing_is_cut(doctor, trace_file):
    said = doctor("inspect", trace_file, "--width", 60)

    assert "no room here for:" in said.out
    assert "…" not in said.out.replace("|…|", "")


@pytest.mark.parametrize("width", [40, 80, 120])
def test_no_line_is_wider_than_asked_for(doctor, trace_file, width):
    said = doctor("inspect", trace_file, "--width", width, "--layer", "dense")

    assert max(map(len, said.out.splitlines())) <= width


def test_a_hostile_name_cannot_move_the_cursor(doctor, tmp_path):
    name = "\x1b[2J[bold]x[/bold]\nroot#"
    training_trace(
        layers=("dense", name),
        losses=(np.nan,),
        events=(SyntheticEvent("Log", layer=name),),
    ).save(tmp_path / "t.h5")

    said = doctor("inspect", tmp_path / "t.h5", "--width", 200)

    assert said.status == 0
    assert "\x1b" not in said.out
    assert "[bold]x[/bold]" in said.out
    assert not any(line.startswith("root#") for line in said.out.splitlines())


def on_a_terminal(*arguments, **environment):
    """Return what a command writes to a terminal of 100 columns."""
    leader, follower = pty.openpty()
    with subprocess.Popen(
        [sys.executable, "-m", "divergence_doctor", *map(str, arguments)],
        stdout=follower,
        env={**os.environ, "TERM": "xterm-256color", "COLUMNS": "100", **environment},
    ) as process:
        os.close(follower)
        written = b""
        while True:
            try:
                piece = os.read(leader, 65_536)
            except OSError:  # the other end is closed
                break
            if not piece:
                break
            written += piece
        process.wait()
    os.close(leader)
    return written.decode()


def test_a_terminal_gets_colours(trace_file):
    assert "\x1b[1;31m" in on_a_terminal("inspect", trace_file)


def test_no_color_leaves_the_colours_out(trace_file):
    shown = on_a_terminal("inspect", trace_file, NO_COLOR="1")

    assert "Diverged" in shown
    assert "\x1b[1;31m" not in shown
    assert ";31m" not in shown


def test_a_reader_that_goes_away_is_no_error(trace_file):
    with subprocess.Popen(
        [sys.executable, "-m", "divergence_doctor", "inspect", str(trace_file)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        process.stdout.close()
        err = process.stderr.read()

    assert process.returncode == 0
    assert err == ""


def test_an_output_without_unicode_is_no_error(shell, trace_file):
    said = shell("inspect", trace_file, PYTHONIOENCODING="ascii")

    assert said.status == 0
    assert "?" not in said.out
    assert "Diverged: log-of-zero" in said.out
