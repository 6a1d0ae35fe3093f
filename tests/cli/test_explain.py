from __future__ import annotations

import pytest

from divergence_doctor.rules import all_rules


@pytest.mark.parametrize("rule", all_rules(), ids=lambda rule: rule.id)
def test_every_rule_has_a_page_by_its_id_and_its_code(doctor, rule):
    by_id, by_code = doctor("explain", rule.id), doctor("explain", rule.code)

    assert by_id.status == 0
    assert by_id.out == by_code.out
    assert by_id.out.startswith(f"# {rule.code} {rule.id}\n")
    for word in ("Why it diverges", "Evidence", "Fix", "Mistaken for", "Seen in"):
        assert f"**{word}:**" in by_id.out


def test_the_page_shows_where_the_rule_fires_and_where_it_keeps_quiet(doctor):
    said = doctor("explain", "log-of-zero")

    assert "**Found in**, for example:\n\n- a softmax output of exactly 0" in said.out
    assert "**Not found in**:\n\n- a healthy run\n" in said.out


def test_the_answer_that_is_no_rule_has_a_page_too(doctor):
    said = doctor("explain", "unexplained")

    assert said.status == 0
    assert said.out.startswith("# unexplained\n\nIt diverged, the first producer is located")


@pytest.mark.parametrize("name", ["LOG-OF-ZERO", "log_of_zero", "dd201"])
def test_case_and_underscores_do_not_matter(doctor, name):
    assert doctor("explain", name).out.startswith("# DD201 log-of-zero\n")


def test_an_unknown_cause_is_answered_with_those_that_are_alike(doctor):
    doctor("explain", "log-of-zer").assert_refused(
        2, "error[unknown-cause]", "'log-of-zer'", "did you mean log-of-zero?", "`doctor rules`"
    )


def test_a_part_of_an_id_is_enough_for_a_suggestion(doctor):
    doctor("explain", "learning").assert_refused(2, "did you mean high-learning-rate?")


def test_a_word_that_resembles_nothing_gets_the_way_to_the_list(doctor):
    said = doctor("explain", "\x1b[2Jqqqq")

    said.assert_refused(2, "fix: `doctor rules` lists them")
    assert "\x1b" not in said.err
