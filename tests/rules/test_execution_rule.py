"""What is said where the step as trained and the reference disagree, and how sure is it?"""

import math

import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.rules.execution_mismatch import ExecutionMismatch
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

RULE = ExecutionMismatch()
CONTROL = {"name": "control", "cause": "", "breadth": 0, "outcome": "still-fails"}
FINITE = {"loss": 0.5, "measured": True, "loss_finite": True, "state_finite": True}
HIDDEN = {
    "mode": "graph", "loss": 0.065, "measured": True, "loss_finite": True, "state_finite": False,
    "differs": "loss", "comparable": True, "variable": "dense/kernel", "layer": "dense",
    "layer_class": "Dense", "phase": "forward", "reference_nonfinite": 64, "nonfinite": 0,
}  # fmt: skip
FAILS = {
    "mode": "xla", "loss": math.nan, "measured": True, "state_finite": False, "differs": "loss",
    "comparable": True, "layer": "ratio", "layer_class": "Ratio", "phase": "forward",
    "reference_nonfinite": 0, "nonfinite": 8,
}  # fmt: skip


def hidden(**fields):
    return training_trace(
        **{
            "losses": (math.nan,),
            "executions": (
                HIDDEN,
                {**HIDDEN, "differs": ""},
                {**HIDDEN, **FAILS, "step": 0, "differs": "", "execution": "without-remapper"},
            ),
            "context": {"failing_execution": "both"},
            **fields,
        }
    )


def fails_under_xla(**fields):
    return training_trace(
        **{
            "losses": (0.5,),
            "outcome": "diverged",
            "executions": (FAILS, {**FAILS, **FINITE, "step": 0, "differs": "",
                                   "execution": "without-jit"}),
            "context": {"failing_execution": "as-trained"},
            **fields,
        }
    )  # fmt: skip


def test_a_hidden_failure_is_told_with_the_layer_the_switch_and_what_a_guard_saw():
    finding = RULE.examine(hidden())
    assert finding.contributes_only
    assert finding.site.layer == "dense"
    for part in (
        "has a loss of 0.065 and leaves dense/kernel not finite",
        "where op by op it has a loss of nan",
        "in layer 'dense' (Dense), whose output holds 64 NaN or Inf op by op and 0 as trained",
        "with grappler's remapper off",
        "a guard that watches the loss sees nothing in 2 steps in a row",
    ):
        assert part in finding.summary
    assert any("TerminateOnNaN" in remedy for remedy in finding.remedies)
    assert any('"remapping": False' in remedy for remedy in finding.remedies)
    assert finding.proofs == ()


def test_a_hidden_failure_does_not_outrank_the_bad_input_that_made_it():
    import numpy as np

    x = np.ones((8, 4))
    x[3, 2] = np.nan
    event = SyntheticEvent("MatMul", "forward", produced=False, origin="batch", origin_name="x")
    mended = {"name": "replace-values", "cause": "bad-input", "outcome": "finite", "changed": "x"}
    verdict = diagnose(hidden(x=x, events=(event,), trials=(CONTROL, mended)))
    assert verdict.main.finding.cause == "bad-input"
    assert "execution-mismatch" in [item.finding.cause for item in verdict.contributing]


def test_a_step_that_fails_under_xla_only_is_the_diagnosis_once_another_execution_lives():
    finding = RULE.examine(fails_under_xla())
    assert [(proof.trial, proof.parameters) for proof in finding.proofs] == [
        ("reference-execution", {"executions": ["without-jit", "without-remapper", "reference"]})
    ]
    assert "without XLA (jit_compile=False) they agree" in finding.summary
    proven = {
        "name": "reference-execution", "cause": "execution-mismatch", "outcome": "finite",
        "breadth": 3, "changed": "run as a graph without XLA",
    }  # fmt: skip
    verdict = diagnose(fails_under_xla(trials=(CONTROL, proven)))
    assert verdict.main.finding.cause == "execution-mismatch"
    assert verdict.main.confirmed
    assert verdict.main.finding.stage == "execution"
    assert verdict.main.finding.confidence == 0.94


def test_a_change_at_the_point_goes_before_another_execution():
    import numpy as np

    x = np.ones((8, 4))
    x[3, 2] = np.nan
    trials = (
        CONTROL,
        {"name": "reference-execution", "cause": "execution-mismatch", "outcome": "finite",
         "breadth": 3},
        {"name": "replace-values", "cause": "bad-input", "outcome": "finite", "breadth": 1},
    )  # fmt: skip
    verdict = diagnose(
        training_trace(
            x=x, losses=(math.nan,), trials=trials,
            executions=({**HIDDEN, "state_finite": True},),
            context={"failing_execution": "reference"},
        )
    )  # fmt: skip
    assert verdict.main.finding.cause == "bad-input"
    assert [item.finding.cause for item in verdict.contributing] == ["execution-mismatch"]


def test_where_other_random_numbers_are_drawn_nothing_is_blamed_on_the_execution():
    trace = fails_under_xla(executions=({**FAILS, "comparable": False},))
    finding = RULE.examine(trace)
    assert finding.confidence < 0.5
    assert finding.proofs == ()
    assert "draw other random numbers" in finding.summary
    assert diagnose(trace).main.finding.cause == "unexplained"


@pytest.mark.parametrize("failing", ["", "both", "as-trained"])
def test_numbers_that_differ_are_told_and_never_blamed(failing):
    value = {**FINITE, "mode": "xla", "differs": "value", "difference": 0.02, "tolerance": 3e-4,
             "comparable": True, "variable": "dense/kernel"}  # fmt: skip
    finding = RULE.examine(
        training_trace(executions=(value,), context={"failing_execution": failing})
    )
    assert finding.confidence == RULE.TOLD
    assert "a relative difference of 0.02 in the update of dense/kernel" in finding.summary
    assert "rounding explains 0.0003" in finding.summary


def test_a_loss_that_is_bad_in_both_is_no_news():
    row = {**HIDDEN, "loss": math.nan, "loss_finite": False, "state_finite": True,
           "differs": "state", "layer": "", "phase": "backward"}  # fmt: skip
    finding = RULE.examine(hidden(executions=(row,)))
    assert finding.confidence == RULE.TOLD
    assert "they part in the backward pass or the update" in finding.summary


def test_where_no_switch_mends_it_the_report_says_that_onednn_was_not_told_apart():
    row = {**HIDDEN, "step": 0, "execution": "without-remapper"}
    finding = RULE.examine(hidden(executions=(HIDDEN, row)))
    assert "no single switch was found to be the reason" in finding.summary
    assert any("TF_ENABLE_ONEDNN_OPTS=0" in remedy for remedy in finding.remedies)
