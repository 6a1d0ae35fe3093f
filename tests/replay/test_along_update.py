"""Is what is measured along an update what the calculus of a parabola says?"""

import numpy as np
import pytest

from divergence_doctor.trace import TraceBuilder
from tests.replay.conftest import batch_of

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(32, 4)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5], [3.0]], "float32")).astype("float32")


@pytest.fixture
def measured(keras):
    """Return a function that measures the failing steps of a model, and gives both tables."""
    from divergence_doctor.replay import Bench, Engine, Snapshot, match
    from divergence_doctor.replay.along_update import measure

    def run(model, *, steps=8, **arrays):
        batch, builder, snapshot = batch_of(**arrays), TraceBuilder(), Snapshot(model)
        engine = Engine(model, [match(batch, model)], builder)
        engine.replay(steps=steps, seed=0)
        assert builder.context["outcome"] == "diverged"
        bench = Bench(
            model, snapshot, [batch], seed=0, asked=steps,
            failing_step=builder.context["failing_step"], stream=engine.last_stream,
        )  # fmt: skip
        start = [variable.numpy() for variable in model.variables]
        measure(bench, builder)
        # What was tried on the way is put back.
        assert all(
            np.array_equal(old, variable.numpy(), equal_nan=True)
            for old, variable in zip(start, model.variables, strict=True)
        )
        trace = builder.build()
        return trace.table("directions"), trace.table("along_update")

    return run


def linear(keras, rate):
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(1, use_bias=False, name="out")]
    )
    model.compile(keras.optimizers.SGD(rate), "mse")
    return model


def test_gain_curvature_and_longest_step_are_those_of_the_parabola(keras, measured):
    rate = 4.0
    model = linear(keras, rate)
    w = model.get_layer("out").kernel.numpy().astype("float64")
    x, y = X.astype("float64"), Y.astype("float64")
    gradient = 2 / len(x) * x.T @ (x @ w - y)
    hessian = 2 / len(x) * x.T @ x
    update = -rate * gradient
    slope = float((gradient * update).sum())
    bent = float((update * (hessian @ update)).sum())
    q = 0.5 * bent / abs(slope)

    directions, line = measured(model, x=X, y=Y)

    row = directions.row(0)
    assert row["slope"] == pytest.approx(slope, rel=1e-4)
    assert row["curvature"] == pytest.approx(bent, rel=1e-4)
    assert row["overshoot"] == pytest.approx(q, rel=1e-4)
    assert row["gain"] == pytest.approx(1 - q, rel=1e-3)
    # 0.5 k^2 D'HD + k g'D is 0 at k = 1 / q; it is told from below, to fifteen percent.
    assert 1 / q / 1.16 <= row["longest"] <= 1 / q * 1.001
    assert row["learning_rate"] == pytest.approx(rate)
    line = line.select(step=0)
    at = {round(float(k), 6): loss for k, loss in zip(line["scale"], line["loss"], strict=True)}
    expected = np.mean((x @ (w + update) - y) ** 2)
    assert at[1.0] == pytest.approx(expected, rel=1e-4)


def test_a_step_with_masks_is_measured_with_the_same_masks_at_every_size(keras, measured):
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dropout(0.5), keras.layers.Dense(1)]
    )
    model.compile(keras.optimizers.SGD(30.0), "mse")
    directions, line = measured(model, x=X, y=Y)
    row = directions.row(0)
    line = line.select(step=row["step"])
    near = line["loss"][np.argmin(np.where(line["scale"] > 0, line["scale"], np.inf))]
    # At a hundred-thousandth of the step another mask would show, its own slope would not.
    assert near == pytest.approx(row["loss"], rel=1e-2)
    assert row["gain"] == pytest.approx(1 - row["overshoot"], rel=1e-2)


def test_a_step_of_several_optimizers_has_no_one_direction(keras, measured):
    class Twice(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)
            self.dense.build((None, 4))
            self.built = True

        def call(self, x):
            return self.dense(x)

        def train_step(self, data):
            import tensorflow as tf

            x, y = data
            for _ in range(2):
                with tf.GradientTape() as tape:
                    loss = tf.reduce_mean(tf.square(self(x) - y))
                variables = self.trainable_variables
                self.optimizer.apply_gradients(
                    zip(tape.gradient(loss, variables), variables, strict=True)
                )
            return {"loss": loss}

    model = Twice()
    model.compile(keras.optimizers.SGD(10.0))
    directions, line = measured(model, x=X, y=Y)
    assert (len(directions), len(line)) == (0, 0)
