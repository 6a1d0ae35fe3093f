"""Does each trial change just its one thing, and does its outcome say what came of it?"""

import json

import numpy as np
import pytest

from divergence_doctor.batches import Batch
from divergence_doctor.replay.subset import only, without
from divergence_doctor.rules import Proof
from divergence_doctor.trace import TraceBuilder
from divergence_doctor.trials import all_trials, prove
from divergence_doctor.trials.lower_rate import _rises
from divergence_doctor.trials.replace_values import fill, mend
from divergence_doctor.trials.rescale_weights import shrink
from divergence_doctor.trials.standardise import standardised

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(8, 4)).astype("float32")
Y = GENERATOR.normal(size=(8, 1)).astype("float32")


def batch_of(**arrays):
    return Batch(arrays=arrays, source="made.npz", sha256="0" * 64)


@pytest.fixture
def mlp(keras):
    def make(loss="mse", optimizer="sgd", last=1, activation=None):
        model = keras.Sequential(
            [
                keras.layers.Input((4,)),
                keras.layers.Dense(6, activation="tanh", name="hidden"),
                keras.layers.Dense(last, activation=activation, name="out"),
            ]
        )
        model.compile(optimizer, loss)
        return model

    return make


def run(name, bench, **parameters):
    return all_trials()[name].run(bench, parameters).outcome


def test_every_trial_goes_by_the_name_of_its_file():
    for name, trial in all_trials().items():
        assert type(trial).__module__.rpartition(".")[2] == name.replace("-", "_")
        assert trial.breadth in {0, 1, 2, 3}


def test_the_control_fails_again_and_leaves_the_state_as_it_was(bench_of, mlp):
    x = X.copy()
    x[2] = np.nan
    model = mlp()
    before = [variable.numpy().copy() for variable in model.variables]
    bench = bench_of(model, x=x, y=Y)
    assert run("control", bench) == "still-fails"
    for variable, value in zip(model.variables, before, strict=False):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_dropping_the_bad_sample_mends_and_dropping_another_does_not(bench_of, mlp):
    x = X.copy()
    x[2] = np.nan
    bench = bench_of(mlp(), x=x, y=Y)
    assert run("drop-samples", bench, samples=[2]) == "finite"
    assert run("drop-samples", bench, samples=[3]) == "still-fails"
    assert run("drop-samples", bench, samples=list(range(8))) == "not-run"


def test_replacing_bad_values_mends_a_batch_and_a_weight(bench_of, mlp):
    x = X.copy()
    x[2, 1] = np.inf
    assert run("replace-values", bench_of(mlp(), x=x, y=Y), where="batch", names=["x"]) == "finite"
    model = mlp()
    kernel = model.layers[0].kernel
    kernel.assign(np.where(np.eye(4, 6) > 0, np.nan, kernel.numpy()))
    bench = bench_of(model, x=X, y=Y)
    assert run("replace-values", bench, where="weights", names=[kernel.path]) == "finite"
    assert run("replace-values", bench, where="batch", names=["x"]) == "still-fails"


def test_labels_are_brought_into_their_domain(bench_of, mlp):
    bench = bench_of(mlp("sparse_categorical_crossentropy", last=3, activation="softmax"), x=X,
                     y=np.array([0, 1, 2, 3, 0, 1, 2, 0]))  # fmt: skip
    assert run("valid-labels", bench, array="y", low=0, high=2, integral=True) == "finite"


def test_indices_are_brought_into_the_table(keras, bench_of):
    model = keras.Sequential(
        [keras.layers.Input((3,), dtype="int32"), keras.layers.Embedding(10, 2),
         keras.layers.Flatten(), keras.layers.Dense(1)]
    )  # fmt: skip
    model.compile("sgd", "mse")
    tokens = np.ones((8, 3), "int32")
    tokens[5, 1] = 10
    assert run("valid-indices", bench_of(model, x=tokens, y=Y), array="x", high=9) == "finite"


def test_sample_weights_are_set_to_one(bench_of, mlp):
    weight = np.ones(8, "float32")
    weight[1] = np.nan
    bench = bench_of(mlp(), x=X, y=Y, sample_weight=weight)
    assert run("unit-weights", bench, names=["sample_weight"]) == "finite"


def test_standardising_mends_inputs_out_of_scale(bench_of, keras):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    bench = bench_of(model, x=1e6 * X, y=Y)
    assert run("standardise", bench, arrays=["x"]) == "finite"


def test_a_lower_rate_is_searched_until_one_survives(bench_of, mlp, keras):
    bench = bench_of(mlp(optimizer=keras.optimizers.SGD(50.0)), x=X, y=Y)
    outcome = all_trials()["lower-rate"].run(bench, {"factors": [2, 1000]})
    assert (outcome.outcome, outcome.changed) == ("finite", "learning rate divided by 1000")


def test_clipping_mends_steps_that_are_too_long(bench_of, keras):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(0.01), "mse")
    bench = bench_of(model, x=30 * X, y=Y)
    outcome = all_trials()["clip-gradients"].run(bench, {"norms": [5.0]})
    assert (outcome.outcome, outcome.changed) == ("finite", "global gradient norm clipped to 5")
    assert model.optimizer.global_clipnorm is None


def test_rescaling_mends_kernels_that_are_too_large(bench_of, keras):
    model = keras.Sequential(
        [keras.layers.Input((4,)), *(keras.layers.Dense(32, activation="relu") for _ in range(30)),
         keras.layers.Dense(1)]
    )  # fmt: skip
    model.compile("sgd", "mse")
    for layer in model.layers[:-1]:
        layer.kernel.assign(8.0 * GENERATOR.normal(size=layer.kernel.shape))
    bench = bench_of(model, x=X, y=Y)
    assert run("rescale-weights", bench, layers=[]) == "finite"


@pytest.mark.parametrize(
    ("kind", "formula", "inputs"),
    [
        ("Log", lambda ops, p: -ops.log(p), "zero"),
        ("Sqrt", lambda ops, p: ops.sqrt(p), "zero"),
        ("RealDiv", lambda _ops, p: 1.0 / p, "zero"),
        ("Exp", lambda ops, p: ops.exp(p), "large"),
        ("Acos", lambda ops, p: ops.arccos(p), "one"),
    ],
)
def test_an_op_is_kept_inside_its_domain_with_its_derivative(
    keras, bench_of, kind, formula, inputs
):
    def loss(y_true, y_pred):
        return keras.ops.mean(formula(keras.ops, y_pred[:, 0] * y_pred[:, 0]))

    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(1, use_bias=False, name="out")]
    )
    model.compile(keras.optimizers.SGD(1e-6), loss)
    model.layers[0].kernel.assign(np.ones((4, 1)))
    x = np.full((8, 4), 0.1, "float32")
    x[3] = {"zero": 0.0, "large": 5.0, "one": 0.25}[inputs]
    bench = bench_of(model, x=x, y=Y, steps=2)
    site = next(op for op in bench.stream.ops if op.op_type == kind and op.derivative_of < 0)
    from divergence_doctor.replay.source import spell

    outcome = all_trials()["safe-op"].run(
        bench, {"op_type": kind, "layer": site.place.layer, "source": spell(*site.line)}
    )
    assert outcome.outcome == "finite", outcome.detail


def test_an_infinite_label_becomes_the_mean_of_the_others(bench_of, mlp):
    y = Y.copy()
    y[4] = -np.inf
    assert run("valid-labels", bench_of(mlp(), x=X, y=y), array="y") == "finite"


def test_an_array_of_the_batch_that_an_op_takes_as_it_is_is_moved(keras, bench_of, mlp):
    import tensorflow as tf

    y = np.ones_like(Y)
    y[[1, 2, 3, 4, 5]] = 0
    bench = bench_of(mlp(lambda t, p: tf.reduce_mean(tf.abs(t - p) / t)), x=X, y=y)
    from divergence_doctor.replay.source import spell

    site = next(op for op in bench.stream.ops if op.op_type == "RealDiv")
    assert run("safe-op", bench, op_type="RealDiv", source=spell(*site.line)) == "finite"


def test_a_mean_over_nothing_is_taken_as_zero(bench_of, mlp):
    import tensorflow as tf

    def loss(y_true, y_pred):
        return tf.reduce_mean(tf.boolean_mask(tf.square(y_true - y_pred), y_true > 9))

    from divergence_doctor.replay.source import spell

    bench = bench_of(mlp(loss), x=X, y=Y)
    site = next(op for op in bench.stream.ops if op.op_type == "Mean" and op.line)
    assert run("safe-op", bench, op_type="Mean", source=spell(*site.line)) == "finite"


def test_a_guarding_epsilon_is_replaced_by_one_or_its_quotient_by_zero(bench_of, mlp, keras):
    import tensorflow as tf

    def loss(y_true, y_pred):
        count = tf.reduce_sum(tf.cast(y_true > 9, tf.float32))
        return tf.reduce_sum(tf.square(y_true - y_pred)) / (count + 1e-7)

    from divergence_doctor.replay.source import spell

    for rate, put in ((1e-2, "replaced by 1"), (5.0, "taken to give 0")):
        bench = bench_of(mlp(loss, keras.optimizers.SGD(rate)), x=X, y=Y)
        site = next(op for op in bench.stream.ops if op.op_type == "RealDiv" and op.line)
        parameters = {"op_type": "RealDiv", "source": spell(*site.line), "almost": 1e-6}
        outcome = all_trials()["safe-op"].run(bench, parameters)
        assert outcome.outcome == "finite", outcome.detail
        assert outcome.changed.endswith(f"up to 1e-06 {put}")


def test_the_control_is_run_first_and_twins_only_once(bench_of, mlp):
    x = X.copy()
    x[2] = np.nan
    builder = TraceBuilder()
    proof = Proof("drop-samples", {"samples": [2]})
    ran = []
    prove([("bad-input", proof), ("bad-labels", proof)], bench_of(mlp(), x=x, y=Y), builder,
          budget=60.0, progress=ran.append)  # fmt: skip
    rows = builder.rows("trials")
    assert [(row["name"], row["cause"], row["outcome"]) for row in rows] == [
        ("control", "", "still-fails"),
        ("same-step", "", "still-fails"),
        ("drop-samples", "bad-input", "finite"),
        ("drop-samples", "bad-labels", "finite"),
    ]
    assert ran == ["control", "same-step", "drop-samples"]
    assert json.loads(rows[2]["parameters"]) == {"samples": [2]}


def test_no_trial_is_started_once_the_budget_is_spent(bench_of, mlp):
    x = X.copy()
    x[2] = np.nan
    builder = TraceBuilder()
    prove([("bad-input", Proof("drop-samples", {"samples": [2]}))], bench_of(mlp(), x=x, y=Y),
          builder, budget=0.0)  # fmt: skip
    row = builder.rows("trials")[1]
    assert (row["outcome"], "--budget" in row["detail"]) == ("not-run", True)


# ---------------------------------------------------------------------- the changes themselves


def test_rows_are_taken_out_of_every_array_that_has_them():
    batch = batch_of(x=np.arange(6).reshape(3, 2), y=np.arange(3), table=np.arange(5))
    left = without(batch, [1])
    assert left.arrays["x"].tolist() == [[0, 1], [4, 5]]
    assert left.arrays["y"].tolist() == [0, 2]
    assert left.arrays["table"].tolist() == [0, 1, 2, 3, 4]
    assert only(batch, [2]).arrays["y"].tolist() == [2]


def test_a_bad_cell_becomes_the_mean_of_its_feature():
    array = np.array([[1.0, np.nan], [3.0, np.inf], [np.nan, np.nan]], "float32")
    assert fill(array).tolist() == [[1.0, 0.0], [3.0, 0.0], [2.0, 0.0]]
    assert fill(np.array([1, 2])).tolist() == [1, 2]


def test_a_variance_becomes_one_where_it_cannot_be():
    assert mend(np.array([0.5, -1.0, np.nan], "float32"), "bn/moving_variance").tolist() == [
        0.5,
        1.0,
        1.0,
    ]
    assert mend(np.array([-1.0, np.inf], "float32"), "dense/kernel").tolist() == [-1.0, 0.0]


def test_a_kernel_of_ordinary_scale_is_left_alone():
    ordinary = GENERATOR.normal(size=(64, 64)) * np.sqrt(2 / 64)
    assert shrink(ordinary, "kernel") == 1.0
    assert shrink(10 * ordinary, "kernel") == pytest.approx(0.1, rel=0.05)
    assert shrink(10 * ordinary, "bias") == 1.0
    assert shrink(3.0 * np.eye(8), "recurrent_kernel") == pytest.approx(1 / 3)


def test_standardised_arrays_have_zero_mean_and_unit_variance():
    array = (1e6 + 1e3 * GENERATOR.normal(size=(32, 3))).astype("float32")
    scaled = standardised(array)
    assert scaled.dtype == np.float32
    np.testing.assert_allclose(scaled.mean(axis=0), 0.0, atol=1e-3)
    np.testing.assert_allclose(scaled.std(axis=0), 1.0, rtol=1e-2)
    assert np.isfinite(standardised(np.full((32, 3), 7.0))).all()


def test_labels_that_would_all_be_the_same_prove_nothing(mlp, bench_of):
    bench = bench_of(mlp(optimizer="sgd"), steps=12, x=X, y=1e19 + 1e19 * np.arange(8.0)[:, None])
    outcome = all_trials()["valid-labels"].run(bench, {"array": "y", "low": 0, "high": 1})
    assert (outcome.outcome, outcome.detail) == ("not-run", "the labels would all be the same")


@pytest.mark.parametrize(
    ("losses", "batches", "rises"),
    [
        ((9.6, 9.5, 9.3, 9.0, 8.9, 8.8), 1, False),
        ((9.6, 9.9, 9.2, 9.8, 9.5, 9.9), 1, False),  # the masks of Dropout
        ((9.6, 9.601, 9.602, 9.603, 9.604), 1, True),
        ((9.6, 14.0, 8.0, 11.0), 1, True),
        ((1.0, 9.0, 0.9, 8.0, 0.8, 7.0), 2, False),
        ((1.0, 9.0, 1.2), 2, True),
        ((1.0,), 1, False),
    ],
)
def test_a_rate_that_only_puts_off_the_rise_has_not_mended_it(losses, batches, rises):
    assert _rises(losses, batches) is rises
