"""A failure planted in a known layer of each kind: is its first producer found, and where?"""

import json

import numpy as np
import pytest

from tests.replay.kinds._comparison import watched
from tests.replay.kinds._kind import KINDS, all_kinds, chain, normal

all_kinds()
ONES = np.ones((4, 3), "float32")
Y = normal(4, 1)


def planted(model, arrays, *, steps=1):
    """Return the trace and its primary event, with the layer in front."""
    trace = watched(model, arrays, steps).trace
    events = trace.table("events")
    (event,) = events.where(events["primary"]).rows()
    return trace, event


def at(event):
    return event["layer"], event["op_type"], event["time"]


def log_layer(keras, name="log"):
    class Log(keras.layers.Layer):
        def call(self, x):
            return keras.ops.log(x)

        def compute_output_shape(self, shape):
            return shape

    return Log(name=name)


def of_kind(keras, name):
    kind = KINDS[name]
    return kind.build(keras), dict(kind.arrays)


def weigh(model, path, value):
    """Set the weight at a path to one value."""
    (variable,) = (v for v in model.weights if v.path.endswith(path))
    variable.assign(np.full(variable.shape, value))


# ---------------------------------------------------------------------- structures


def test_in_an_operation_of_a_functional_graph(keras):
    model, arrays = of_kind(keras, "functional with branches")
    weigh(model, "right/bias", 1e4)
    assert at(planted(model, arrays)[1]) == ("exp", "Exp", -1)


def test_in_a_model_inside_a_model(keras):
    inner = keras.Sequential([keras.layers.Input((3,)), log_layer(keras)], name="inner")
    inputs = keras.layers.Input((3,))
    middle = keras.Model(inputs, inner(inputs), name="middle")
    model = chain(keras, keras.layers.Input((3,)), middle, keras.layers.Dense(1))
    x = ONES.copy()
    x[2, 0] = 0.0
    _, event = planted(model, {"x": x, "y": Y})
    assert at(event) == ("inner/log", "Log", -1)
    assert json.loads(event["samples"]) == [2]


def test_in_the_second_call_of_a_shared_layer(keras):
    a, b = keras.layers.Input((3,), name="a"), keras.layers.Input((3,), name="b")
    shared = log_layer(keras, "shared")
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(1)(shared(a) + shared(b)))
    model.compile("sgd", "mse")
    _, event = planted(model, {"x/a": ONES, "x/b": 0 * ONES, "y": Y})
    assert at(event) == ("shared", "Log", -1)
    assert event["call"] == 1


def test_in_one_branch_of_several_inputs_and_the_loss_term_that_died(keras):
    model, arrays = of_kind(keras, "named inputs and outputs, weighted losses")
    weigh(model, "size/bias", 1e25)
    trace, event = planted(model, arrays)
    assert (event["phase"], event["op_type"]) == ("loss", "Square")
    terms = {row["name"]: bool(np.isfinite(row["value"])) for row in trace.table("losses").rows()}
    assert terms == {"digit/sparse_categorical_crossentropy": True, "size/mse": False}


def test_in_an_add_loss_the_term_that_died_is_named(keras):
    class Penalty(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.mean(keras.ops.log(keras.ops.relu(x))))
            return x

    model = chain(
        keras,
        keras.layers.Input((3,)),
        keras.layers.Dense(3, kernel_regularizer="l2", name="dense"),
        Penalty(name="penalty"),
        keras.layers.Dense(1, kernel_regularizer="l1", name="out"),
    )
    trace, event = planted(model, {"x": -ONES * 0, "y": Y})
    assert at(event) == ("penalty", "Log", -1)
    terms = {row["name"]: bool(np.isfinite(row["value"])) for row in trace.table("losses").rows()}
    assert terms == {
        "mse": True,
        "add_loss/penalty": False,
        "regularizer/model/dense/kernel": True,
        "regularizer/model/out/kernel": True,
    }


def test_in_a_batch_normalisation_without_an_epsilon(keras):
    model = chain(
        keras,
        keras.layers.Input((3,)),
        keras.layers.BatchNormalization(epsilon=0.0, name="norm"),
        keras.layers.Dense(1),
    )
    assert at(planted(model, {"x": ONES, "y": Y})[1]) == ("norm", "Rsqrt", -1)


def test_in_the_projection_of_an_attention(keras):
    model, arrays = of_kind(keras, "attention with masks over embeddings")
    weigh(model, "heads/query/kernel", 3e38)
    weigh(model, "embedding/embeddings", 10.0)
    assert at(planted(model, arrays)[1])[:2] == ("heads/query", "BatchMatMulV2")


# ---------------------------------------------------------------------- steps of one's own


def test_in_the_sampling_of_a_variational_autoencoder(keras):
    model, arrays = of_kind(keras, "own step: variational autoencoder")
    weigh(model, "log_var/bias", 200.0)
    assert at(planted(model, arrays)[1]) == ("sampling", "Exp", -1)


def test_in_the_gradient_penalty_of_a_wgan(keras):
    model, arrays = of_kind(keras, "own step: WGAN-GP, two optimizers, a gradient inside")
    model.epsilon = 0.0
    for weight in model.critic.trainable_variables:
        weight.assign(np.zeros(weight.shape))
    trace, event = planted(model, arrays)
    assert (event["op_type"], event["derivative"], event["phase"]) == ("Sqrt", True, "backward")
    assert event["source"].startswith("own_steps.py:")
    from divergence_doctor import diagnose

    assert diagnose(trace).main.finding.cause == "gradient-singularity"


def test_in_a_step_that_accumulates_gradients_the_second_batch_is_not_needed(keras):
    model, arrays = of_kind(keras, "own step: gradients accumulated by hand")
    arrays["y"] = np.full_like(arrays["y"], 1e25)
    _, event = planted(model, arrays, steps=3)
    assert (event["step"], event["op_type"], event["phase"]) == (0, "Square", "loss")


# ---------------------------------------------------------------------- through time


def growing(keras, **options):
    """Return a cell's layer that multiplies by 1e8 at each time step: 1e40 is too much."""
    return keras.layers.SimpleRNN(
        1, activation="linear", kernel_initializer="ones", name="rnn",
        recurrent_initializer=keras.initializers.Constant(1e8), **options,
    )  # fmt: skip


SERIES = np.ones((4, 12, 1), "float32")


@pytest.mark.parametrize(
    ("options", "time"),
    [({}, 5), ({"unroll": True}, 5), ({"go_backwards": True}, 6), ({"return_sequences": True}, 5)],
    ids=["plain", "unrolled", "backwards", "in sequence"],
)
def test_in_a_recurrent_layer_the_time_step_is_named(keras, options, time):
    model = chain(keras, keras.layers.Input((12, 1)), growing(keras, **options))
    y = np.zeros((4, 12, 1) if options.get("return_sequences") else (4, 1), "float32")
    trace, event = planted(model, {"x": SERIES, "y": y})
    # 1 + 1e8 + ... + 1e8 ** 4 is the last finite sum: time step 4.
    assert (event["layer"], event["time"]) == ("rnn/simple_rnn_cell", time)
    grown = trace.table("activations").select(layer="rnn/simple_rnn_cell", role="output")
    order = grown["time"].tolist()
    assert [time for time in order if time >= 0] == (
        list(range(11, -1, -1)) if options.get("go_backwards") else list(range(12))
    )
    assert order.count(-1) == (0 if options.get("unroll") else 1)


def test_the_verdict_names_the_time_steps_of_the_growth(keras):
    from divergence_doctor import diagnose

    model = chain(keras, keras.layers.Input((12, 1)), growing(keras))
    trace, _ = planted(model, {"x": SERIES, "y": np.zeros((4, 1))})
    verdict = diagnose(trace)
    summary = verdict.main.finding.summary
    assert verdict.main.finding.cause == "exploding-activation"
    assert "time step 0 to 4" in summary
    assert "'rnn/simple_rnn_cell' (time step 5)" in summary


def test_the_gradient_that_comes_back_carries_its_time_step(keras):
    model, arrays = of_kind(keras, "LSTM")
    trace = watched(model, arrays).trace
    back = trace.table("gradients").select(layer="rnn/lstm_cell", variable="")
    assert back["time"].tolist() == [4, 3, 2, 1, 0]


def test_in_the_backward_half_of_a_bidirectional_layer(keras):
    x = np.zeros((4, 5, 1), "float32")
    x[:, 3] = 3e38
    both = keras.layers.Bidirectional(
        keras.layers.SimpleRNN(1, activation="linear", kernel_initializer="ones"),
        backward_layer=keras.layers.SimpleRNN(
            1, activation="linear", go_backwards=True, name="back",
            kernel_initializer=keras.initializers.Constant(10.0),
        ),
        name="both",
    )  # fmt: skip
    model = chain(keras, keras.layers.Input((5, 1)), both, keras.layers.Dense(1))
    _, event = planted(model, {"x": x, "y": Y})
    assert at(event) == ("both/back/simple_rnn_cell", "MatMul", 3)


def test_in_one_of_several_stacked_cells(keras):
    cells = [
        keras.layers.SimpleRNNCell(2, name="first"),
        keras.layers.SimpleRNNCell(
            1, activation="linear", kernel_initializer="ones", name="second",
            recurrent_initializer=keras.initializers.Constant(1e20),
        ),
    ]  # fmt: skip
    model = chain(keras, keras.layers.Input((12, 1)), keras.layers.RNN(cells, name="rnn"))
    _, event = planted(model, {"x": SERIES, "y": Y})
    assert event["layer"].endswith("second")
    assert event["time"] == 2


def test_in_a_time_distributed_layer(keras):
    spread = keras.layers.TimeDistributed(log_layer(keras, "each"), name="spread")
    model = chain(
        keras, keras.layers.Input((3, 2)), spread, keras.layers.Flatten(), keras.layers.Dense(1)
    )
    x = np.ones((4, 3, 2), "float32")
    x[3, 2, 0] = 0.0
    trace, event = planted(model, {"x": x, "y": Y})
    assert (event["layer"].endswith("each"), event["op_type"], event["time"]) == (True, "Log", 2)
    assert json.loads(event["samples"]) == [3]
    inner = trace.table("activations").select(layer=event["layer"])
    assert inner["time"].tolist() == [0, 1, 2]


def test_in_a_convolutional_lstm(keras):
    movie = np.zeros((2, 4, 5, 5, 1), "float32")
    movie[:, 2] = 1e38
    rnn = keras.layers.ConvLSTM2D(1, 3, activation="linear", kernel_initializer="ones", name="rnn")
    model = chain(
        keras, keras.layers.Input((4, 5, 5, 1)), rnn, keras.layers.GlobalAveragePooling2D()
    )
    _, event = planted(model, {"x": movie, "y": Y[:2]})
    assert (event["layer"].startswith("rnn/"), event["op_type"], event["time"]) == (
        True, "Conv2D", 2,
    )  # fmt: skip


def test_in_a_cell_of_ones_own(keras):
    class Cell(keras.layers.Layer):
        state_size = 1

        def call(self, x, states):
            state = states[0] + keras.ops.log(x)
            return state, [state]

    x = np.ones((4, 5, 1), "float32")
    x[1, 3] = 0.0
    rnn = keras.layers.RNN(Cell(name="cell"), name="rnn")
    model = chain(keras, keras.layers.Input((5, 1)), rnn, keras.layers.Dense(1))
    _, event = planted(model, {"x": x, "y": Y})
    assert at(event) == ("rnn/cell", "Log", 3)
    assert json.loads(event["samples"]) == [1]


# ---------------------------------------------------------------------- control flow


def own(keras, function):
    class Own(keras.layers.Layer):
        def call(self, x):
            return function(x)

    return chain(keras, keras.layers.Input((3,)), Own(name="own"), keras.layers.Dense(1))


def test_in_the_branch_that_a_cond_took(keras):
    import tensorflow as tf

    model = own(
        keras, tf.function(lambda x: tf.cond(tf.reduce_sum(x) > 0, lambda: tf.exp(x), lambda: x))
    )
    _, event = planted(model, {"x": ONES * 100, "y": Y})
    assert at(event) == ("own", "Exp", -1)
    assert event["source"].startswith("test_first_producer.py:")


def test_in_a_loop_that_autograph_wrote(keras):
    import tensorflow as tf

    @tf.function
    def halve(x):
        while tf.reduce_max(x) > 0:
            x = x - 1.0
        return tf.math.reciprocal(x)

    _, event = planted(own(keras, halve), {"x": ONES * 3, "y": Y})
    assert at(event) == ("own", "Reciprocal", -1)


def test_in_a_scan_of_keras(keras):
    def scanned(x):
        return keras.ops.scan(lambda c, row: (c * row, keras.ops.sqrt(c * row)), x[0], x)[1]

    x = ONES.copy()
    x[2] = -1.0
    _, event = planted(own(keras, scanned), {"x": x, "y": Y})
    assert at(event) == ("own", "Sqrt", -1)


def test_in_python_behind_a_py_function(keras):
    import tensorflow as tf

    def outside(x):
        return tf.ensure_shape(
            tf.numpy_function(lambda v: np.full_like(v, np.nan), [x], tf.float32), x.shape
        )

    _, event = planted(own(keras, outside), {"x": ONES, "y": Y})
    # No op of TensorFlow made it: it came out of Python, and the next op passed it on.
    assert (event["layer"], event["origin"], event["produced"]) == ("own", "constant", False)


# ---------------------------------------------------------------------- inputs and precision


def test_in_the_sparse_input_itself(keras):
    model, arrays = of_kind(keras, "sparse")
    arrays["x"] = arrays["x"].copy()
    arrays["x"][1, 2] = np.nan
    _, event = planted(model, arrays)
    assert (event["origin"], event["origin_name"]) == ("batch", "x")
    assert event["layer"] == "hidden"


def test_in_a_mean_over_no_tokens(keras):
    import tensorflow as tf

    class Mean(keras.layers.Layer):
        def call(self, x):
            count = tf.cast(tf.reshape(x.row_lengths(), (-1, 1)), tf.float32)
            return tf.reduce_sum(x, axis=1) / count

        def compute_output_spec(self, x):
            return keras.KerasTensor((x.shape[0], x.shape[2]), x.dtype)

    tokens = keras.layers.Input((None,), dtype="int64", ragged=True, name="tokens")
    vectors = keras.layers.Embedding(8, 3)(tokens)
    model = keras.Model(tokens, keras.layers.Dense(1)(Mean(name="mean")(vectors)))
    model.compile("sgd", "mse")
    _, event = planted(
        model, {"x/values": [3, 1, 4, 1, 5, 2, 6], "x/row_splits": [0, 3, 3, 5, 7], "y": Y}
    )
    assert at(event) == ("mean", "RealDiv", -1)
    assert json.loads(event["samples"]) == [1]


def test_in_the_values_of_a_ragged_input(keras):
    import tensorflow as tf

    class Total(keras.layers.Layer):
        def call(self, x):
            return tf.reduce_sum(x, axis=1)

        def compute_output_spec(self, x):
            return keras.KerasTensor((x.shape[0], x.shape[2]), x.dtype)

    series = keras.layers.Input((None, 2), ragged=True, name="series")
    model = keras.Model(series, keras.layers.Dense(1)(Total(name="total")(series)))
    model.compile("sgd", "mse")
    values = np.ones((4, 2), "float32")
    values[2, 1] = np.inf
    # As many values as samples: their rows are no samples all the same.
    _, event = planted(model, {"x/values": values, "x/row_splits": [0, 1, 4, 4, 4], "y": Y})
    assert (event["origin"], event["origin_name"]) == ("batch", "x/values")
    assert json.loads(event["samples"]) == []


def test_in_a_half_precision_layer(keras):
    model, arrays = of_kind(keras, "float32 layers inside mixed_float16")
    weigh(model, "half/kernel", 300.0)
    assert at(planted(model, arrays | {"x": 300 * ONES})[1]) == ("half", "MatMul", -1)


def test_in_the_update_of_a_chosen_variable(keras):
    model, arrays = of_kind(keras, "update: clipped by value")
    model.optimizer.learning_rate = 1e38
    arrays["y"] = arrays["y"] * 1e5
    model.optimizer.clipvalue = None
    _, event = planted(model, arrays)
    assert event["phase"] == "update"
