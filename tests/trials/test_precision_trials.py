"""Does a step in a wider dtype mend what the narrow one broke, and nothing else?"""

import numpy as np
import pytest

from divergence_doctor.batches import Batch
from divergence_doctor.replay import Bench, Engine, Snapshot, match
from divergence_doctor.trace import TraceBuilder
from divergence_doctor.trials import all_trials

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(8, 4)).astype("float32")
Y = GENERATOR.normal(size=(8, 1)).astype("float32")
POLICIES = ("mixed_float16", "float16", "mixed_bfloat16", "bfloat16")


@pytest.fixture
def bench_of(keras):
    """Return a function that replays a model until it fails and gives the bench of that step."""

    def bench(model, *, x=X, y=Y, steps=3):
        batch = Batch(arrays={"x": x, "y": y}, source="made.npz", sha256="0" * 64)
        builder, snapshot = TraceBuilder(), Snapshot(model)
        engine = Engine(model, [match(batch, model)], builder)
        engine.replay(steps=steps, seed=0)
        trace = builder.build()
        assert trace.outcome == "diverged", trace.context["outcome_because"]
        made = Bench(
            model, snapshot, [batch], seed=0, asked=steps, failing_step=trace.failing_step,
            stream=engine.last_stream,
        )  # fmt: skip
        assert all_trials()["control"].run(made, {}).outcome == "still-fails"
        return made

    return bench


def run(name, bench, **parameters):
    return all_trials()[name].run(bench, parameters)


def custom(keras, formula):
    """Return a layer that computes a formula, given its input and the layer."""

    class Computed(keras.layers.Layer):
        def call(self, x):
            return formula(x, self)

    return Computed(name="computed")


def through(keras, formula, *, optimizer=None):
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(4, kernel_initializer="identity"),
         custom(keras, formula), keras.layers.Dense(1, dtype="float32")]
    )  # fmt: skip
    model.compile(optimizer or keras.optimizers.SGD(1e-6), "mse")
    return model


@pytest.mark.parametrize("policy", POLICIES)
def test_a_number_that_half_precision_rounds_to_zero_is_there_in_float32(keras, bench_of, policy):
    keras.config.set_dtype_policy(policy)
    # 1 - 1/16384 is 1 in either.
    bench = bench_of(through(keras, lambda x, _: 1e-5 * (x / (1.0 - (0 * x + 1 - 2.0**-14)))))
    assert run("float32", bench).outcome == "finite"


@pytest.mark.parametrize("policy", POLICIES)
def test_a_true_division_by_zero_stays_one_in_float32(keras, bench_of, policy):
    keras.config.set_dtype_policy(policy)
    bench = bench_of(through(keras, lambda x, _: x / (x - x)))
    assert run("float32", bench).outcome == "still-fails"


def test_what_float16_overflows_float32_holds_and_what_float32_overflows_it_does_not(
    keras, bench_of
):
    keras.config.set_dtype_policy("mixed_float16")
    x = np.full_like(X, 12.0)
    bench = bench_of(through(keras, lambda x, _: 1e-5 * keras.ops.exp(x)), x=x)
    assert run("float32", bench).outcome == "finite"
    bench = bench_of(through(keras, lambda x, _: 1e-5 * keras.ops.exp(x)), x=10 * x)
    assert run("float32", bench).outcome == "still-fails"


def test_casts_to_the_compute_dtype_and_to_float16_itself_are_widened(keras, bench_of):
    import tensorflow as tf

    def formula(x, layer):
        own = tf.cast(x, layer.compute_dtype) * tf.cast(100.0, layer.compute_dtype)
        return 1e-6 * tf.cast(own, tf.float16) ** 3

    keras.config.set_dtype_policy("mixed_float16")
    bench = bench_of(through(keras, formula), x=np.full_like(X, 2.0))
    assert run("float32", bench).outcome == "finite"


def test_a_dtype_that_the_code_fixes_itself_leaves_the_trial_not_run(keras, bench_of):
    import tensorflow as tf

    keras.config.set_dtype_policy("mixed_float16")
    model = through(keras, lambda x, _: x * tf.constant(60000.0, tf.float16))
    outcome = run("float32", bench_of(model, x=np.full_like(X, 2.0)))
    assert outcome.outcome == "not-run"
    assert "fixes a narrower dtype" in outcome.detail


@pytest.mark.parametrize("policy", ["float16", "mixed_float16"])
def test_the_model_is_what_it_was_after_the_trial(keras, bench_of, policy):
    keras.config.set_dtype_policy(policy)
    model = through(keras, lambda x, _: keras.ops.exp(x), optimizer=keras.optimizers.Adam(1e-3))
    before = [(v.dtype, v.numpy().copy()) for v in model.variables]
    bench = bench_of(model, x=np.full_like(X, 12.0))
    run("float32", bench)
    assert [layer.dtype_policy.name for layer in model.layers] == [policy, policy, "float32"]
    for variable, (dtype, value) in zip(model.variables, before, strict=True):
        assert variable.dtype == dtype
        np.testing.assert_array_equal(variable.numpy(), value)
    assert keras.config.dtype_policy().name == policy
    assert all_trials()["control"].run(bench, {}).outcome == "still-fails"


def test_nested_functional_and_subclassed_models_are_widened_throughout(keras, bench_of):
    keras.config.set_dtype_policy("float16")

    class Branch(keras.Model):
        def __init__(self):
            super().__init__()
            self.parts = [keras.layers.Dense(4, "relu"), custom(keras, lambda x, _: x * x)]

        def call(self, inputs):
            for part in self.parts:
                inputs = part(inputs)
            return inputs

    inner = keras.Input((4,), dtype="float16")
    nested = keras.Model(inner, keras.ops.cast(keras.ops.exp(inner), "float16"))
    outer = keras.Input((4,))
    model = keras.Model(outer, keras.layers.Dense(1)(Branch()(nested(outer))))
    model.compile(keras.optimizers.RMSprop(1e-6), "mse")
    assert run("float32", bench_of(model, x=np.full_like(X, 12.0))).outcome == "finite"


def test_adams_epsilon_of_1e_8_is_there_in_float32(keras, bench_of):
    keras.config.set_dtype_policy("float16")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-8), "mse")
    x = X.copy()
    x[:, 1] = 0
    assert run("float32", bench_of(model, x=x)).outcome == "finite"


def test_what_cancels_in_float32_does_not_in_float64(keras, bench_of):
    def formula(x, _):
        p = keras.ops.sigmoid(0.0 * x + 20.0)
        return keras.ops.log(1.0 - p)

    bench = bench_of(through(keras, formula))
    assert run("float64", bench).outcome == "finite"


def test_a_loss_scale_that_is_too_large_is_taken_off_or_lowered(keras, bench_of):
    keras.config.set_dtype_policy("float16")
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(1e-3, loss_scale_factor=2.0**22), "mse")
    bench = bench_of(model)
    assert run("loss-scale", bench).outcome == "finite"
    assert run("loss-scale", bench, scale=2.0**6).outcome == "finite"
    assert run("loss-scale", bench, scale=2.0**22).outcome == "still-fails"
    assert model.optimizer.loss_scale_factor == 2.0**22


def test_a_searched_loss_scale_is_held_and_a_bad_step_is_then_taken(keras, bench_of):
    keras.config.set_dtype_policy("mixed_float16")
    model = through(keras, lambda x, _: keras.ops.sqrt(x * 0))
    bench = bench_of(model)
    outcome = run("loss-scale", bench)
    assert outcome.outcome == "still-fails"
    assert "not finite after step 0" in outcome.detail
    assert "check_finite" not in vars(model.optimizer)


def test_where_nothing_scales_the_loss_there_is_nothing_to_take_off(keras, bench_of):
    x = X.copy()
    x[0, 0] = np.nan
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    assert run("loss-scale", bench_of(model, x=x)).outcome == "not-run"
