"""Does the step run in the execution that a trial asks for, and what comes of it?"""

import numpy as np
import pytest

from divergence_doctor.batches import Batch
from divergence_doctor.trace import TraceBuilder
from divergence_doctor.trials import all_trials

Y = np.random.default_rng(0).normal(size=(8, 1)).astype("float32")


def batch_of(**arrays):
    return Batch(arrays=arrays, source="made.npz", sha256="0" * 64)


@pytest.fixture
def bench_of(keras):
    """Return a function that runs a model both ways and gives the bench of what failed."""
    from divergence_doctor.replay import Bench, Engine, Snapshot, match
    from divergence_doctor.replay.as_trained import run_as_trained
    from divergence_doctor.replay.execution import Comparison

    def bench(model, **arrays):
        batch = batch_of(**arrays)
        builder, snapshot = TraceBuilder(), Snapshot(model)
        engine = Engine(model, [match(batch, model)], builder)
        engine.replay(steps=3, seed=0)
        comparison = Comparison(model, snapshot, engine.batches, builder, seed=0, ops=frozenset())
        function = run_as_trained(comparison, builder, asked=True)
        trace = builder.build()
        assert trace.outcome == "diverged"
        failing = trace.context["failing_execution"]
        return Bench(
            model, snapshot, [batch], seed=0, asked=3, failing_step=trace.failing_step,
            stream=engine.last_stream, ran=len(trace.table("steps")), function=function,
            execution="as-trained" if failing == "as-trained" else "reference",
        )  # fmt: skip

    return bench


@pytest.fixture
def quotient(keras):
    """A model in which XLA turns (a / b) / c into a / (b * c), and b * c underflows to 0."""

    @keras.saving.register_keras_serializable("made")
    class Quotient(keras.layers.Layer):
        def build(self, _shape):
            tiny = keras.initializers.Constant(1e-20)
            self.first = self.add_weight(shape=(4,), initializer=tiny, trainable=False)
            self.second = self.add_weight(shape=(4,), initializer=tiny, trainable=False)

        def call(self, x):
            return (x / self.first) / self.second * 1e-10

    model = keras.Sequential([keras.layers.Input((4,)), Quotient(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=True)
    return model


def test_what_fails_under_xla_only_lives_without_it_and_the_control_runs_as_trained(
    quotient, bench_of
):
    before = [variable.numpy().copy() for variable in quotient.variables]
    bench = bench_of(quotient, x=np.full((8, 4), 1e-30, "float32"), y=Y)
    control = all_trials()["control"].run(bench, {})
    assert control.outcome == "still-fails"
    trial = all_trials()["reference-execution"]
    ways = ["without-jit", "without-remapper", "reference"]
    mended = trial.run(bench, {"executions": ways})
    assert mended.outcome == "finite"
    assert mended.changed == "run as a graph without XLA (jit_compile=False)"
    assert trial.run(bench, {"executions": ["reference"]}).outcome == "finite"
    assert trial.run(bench, {"executions": ["as-trained"]}).outcome == "still-fails"
    for variable, value in zip(quotient.variables, before, strict=False):
        np.testing.assert_array_equal(variable.numpy(), value)


def test_other_trials_run_as_trained_too_and_single_ops_cannot_be_replaced_there(
    quotient, bench_of
):
    from divergence_doctor.errors import UsageError

    x = np.full((8, 4), 1e-30, "float32")
    bench = bench_of(quotient, x=x, y=Y)
    ordinary = bench.edited(lambda name, array: array * 0 if name == "x" else array)
    assert not bench.run().finite
    # 0 / 0 under XLA, which divides by b * c = 0; eagerly it is 0.
    assert not bench.run(batches=ordinary).finite
    assert bench.run(batches=ordinary, execution="reference").finite
    slower = all_trials()["lower-rate"].run(bench, {"factors": [10]})
    assert slower.outcome == "still-fails"
    with pytest.raises(UsageError, match="cannot be made in the step as it was trained"):
        bench.run(patches={(("", "", -1, "", -1), 0): lambda tensor: tensor})


def test_what_fails_op_by_op_may_live_as_it_was_trained(keras, bench_of):
    model = keras.Sequential(
        [keras.layers.Input((4, 3)), keras.layers.GlobalMaxPooling1D(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse", jit_compile=True)
    x = np.random.default_rng(1).normal(size=(8, 4, 3)).astype("float32")
    x[2, 1, 0] = np.nan
    trial = all_trials()["reference-execution"]
    bench = bench_of(model, x=x, y=Y)
    assert trial.run(bench, {"executions": ["as-trained"]}).outcome == "finite"
    assert trial.run(bench, {"executions": []}).outcome == "not-run"
    assert trial.run(bench, {"executions": ["without-jit"]}).outcome == "still-fails"
