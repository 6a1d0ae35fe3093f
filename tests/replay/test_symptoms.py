"""Is what the symptoms rest on measured as it is, on real models, and told of healthy runs?"""

import numpy as np
import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.replay.units import units
from divergence_doctor.stats import summarize

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(64, 6)).astype("float32")
Y = GENERATOR.normal(size=(64, 1)).astype("float32")


@pytest.fixture
def symptoms(keras, replayed):
    """Return a function that replays a stack of layers and gives the symptoms by name."""

    def told(*layers, x=X, y=Y, steps=3, optimizer="sgd"):
        model = keras.Sequential([keras.layers.Input(x.shape[1:]), *layers])
        model.compile(optimizer, "mse")
        verdict = diagnose(replayed(model, steps=steps, x=x, y=y))
        assert verdict.outcome == "healthy"
        return {item.finding.cause: item.finding for item in verdict.findings if item.symptom}

    return told


# ---------------------------------------------------------------------------------- counting


@pytest.mark.parametrize("shape", [(3, 5), (40, 7), (500, 4), (16, 9, 9, 12), (2, 300, 5)])
@pytest.mark.parametrize("share", [0.2, 0.9, 0.999])
def test_dead_units_are_counted_as_the_obvious_way_counts_them(shape, share):
    values = np.maximum(GENERATOR.normal(size=shape), 0)
    values[GENERATOR.random(shape) < share] = 0
    values[..., :2] = 0
    obvious = int((values.reshape(-1, shape[-1]) == 0).all(axis=0).sum())
    assert units(values, summarize(values))["dead_units"] == obvious


@pytest.mark.parametrize("bad", [-1.0, np.nan, np.inf])
def test_units_of_no_rectifier_are_not_counted(bad):
    values = np.zeros((8, 4))
    values[3, 1] = bad
    assert units(values, summarize(values))["dead_units"] == -1


def test_values_near_one_are_counted_up_to_one_and_not_beyond():
    edge = 1 - 2.0**-9
    values = np.array([[1.0, -1.0, edge, -edge, 0.99, 0.0]])
    assert units(values, summarize(values))["near_one"] == 4
    assert units(values * 1.001, summarize(values * 1.001))["near_one"] == -1
    assert units(values / 2, summarize(values / 2))["near_one"] == 0


# ----------------------------------------------------------------------------------- symptoms


def test_a_layer_that_a_bias_killed_is_dead(keras, symptoms):
    dead = keras.layers.Dense(
        8, "relu", bias_initializer=keras.initializers.Constant(-50.0), name="dead"
    )
    found = symptoms(dead, keras.layers.Dense(8, "relu"), keras.layers.Dense(1))
    assert "8 of 8 in 'dead'" in found["dead-units"].summary


@pytest.mark.parametrize("function", ["tanh", "sigmoid"])
def test_weights_that_are_too_large_saturate(keras, symptoms, function):
    def layer(scale):
        return keras.layers.Dense(
            8, function, kernel_initializer=keras.initializers.RandomNormal(0, scale, seed=1)
        )

    found = symptoms(layer(50.0), keras.layers.Dense(1))
    assert f"({function})" in found["saturated-activations"].summary
    assert "saturated-activations" not in symptoms(layer(0.3), keras.layers.Dense(1))


def test_gradients_vanish_through_a_deep_stack_of_sigmoids(keras, symptoms):
    def stack(count):
        return [keras.layers.Dense(8, "sigmoid") for _ in range(count)]

    assert "vanishing-gradients" in symptoms(*stack(14), keras.layers.Dense(1))
    assert "vanishing-gradients" not in symptoms(*stack(4), keras.layers.Dense(1))


def test_moving_statistics_are_compared_with_those_of_the_batch(keras, replayed):
    model = keras.Sequential(
        [keras.layers.Input((6,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    norm = model.layers[0]
    mean, variance = np.linspace(-2, 5, 6), np.linspace(0.5, 4, 6)
    norm.moving_mean.assign(mean)
    norm.moving_variance.assign(variance)
    row = replayed(model, x=X, y=Y).table("normalizations").row(0)
    deviation = np.sqrt(variance + norm.epsilon)
    shift = np.abs(X.mean(axis=0) - mean) / deviation
    growth = np.sqrt(X.var(axis=0) + norm.epsilon) / deviation
    assert row["shift_median"] == pytest.approx(np.median(shift), rel=1e-3)
    assert row["shift_max"] == pytest.approx(shift.max(), rel=1e-3)
    assert row["growth_median"] == pytest.approx(np.median(growth), rel=1e-3)
    assert row["growth_max"] == pytest.approx(growth.max(), rel=1e-3)
    assert (row["calls"], row["fresh"]) == (1, False)


def test_a_normalisation_that_is_shared_moves_once_per_call(keras, replayed):
    one, other = keras.layers.Input((6,)), keras.layers.Input((6,))
    norm = keras.layers.BatchNormalization()
    model = keras.Model([one, other], keras.layers.Dense(1)(norm(one) + norm(other)))
    model.compile("sgd", "mse")
    norm.moving_mean.assign(np.full(6, 3.0))
    row = replayed(model, x_0=X, x_1=X, y=Y).table("normalizations").row(0)
    assert row["calls"] == 2
    expected = np.median(np.abs(X.mean(axis=0) - 3.0)) / np.sqrt(1 + norm.epsilon)
    assert row["shift_median"] == pytest.approx(expected, rel=1e-3)


def test_stale_statistics_are_told_and_fresh_or_frozen_ones_are_not(keras, symptoms):
    def told(**fields):
        norm = keras.layers.BatchNormalization(**fields)
        slow = keras.optimizers.SGD(1e-6)
        found = symptoms(norm, keras.layers.Dense(1), optimizer=slow)
        return "stale-normalization-statistics" in found

    far = keras.initializers.Constant(30.0)
    assert told(moving_mean_initializer=far)
    assert not told()
    assert not told(moving_mean_initializer=far, trainable=False)


def test_statistics_that_have_followed_for_long_fit(keras, symptoms):
    norm = keras.layers.BatchNormalization(momentum=0.9)
    for _ in range(60):
        norm(X * 7 + 20, training=True)
    found = symptoms(norm, keras.layers.Dense(1), x=X * 7 + 20)
    assert "stale-normalization-statistics" not in found


def test_a_nan_pixel_that_is_pooled_away_is_told(keras, symptoms):
    images = np.ones((4, 4, 4, 1), "float32")
    images[1, 1, 1] = np.nan
    found = symptoms(
        keras.layers.MaxPooling2D(2), keras.layers.Flatten(), keras.layers.Dense(1),
        x=images, y=Y[:4],
    )  # fmt: skip
    assert "1 NaN of batch x in each of 3 steps ended in MaxPool" in found["swallowed-nan"].summary


def test_a_rate_of_zero_freezes_and_a_small_one_does_not(keras, symptoms):
    frozen = symptoms(keras.layers.Dense(1), optimizer=keras.optimizers.SGD(0.0))
    assert frozen["frozen-training"].summary.endswith("; the learning rate is 0.")
    assert "frozen-training" not in symptoms(
        keras.layers.Dense(1), optimizer=keras.optimizers.SGD(1e-5)
    )


def test_updates_that_float16_rounds_away_freeze(keras, symptoms):
    found = symptoms(
        keras.layers.Dense(4, dtype="float16", use_bias=False),
        keras.layers.Dense(1, dtype="float16", use_bias=False),
        optimizer=keras.optimizers.SGD(1e-6),
    )
    assert "below the last digit of the weights" in found["frozen-training"].summary
