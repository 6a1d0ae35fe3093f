"""How are findings weighed? By the trials, the smallest change first, causes before effects."""

import math
from dataclasses import replace
from typing import ClassVar

import pytest

from divergence_doctor.diagnosis import diagnose, plan
from divergence_doctor.rules import Example, Finding, Proof, Rule, Site
from divergence_doctor.trace import TraceBuilder
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

CONTROL = {"name": "control", "cause": "", "breadth": 0, "outcome": "still-fails"}


def a_rule(
    name, *, confidence=0.6, explains=(), symptom=False, proofs=(), finds=True, needs=(),
    contributes_only=False, of_chance=False,
):  # fmt: skip
    """Return a rule that always says the same, made like any other."""

    class Fixed(Rule):
        """A pattern for a test."""

        id: ClassVar[str] = name
        code: ClassVar[str] = f"DD9{len(name):02d}"

        def examine(self, _trace):
            return (
                Finding(
                    name,
                    f"{name} it is",
                    confidence,
                    "loss",
                    Site(),
                    proofs=proofs,
                    contributes_only=contributes_only,
                    of_chance=of_chance,
                )
                if finds
                else None
            )

        @classmethod
        def fires_on(cls):
            return (Example("always", training_trace),)

        @classmethod
        def quiet_on(cls):
            return ()

    Fixed.explains = frozenset(explains)
    Fixed.symptom = symptom
    Fixed.needs = frozenset(needs)
    return Fixed()


def diverged(*trials):
    return training_trace(losses=(1.0, math.nan), trials=(CONTROL, *trials))


def trial(cause, outcome, *, breadth=1, name="drop-samples"):
    return {"name": name, "cause": cause, "outcome": outcome, "breadth": breadth, "changed": "x"}


def test_a_confirmed_cause_goes_before_a_likelier_one():
    trace = diverged(trial("proven", "finite"))
    verdict = diagnose(trace, [a_rule("likely", confidence=0.9), a_rule("proven", confidence=0.55)])
    assert verdict.main.finding.cause == "proven"
    assert verdict.main.confirmed
    assert [item.finding.cause for item in verdict.contributing] == ["likely"]


def test_a_change_at_the_point_goes_before_one_that_mends_nearly_everything():
    trace = diverged(trial("rate", "finite", breadth=3), trial("point", "finite", breadth=1))
    verdict = diagnose(trace, [a_rule("rate", confidence=0.9), a_rule("point", confidence=0.6)])
    assert verdict.main.finding.cause == "point"


def test_a_confirmed_cause_goes_before_the_effect_that_it_explains():
    trace = diverged(trial("root", "finite", breadth=2), trial("effect", "finite", breadth=1))
    rules = [a_rule("effect", confidence=0.9), a_rule("root", explains=["effect"])]
    verdict = diagnose(trace, rules)
    assert verdict.main.finding.cause == "root"
    effect = next(item for item in verdict.findings if item.finding.cause == "effect")
    assert effect.finding.explained_by == "root"


def test_a_cause_may_explain_another_in_this_trace_only():
    class Here(type(a_rule("root"))):
        def examine(self, trace):
            return replace(super().examine(trace), explains=frozenset({"effect"}))

    trace = diverged(trial("root", "finite", breadth=3), trial("effect", "finite", breadth=1))
    effect = a_rule("effect", confidence=0.9)
    assert diagnose(trace, [effect, a_rule("root")]).main.finding.cause == "effect"
    assert diagnose(trace, [effect, Here()]).main.finding.cause == "root"


def test_nothing_is_confirmed_when_the_untouched_step_no_longer_fails():
    trace = training_trace(
        losses=(math.nan,), trials=({**CONTROL, "outcome": "finite"}, trial("maybe", "finite"))
    )
    verdict = diagnose(trace, [a_rule("maybe")])
    assert not verdict.main.confirmed
    assert verdict.main.finding.confidence == 0.6


def test_a_refuted_cause_is_ruled_out_with_the_trial_that_did_it():
    verdict = diagnose(diverged(trial("wrong", "still-fails")), [a_rule("wrong", confidence=0.95)])
    assert verdict.main.finding.cause == "unexplained"
    assert [(item.cause, "drop-samples" in item.because) for item in verdict.ruled_out] == [
        ("wrong", True)
    ]


def test_a_trial_that_was_not_run_refutes_nothing():
    verdict = diagnose(diverged(trial("open", "not-run")), [a_rule("open", confidence=0.7)])
    assert verdict.main.finding.cause == "open"
    assert verdict.main.finding.confidence == 0.7


def test_a_coin_flip_is_no_diagnosis():
    verdict = diagnose(diverged(), [a_rule("guess", confidence=0.49)])
    assert verdict.main.finding.cause == "unexplained"


def test_a_symptom_is_never_the_diagnosis():
    verdict = diagnose(diverged(), [a_rule("dead-units", confidence=0.99, symptom=True)])
    assert verdict.main.finding.cause == "unexplained"
    assert "dead-units" in [item.finding.cause for item in verdict.findings]


def test_what_only_explains_what_was_seen_contributes_and_is_never_the_diagnosis():
    seen = a_rule("seen", confidence=0.95, contributes_only=True)
    verdict = diagnose(diverged(), [seen, a_rule("cause", confidence=0.6)])
    assert verdict.main.finding.cause == "cause"
    assert [item.finding.cause for item in verdict.contributing] == ["seen"]
    alone = diagnose(diverged(), [seen])
    assert alone.main.finding.cause == "unexplained"
    assert [item.finding.cause for item in alone.contributing] == ["seen"]
    assert [item.finding.cause for item in alone.findings] == ["unexplained", "seen"]


def test_a_healthy_run_gets_no_cause():
    verdict = diagnose(training_trace(), [a_rule("eager", confidence=0.99)])
    assert (verdict.outcome, verdict.main, verdict.contributing) == ("healthy", None, ())


def test_what_is_unexplained_comes_with_the_first_producer():
    trace = training_trace(
        losses=(math.nan,), events=(SyntheticEvent("Mystery", layer="odd", source="a.py:7"),)
    )
    main = diagnose(trace, []).main
    assert (main.finding.site.op, main.finding.site.layer, main.finding.site.source) == (
        "Mystery",
        "odd",
        "a.py:7",
    )


def test_a_rule_that_lacks_what_it_needs_is_skipped_because_of_that():
    verdict = diagnose(diverged(), [a_rule("needy", needs=["chain/value"])])
    assert [(item.rule, item.word) for item in verdict.verdicts] == [("needy", "skipped")]
    assert verdict.verdicts[0].skipped == "the trace holds no chain/value"


def test_the_best_proof_of_each_suspect_is_planned_before_the_second_of_any():
    rules = [
        a_rule("weak", confidence=0.5, proofs=(Proof("c"),)),
        a_rule("strong", confidence=0.9, proofs=(Proof("a"), Proof("b"))),
    ]
    assert [(cause, proof.trial) for cause, proof in plan(diverged(), rules)] == [
        ("strong", "a"),
        ("weak", "c"),
        ("strong", "b"),
    ]


def test_a_trial_that_costs_more_than_it_can_tell_has_to_wait():
    rules = [
        a_rule("weak", confidence=0.5, proofs=(Proof("quick"),)),
        a_rule("strong", confidence=0.9, proofs=(Proof("slow"),)),
    ]
    planned = plan(diverged(), rules, runs={"slow": 5.0})
    assert [proof.trial for _, proof in planned] == ["quick", "slow"]


def test_a_healthy_run_needs_no_trial():
    assert plan(training_trace(), [a_rule("any", proofs=(Proof("a"),))]) == ()


@pytest.mark.parametrize("breadth", [1, 2, 3])
def test_a_smaller_change_leaves_less_doubt(breadth):
    trace = diverged(trial("it", "finite", breadth=breadth))
    confidence = diagnose(trace, [a_rule("it", confidence=0.5)]).main.finding.confidence
    assert confidence == {1: 0.925, 2: 0.85, 3: 0.7}[breadth]


def test_the_same_trace_gives_the_same_diagnosis():
    trace = diverged(trial("it", "finite"))
    assert diagnose(trace) == diagnose(trace)


def with_seeds(*same):
    """Return a trace that diverged, with seeds that failed the same way or not."""
    trace = diverged(trial("proven", "finite"))
    builder = TraceBuilder()
    builder.describe(**trace.context)
    for table in ("steps", "trials"):
        for row in trace.table(table).rows():
            builder.add(table, **row)
    for seed, alike in enumerate((True, *same)):
        builder.add("seeds", seed=seed, outcome="diverged" if alike else "healthy", same=alike)
    return builder.build()


def test_a_verdict_that_holds_over_all_seeds_keeps_its_confidence():
    rule = a_rule("proven", confidence=0.8)
    assert diagnose(with_seeds(True, True), [rule]).main.finding.confidence == 0.97


def test_that_other_seeds_end_otherwise_is_no_doubt_of_a_verdict_on_chance():
    rule = a_rule("chance", confidence=0.85, of_chance=True)
    assert diagnose(with_seeds(True, False), [rule]).main.finding.confidence == 0.85


def test_a_verdict_that_holds_for_some_seeds_loses_its_share_of_confidence():
    rule = a_rule("proven", confidence=0.8)
    main = diagnose(with_seeds(True, False), [rule]).main
    assert main.finding.confidence == pytest.approx(0.97 * 2 / 3, abs=0.001)
    assert main.confirmed


def test_what_a_trial_mended_stays_offered_and_what_none_did_does_not():
    proven, likely = a_rule("proven", confidence=0.8), a_rule("likely", confidence=0.9)
    assert diagnose(with_seeds(False, False), [proven]).main.finding.confidence == 0.5
    assert diagnose(with_seeds(False, False), [likely]).main.finding.cause == "unexplained"
