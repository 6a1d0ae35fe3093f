"""Are non-finite values that do no harm told, each with the mechanism that stopped it?"""

import numpy as np
import pytest

from divergence_doctor.replay.harmless import BECAUSE

GENERATOR = np.random.default_rng(0)
X = np.abs(GENERATOR.normal(size=(8, 4))).astype("float32")
Y = GENERATOR.normal(size=(8, 1)).astype("float32")


@pytest.fixture
def told(keras, replayed):
    """Return what is told of a model around one function, all of it as (what, name, ...)."""

    def tell(call, *, loss="mse", x=X, y=Y, **options):
        class Own(keras.layers.Layer):
            def call(self, inputs):
                return call(inputs)

        shape = x.shape[1:]
        model = keras.Sequential(
            [keras.layers.Input(shape), Own(name="own"), keras.layers.Flatten(),
             keras.layers.Dense(1)]
        )  # fmt: skip
        model.compile("sgd", loss, **options)
        trace = replayed(model, x=x, y=y)
        assert trace.outcome == "healthy"
        rows = list(trace.table("harmless").rows())
        assert all(row["because"] == BECAUSE[row["reason"]] for row in rows)
        return rows

    return tell


def summary(rows):
    return [(row["what"], row["name"], row["reason"], row["ended_in"]) for row in rows]


def test_a_mask_of_minus_infinity_that_a_softmax_takes(keras, told):
    rows = told(lambda x: keras.ops.softmax(keras.ops.where(keras.ops.arange(4) < 3, x, -np.inf)))
    assert summary(rows) == [("constant", "constant", "mask", "Softmax")]
    assert (rows[0]["neginf"], rows[0]["ended_layer"]) == (8, "own")
    assert rows[0]["ended_source"].startswith("test_harmless.py:")


def test_a_nan_that_max_pooling_drops(keras, told):
    images = np.ones((2, 4, 4, 1), "float32")
    images[0, 1, 1, 0] = -1.0

    def call(x):
        return keras.ops.max_pool(keras.ops.stop_gradient(keras.ops.sqrt(x)), 2)

    rows = told(call, x=images, y=Y[:2])
    assert summary(rows) == [("op", "Sqrt", "max-pooling", "MaxPool")]
    assert rows[0]["nan"] == 1


def test_a_branch_that_is_not_selected_and_has_no_gradient(keras, told):
    def call(x):
        root = keras.ops.stop_gradient(keras.ops.sqrt(x - 0.5))
        return keras.ops.where(x > 0.5, root, x)

    assert summary(told(call)) == [("op", "Sqrt", "not-selected", "SelectV2")]


def test_targets_of_nan_that_the_loss_replaces_before_it_uses_them(keras, told):
    def loss(y_true, y_pred):
        known = keras.ops.logical_not(keras.ops.isnan(y_true))
        y_true = keras.ops.where(known, y_true, 0.0)
        return keras.ops.sum(keras.ops.cast(known, "float32") * (y_true - y_pred) ** 2)

    y = Y.copy()
    y[3] = np.nan
    rows = told(lambda x: x, loss=loss, y=y)
    assert summary(rows) == [("batch", "y", "replaced-target", "SelectV2")]
    assert (rows[0]["nan"], rows[0]["phase"]) == (1, "loss")


def test_an_infinite_quotient_that_a_minimum_bounds(keras, told):
    def call(x):
        return keras.ops.minimum(keras.ops.stop_gradient(1.0 / keras.ops.relu(x - 0.5)), 9.0)

    assert summary(told(call)) == [("op", "RealDiv", "comparison", "Minimum")]


def test_a_value_that_only_a_metric_keeps(keras, told):
    def odd(_y_true, y_pred):
        return keras.ops.log(keras.ops.relu(-keras.ops.abs(y_pred)))

    rows = told(lambda x: x, metrics=[odd])
    assert [(row["name"], row["reason"]) for row in rows] == [("Log", "metric")]


def test_a_step_that_loss_scaling_skips_on_purpose(keras, replayed):
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(
        keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-3), initial_scale=2.0**20),
        "mse",
    )
    trace = replayed(model, steps=8, x=X, y=Y)
    assert trace.outcome == "healthy"
    skipped = trace.table("steps")["skipped"].tolist()
    assert skipped[0]
    assert not skipped[-1]
    rows = list(trace.table("harmless").rows())
    assert {row["reason"] for row in rows} == {"skipped-step"}
    assert {row["step"] for row in rows} == {i for i, skip in enumerate(skipped) if skip}


def test_what_did_the_harm_is_not_among_the_harmless(keras, replayed):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", lambda y, p: keras.ops.mean(keras.ops.log(keras.ops.relu(y) * p)))
    trace = replayed(model, x=X, y=-np.abs(Y))
    assert trace.outcome == "diverged"
    assert len(trace.table("harmless")) == 0
