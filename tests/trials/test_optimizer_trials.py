"""Do the trials on optimizer and checkpoint change just their one thing, and put it back?"""

import numpy as np
import pytest

from divergence_doctor.rules import Proof
from divergence_doctor.trace import TraceBuilder
from divergence_doctor.trials import all_trials, prove
from divergence_doctor.trials.replace_values import without_zeros
from divergence_doctor.trials.rescale_weights import to_rms

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(8, 4)).astype("float32")
Y = GENERATOR.normal(size=(8, 1)).astype("float32")


@pytest.fixture
def bench_of(bench_of):
    return lambda model, **options: bench_of(model, x=X, y=Y, **options)


@pytest.fixture
def mlp(keras):
    def make(optimizer, *, trained=0, **penalty):
        model = keras.Sequential(
            [
                keras.layers.Input((4,)),
                keras.layers.Dense(6, activation="relu", name="hidden", **penalty),
                keras.layers.Dense(1, name="out"),
            ]
        )
        model.compile(optimizer, "mse")
        for _ in range(trained):
            model.train_on_batch(X, Y)
        return model

    return make


def run(trial, bench, /, **parameters):
    return all_trials()[trial].run(bench, parameters).outcome


def test_an_epsilon_of_zero_becomes_the_default_and_is_put_back(keras, bench_of, mlp):
    model = mlp(keras.optimizers.Adam(epsilon=0.0))
    model.get_layer("hidden").bias.assign(np.full(6, -100.0))
    bench = bench_of(model)
    outcome = all_trials()["fresh-hyperparameter"].run(bench, {"name": "epsilon"})
    assert (outcome.outcome, outcome.changed) == ("finite", "epsilon of Adam set to 1e-07")
    assert model.optimizer.epsilon == 0.0
    assert run("fresh-hyperparameter", bench, name="beta_1") == "still-fails"
    assert run("fresh-hyperparameter", bench, name="rho") == "not-run"
    assert run("fresh-hyperparameter", bench, name="epsilon", optimizer=3) == "not-run"


def test_a_rate_of_nan_becomes_the_default(keras, bench_of, mlp):
    model = mlp(keras.optimizers.SGD(float("nan")))
    assert run("fresh-hyperparameter", bench_of(model), name="learning_rate") == "finite"
    assert np.isnan(float(model.optimizer.learning_rate))


def test_a_schedule_keeps_the_rates_that_are_good(keras, bench_of, mlp):
    class PastItsEnd(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return 0.01 * keras.ops.sqrt(2.0 - keras.ops.cast(step, "float32"))

    schedule = PastItsEnd()
    model = mlp(keras.optimizers.SGD(schedule))
    bench = bench_of(model)
    assert bench.failing_step == 3
    assert run("fresh-hyperparameter", bench, name="learning_rate") == "finite"
    assert vars(model.optimizer)["_learning_rate"] is schedule


def test_a_class_whose_own_default_is_the_bad_value_gets_the_usual_one(keras, bench_of, mlp):
    class NoEpsilon(keras.optimizers.Adam):
        def __init__(self, learning_rate=1e-3, epsilon=0.0, **rest):
            super().__init__(learning_rate, epsilon=epsilon, **rest)

    model = mlp(NoEpsilon())
    model.get_layer("hidden").bias.assign(np.full(6, -100.0))
    outcome = all_trials()["fresh-hyperparameter"].run(bench_of(model), {"name": "epsilon"})
    assert (outcome.outcome, outcome.changed) == ("finite", "epsilon of NoEpsilon set to 1e-07")


def test_a_loss_scale_of_infinity_becomes_the_one_that_keras_begins_with(keras, bench_of, mlp):
    model = mlp(keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD()))
    model.optimizer.build(model.trainable_variables)
    model.optimizer.dynamic_scale.assign(np.inf)
    assert run("fresh-hyperparameter", bench_of(model), name="loss_scale") == "finite"


def test_an_accumulator_that_began_below_zero_begins_anew(keras, bench_of, mlp):
    model = mlp(keras.optimizers.Adagrad(initial_accumulator_value=-0.5))
    bench = bench_of(model)
    name = "initial_accumulator_value"
    assert run("fresh-hyperparameter", bench, name=name) == "finite"
    assert run("fresh-slots", bench) == "still-fails"


def test_fresh_slots_mend_a_second_moment_below_zero(keras, bench_of, mlp):
    model = mlp(keras.optimizers.Adam(), trained=3)
    slot = next(v for v in model.optimizer.variables if v.path.endswith("hidden_kernel_velocity"))
    broken = slot.numpy()
    broken[1, 2] = -0.5
    slot.assign(broken)
    bench = bench_of(model)
    assert run("fresh-slots", bench, names=[slot.path]) == "finite"
    assert run("fresh-slots", bench, names=["another/slot"]) == "not-run"
    assert run("fresh-hyperparameter", bench, name="epsilon") == "still-fails"
    np.testing.assert_array_equal(slot.numpy(), broken)
    assert int(model.optimizer.iterations) == 3


@pytest.mark.parametrize("kind", ["Adam", "Nadam", "Adagrad", "RMSprop", "Ftrl", "Adafactor"])
def test_fresh_slots_are_those_of_a_new_optimizer(keras, mlp, kind):
    from divergence_doctor.trials.fresh_slots import _fresh

    model = mlp(getattr(keras.optimizers, kind)(), trained=2)
    new = mlp(getattr(keras.optimizers, kind)())
    new.optimizer.build(new.trainable_variables)
    expected = [np.asarray(v.value) for v in new.optimizer.variables if "learning" not in v.path]
    found = [value for _, value in _fresh(model.optimizer)]
    assert len(found) == len(expected)
    for value, other in zip(found, expected, strict=True):
        np.testing.assert_array_equal(value, other)


def test_a_penalty_that_overshoots_is_left_out_and_comes_back(keras, bench_of, mlp):
    model = mlp(keras.optimizers.SGD(0.01), kernel_regularizer=keras.regularizers.L2(1e3))
    kernel = model.get_layer("hidden").kernel
    bench = bench_of(model, steps=10)
    term = f"regularizer/{kernel.path}"
    assert run("drop-regulariser", bench, terms=[term]) == "finite"
    assert run("drop-regulariser", bench, terms=["regularizer/other/kernel"]) == "not-run"
    assert kernel.regularizer is not None


def test_one_term_that_a_layer_adds_is_left_out_by_name(keras, bench_of):
    @keras.saving.register_keras_serializable("test")
    class Penalised(keras.layers.Layer):
        def call(self, inputs):
            self.add_loss(keras.ops.log(0.0 * keras.ops.sum(inputs)))
            return inputs

    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(3, activity_regularizer="l2", name="hidden"),
            Penalised(name="bad"),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    bench = bench_of(model)
    assert run("drop-regulariser", bench, terms=["add_loss/bad"]) == "finite"
    assert run("drop-regulariser", bench, terms=["add_loss/hidden"]) == "still-fails"
    builder = TraceBuilder()
    prove([("x", Proof("drop-regulariser")), ("x", Proof("drop-regulariser", {"terms": [
        "add_loss/bad"]}))], bench, builder, budget=60.0)  # fmt: skip
    told = [
        (row["outcome"], row["breadth"])
        for row in builder.rows("trials")
        if row["name"] == "drop-regulariser"
    ]
    assert told == [("finite", 2), ("finite", 1)]


def test_a_kernel_out_of_all_scale_is_brought_back(keras, bench_of, mlp):
    model = mlp(keras.optimizers.SGD(), kernel_regularizer="l2")
    kernel = model.get_layer("hidden").kernel
    kernel.assign(kernel.numpy() * 1e25)
    bench = bench_of(model)
    outcome = all_trials()["rescale-weights"].run(bench, {"scales": {kernel.path: 0.4}})
    assert outcome.outcome == "finite"
    bias = model.get_layer("out").bias.path
    assert run("rescale-weights", bench, scales={bias: 1.0}) == "still-fails"


def test_values_of_any_size_are_brought_to_a_root_mean_square():
    huge = np.array([3e38, -3e38, 0.0, 0.0], "float32")
    np.testing.assert_allclose(to_rms(huge, 1.0), [2**0.5, -(2**0.5), 0, 0], rtol=1e-6)
    np.testing.assert_array_equal(to_rms(np.zeros(3, "float32"), 1.0), np.zeros(3))


def test_a_zero_scale_becomes_one(keras, bench_of):
    @keras.saving.register_keras_serializable("test")
    class Scaled(keras.layers.Layer):
        def build(self, shape):
            self.scale = self.add_weight(shape=(shape[-1],), initializer="ones", name="scale")

        def call(self, inputs):
            return inputs / self.scale

    layer = Scaled()
    model = keras.Sequential([keras.layers.Input((4,)), layer, keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    layer.scale.assign([1.0, 0.0, 2.0, 1.0])
    bench = bench_of(model)
    names = [layer.scale.path]
    assert run("replace-values", bench, where="weights", names=names, zeros=True) == "finite"
    assert run("replace-values", bench, where="weights", names=names) == "still-fails"
    np.testing.assert_array_equal(without_zeros(np.array([0.0, -2.0])), [1.0, -2.0])


def test_slots_are_mended_along_with_weights(keras, bench_of, mlp):
    model = mlp(keras.optimizers.Adam(), trained=2)
    kernel = model.get_layer("hidden").kernel
    slot = next(v for v in model.optimizer.variables if v.path.endswith("hidden_kernel_momentum"))
    kernel.assign(np.full((4, 6), np.nan))
    slot.assign(np.full((4, 6), np.nan))
    bench = bench_of(model)
    weights = {"where": "weights", "names": [kernel.path]}
    assert run("replace-values", bench, **weights) == "still-fails"
    assert run("replace-values", bench, **weights, slots=[slot.path]) == "finite"
