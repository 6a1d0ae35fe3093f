from __future__ import annotations

import pytest

from divergence_doctor.cli.rules import _first_sentence
from divergence_doctor.rules import all_rules


def test_every_rule_has_a_row_with_its_code_and_what_mends_it(doctor, monkeypatch):
    monkeypatch.setenv("COLUMNS", "400")

    said = doctor("rules")

    rows = {line.split()[0]: line for line in said.out.splitlines() if line.startswith("DD")}
    assert list(rows) == [rule.code for rule in all_rules()]
    assert "log-of-zero" in rows["DD201"]
    assert "The logarithm of zero or of a negative number was taken." in rows["DD201"]
    assert "let the loss see logits" in rows["DD201"]


def test_piped_output_holds_no_escape_sequences(doctor):
    said = doctor("rules")

    assert "\x1b" not in said.out
    assert all(line == line.rstrip() for line in said.out.splitlines())


@pytest.mark.parametrize("columns", [40, 80, 200])
def test_no_line_is_longer_than_the_terminal_is_wide(doctor, monkeypatch, columns):
    monkeypatch.setenv("COLUMNS", str(columns))

    assert max(map(len, doctor("rules").out.splitlines())) <= columns


def test_the_first_sentence_ends_outside_code_only():
    text = "clip it, `x.clip(0.); y`, e.g. `a.b`. Or leave it."

    assert _first_sentence(text) == "clip it, `x.clip(0.); y`, e.g. `a.b`"
