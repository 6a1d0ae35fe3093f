"""Are the numbers that an optimizer steps by on record, with what Keras has by default?"""

import math

import numpy as np
import pytest

X = np.ones((4, 3), "float32")
Y = np.ones((4, 2), "float32")


@pytest.fixture
def model_of(keras):
    def make(optimizer):
        model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)])
        model.compile(optimizer, "mse")
        return model

    return make


def numbers(trace, **where):
    return {row["name"]: row for row in trace.table("hyperparameters").select(**where).rows()}


def test_the_numbers_stand_beside_their_defaults(keras, model_of, replayed):
    optimizer = keras.optimizers.AdamW(2e-3, epsilon=0.0, weight_decay=0.5)
    found = numbers(replayed(model_of(optimizer), x=X, y=Y), step=0)
    assert found["epsilon"]["value"] == 0.0
    assert found["epsilon"]["default"] == 1e-7
    assert found["weight_decay"]["value"] == 0.5
    assert found["weight_decay"]["default"] == 0.004
    assert found["learning_rate"]["value"] == pytest.approx(2e-3)
    assert found["learning_rate"]["default"] == 1e-3
    assert found["iterations"]["value"] == 0
    assert {row["optimizer_class"] for row in found.values()} == {"AdamW"}
    assert "clipnorm" not in found


def test_a_schedule_is_followed_from_step_to_step(keras, model_of, replayed):
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([1, 2], [0.1, 0.01, 0.001])
    trace = replayed(model_of(keras.optimizers.SGD(schedule)), steps=3, x=X, y=Y)
    rates = trace.table("hyperparameters").select(name="learning_rate")
    assert rates["value"].tolist() == pytest.approx([0.1, 0.1, 0.01])
    assert set(rates["schedule"]) == {"PiecewiseConstantDecay"}
    counts = trace.table("hyperparameters").select(name="iterations")
    assert counts["value"].tolist() == [0, 1, 2]
    assert len(trace.table("hyperparameters").select(name="momentum")) == 1


def test_inside_a_loss_scale_both_are_told(keras, model_of, replayed):
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam(), initial_scale=256.0)
    found = numbers(replayed(model_of(optimizer), x=X, y=Y), step=0)
    assert found["loss_scale"]["value"] == 256.0
    assert found["beta_1"]["optimizer_class"] == "Adam"


def test_a_loss_scale_of_zero_is_a_step_like_another(keras, model_of, replayed):
    model = model_of(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.dynamic_scale.assign(0.0)
    trace = replayed(model, x=X, y=Y)
    assert trace.outcome == "diverged"
    assert math.isfinite(trace.table("steps")["loss"][0])


def test_slots_inside_a_loss_scale_go_by_the_class_that_owns_them(keras, model_of, replayed):
    trace = replayed(model_of(keras.optimizers.LossScaleOptimizer(keras.optimizers.Adam())),
                     x=X, y=Y)  # fmt: skip
    slots = trace.table("slots").select(step=0, when="before")
    kinds = dict(zip(slots["variable"], slots["optimizer"], strict=True))
    assert {kind for name, kind in kinds.items() if name.endswith("_velocity")} == {"Adam"}
    assert {kind for name, kind in kinds.items() if name.endswith("dynamic_scale")} == {
        "LossScaleOptimizer"
    }
