"""Do the rules about the optimizer and the checkpoint tell a root from what it leads to?"""

from __future__ import annotations

import json
import math

import numpy as np
import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.rules._initialisers import root_mean_square
from divergence_doctor.rules.bad_hyperparameter import BadHyperparameter
from divergence_doctor.rules.corrupt_optimizer_state import CorruptOptimizerState, _cauchy_schwarz
from divergence_doctor.rules.corrupt_weights import CorruptWeights
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

NUMBERS, STATE, WEIGHTS = BadHyperparameter(), CorruptOptimizerState(), CorruptWeights()


def lost(*events, losses=(0.7,), **fields):
    return training_trace(losses=losses, outcome="diverged", events=events, **fields)


def in_update(op_type, *inputs):
    return SyntheticEvent(
        op_type, phase="update", reaches="state", inputs=inputs, input_values=inputs
    )


@pytest.mark.parametrize(
    ("numbers", "suspected"),
    [
        ({"learning_rate": math.nan}, True),
        ({"learning_rate": math.inf}, True),
        ({"learning_rate": -1e-3}, True),
        ({"learning_rate": 0.0}, False),
        ({"learning_rate": 50.0}, False),
        ({"epsilon": 0.0}, True),
        ({"epsilon": -1e-7}, True),
        ({"epsilon": 1e-46}, True),
        ({"epsilon": 1e-30}, False),
        ({"beta_1": 1.0}, True),
        ({"beta_2": 1.001}, True),
        ({"beta_2": 0.9999}, False),
        ({"rho": 1.1}, True),
        ({"momentum": 1.5}, True),
        ({"beta_2_decay": -0.8}, False),
        ({"weight_decay": 2001.0, "learning_rate": 1e-3}, True),
        ({"weight_decay": 1999.0, "learning_rate": 1e-3}, False),
        ({"weight_decay": -1.0, "learning_rate": 1e-3}, True),
        ({"weight_decay": 0.1, "learning_rate": 0.0}, False),
        ({"loss_scale_factor": 0.0}, True),
        ({"loss_scale_factor": 2.0**25}, True),
        ({"loss_scale_factor": 2.0**24}, False),
        ({"loss_scale": 2.0**60}, False),
        ({"loss_scale": math.inf}, True),
        ({"initial_accumulator_value": -0.1}, True),
        ({"clipnorm": 0.0}, False),
    ],
)
def test_a_number_is_suspect_outside_the_range_that_theory_leaves_it(numbers, suspected):
    finding = NUMBERS.examine(lost(hyperparameters=numbers))
    assert (finding is not None) == suspected


def test_a_decay_beside_a_rate_that_is_none_is_not_suspected_too():
    trace = lost(hyperparameters={"learning_rate": math.nan, "weight_decay": 0.01})
    assert [proof.parameters["name"] for proof in NUMBERS.examine(trace).proofs] == [
        "learning_rate"
    ]


def test_a_number_is_surer_where_its_own_op_made_the_first_bad_value():
    def sure(event):
        return NUMBERS.examine(lost(event, hyperparameters={"epsilon": 0.0})).confidence

    assert sure(in_update("RealDiv", 0.0, 0.0)) == 0.95
    assert sure(in_update("Mul", 1e30, 1e30)) == 0.75
    assert sure(SyntheticEvent("Log", inputs=([0.0],))) == 0.3


def test_the_number_whose_trial_mended_the_step_is_told_first():
    numbers = {"epsilon": 0.0, "beta_2": 1.5}
    event = in_update("RealDiv", 0.0, 0.0)
    assert NUMBERS.examine(lost(event, hyperparameters=numbers)).summary.startswith("The epsilon")
    trial = {
        "name": "fresh-hyperparameter",
        "cause": "bad-hyperparameter",
        "parameters": json.dumps({"name": "beta_2", "optimizer": 0}),
        "outcome": "finite",
    }
    trace = lost(event, hyperparameters=numbers, trials=[trial])
    assert NUMBERS.examine(trace).summary.startswith("The beta_2")


def test_only_the_steps_up_to_the_failing_one_are_looked_at():
    rates = {"learning_rate": (0.1, 0.05, math.nan)}
    late = training_trace(
        losses=(1.0, math.nan, math.nan), hyperparameters=rates, schedule="PolyDecay"
    )
    assert late.failing_step == 1
    assert NUMBERS.examine(late) is None


def test_a_variance_far_below_zero_is_no_rounding_of_a_centred_optimizer():
    slots = {"rms_sprop/critic_kernel_velocity": [1.0, 4.0]}
    fields = {"slots": slots, "optimizer": "RMSprop", "hyperparameters": {"centered": 1.0}}
    assert NUMBERS.examine(lost(in_update("Sqrt", -1e-6), **fields)) is not None
    assert NUMBERS.examine(lost(in_update("Sqrt", -0.5), **fields)) is None


@pytest.mark.parametrize("seed", range(5))
def test_no_run_of_gradients_takes_the_first_moment_past_the_bound(seed):
    first, second, generator = 0.9, 0.999, np.random.default_rng(seed)
    numbers = {"beta_1": first, "beta_2": second}
    bound = _cauchy_schwarz(training_trace(hyperparameters=numbers))
    assert bound == pytest.approx(52.86, rel=1e-3)
    m = v = worst = 0.0
    # The worst that can be: gradients that grow by beta_2 / beta_1 a step.
    for step in range(400):
        g = (second / first) ** step if seed == 0 else generator.standard_cauchy()
        m, v = first * m + (1 - first) * g, second * v + (1 - second) * g * g
        worst = max(worst, m * m / v)
    assert worst <= bound * (1 + 1e-9)
    assert seed != 0 or worst > 0.99 * bound


def test_a_first_moment_is_measured_against_the_second_of_the_same_weight():
    def found(first, second):
        slots = {"adam/k_momentum": [first], "adam/k_velocity": [second], "adam/b_velocity": [9.9]}
        return STATE.examine(lost(losses=(1.0, math.nan), slots=slots))

    assert found(1.0, 1 / 52) is None
    assert found(1.0, 1 / 200) is None
    assert found(1.0, 1 / 250) is not None
    assert found(1e30, 1e36) is not None


def test_slots_are_not_blamed_when_the_weights_were_broken_as_well():
    trace = training_trace(
        losses=(math.nan,),
        weights={"dense/kernel": [math.nan]},
        slots={"adam/dense_kernel_velocity": [math.nan]},
        events=(
            SyntheticEvent(
                "MatMul", "forward", produced=False, origin="variable", origin_name="dense/kernel"
            ),
        ),
    )
    assert STATE.examine(trace).confidence == 0.4
    proof = WEIGHTS.examine(trace).proofs[0]
    assert proof.parameters["slots"] == ["adam/dense_kernel_velocity"]
    main = diagnose(trace, (WEIGHTS, STATE)).main
    assert main.finding.cause == "corrupt-weights"


def test_slots_are_not_blamed_for_a_step_that_broke_before_its_update():
    event = SyntheticEvent("Log", inputs=([0.0],), input_values=(0.0,))
    trace = training_trace(losses=(math.nan,), events=(event,), slots={"adam/k_velocity": [-1.0]})
    assert STATE.examine(trace).confidence == 0.4


@pytest.mark.parametrize(
    ("optimizer", "slot", "found"),
    [
        ("Adam", "adam/k_velocity", True),
        ("Adam", "adam/k_velocity_hat", True),
        ("Adam", "adam/k_momentum", False),
        ("RMSprop", "rms_sprop/k_average_gradient", False),
        ("Adagrad", "adagrad/k_accumulator", True),
        ("Adamax", "adamax/k_norm", True),
        ("Ftrl", "ftrl/k_linear", False),
        ("MyHeavyBall", "mine/k_velocity", False),
    ],
)
def test_only_what_is_made_of_squares_may_not_be_negative(optimizer, slot, found):
    trace = lost(optimizer=optimizer, slots={slot: [-0.1]})
    assert (STATE.examine(trace) is not None) == found


def test_where_the_bad_elements_lie_and_what_that_means_are_told():
    defect = {
        "variable": "tokens/embeddings", "kind": "nan", "count": 64, "size": 128_000,
        "pattern": "row", "axes": "[1, 64]", "indices": json.dumps([[17], list(range(16))]),
        "index": "17,0", "shape": "2000x64",
    }  # fmt: skip
    table = np.zeros((2000, 64), "float32")
    table[17] = np.nan
    trace = training_trace(
        losses=(math.nan,), weights={"tokens/embeddings": table}, defects=[defect]
    )
    finding = WEIGHTS.examine(trace)
    assert "NaN in row 17 of 2000x64 and in no other variable: tokens" in finding.summary
    assert "tokens/embeddings: NaN in row 17 of 2000x64" in {e.claim for e in finding.evidence}


@pytest.mark.parametrize("rule", [WEIGHTS, STATE], ids=lambda rule: rule.id)
def test_the_last_good_checkpoint_is_the_first_remedy(rule):
    def found(told):
        return rule.examine(
            lost(
                weights={"dense/kernel": [math.nan if rule is WEIGHTS else 1.0]},
                slots={"adam/dense_kernel_velocity": [-1.0]},
                context={"last_good": told},
            )
        )

    told = {"file": "step-30.keras", "next": "step-40.keras", "oldest": "a", "of": 8, "read": 4}
    finding = found(told)
    assert finding.remedies[0].startswith("Go back to step-30.keras, the last sound one of the 8")
    assert "step-30.keras" in {item.value for item in finding.evidence}
    finding = found({**told, "file": "", "oldest": "step-10.keras"})
    assert finding.remedies[0].startswith("None of the 8 earlier checkpoints")


@pytest.mark.parametrize(
    ("kind", "config", "shape"),
    [
        ("GlorotUniform", {}, (60, 80)),
        ("GlorotNormal", {}, (3, 3, 16, 24)),
        ("HeNormal", {}, (50, 90)),
        ("LecunUniform", {}, (3, 3, 20, 20)),
        ("Orthogonal", {"gain": 2.0}, (60, 40)),
        ("RandomUniform", {"minval": -1.0, "maxval": 3.0}, (100, 40)),
        ("RandomNormal", {"mean": 1.0, "stddev": 2.0}, (100, 40)),
        ("VarianceScaling", {"scale": 3.0, "mode": "fan_out"}, (100, 40)),
        ("Ones", {}, (7,)),
        ("Zeros", {}, (7,)),
        ("Constant", {"value": -4.0}, (7,)),
    ],
)
def test_an_initialiser_is_known_by_its_scale(keras, kind, config, shape):
    initializer = getattr(keras.initializers, kind)(**config)
    drawn = np.asarray(initializer(shape))
    layer = {"kernel_initializer": {"class_name": kind, "config": initializer.get_config()}}
    told = root_mean_square(json.dumps(layer), "dense/kernel", "x".join(map(str, shape)))
    assert told == pytest.approx(float(np.sqrt(np.mean(drawn**2))), rel=0.08)


def test_an_initialiser_that_is_not_known_says_nothing():
    layer = json.dumps({"kernel_initializer": {"class_name": "Mine", "config": {}}})
    assert math.isnan(root_mean_square(layer, "dense/kernel", "3x4"))
    assert math.isnan(root_mean_square("{}", "dense/kernel", "3x4"))
    assert math.isnan(root_mean_square("not json", "dense/kernel", "3x4"))


@pytest.mark.parametrize(("rate", "suspected"), [(0.1, True), (0.11, False)])
def test_a_decay_that_overshoots_at_an_extraordinary_rate_is_the_rates_doing(rate, suspected):
    trace = lost(
        losses=(1.0, 1e9),
        optimizer="SGD",
        hyperparameters={"learning_rate": rate, "weight_decay": 50},
    )
    trace.table("hyperparameters")["default"][:] = 0.01
    assert (NUMBERS.examine(trace) is not None) == suspected


@pytest.mark.parametrize(
    ("stddev", "times", "found"), [(1e3, 1e5, False), (1.0, 1e5, False), (1.0, 1e7, True)]
)
def test_a_weight_is_measured_against_its_own_initialiser(stddev, times, found):
    """What a wide initialiser made is as it should be: that is `exploding-activation`."""
    event = SyntheticEvent(
        "MatMul", "forward", layer="dense_1", input_variables=("dense_1/kernel",),
        inputs=([1e20],), outputs=([math.inf],),
    )  # fmt: skip
    normal = {"class_name": "RandomNormal", "config": {"mean": 0.0, "stddev": stddev}}
    # 8 x 8 elements: the norm is 8 times the root mean square.
    norm = 8 * stddev * times
    trace = training_trace(losses=(math.nan,), weight_l2=norm, events=(event,))
    trace.table("layers")["config"][:] = json.dumps({"kernel_initializer": normal})
    assert (WEIGHTS.examine(trace) is not None) == found


def test_the_op_that_took_the_root_of_a_negative_variance_is_named_and_a_nan_has_none():
    path = "batch_normalization/moving_variance"
    root = SyntheticEvent("Rsqrt", "forward", layer="batch_normalization", inputs=([-0.5],))
    trace = training_trace(losses=(math.nan,), weights={path: [1.0, -0.5]}, events=(root,))
    assert (WEIGHTS.examine(trace).site.op, WEIGHTS.examine(trace).site.variable) == ("Rsqrt", path)
    trace = training_trace(losses=(math.nan,), weights={path: [math.nan]}, events=(root,))
    assert WEIGHTS.examine(trace).site.op is None
