"""What a report says, decided once."""

from __future__ import annotations

import math

import numpy as np

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.reporters import document
from divergence_doctor.reporters._parts import Remedy
from divergence_doctor.reporters._text import code_pieces, number, shorten
from divergence_doctor.reporters.markdown import Markdown
from divergence_doctor.rules import Evidence
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace


def test_the_place_is_the_first_producer_with_the_values_of_its_inputs(told):
    where = told["diverged"].where
    assert where.sentence == (
        "Step 1, loss phase: `Log` in layer `decoder/dense_2` at `losses.py:41` was given finite "
        "inputs and made 2 -Inf."
    )
    given = where.operands[0]
    assert (given.role, given.value, given.low, given.high, given.zero) == ("input", 0, 0, 0.5, 2)
    assert [link.name for link in where.chain.links] == ["Sigmoid", "decoder/dense_2/kernel", "x"]


def test_a_step_that_raised_has_its_place_too():
    trace = training_trace(
        losses=(math.nan,),
        raised="indices[3] = 500 is not in [0, 100)",
        raised_type="InvalidArgumentError",
        raised_op="GatherV2",
        raised_layer="embedding",
    )
    where = document(trace, diagnose(trace, rules=())).where
    assert where.sentence == (
        "Step 0, forward phase: `GatherV2` in layer `embedding` raised `InvalidArgumentError`."
    )
    assert where.message == "indices[3] = 500 is not in [0, 100)"


def test_the_offending_samples_come_with_their_cells_and_their_loss(told):
    who = told["diverged"].who
    assert [offender.sample for offender in who.offenders] == [3, 5]
    cell = who.offenders[0].cells[0]
    assert (cell.array, cell.index) == ("x", "3,2")
    assert math.isnan(cell.value)
    assert who.offenders[0].loss == math.inf
    assert who.offenders[1].loss is None


def test_many_offenders_are_counted_and_not_all_listed(runs):
    trace = runs.diverged_trace(x=np.ones((100, 4)))
    who = document(trace, runs.diagnosed(trace, samples=tuple(range(60)))).who
    assert (len(who.offenders), who.total) == (20, 60)
    assert "samples 0, 1, 2, 3, 4, 5, 6, 7 and 52 more are to blame" in who.sentence


def test_a_control_that_did_not_fail_proves_nothing(runs):
    trials = (
        {"name": "control", "cause": "", "outcome": "finite", "breadth": 0},
        {"name": "clip-input", "cause": "log-of-zero", "changed": "clip", "outcome": "finite"},
    )
    trace = runs.diverged_trace(trials=trials)
    told = document(trace, runs.diagnosed(trace))
    assert told.cause.confirmed is False
    assert told.proof_sentence == (
        "The untouched step did not fail when it was run again, so the trials prove nothing."
    )


def test_without_trials_the_report_says_that_nothing_is_proven(runs):
    trace = runs.diverged_trace(trials=())
    assert document(trace, runs.diagnosed(trace)).proof_sentence == (
        "No trial was run, so no cause is proven."
    )


def test_a_run_without_a_known_cause_is_unexplained_and_located(runs):
    trace = runs.diverged_trace(trials=())
    told = document(trace, diagnose(trace, rules=()))
    assert told.headline == "Diverged: unexplained, no cause is proven"
    assert told.where.op == "Log"
    assert [command.command for command in told.commands][-1] == "doctor report trace.h5"


def test_in_a_healthy_run_no_event_is_blamed():
    event = SyntheticEvent("Mul", phase="backward", reaches="gradient", primary=True)
    trace = training_trace(losses=(1.0, 0.9), events=(event,), outcome="healthy")
    assert document(trace, diagnose(trace, rules=())).where is None


def test_what_did_no_harm_is_told_once_over_all_steps_with_its_mechanism(runs):
    skipped = {
        "what": "op", "name": "Mul", "phase": "backward", "times": 1, "nan": 2,
        "reason": "skipped-step", "because": "loss scaling skipped the step on purpose",
    }  # fmt: skip
    trace = runs.with_rows(
        training_trace(losses=(1.0, 0.9), outcome="healthy"),
        *(("harmless", {"step": step, **skipped}) for step in (0, 1)),
    )
    healthy = document(trace, diagnose(trace, rules=()))
    (told,) = healthy.told
    assert (told.name, told.steps, told.times, told.nan) == ("Mul", 2, 2, 4)
    assert told.because == "loss scaling skipped the step on purpose"
    assert "Told, not blamed" in Markdown().render(healthy)


def test_a_replay_that_was_stopped_says_how_and_where():
    context = {"died": {"how": "killed for memory", "place": "step 3, layer conv"}}
    trace = training_trace(losses=(1.0,), outcome="inconclusive", context=context)
    assert document(trace, diagnose(trace, rules=())).notes == (
        (
            "The replay was stopped (killed for memory) at step 3, layer conv. "
            "What was recorded until then is reported."
        ),
    )


def test_the_layer_table_holds_forward_gradient_and_update_of_the_failing_step(told):
    told = told["diverged"]
    row = told.layers[2]
    assert told.layers_step == 1
    assert (row.layer, row.blamed) == ("decoder/dense_2", True)
    assert round(row.forward_absmax, 6) == 1.0
    assert round(row.gradient_l2, 6) == 0.1
    assert row.update_ratio == 1e-3


def test_the_code_of_a_remedy_is_split_from_what_is_said_about_it(runs):
    trace = runs.diverged_trace()
    remedies = (
        "Clip: `optimizer = Adam(clipnorm=1.0)`. Then lower it.",
        "Use this.\n```python\na = 1\nb = 2\n```",
        "Look at `dense`.",
    )
    told = document(trace, runs.diagnosed(trace, remedies=remedies))
    assert told.cause.remedies == (
        Remedy("Clip:", "optimizer = Adam(clipnorm=1.0)", "Then lower it."),
        Remedy("Use this.", "a = 1\nb = 2"),
        Remedy("Look at `dense`."),
    )
    assert told.cause.advice == remedies


def test_the_command_to_replay_quotes_its_paths(told):
    commands = [command.command for command in told["diverged"].commands]
    assert commands == [
        "python reproduce.py",
        (
            "doctor replay 'run 7/model.keras' 'run 7/batch.npz' --custom-objects losses.py "
            "--seed 0 --steps 10"
        ),
        "doctor report trace.h5",
        "doctor explain log-of-zero",
    ]


def test_evidence_from_numpy_becomes_plain(runs):
    trace = runs.diverged_trace()
    evidence = (Evidence("count", np.int64(3), "/x"), Evidence("flag", np.bool_(True), "/y"))
    claims = document(trace, runs.diagnosed(trace, evidence=evidence)).cause.evidence
    assert [type(claim.value) for claim in claims] == [int, bool]


def test_numbers_are_short_and_what_is_not_finite_has_its_name():
    values = (None, True, 1234567, 3.4028234e38, math.nan, math.inf, -math.inf, "x")
    assert [number(value) for value in values] == [
        *("—", "yes", "1,234,567", "3.403e+38", "NaN", "Inf", "-Inf", "x")
    ]


def test_a_long_text_loses_its_middle_and_says_how_long_it_was():
    text = shorten("a" * 50_000 + "b" * 50_000, 60)
    assert len(text) == 60
    assert "…[100,000 characters]…" in text
    assert (text[0], text[-1]) == ("a", "b")


def test_a_lone_backtick_is_text():
    assert code_pieces("a `b` c` d") == [(False, "a "), (True, "b"), (False, " c' d")]
