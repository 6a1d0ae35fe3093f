"""Do the rules about growth tell depth from time, the network from the step, cause from effect?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.rules._growth import activation_growth, gains, gradient_growth
from divergence_doctor.rules._runaway import pace, ran_away
from divergence_doctor.rules.exploding_activation import ExplodingActivation
from divergence_doctor.rules.exploding_gradient import ExplodingGradient
from divergence_doctor.rules.high_learning_rate import HighLearningRate, suggested_rate
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace

DYNAMICS = (HighLearningRate(), ExplodingGradient(), ExplodingActivation())
OVERFLOW = SyntheticEvent(
    "MatMul", phase="forward", layer="dense_1", inputs=([1e30], [[1e30]]), outputs=([math.inf],)
)


def layers(count: int) -> tuple[str, ...]:
    return tuple(f"dense_{i}" for i in range(count))


def recurrent(sizes, *, gradients=()) -> Trace:
    """Return a trace of one cell, called once per size; gradients are given by call."""
    builder = TraceBuilder()
    common = {"step": 0, "layer": "rnn/cell", "layer_class": "SimpleRNNCell"}
    for call, size in enumerate(sizes):
        builder.add("activations", **common, order=call, call=call, role="output", **tensor([size]))
    for order, call in enumerate(reversed(range(len(gradients)))):
        builder.add(
            "gradients", **common, order=order, call=call, variable="", **tensor([gradients[call]])
        )
    return builder.build()


def test_growth_through_depth_is_found_with_its_start_and_factor() -> None:
    sizes = (5.0, 1.0, 10.0, 100.0, 1e3, 1e4)
    growth = activation_growth(training_trace(layers=layers(6), activation_absmax=sizes), 0)
    assert growth is not None
    assert growth.along == "depth"
    assert growth.names == ("dense_1", "dense_2", "dense_3", "dense_4", "dense_5")
    assert growth.total == pytest.approx(1e4, rel=1e-5)
    assert growth.per_link == pytest.approx(10.0, rel=1e-5)


def test_growth_through_time_is_found_by_call() -> None:
    growth = activation_growth(recurrent([1.1**call for call in range(120)]), 0)
    assert growth is not None
    assert growth.along == "time"
    assert growth.layers == ("rnn/cell",)
    assert growth.per_link == pytest.approx(1.1, rel=1e-3)


def test_gradients_grow_from_the_last_call_to_the_first() -> None:
    grown = [2.0 ** (30 - call) for call in range(30)]
    growth = gradient_growth(recurrent([1.0] * 30, gradients=grown), 0)
    assert growth is not None
    assert growth.along == "time"
    assert growth.values[0] == 2.0
    assert growth.values[-1] == 2.0**30


def test_gradients_that_vanish_on_the_way_back_do_not_grow() -> None:
    grown = tuple(2.0**i for i in range(20))
    assert gradient_growth(training_trace(layers=layers(20), gradient_l2=grown), 0) is None


@pytest.mark.parametrize(
    ("sizes", "why"),
    [
        ((1.0, 2.0, 4.0, 8.0, 16.0), "less than 1e3 in all"),
        ((1.0, 1.1, 1.2, 1e8, 1.1e8), "a single jump"),
        (tuple(1.3**i for i in range(40)), "less than 1.5 per layer"),
        ((1.0, 1e2, 1e4), "too few layers"),
    ],
)
def test_what_a_healthy_network_shows_is_no_growth(sizes, why) -> None:
    trace = training_trace(layers=layers(len(sizes)), activation_absmax=sizes)
    assert activation_growth(trace, 0) is None, why


def test_the_series_ends_at_the_first_bad_output() -> None:
    sizes = (1.0, 10.0, 1e2, 1e3, 1e4, math.nan, 5.0)
    growth = activation_growth(training_trace(layers=layers(7), activation_absmax=sizes), 0)
    assert growth is not None
    assert growth.names[-1] == "dense_4"


def test_a_wrapper_does_not_count_beside_its_parts() -> None:
    names = ("block/a", "block/b", "block/c", "block/d", "block/e", "block")
    sizes = (1.0, 10.0, 1e2, 1e3, 1e4, 1e4)
    growth = activation_growth(training_trace(layers=names, activation_absmax=sizes), 0)
    assert growth is not None
    assert "block" not in growth.names


def test_growth_is_measured_where_float64_itself_would_overflow() -> None:
    builder = TraceBuilder()
    for order in range(51):
        row = {"order": order, "layer": f"dense_{50 - order}", "call": 0, "nan": 0, "posinf": 0}
        builder.add(
            "gradients", step=0, variable="", neginf=0, l2=10.0 ** (12 * order - 300), **row
        )
        builder.add("activations", step=0, order=order, layer=f"dense_{order}", role="output")
    growth = gradient_growth(builder.build(), 0)
    assert growth is not None
    assert growth.per_link == pytest.approx(1e12, rel=1e-6)
    assert growth.total == math.inf


def test_the_gain_of_he_initialised_weights_is_root_two() -> None:
    kernel = np.random.default_rng(0).normal(0, math.sqrt(2 / 400), size=(400, 300))
    trace = training_trace(weights={"big/kernel": kernel})
    assert gains(trace, 0)["big"] == pytest.approx(math.sqrt(2), rel=0.02)


def test_overflow_after_geometric_growth_names_the_layer_where_it_starts() -> None:
    trace = ExplodingActivation.fires_on()[0].trace()
    finding = ExplodingActivation().examine(trace)
    assert finding is not None
    assert "11x per layer" in finding.summary
    assert "starting at layer 'dense_0'" in finding.summary
    assert finding.site.layer == "dense_36"
    assert finding.proofs[0].trial == "rescale-weights"


def test_growth_that_the_first_step_already_shows_outranks_the_long_step_that_followed() -> None:
    trace = training_trace(
        losses=(1e30, math.nan),
        layers=layers(12),
        activation_absmax=tuple(10.0**i for i in range(12)),
        optimizer="SGD",
        learning_rate=0.01,
        update_ratio=1e20,
        events=(OVERFLOW,),
    )
    finding = ExplodingActivation().examine(trace)
    assert finding is not None
    assert finding.confidence == 0.88
    assert "already in step 0" in finding.summary
    assert HighLearningRate().examine(trace) is None


def test_an_overflow_that_long_steps_drove_there_stays_below_even_odds() -> None:
    trace = training_trace(
        losses=(1.0, 1e4, math.nan),
        weight_l2=1e6,
        learning_rate=1.0,
        update_ratio=10.0,
        events=(OVERFLOW,),
    )
    finding = ExplodingActivation().examine(trace)
    assert finding is not None
    assert finding.confidence == 0.45
    assert diagnose(trace, DYNAMICS).main.finding.cause == "high-learning-rate"


def test_unscaled_inputs_are_offered_for_scaling_beside_the_weights() -> None:
    trace = training_trace(
        losses=(math.nan,),
        layers=layers(12),
        activation_absmax=tuple(10.0**i for i in range(12)),
        x=np.full((8, 4), 255.0),
        events=(OVERFLOW,),
    )
    finding = ExplodingActivation().examine(trace)
    assert finding is not None
    assert [proof.trial for proof in finding.proofs] == ["rescale-weights", "standardise"]
    assert finding.proofs[1].parameters == {"arrays": ["x"]}


def test_a_gradient_too_large_to_clip_is_not_tried_with_clipping() -> None:
    huge, finite = (
        ExplodingGradient().examine(example.trace()) for example in ExplodingGradient.fires_on()
    )
    assert huge is not None
    assert finite is not None
    assert [proof.trial for proof in huge.proofs] == ["rescale-weights"]
    assert [proof.trial for proof in finite.proofs] == ["rescale-weights", "clip-gradients"]


def test_a_deep_forward_growth_is_not_called_an_exploding_gradient() -> None:
    trace = training_trace(
        losses=(1e9, math.nan),
        layers=layers(12),
        activation_absmax=tuple(10.0**i for i in range(12)),
        gradient_l2=tuple(10.0 ** (11 - i) for i in range(12)),
        optimizer="SGD",
        learning_rate=0.01,
        update_ratio=1e5,
    )
    assert ExplodingGradient().examine(trace) is None


def test_a_high_rate_on_growing_gradients_leaves_both_in_play() -> None:
    trace = training_trace(
        losses=(0.7, 3e9, math.nan),
        layers=layers(12),
        gradient_l2=tuple(0.1 * 4.3 ** (11 - i) for i in range(12)),
        optimizer="SGD",
        learning_rate=5.0,
        update_ratio=1e4,
    )
    gradient, rate = ExplodingGradient().examine(trace), HighLearningRate().examine(trace)
    assert gradient is not None
    assert gradient.confidence == 0.45
    assert rate is not None
    assert rate.confidence > 0.5


@pytest.mark.parametrize(
    ("optimizer", "rate", "excess"),
    [("SGD", 0.01, 1.0), ("SGD", 1.0, 100.0), ("Adam", 1.0, 1000.0), ("Lion", 1e-4, 0.1)],
)
def test_a_rate_is_measured_by_the_optimizers_own_default(optimizer, rate, excess) -> None:
    found = pace(training_trace(losses=(1.0, math.nan), optimizer=optimizer, learning_rate=rate))
    assert found is not None
    assert found.excess == pytest.approx(excess)


def test_a_tenfold_default_is_still_ordinary() -> None:
    found = pace(training_trace(losses=(1.0, math.nan), learning_rate=0.01))
    assert found is not None
    assert found.ordinary


def test_the_rise_of_a_negative_loss_is_measured_from_where_it_began() -> None:
    rising = pace(training_trace(losses=(-2.0, 30.0, math.nan)))
    falling = pace(training_trace(losses=(-2.0, -300.0, math.nan)))
    assert rising is not None
    assert rising.growth == 17.0
    assert falling is not None
    assert falling.growth == 1.0


def test_a_bias_that_starts_at_zero_does_not_count_as_a_long_step() -> None:
    builder = TraceBuilder()
    trace = training_trace(losses=(1.0, math.nan))
    for table in ("steps", "updates"):
        for row in trace.table(table).rows():
            builder.add(table, **row)
    builder.add("updates", step=0, variable="dense/bias", ratio=50.0, **tensor([1.0, 2.0]))
    builder.describe(**trace.context)
    found = pace(builder.build())
    assert found is not None
    assert found.ratio == pytest.approx(1e-3)


def test_steps_that_are_long_and_a_loss_that_rises_are_a_runaway() -> None:
    assert ran_away(training_trace(losses=(1.0, 20.0, math.nan), update_ratio=0.3))
    assert not ran_away(training_trace(losses=(1.0, 20.0, math.nan), update_ratio=1e-3))
    assert not ran_away(training_trace(losses=(1.0, 1.1, 1.2, math.nan), update_ratio=0.3))
    assert not ran_away(training_trace(losses=(math.nan,), update_ratio=5.0))


def test_confidence_in_a_high_rate_rises_with_the_evidence() -> None:
    def sure(**fields) -> float:
        finding = HighLearningRate().examine(training_trace(**fields))
        assert finding is not None
        return finding.confidence

    bare = sure(losses=(1.0, 20.0, math.nan), update_ratio=0.3)
    tenfold = sure(losses=(1.0, 20.0, math.nan), update_ratio=0.3, learning_rate=0.05)
    both = sure(losses=(1.0, 20.0, 900.0, math.nan), update_ratio=0.3, learning_rate=1.0)
    assert (bare, tenfold, both) == (0.5, 0.65, 0.85)


def test_all_lost_at_once_by_what_the_batch_brought_in_is_not_the_rates_doing() -> None:
    event = SyntheticEvent("MatMul", produced=False, origin="batch", origin_name="x")
    trace = training_trace(
        losses=(1.0, math.nan), learning_rate=1.0, update_ratio=5.0, events=(event,)
    )
    assert HighLearningRate().examine(trace) is None


@pytest.mark.parametrize(
    ("rate", "ratio", "optimizer", "suggested"),
    [(1.0, 10.0, "Adam", 1e-4), (2.0, 0.5, "SGD", 4e-3), (1e-3, 0.2, "Adam", 5e-6)],
)
def test_the_suggested_rate_follows_from_the_measured_step(
    rate, ratio, optimizer, suggested
) -> None:
    trace = training_trace(
        losses=(1.0, math.nan), learning_rate=rate, update_ratio=ratio, optimizer=optimizer
    )
    found = pace(trace)
    assert found is not None
    assert suggested_rate(found) == pytest.approx(suggested)


def test_an_absurd_rate_is_also_tried_at_a_sane_one() -> None:
    trace = training_trace(losses=(1.0, math.nan), learning_rate=1e38, update_ratio=1e37)
    finding = HighLearningRate().examine(trace)
    assert finding is not None
    assert finding.proofs[0].parameters["factors"][-1] == 1e41


def test_a_high_rate_explains_the_overflow_at_its_end() -> None:
    event = SyntheticEvent(
        "Exp", phase="forward", inputs=([200.0],), input_values=(200.0,), outputs=([math.inf],)
    )
    trace = training_trace(
        losses=(1.0, 40.0, math.nan), learning_rate=1.0, update_ratio=4.0, events=(event,)
    )
    diagnosis = diagnose(trace)
    assert diagnosis.main is not None
    assert diagnosis.main.finding.cause == "high-learning-rate"
    effects = {
        item.finding.cause: item.finding.explained_by
        for item in diagnosis.findings
        if item.finding.cause == "exp-overflow"
    }
    assert effects == {"exp-overflow": "high-learning-rate"}


@pytest.mark.parametrize("rule", DYNAMICS, ids=lambda rule: rule.id)
def test_a_healthy_run_that_grows_gets_no_finding(rule) -> None:
    trace = training_trace(
        losses=(1.0, 0.9),
        layers=layers(12),
        activation_absmax=tuple(4.0**i for i in range(12)),
        gradient_l2=tuple(4.0 ** (11 - i) for i in range(12)),
        update_ratio=2.0,
        learning_rate=1.0,
    )
    assert rule.ask(trace).finding is None
