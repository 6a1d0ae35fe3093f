"""Is the failing step found again in float32, op by op and element by element?"""

import numpy as np
import pytest

from divergence_doctor.batches import Batch
from divergence_doctor.replay import Bench, Engine, Snapshot, chain, counterpart, match
from divergence_doctor.trace import TraceBuilder

X = np.random.default_rng(0).normal(size=(8, 4)).astype("float32")


@pytest.fixture
def beside(keras):
    """Return a function that replays a model and returns the rows of table float32."""

    def rows(policy, formula, x=X):
        keras.config.set_dtype_policy(policy)

        class Computed(keras.layers.Layer):
            def call(self, inputs):
                return formula(inputs)

        model = keras.Sequential(
            [keras.layers.Input((4,)), keras.layers.Dropout(0.5), Computed(name="computed"),
             keras.layers.Dense(1, dtype="float32")]
        )  # fmt: skip
        model.compile(keras.optimizers.SGD(1e-3), "mse")
        batch = Batch(arrays={"x": x, "y": X[:, :1]}, source="made.npz", sha256="0" * 64)
        builder, snapshot = TraceBuilder(), Snapshot(model)
        engine = Engine(model, [match(batch, model)], builder)
        engine.replay(steps=2, seed=0)
        step = builder.rows("steps")[-1]["step"]
        bench = Bench(
            model, snapshot, [batch], seed=0, asked=2, failing_step=step,
            stream=engine.last_stream,
        )  # fmt: skip
        event = next(event for event in engine.last_stream.events if event.primary)
        walked = chain.measure(bench, event, step, builder)
        counterpart.measure(bench, event, step, walked, builder)
        assert {layer.dtype_policy.name for layer in model.layers} == {policy, "float32"}
        return builder.build().table("float32")

    return rows


def test_the_denominator_and_the_constant_that_made_it_stand_beside_their_float32(beside, keras):
    found = beside("mixed_float16", lambda x: x / (0 * x + 1e-8))
    own = found.select(link=-1, role="input", position=1)
    assert (own["value"][0], own["dtype"][0]) == (0.0, "float16")
    assert own["float32"][0] == pytest.approx(1e-8)
    constant = found.select(link=0, origin="constant", role="input")
    assert constant["value"][0] == 0.0
    assert constant["float32"][0] == pytest.approx(1e-8)


def test_what_overflowed_stands_beside_the_number_and_the_step_is_finite(beside, keras):
    found = beside("mixed_float16", lambda x: 1e-5 * keras.ops.exp(0 * x + 12.0))
    made = found.select(link=-1, role="output")
    assert made["nonfinite"][0] == 32
    assert made["float32"][0] == pytest.approx(np.exp(12.0), rel=1e-5)
    assert made["step_finite"][0]


def test_a_step_that_fails_in_float32_as_well_is_told_so(beside, keras):
    found = beside("mixed_float16", lambda x: keras.ops.exp(0 * x + 100.0))
    assert not found["step_finite"].any()


def test_a_step_in_float32_has_no_counterpart(beside, keras):
    assert len(beside("float32", lambda x: x / (x - x))) == 0


def test_a_cast_that_float32_does_without_stands_beside_what_was_cast(beside, keras):
    import tensorflow as tf

    found = beside("float32", lambda x: tf.cast(tf.cast(0 * x + 7e4, tf.float16), x.dtype))
    made = found.select(link=-1, role="output")
    assert (made["dtype"][0], made["float32"][0]) == ("float16", 7e4)


def test_where_the_code_fixes_the_dtype_itself_nothing_is_compared(beside, keras):
    import tensorflow as tf

    assert len(beside("mixed_float16", lambda x: x * tf.constant(1e-8, tf.float16) / 0.0)) == 0
