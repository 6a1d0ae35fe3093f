"""Do the rules about symptoms tell what was measured, worst first, and only what is telling?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.rules import Evidence, Site, all_rules
from divergence_doctor.rules.dead_units import DeadUnits
from divergence_doctor.rules.frozen_training import FrozenTraining
from divergence_doctor.rules.saturated_activations import SaturatedActivations
from divergence_doctor.rules.stale_normalization_statistics import StaleNormalizationStatistics
from divergence_doctor.rules.swallowed_nan import SwallowedNan
from divergence_doctor.rules.vanishing_gradients import VanishingGradients
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from divergence_doctor.rules import Finding
    from divergence_doctor.trace import Trace

SYMPTOMS = [rule for rule in all_rules() if rule.symptom]


def found(rule: Any, trace: Trace) -> Finding:
    finding = rule().ask(trace).finding
    assert finding is not None
    return finding


def quiet(rule: Any, trace: Trace) -> bool:
    return rule().ask(trace).word == "quiet"


def fires(count: int, dead: int, *, samples: int = 64) -> np.ndarray:
    output = np.ones((samples, count))
    output[:, :dead] = 0
    return output


def test_the_symptoms_have_their_codes() -> None:
    assert [(rule.code, rule.id) for rule in SYMPTOMS] == [
        ("DD801", "dead-units"),
        ("DD802", "saturated-activations"),
        ("DD803", "vanishing-gradients"),
        ("DD804", "stale-normalization-statistics"),
        ("DD805", "swallowed-nan"),
        ("DD806", "frozen-training"),
    ]


@pytest.mark.parametrize("rule", SYMPTOMS, ids=lambda rule: rule.id)
def test_a_symptom_is_told_of_a_healthy_run_and_is_no_diagnosis(rule) -> None:
    for example in rule.fires_on():
        verdict = diagnose(example.trace(), [rule])
        assert verdict.outcome == "healthy"
        assert verdict.main is None
        assert [item.finding.cause for item in verdict.findings] == [rule.id]


@pytest.mark.parametrize("rule", SYMPTOMS, ids=lambda rule: rule.id)
def test_a_symptom_asks_for_no_trial(rule) -> None:
    assert all(not rule.ask(example.trace()).finding.proofs for example in rule.fires_on())


def test_a_symptom_that_could_not_be_examined_is_not_listed_among_the_causes() -> None:
    verdict = diagnose(training_trace(losses=(1.0, math.nan), events=(SyntheticEvent("Log"),)))
    assert not {item.cause for item in verdict.ruled_out} & {rule.id for rule in SYMPTOMS}


def test_a_symptom_names_a_cause_only_where_that_cause_can_have_made_it() -> None:
    dead = {"outputs": {"dense": fires(8, 8)}}
    log = SyntheticEvent("Log", inputs=([0.0],), outputs=([-math.inf],))

    def explained(**fields: Any) -> str | None:
        verdict = diagnose(training_trace(**dead, **fields))
        told = {item.finding.cause: item.finding for item in verdict.findings}
        return told["dead-units"].explained_by

    assert explained(losses=(1.0, math.nan), events=(log,)) is None
    overshoot = {
        "losses": (2.3, 9e3, math.inf), "learning_rate": 1.0, "optimizer": "SGD",
        "update_ratio": 5.0,
    }  # fmt: skip
    assert explained(**overshoot) == "high-learning-rate"


# ---------------------------------------------------------------------------------- dead-units


def test_dead_layers_are_told_worst_first_with_their_share() -> None:
    outputs = {"dense": fires(10, 5), "dense_1": fires(8, 8), "dense_2": fires(8, 0)}
    finding = found(
        DeadUnits,
        training_trace(layers=("dense", "dense_1", "dense_2", "dense_3"), outputs=outputs),
    )
    assert finding.summary == (
        "In 2 of 3 rectified layers units put out 0 for the whole batch: 8 of 8 in 'dense_1', "
        "5 of 10 in 'dense'."
    )
    assert finding.confidence == 0.95
    assert finding.site == Site(step=1, layer="dense_1")
    assert finding.evidence[0] == Evidence(
        "units of dense_1 that are 0 in all 64 places, of 8", 8, "/activations/dead_units"
    )


@pytest.mark.parametrize(("dead", "samples", "told"), [
    (3, 64, False), (4, 64, True), (4, 31, False), (4, 32, True), (10, 4, True), (10, 3, False),
])  # fmt: skip
def test_few_dead_units_or_few_samples_say_nothing(dead, samples, told) -> None:
    trace = training_trace(outputs={"dense": fires(10, dead, samples=samples)})
    assert (DeadUnits().ask(trace).word == "found") is told


def test_a_layer_is_judged_as_it_was_when_it_was_last_sound() -> None:
    trace = training_trace(losses=(1.0, math.nan), outputs={"dense": fires(8, 8)})
    counts = trace.table("activations")["dead_units"]
    counts[trace.table("activations")["step"] == 1] = -1
    assert found(DeadUnits, trace).site.step == 0


def test_units_of_a_layer_that_is_called_twice_are_dead_only_in_both_calls() -> None:
    trace = training_trace(outputs={"dense": fires(8, 8)})
    again = {
        "step": 1, "order": 5, "layer": "dense", "call": 1, "role": "output", "dead_units": 0,
        "size": 512, "shape": "64x8",
    }  # fmt: skip
    assert quiet(
        DeadUnits,
        training_trace(outputs={"dense": fires(8, 8)}, rows={"activations": [again]}),
    )
    assert not quiet(DeadUnits, trace)


# ----------------------------------------------------------------------- saturated-activations


@pytest.mark.parametrize(("at_ends", "told"), [(57, False), (58, True)])
def test_nine_tenths_of_the_values_must_be_at_the_ends(at_ends, told) -> None:
    values = np.full(64, 0.3)
    values[:at_ends] = np.where(np.arange(at_ends) % 2, 1.0, -1.0)
    trace = training_trace(outputs={"dense_1": values.reshape(8, 8)}, activation="tanh")
    assert (SaturatedActivations().ask(trace).word == "found") is told


def test_a_sure_last_layer_is_told_where_its_loss_does_not_look_at_the_logits() -> None:
    last = {"outputs": {"dense_1": np.eye(40)}, "activation": "softmax"}
    assert quiet(
        SaturatedActivations, training_trace(**last, loss_name="SparseCategoricalCrossentropy")
    )
    finding = found(SaturatedActivations, training_trace(**last, loss_name="MeanSquaredError"))
    assert finding.summary == (
        "1 layer of 1 with a sigmoid, tanh or softmax stands at the ends, where there is no slope: "
        "100% of the rows of 'dense_1' (softmax)."
    )


# ------------------------------------------------------------------------- vanishing-gradients


def test_a_decay_is_told_from_the_loss_to_the_first_layer() -> None:
    layers = tuple(f"dense_{number}" for number in range(10))
    trace = training_trace(layers=layers, gradient_l2=tuple(0.1 ** (9 - n) for n in range(10)))
    trace.table("gradients")["dtype"][:] = "float32"
    finding = found(VanishingGradients, trace)
    assert finding.summary == (
        "On the way back the gradients shrink 1e+09 times over 9 layers (10x per layer), from an "
        "L2 of 1 at 'dense_9' to 1e-09 at 'dense_0'."
    )
    assert finding.site == Site(step=0, layer="dense_0")
    share = next(item.value for item in finding.evidence if "share of the decades" in item.claim)
    assert share == pytest.approx(9 / 37.93, abs=1e-3)


@pytest.mark.parametrize(("factor", "told"), [(3.7, False), (3.9, True)])
def test_a_decay_above_the_resolution_of_float32_is_left_alone(factor, told) -> None:
    layers = tuple(f"dense_{number}" for number in range(13))
    sizes = tuple(factor ** (number - 12) for number in range(13))
    trace = training_trace(layers=layers, gradient_l2=sizes)
    assert (VanishingGradients().ask(trace).word == "found") is told


# -------------------------------------------------------------- stale-normalization-statistics


def statistics(layer: str = "norm", **fields: Any) -> dict[str, Any]:
    return {
        "step": 0, "layer": layer, "channels": 8, "calls": 1, "momentum": 0.99, "fresh": False,
        "shift_median": 0.2, "shift_max": 0.6, "growth_median": 1.1, "growth_min": 0.8,
        "growth_max": 1.5, **fields,
    }  # fmt: skip


@pytest.mark.parametrize(("fields", "told"), [
    ({"shift_median": 2.9}, False), ({"shift_median": 3.0}, True),
    ({"growth_median": 3.9}, False), ({"growth_median": 4.0}, True),
    ({"growth_median": 0.26}, False), ({"growth_median": 0.25}, True),
    ({"shift_max": 99.0}, False), ({"shift_max": 100.0}, True),
    ({"growth_max": 99.0}, False), ({"growth_max": 100.0}, True),
    ({"shift_median": 50.0, "fresh": True}, False),
])  # fmt: skip
def test_statistics_are_stale_from_the_thresholds_on(fields, told) -> None:
    trace = training_trace(rows={"normalizations": [statistics(**fields)]})
    assert (StaleNormalizationStatistics().ask(trace).word == "found") is told


def test_the_first_step_counts_and_the_worst_layer_goes_first() -> None:
    rows = [
        statistics("first", shift_median=4.0),
        statistics("second", growth_median=40.0),
        statistics("third"),
        statistics("third", step=1, shift_median=9.0),
    ]
    finding = found(StaleNormalizationStatistics, training_trace(rows={"normalizations": rows}))
    assert finding.summary.startswith("2 layers of 3 that normalise by the batch")
    assert finding.site == Site(step=0, layer="second")
    assert finding.remedies[0].endswith("`keras.layers.BatchNormalization(momentum=0.9)`.")


# ------------------------------------------------------------------------------- swallowed-nan


def lost(**fields: Any) -> dict[str, Any]:
    return {
        "step": 0, "what": "batch", "name": "x", "phase": "forward", "nan": 2, "posinf": 0,
        "neginf": 0, "reason": "max-pooling", "ended_in": "MaxPool", "ended_layer": "pool",
        **fields,
    }  # fmt: skip


def test_a_lost_nan_is_told_once_over_all_steps_with_its_samples() -> None:
    x = np.ones((8, 4))
    x[[2, 5], 1] = np.nan
    trace = training_trace(x=x, outcome="healthy", rows={"harmless": [lost(), lost(step=1)]})
    finding = found(SwallowedNan, trace)
    assert finding.summary == (
        "NaN went in and ordinary numbers came out: 2 NaN of batch x in each of 2 steps ended in "
        "MaxPool in 'pool'."
    )
    assert finding.samples == (2, 5)
    assert finding.stage == "data"


@pytest.mark.parametrize("reason", [
    "skipped-step", "replaced-target", "mask", "infinity-borne", "not-selected", "left-out",
    "metric", "only-looked-at", "unused",
])  # fmt: skip
def test_what_the_code_leaves_out_on_purpose_is_not_told(reason) -> None:
    row = lost(reason=reason, ended_in="SelectV2")
    assert quiet(SwallowedNan, training_trace(rows={"harmless": [row]}))


# ----------------------------------------------------------------------------- frozen-training


def test_a_rate_of_zero_is_named() -> None:
    trace = training_trace(losses=(1.0, 1.0), update_ratio=0.0, learning_rate=0.0)
    assert found(FrozenTraining, trace).summary == (
        "In 2 steps none of 2 trainable variables changed by a single bit; the learning rate is 0."
    )


def test_gradients_of_zero_are_told_from_updates_that_are_rounded_away() -> None:
    rounded = training_trace(losses=(1.0, 1.0), update_ratio=0.0)
    assert "below the last digit of the weights" in found(FrozenTraining, rounded).summary
    cut = training_trace(losses=(1.0, 1.0), update_ratio=0.0, gradient_l2=0.0)
    assert found(FrozenTraining, cut).summary.endswith("; every gradient is 0.")


def test_a_frozen_part_is_told_only_where_its_gradient_is_not_zero() -> None:
    trace = training_trace(losses=(1.0, 1.0))
    updates = trace.table("updates")
    updates["l2"][updates["variable"] == "dense/kernel"] = 0.0
    finding = found(FrozenTraining, trace)
    assert "1 of 2 trainable variables do not move: dense/kernel;" in finding.summary
    assert finding.confidence == 0.75
    gradients = trace.table("gradients")
    gradients["l2"][gradients["variable"] == "dense/kernel"] = 0.0
    assert quiet(FrozenTraining, trace)


def test_a_step_that_is_not_finite_is_no_standstill() -> None:
    trace = training_trace(losses=(1.0, 1.0, math.nan), update_ratio=0.0)
    updates = trace.table("updates")
    updates["l2"][updates["step"] < 2] = 0.1
    assert quiet(FrozenTraining, trace)
