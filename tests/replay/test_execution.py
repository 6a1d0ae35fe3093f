"""Does the step as it was trained agree with the reference, and is it seen where they part?"""

import math

import numpy as np
import pytest

from divergence_doctor.replay.execution import tolerance
from tests.replay.conftest import batch_of

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(8, 4)).astype("float32")
Y = GENERATOR.normal(size=(8, 1)).astype("float32")


@pytest.fixture
def compared(keras):
    """Return a function that replays a model both ways and gives the trace."""
    from divergence_doctor.replay import Engine, Snapshot, match
    from divergence_doctor.replay.as_trained import run_as_trained
    from divergence_doctor.replay.execution import Comparison
    from divergence_doctor.trace import TraceBuilder

    def run(model, *, steps=1, asked=True, **arrays):
        builder, snapshot = TraceBuilder(), Snapshot(model)
        fed = [match(batch_of(**arrays), model)]
        engine = Engine(model, fed, builder)
        engine.replay(steps=steps, seed=0)
        ops = frozenset(op.op_type for op in engine.last_stream.ops)
        comparison = Comparison(model, snapshot, fed, builder, seed=0, ops=ops)
        run_as_trained(comparison, builder, asked=asked)
        return builder.build()

    return run


def dense(keras, *, activation="relu", loss="mse", last=1, **options):
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(6, activation="tanh", name="first"),
            keras.layers.Dense(6, activation=activation, name="hidden"),
            keras.layers.Dense(last, name="out"),
        ],
        name="net",
    )
    model.compile(options.pop("optimizer", "adam"), loss, **options)
    return model


def trained(trace, step=0):
    rows = trace.table("executions").select(execution="as-trained", step=step)
    assert len(rows) == 1
    return rows.row(0)


def ways(trace):
    return [str(way) for way in dict.fromkeys(trace.table("executions")["execution"])]


# ---------------------------------------------------------------------- they agree


def healthy_models(keras):
    layers = keras.layers
    yield "mlp", dense(keras), {"x": X, "y": Y}
    images = GENERATOR.normal(size=(4, 8, 8, 1)).astype("float32")
    cnn = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(3, 3, activation="relu"),
            layers.BatchNormalization(),
            layers.MaxPooling2D(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(3, kernel_regularizer="l2"),
        ]
    )
    cnn.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    yield "dropout and batch normalisation", cnn, {"x": images, "y": np.array([0, 1, 2, 1])}
    rnn = keras.Sequential(
        [layers.Input((6,), dtype="int32"), layers.Embedding(20, 5), layers.LSTM(4),
         layers.Dense(1)]
    )  # fmt: skip
    rnn.compile("rmsprop", "mse")
    yield "recurrent", rnn, {"x": GENERATOR.integers(0, 20, size=(4, 6)), "y": Y[:4]}
    keras.config.set_dtype_policy("mixed_float16")
    half = keras.Sequential(
        [layers.Input((4,)), layers.Dense(16, activation="relu"), layers.BatchNormalization(),
         layers.Dropout(0.3), layers.Dense(1, dtype="float32")]
    )  # fmt: skip
    half.compile("adam", "mse")
    keras.config.set_dtype_policy("float32")
    yield "mixed_float16", half, {"x": X, "y": Y}


def test_healthy_models_agree_within_rounding_as_a_graph(keras, compared):
    for name, model, arrays in healthy_models(keras):
        trace = compared(model, steps=3, **arrays)
        table = trace.table("executions")
        assert set(table["differs"]) == {""}, (name, list(table.rows()))
        assert len(table) == len(trace.table("steps")) >= 3, name
        assert table["comparable"].all(), name
        loss = trace.table("steps")["loss"][0]
        assert table["loss"][0] == pytest.approx(loss, rel=table["tolerance"][0]), name
        assert trace.outcome == "healthy", name
        said = trace.context["fidelity"]["execution"]["as_trained"]
        assert "graph (jit_compile=False)" in said, name
        assert "the same as the reference up to rounding" in said, name


def test_batch_normalisation_agrees_under_xla(keras, compared):
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(6, activation="relu"),
         keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )  # fmt: skip
    model.compile("adam", "mse", jit_compile=True)
    trace = compared(model, steps=2, x=X, y=Y)
    assert trained(trace)["mode"] == "xla"
    assert set(trace.table("executions")["differs"]) == {""}


def test_dropout_under_xla_draws_other_masks_and_only_what_is_finite_is_compared(keras, compared):
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(16), keras.layers.Dropout(0.5),
         keras.layers.Dense(1)]
    )  # fmt: skip
    model.compile("sgd", "mse", jit_compile=True)
    trace = compared(model, x=X, y=Y)
    row = trained(trace)
    assert not row["comparable"]
    assert row["loss"] != pytest.approx(trace.table("steps")["loss"][0], rel=1e-3)
    assert row["differs"] == ""
    said = trace.context["fidelity"]["execution"]["as_trained"]
    assert "the two draw other random numbers" in said


def test_the_model_is_left_as_it_was(keras, compared):
    model = dense(keras)
    model.make_train_function()
    function, before = model.train_function, [v.numpy().copy() for v in model.variables]
    compared(model, steps=2, x=X, y=Y)
    assert model.train_function is function
    assert "train_step" not in vars(model)
    for variable, value in zip(model.variables, before, strict=False):
        np.testing.assert_array_equal(variable.numpy(), value)


@pytest.mark.parametrize(
    ("dtypes", "expected"),
    [
        (["float32"], 3.4526698e-4),
        (["float32", "float16"], 0.03125),
        (["float32", "bfloat16"], 0.08838835),
        (["float64"], 1.4901161e-8),
        ([], 3.4526698e-4),
    ],
)
def test_rounding_may_take_half_of_the_digits_of_the_coarsest_dtype(dtypes, expected):
    assert tolerance(dtypes) == pytest.approx(expected, rel=1e-6)


def test_a_network_that_amplifies_rounding_is_no_mismatch(keras, compared):
    @keras.saving.register_keras_serializable("made")
    class Chaos(keras.layers.Layer):
        def call(self, x):
            for _ in range(60):
                x = 3.999 * x * (1.0 - x)  # the logistic map: an error doubles at every turn
            return x

    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(4, activation="sigmoid"), Chaos(),
         keras.layers.Dense(1)]
    )  # fmt: skip
    model.compile("sgd", "mse", jit_compile=True)
    trace = compared(model, x=X, y=Y)
    row = trained(trace)
    assert abs(row["loss"] / trace.table("steps")["loss"][0] - 1) > tolerance(["float32"])
    assert row["differs"] == ""
    assert row["tolerance"] > 1e-2


def test_an_update_of_nothing_but_rounding_does_not_blind_the_comparison_of_the_rest(
    keras, compared
):
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(6, name="before"),
         keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )  # fmt: skip
    # The gradient of the bias before a normalisation is zero; Adam steps along its rounding.
    model.compile("adam", "mse", jit_compile=True)
    row = trained(compared(model, x=X * 100, y=Y))
    assert row["differs"] == ""
    assert row["tolerance"] < 1e-2


# ---------------------------------------------------------------------- they part


def test_a_fused_kernel_hides_a_nan_while_the_weights_behind_it_die(keras, compared):
    x = X.copy()
    x[3, 2] = np.nan
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(6, name="plain"),
            keras.layers.Dense(6, activation="relu", name="hiding"),
            keras.layers.Dense(6, activation="relu", name="behind"),
            keras.layers.Dense(1, name="out"),
        ],
        name="net",
    )
    model.compile("adam", "mse")
    trace = compared(model, x=x, y=Y)
    row = trained(trace)
    assert math.isfinite(row["loss"])
    assert not row["state_finite"]
    assert row["differs"] == "loss"
    assert (row["layer"], row["layer_class"], row["phase"]) == ("hiding", "Dense", "forward")
    assert (row["reference_nonfinite"], row["nonfinite"]) == (6, 0)
    assert ways(trace) == ["as-trained", "without-remapper"]
    off = trace.table("executions").select(execution="without-remapper").row(0)
    assert (off["differs"], off["remapper"]) == ("", False)
    assert math.isnan(off["loss"])
    assert trace.context["failing_execution"] == "both"


def test_the_layer_is_found_by_bisection_where_it_is_the_compiled_step_that_fails(keras, compared):
    trace = compared(deep_quotient(keras), x=np.full((8, 4), 1e-30, "float32"), y=Y)
    row = trained(trace)
    assert row["differs"] == "loss"
    assert (row["layer"], row["phase"]) == ("quotient", "forward")
    assert (row["reference_nonfinite"], row["nonfinite"]) == (0, 32)
    assert ways(trace) == ["as-trained", "without-jit"]
    assert trace.table("executions").select(execution="without-jit").row(0)["differs"] == ""
    assert trace.outcome == "diverged"
    assert trace.failing_step == 0
    assert trace.context["failing_execution"] == "as-trained"
    assert "compiled by XLA" in trace.context["outcome_because"]


def deep_quotient(keras):
    """Return a model in which XLA turns (a / b) / c into a / (b * c), and b * c is no number."""

    @keras.saving.register_keras_serializable("made")
    class Quotient(keras.layers.Layer):
        def build(self, _shape):
            tiny = keras.initializers.Constant(1e-20)
            self.first = self.add_weight(shape=(4,), initializer=tiny, trainable=False)
            self.second = self.add_weight(shape=(4,), initializer=tiny, trainable=False)

        def call(self, x):
            return (x / self.first) / self.second * 1e-10

    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Identity(name="before"),
            Quotient(name="quotient"),
            keras.layers.Dense(4, activation="tanh", name="one"),
            keras.layers.Dense(4, activation="tanh", name="two"),
            keras.layers.Dense(1, name="out"),
        ]
    )
    model.compile("sgd", "mse", jit_compile=True)
    return model


def test_labels_that_raise_eagerly_are_nan_under_xla(keras, compared):
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model = dense(keras, loss=loss, last=3, jit_compile=True)
    trace = compared(model, x=X, y=np.array([0, 1, 2, 3, 0, 1, 2, 0]))
    row = trained(trace)
    assert row["differs"] == "raised"
    assert row["raised"] == ""
    assert math.isnan(row["loss"])
    assert row["phase"] == "loss"
    without = trace.table("executions").select(execution="without-jit").row(0)
    assert without["differs"] == ""
    assert without["raised_type"] == "InvalidArgumentError"
    assert without["raised"].startswith("Received a label value of 3")


def test_check_numerics_is_dropped_under_xla(keras, compared):
    import tensorflow as tf

    @keras.saving.register_keras_serializable("made")
    class Checked(keras.layers.Layer):
        def call(self, x):
            return tf.debugging.check_numerics(x, "an input")

    model = keras.Sequential(
        [keras.layers.Input((4,)), Checked(name="checked"), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse", jit_compile=True)
    x = X.copy()
    x[1, 1] = np.inf
    trace = compared(model, x=x, y=Y)
    assert trace.table("steps")["raised_op"][0] == "CheckNumerics"
    row = trained(trace)
    assert (row["differs"], row["raised"], row["layer"]) == ("raised", "", "checked")


def test_reduce_max_drops_nan_under_xla(keras, compared):
    model = keras.Sequential(
        [keras.layers.Input((4, 3)), keras.layers.GlobalMaxPooling1D(name="largest"),
         keras.layers.Dense(1)]
    )  # fmt: skip
    model.compile("sgd", "mse", jit_compile=True)
    x = GENERATOR.normal(size=(8, 4, 3)).astype("float32")
    x[2, 1, 0] = np.nan
    trace = compared(model, x=x, y=Y)
    row = trained(trace)
    assert math.isfinite(row["loss"])
    assert row["state_finite"]
    assert row["layer"] == "largest"
    assert trace.outcome == "diverged"
    assert trace.context["failing_execution"] == "reference"
    assert "the loss and the state stay finite" in trace.context["outcome_because"]


def test_python_that_the_trace_freezes_is_found_though_no_switch_mends_it(keras, compared):
    import tensorflow as tf

    @keras.saving.register_keras_serializable("made")
    class Eager(keras.layers.Layer):
        def call(self, x):
            return x if tf.executing_eagerly() else tf.math.log(x - x)

    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(3), Eager(name="eager"),
         keras.layers.Dense(1)]
    )  # fmt: skip
    model.compile("sgd", "mse")
    trace = compared(model, x=X, y=Y)
    assert trained(trace)["layer"] == "eager"
    assert ways(trace) == ["as-trained", "without-remapper"]
    assert trace.table("executions")["differs"].tolist() == ["loss", "loss"]
    assert trace.outcome == "diverged"


# ---------------------------------------------------------------------- it is not run


def test_a_model_that_ran_eagerly_is_not_run_again(keras, compared):
    trace = compared(dense(keras, run_eagerly=True), x=X, y=Y)
    assert len(trace.table("executions")) == 0
    said = trace.context["fidelity"]["execution"]["as_trained"]
    assert said == "eager (run_eagerly=True); the same as the reference"


def test_it_is_not_run_when_it_is_not_wanted(keras, compared):
    trace = compared(dense(keras), asked=False, x=X, y=Y)
    assert len(trace.table("executions")) == 0
    assert "--no-as-trained" in trace.context["fidelity"]["execution"]["as_trained"]


def test_a_trace_that_would_be_dear_is_left_out_unless_asked_for(keras, compared):
    x = X.copy()
    x[0] = np.nan
    model = dense(keras, jit_compile=True)
    said = compared(model, asked=None, x=x, y=Y).context["fidelity"]["execution"]["as_trained"]
    assert "not run: tracing it would take some" in said
    assert "--as-trained" in said


def test_what_xla_cannot_compile_is_told_and_nothing_is_made_of_it(keras, compared):
    import tensorflow as tf

    @keras.saving.register_keras_serializable("made")
    class Text(keras.layers.Layer):
        def call(self, x):
            return x + tf.strings.to_number(tf.strings.as_string(tf.stop_gradient(x))) * 0.0

    model = keras.Sequential([keras.layers.Input((4,)), Text(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=True)
    trace = compared(model, x=X, y=Y)
    assert trace.outcome == "healthy"
    assert len(trace.table("executions")) == 0
    said = trace.context["fidelity"]["execution"]["as_trained"]
    assert "could not be run: XLA cannot compile the step here" in said


def test_a_runaway_is_left_to_the_reference(keras, compared):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(3.0), "mse")
    trace = compared(model, steps=6, asked=None, x=X, y=Y)
    assert trace.outcome == "diverged"
    assert trace.table("steps")["loss_finite"].all()
    said = trace.context["fidelity"]["execution"]["as_trained"]
    assert "not run: the reference fails while loss and state are finite" in said


def distance(y, predicted):
    import tensorflow as tf

    return tf.norm(y - tf.cast(predicted, "float32"), axis=-1)


def test_loss_scaling_that_skips_every_step_does_so_in_both(keras, compared):
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(1, kernel_initializer="zeros")]
    )
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(), initial_scale=2.0)
    # A norm has no derivative at 0: infinite at any scale.
    model.compile(scaled, distance)
    trace = compared(model, steps=3, x=np.ones((8, 4), "float32"), y=np.zeros((8, 1)))
    assert trace.outcome == "diverged"
    assert "loss scaling skipped all" in trace.context["outcome_because"]
    assert trace.context["failing_execution"] == "both"
    assert set(trace.table("executions")["differs"]) == {""}


def test_loss_scaling_that_finds_a_scale_below_one_is_healthy(keras, compared):
    keras.config.set_dtype_policy("mixed_float16")
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(1, kernel_initializer="zeros")]
    )
    scaled = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1e-12), initial_scale=2.0)
    model.compile(scaled, "mse")
    trace = compared(model, steps=3, x=np.full((8, 4), 6e4, "float32"), y=np.full((8, 1), 9.0))
    assert trace.table("steps")["loss_scale"][-1] < 1.0
    assert trace.outcome == "healthy"
