"""Do the rules on low precision read the step in float32, and stay out where it tells nothing?"""

from __future__ import annotations

import math

import pytest

from divergence_doctor.rules.low_precision_overflow import LowPrecisionOverflow
from divergence_doctor.rules.low_precision_underflow import LowPrecisionUnderflow
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

OVERFLOW, UNDERFLOW = LowPrecisionOverflow(), LowPrecisionUnderflow()


def half(op_type, *rows, event=None, **fields):
    made = SyntheticEvent(op_type, **{"phase": "forward", "layer": "dense", **(event or {})})
    run = {"dtype": "float16", "losses": (math.nan,), "outcome": "diverged", **fields}
    return training_trace(**run, events=(made,), float32=rows)


def row(op_type, role, value, wide, **fields):
    return {"op_type": op_type, "role": role, "value": value, "float32": wide, **fields}


def said(rule, trace):
    return rule.ask(trace).finding


@pytest.mark.parametrize("rule", [OVERFLOW, UNDERFLOW], ids=lambda rule: rule.id)
def test_no_example_of_one_rule_is_claimed_by_the_other(rule):
    other = UNDERFLOW if rule is OVERFLOW else OVERFLOW
    assert [e.what for e in rule.fires_on() if said(other, e.trace()) is not None] == []


@pytest.mark.parametrize(
    ("op_type", "position", "value", "wide"),
    [
        ("RealDiv", 1, 0.0, 1e-4),
        ("Log", 0, 0.0, 2.5e-10),
        ("Log1p", 0, -1.0, -0.99999),
        ("Rsqrt", 0, 0.0, 1e-8),
        ("Sqrt", 0, -0.0078, 4.8e-5),
        ("Acos", 0, 1.001, 0.9999),
        ("Pow", 0, 0.0, 1e-9),
    ],
)
def test_an_argument_that_only_half_precision_puts_outside_the_domain_is_lost(
    op_type, position, value, wide
):
    trace = half(op_type, row(op_type, "input", value, wide, position=position))
    assert said(UNDERFLOW, trace).confidence == UNDERFLOW.ROUNDED
    both = half(op_type, row(op_type, "input", value, value, position=position))
    assert said(UNDERFLOW, both) is None


def test_the_other_input_of_a_division_may_be_zero():
    trace = half(
        "RealDiv", row("RealDiv", "input", 0.0, 1e-9), row("RealDiv", "input", 1.0, 1.0, position=1)
    )
    assert said(UNDERFLOW, trace) is None


def test_what_float32_nearly_loses_too_stays_below_even_odds_and_explains_nothing():
    finding = said(UNDERFLOW, half("Log", row("Log", "input", 0.0, 1e-25)))
    assert finding.confidence == UNDERFLOW.NEARLY
    assert finding.explains == frozenset()


@pytest.mark.parametrize(("constant", "wide"), [(0.0, 1e-8), (1.0, 0.9999999)])
def test_the_constant_that_became_0_or_1_is_named(constant, wide):
    trace = half(
        "Log",
        row("Log", "input", 0.0, 1e-7),
        row("Sub", "input", constant, wide, link=0, origin="constant"),
        row("Sub", "output", 0.0, 1e-7, link=0),
    )
    finding = said(UNDERFLOW, trace)
    assert finding.confidence == UNDERFLOW.CONSTANT
    assert f"the constant {wide:.7g} of Sub is {constant:g} in float16" in finding.summary


def test_a_constant_that_is_the_same_in_both_is_not_named():
    trace = half(
        "Log",
        row("Log", "input", 0.0, 1e-7),
        row("Sub", "input", 1.0, 1.0, link=0, origin="constant"),
        row("Sub", "output", 0.0, 1e-7, link=0),
    )
    assert "it was lost in Sub" in said(UNDERFLOW, trace).summary


def test_a_step_that_float32_does_not_mend_is_no_matter_of_precision():
    rows = row("MatMul", "output", math.inf, 9e4, step_finite=False)
    assert said(OVERFLOW, half("MatMul", rows)) is None


@pytest.mark.parametrize(("wide", "confidence"), [(9e4, 0.92), (1e12, 0.45)])
def test_a_number_far_beyond_any_model_was_under_way_in_any_precision(wide, confidence):
    finding = said(OVERFLOW, half("MatMul", row("MatMul", "output", math.inf, wide)))
    assert finding.confidence == confidence


def test_steps_that_drove_the_number_there_are_the_first_suspect():
    trace = half(
        "MatMul", row("MatMul", "output", math.inf, 9e4), losses=(1.0, 2e3, math.nan),
        update_ratio=5.0, learning_rate=1.0,
    )  # fmt: skip
    assert said(OVERFLOW, trace).confidence == OVERFLOW.DRIVEN


def test_an_ordinary_sum_that_is_infinite_overflowed_inside_the_op():
    finding = said(OVERFLOW, half("Mean", row("Mean", "output", math.inf, 200.0)))
    assert finding.confidence == OVERFLOW.INSIDE
    softmax = half("Softmax", row("Softmax", "output", math.nan, 0.1))
    assert said(OVERFLOW, softmax) is None


def test_of_steps_that_were_all_skipped_the_last_is_read_and_the_first_is_told():
    event = SyntheticEvent(
        "Sqrt", phase="backward", derivative=True, reaches="gradient", layer="norm"
    )
    trace = training_trace(
        dtype="float16", losses=(0.3, 0.3, 0.3), outcome="diverged", events=(event,),
        float32=(row("Sqrt", "input", 0.0, 3e-10, link=-2),),
    )  # fmt: skip
    trace.context["failing_step"] = 0
    finding = said(UNDERFLOW, trace)
    assert finding.site.step == 0
    assert finding.site.layer == "norm"
