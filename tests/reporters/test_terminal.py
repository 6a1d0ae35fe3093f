"""The terminal's summary: one screen, its width kept, no control character but our own."""

from __future__ import annotations

import re

import pytest
from rich.cells import cell_len

from divergence_doctor.reporters.terminal import Terminal

SGR = re.compile(r"\x1b\[[0-9;]*m")


def test_the_summary_says_what_where_who_proof_and_mend(told):
    terminal = Terminal()
    text = terminal.render(told["diverged"]) + terminal.render_files(["out/report.html"])
    assert text == (
        "✗ Diverged: log-of-zero (DD201), confirmed, 97% sure\n"
        "Log in the loss was given 2 zeros (samples 3 and 5) and made -Inf.\n"
        "\n"
        "where    Step 1, loss phase: Log in layer decoder/dense_2 at losses.py:41 was\n"
        "         given finite inputs and made 2 -Inf.\n"
        "samples  3 and 5\n"
        "proof    nothing (control)                                         still fails\n"
        "         the input of Log kept above 1e-7                          failure gone\n"
        "         the learning rate divided by 10                           still fails\n"
        "mend     Keep the argument away from zero: tf.math.log(tf.maximum(p, 1e-7))\n"
        "signs    dead-units\n"
        "files    out/report.html\n"
    )


@pytest.mark.parametrize("width", [40, 80, 132])
@pytest.mark.parametrize("color", [False, True])
@pytest.mark.parametrize("name", ["diverged", "healthy", "empty", "hostile"])
def test_it_fits_on_one_screen_with_no_control_character_but_ours(name, width, color, told):
    files = (f"out/{'x' * 300}/report.html", "out/report.md", "out/report.json")
    told = told[name]
    terminal = Terminal(width=width, height=22, color=color)
    text = terminal.render(told) + terminal.render_files(files)
    plain = SGR.sub("", text)
    assert len(plain.splitlines()) <= 24
    assert max(cell_len(line) for line in plain.splitlines()) <= width
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202a-\u202e\u2066-\u2069]", plain)
    assert color == (plain != text)


def test_colour_is_left_out_where_the_user_asked_for_none(monkeypatch, told):
    monkeypatch.setenv("NO_COLOR", "1")
    text = Terminal(color=True).render(told["diverged"])
    assert not re.search(r"\x1b\[[0-9;]*3[0-9][;m]", text)


def test_a_screen_of_eight_lines_says_where_the_rest_is(told):
    lines = Terminal(height=8).render(told["diverged"]).splitlines()
    assert len(lines) == 8
    assert lines[-1] == "… the rest is in report.md"
