"""Does the engine leave nothing behind, also after an error, twice, and with threads about?"""

import threading

import numpy as np
import pytest

from divergence_doctor.replay import _seams as seams
from tests.replay.kinds._comparison import watched
from tests.replay.kinds._kind import KINDS, all_kinds, chain, normal

all_kinds()
DOORS = [
    (seams.layer_class, "__call__"),
    (seams.operation_class, "__call__"),
    (seams.trainer_class, "_compute_loss"),
    (seams.trainer_class, "_aggregate_additional_loss"),
    (seams.base_loss_class, "__call__"),
    (seams.loss_module, "reduce_weighted_values"),
    (seams.tape_class, "gradient"),
    (seams.optimizer_class, "apply"),
    (seams.loss_scale_class, "apply"),
    (seams.rnn_module, "rnn"),
    (seams.time_distributed_class, "call"),
]


def doors():
    return [vars(owner())[name] for owner, name in DOORS]


def raising(keras, where):  # noqa: C901 - one place after the other
    """Return a model whose step raises in its forward pass, loss, gradient or update."""
    import tensorflow as tf

    def fail(place):
        if place == where:
            raise tf.errors.InvalidArgumentError(None, None, f"planted in the {place}")

    class Cell(keras.layers.SimpleRNNCell):
        def call(self, x, states):
            if not isinstance(x, keras.KerasTensor):
                fail("cell")
            return super().call(x, states)

    class Layer(keras.layers.Layer):
        def call(self, x):
            @tf.custom_gradient
            def through(value):
                def back(gradient):
                    fail("gradient")
                    return gradient

                return value * 1.0, back

            fail("forward")
            return through(x)

        def compute_output_spec(self, x):
            return x

    class Optimizer(keras.optimizers.SGD):
        def update_step(self, *args):
            fail("update")
            return super().update_step(*args)

    def loss(y_true, y_pred):
        if not isinstance(y_pred, keras.KerasTensor):
            fail("loss")
        return keras.ops.mean((y_true - y_pred) ** 2)

    each = keras.layers.TimeDistributed(Layer(name="layer"))
    return chain(
        keras,
        keras.layers.Input((3, 2)),
        keras.layers.Dense(2),
        each,
        keras.layers.RNN(Cell(2), name="rnn"),
        keras.layers.Dense(1),
        loss=loss,
        optimizer=Optimizer(0.1),
    )


@pytest.mark.parametrize("where", ["forward", "cell", "loss", "gradient", "update"])
def test_no_hook_stays_behind_a_step_that_raises(keras, where):
    import tensorflow as tf

    before = doors()
    model = raising(keras, where)
    seen = watched(model, {"x": normal(4, 3, 2), "y": normal(4, 1)})
    assert f"planted in the {where}" in seen.trace.table("steps")["raised"][0]
    assert doors() == before
    assert "call" not in vars(model.layers[1].layer)
    assert tf.config.functions_run_eagerly() is False
    kinds = []
    with seams.op_callback(lambda kind, *_rest: kinds.append(kind)):
        tf.math.exp(tf.constant(1.0))
    assert kinds == ["Exp"]


def test_the_engine_works_twice_in_one_process(keras):
    from divergence_doctor.replay import Snapshot

    kind = KINDS["LSTM"]
    model = kind.build(keras)
    start = Snapshot(model)
    first = watched(model, kind.arrays)
    start.restore()
    second = watched(model, kind.arrays)
    assert first.targets == second.targets
    assert first.gradients == second.gradients
    assert first.state == second.state
    for table in ("activations", "gradients", "updates"):
        left, right = first.trace.table(table), second.trace.table(table)
        for column in left.columns:
            np.testing.assert_array_equal(left[column], right[column])


def test_another_threads_work_neither_disturbs_nor_enters_the_trace(keras):
    import tensorflow as tf

    from divergence_doctor.replay import Snapshot

    kind = KINDS["convolutions, BatchNormalization, Dropout"]
    model = kind.build(keras)
    start = Snapshot(model)
    quiet = watched(model, kind.arrays)
    start.restore()
    other = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(2, name="stranger")])
    stop, errors = threading.Event(), []

    def work():
        try:
            while not stop.is_set():
                with tf.GradientTape() as tape:
                    loss = tf.reduce_sum(tf.math.log(other(tf.zeros((3, 4)))))
                tape.gradient(loss, other.trainable_variables)
        except Exception as error:  # noqa: BLE001 - told below
            errors.append(error)

    threads = [threading.Thread(target=work) for _ in range(2)]
    for thread in threads:
        thread.start()
    try:
        busy = watched(model, kind.arrays)
    finally:
        stop.set()
        for thread in threads:
            thread.join()
    assert errors == []
    assert "stranger" not in set(busy.trace.table("activations")["layer"].tolist())
    assert len(busy.trace.table("events")) == 0
    assert busy.trace.outcome == "healthy"
    assert busy.state == quiet.state
    for table in ("activations", "gradients"):
        assert len(busy.trace.table(table)) == len(quiet.trace.table(table))


def test_a_model_that_the_replay_cannot_run_says_so_by_name(keras):
    import tensorflow as tf

    from divergence_doctor.errors import UsageError
    from divergence_doctor.replay import check_supported

    class Late(keras.Model):
        def __init__(self):
            super().__init__()
            self.inner = keras.layers.Dense(1)

        def call(self, x):
            return self.inner(x)

    class Own(keras.Sequential):
        def make_train_function(self, *, force=False):
            return super().make_train_function(force)

    layers = [keras.layers.Input((16,)), keras.layers.Dense(16)]
    with tf.distribute.MirroredStrategy(["CPU:0"]).scope():
        spread = keras.Sequential(layers)
    eighth = keras.Sequential([keras.layers.Input((16,)), keras.layers.Dense(16)])
    eighth.layers[0].quantize("float8")
    for model, slug in (
        (Late(), "not-built"),
        (keras.Sequential([keras.layers.Dense(1)]), "not-built"),
        (spread, "distributed-model"),
        (Own(layers), "own-train-function"),
        (eighth, "float8"),
    ):
        with pytest.raises(UsageError) as caught:
            check_supported(model)
        assert caught.value.slug == slug
        assert caught.value.fix
    check_supported(keras.Sequential(layers))
    check_supported(keras.Sequential([keras.layers.Input((3,)), keras.layers.Flatten()]))
