"""Does the chain of origin lead from the first producer back to what it was fed with?"""

import numpy as np
import pytest

from divergence_doctor.batches import Batch


@pytest.fixture
def chain(keras):
    from divergence_doctor.replay import Bench, Engine, Snapshot, match
    from divergence_doctor.replay.chain import measure
    from divergence_doctor.trace import TraceBuilder

    def walk(model, **arrays):
        batch = Batch(arrays=arrays, source="made.npz", sha256="0" * 64)
        builder, snapshot = TraceBuilder(), Snapshot(model)
        engine = Engine(model, [match(batch, model)], builder)
        engine.replay(steps=1, seed=0)
        stream = engine.last_stream
        bench = Bench(model, snapshot, [batch], seed=0, asked=1, failing_step=0, stream=stream)
        measure(bench, next(e for e in stream.events if e.primary), 0, builder)
        return list(builder.build().table("chain").rows())

    return walk


def test_it_leads_through_the_layers_to_the_array_of_the_batch(keras, chain):
    inputs = keras.layers.Input((4,), name="feature")
    hidden = keras.layers.Dense(3, activation="relu", use_bias=False, name="hidden")(inputs)
    outputs = keras.layers.Dense(1, name="out")(keras.ops.log(hidden))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    model.get_layer("hidden").kernel.assign(np.ones((4, 3)))
    x = np.ones((6, 4), "float32")
    x[2] = -1.0
    links = chain(model, x=x, y=np.zeros((6, 1), "float32"))
    assert [(link["what"], link["name"], link["layer"]) for link in links] == [
        ("op", "Relu", "hidden"),
        ("op", "MatMul", "hidden"),
        ("batch", "x", ""),
    ]
    # Element 2,0 is the first bad one: what the rectifier made 0 was -4 before.
    assert [link["value"] for link in links] == [0.0, -4.0, -1.0]
    assert links[1]["min"] == -4.0


def test_it_goes_through_the_denominator_of_a_division(keras, chain):
    @keras.saving.register_keras_serializable("test_chain")
    def mean_over_mask(y_true, y_pred):
        mask = keras.ops.cast(y_true > 0, "float32")
        return keras.ops.sum(mask * (y_true - y_pred) ** 2) / keras.ops.sum(mask)

    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", mean_over_mask)
    links = chain(model, x=np.ones((4, 2), "float32"), y=np.zeros((4, 1), "float32"))
    assert [link["name"] for link in links] == ["Sum", "Cast", "Greater", "y"]
    assert links[0]["value"] == 0.0
    assert links[0]["source"].startswith("test_chain.py:")


def test_it_ends_at_the_variable_where_a_weight_is_to_blame(keras, chain):
    class Scale(keras.layers.Layer):
        def build(self, _shape):
            self.scale = self.add_weight(name="scale", shape=(), initializer="zeros")

        def call(self, x):
            return x / self.scale

    model = keras.Sequential(
        [keras.layers.Input((2,)), Scale(name="scaled"), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    links = chain(model, x=np.ones((4, 2), "float32"), y=np.zeros((4, 1), "float32"))
    assert (links[0]["what"], links[0]["name"].rpartition("/")[2]) == ("variable", "scale")
    assert links[0]["value"] == 0.0


def followed(links):
    return [(link["name"], link["index"], link["value"]) for link in links if link["followed"]]


def departed(links):
    return [(link["name"], link["layer"]) for link in links if link["departed"]]


def test_a_silent_row_leads_from_the_cell_of_the_batch_through_every_op_to_the_log(keras, chain):
    inputs = keras.layers.Input((8,), name="wave")
    frames = keras.ops.reshape(inputs, (-1, 2, 4))
    power = keras.ops.sum(keras.ops.transpose(frames, (0, 2, 1)) ** 2, axis=1)
    outputs = keras.layers.Dense(1, name="out")(keras.ops.log(power))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    x = np.ones((6, 8), "float32")
    x[5, 4:] = 0.0
    links = chain(model, x=x, y=np.zeros((6, 1), "float32"))
    assert links[0]["name"] == "Sum"
    assert (links[0]["index"], links[0]["value"]) == ("5,1", 0.0)
    assert links[1]["through"] == "all 4 terms of the sum are 0"
    assert (links[-1]["what"], links[-1]["index"], links[-1]["value"]) == ("batch", "5,4", 0.0)
    assert departed(links) == [("x", "")]
    assert all(link["followed"] for link in links)


def test_growth_departs_at_the_layer_whose_product_left_the_ordinary_range(keras, chain):
    layers = [keras.layers.Dense(2, use_bias=False, name=f"d{i}") for i in range(8)]
    model = keras.Sequential([keras.layers.Input((2,)), *layers])
    model.compile("sgd", "mse")
    for layer in layers:
        layer.kernel.assign(1e5 * np.eye(2))
    x = np.array([[1.0, 1.0], [1.0, 3.0]], "float32")
    links = chain(model, x=x, y=np.zeros((2, 2), "float32"))
    # 1e5 ** 8 = 1e40 overflows in the last layer; the first product is beyond 2 ** 16 already.
    assert departed(links)[0][0].endswith("d0/kernel")
    assert [link["layer"] for link in links if link["name"] == "MatMul"] == [
        f"d{i}" for i in reversed(range(7))
    ]
    assert links[0]["ordinary_high"] == 2.0**16


def test_a_weight_of_an_embedding_is_named_by_its_row_and_column(keras, chain):
    model = keras.Sequential(
        [keras.layers.Input((3,), dtype="int32"), keras.layers.Embedding(10, 2, name="table"),
         keras.layers.Flatten(), keras.layers.Dense(1, name="out")]
    )  # fmt: skip
    model.compile("sgd", lambda y, p: keras.ops.mean(keras.ops.exp(p) - y))
    table = np.zeros((10, 2), "float32")
    table[7, 1] = 1e3
    model.get_layer("table").embeddings.assign(table)
    model.get_layer("out").kernel.assign(np.ones((6, 1)))
    links = chain(model, x=np.array([[1, 2, 3], [1, 7, 3]]), y=np.zeros((2, 1), "float32"))
    last = links[-1]
    assert (last["what"], last["index"], last["value"]) == ("variable", "7,1", 1e3)
    assert last["name"].endswith("table/embeddings")
    assert last["departed"]
    assert last["ordinary_high"] == pytest.approx(88.72 / 2, abs=0.01)


def test_a_convolution_is_followed_to_the_pixel_in_its_window(keras, chain):
    model = keras.Sequential(
        [keras.layers.Input((6, 6, 1)),
         keras.layers.Conv2D(2, 3, strides=2, padding="same", use_bias=False, name="conv"),
         keras.layers.MaxPooling2D(2, name="pool"), keras.layers.Flatten(),
         keras.layers.Dense(1, use_bias=False, name="out")]
    )  # fmt: skip
    model.compile("sgd", "mse")
    model.get_layer("conv").kernel.assign(np.full((3, 3, 1, 2), 0.5))
    model.get_layer("out").kernel.assign(np.ones((2, 1)))
    x = np.ones((3, 6, 6, 1), "float32")
    x[2, 2, 3, 0] = 1e25
    links = chain(model, x=x, y=np.zeros((3, 1), "float32"))
    last = links[-1]
    assert (last["name"], last["index"]) == ("x", "2,2,3,0")
    assert last["value"] == pytest.approx(1e25)
    assert "Conv2D" in [link["name"] for link in links]
    assert departed(links) == [("x", "")]


def test_a_mask_that_is_empty_leads_to_the_cell_of_the_label(keras, chain):
    def loss(y_true, y_pred):
        mask = keras.ops.cast(y_true > 0, "float32")
        return keras.ops.sum(mask * y_pred, axis=-1) / keras.ops.sum(mask, axis=-1)

    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3)])
    model.compile("sgd", loss)
    y = np.ones((4, 3), "float32")
    y[2] = -1.0
    links = chain(model, x=np.ones((4, 2), "float32"), y=y)
    assert followed(links)[0] == ("Sum", "2", 0.0)
    # All of sample 2 is so.
    assert followed(links)[-1] == ("y", "2,:", -1.0)


def test_a_root_of_a_negative_number_departed_where_it_became_negative(keras, chain):
    inputs = keras.layers.Input((2,), name="feature")
    spread = keras.ops.mean(inputs**2, axis=1) - keras.ops.mean(inputs, axis=1) ** 2 - 1e-3
    outputs = keras.layers.Dense(1)(keras.ops.sqrt(keras.ops.expand_dims(spread, 1)))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    x = np.array([[1.0, -1.0], [3.0, 3.0]], "float32")
    links = chain(model, x=x, y=np.zeros((2, 1), "float32"))
    assert [link["name"] for link in links[:2]] == ["ExpandDims", "Sub"]
    assert links[1]["value"] == pytest.approx(-1e-3)
    assert [link["link"] for link in links if link["departed"]] == [1]


def test_a_gradient_that_overflows_is_followed_back_through_the_derivatives(keras, chain):
    inputs = keras.layers.Input((2,))
    x = inputs
    for i in range(6):
        # Each layer multiplies what comes back by up to 1e9, and what goes forward by 1.
        x = keras.layers.Dense(2, use_bias=False, name=f"d{i}")(keras.ops.sin(1e9 * x))
    model = keras.Model(inputs, x)
    model.compile("sgd", "mse")
    for i in range(6):
        model.get_layer(f"d{i}").kernel.assign(np.eye(2))
    links = chain(model, x=np.ones((2, 2), "float32"), y=np.zeros((2, 2), "float32"))
    assert {link["phase"] for link in links if link["what"] == "op"} <= {"backward", "forward"}
    assert links[0]["phase"] == "backward"
    assert abs(links[0]["value"]) > 1e20
    assert len(departed(links)) == 1


def test_a_singular_derivative_leads_from_the_forward_input(keras, chain):
    def distance(y_true, y_pred):
        return keras.ops.sqrt(keras.ops.sum((y_true - y_pred) ** 2, axis=-1))

    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2, name="out")])
    model.compile("sgd", distance)
    model.get_layer("out").kernel.assign(np.zeros((2, 2)))
    y = np.ones((4, 2), "float32")
    y[3] = 0.0
    links = chain(model, x=np.ones((4, 2), "float32"), y=y)
    assert followed(links)[0] == ("Sum", "3", 0.0)
    assert links[0]["departed"] or departed(links)
    assert links[-1]["index"].startswith("3,")


def test_the_update_is_followed_to_the_optimizers_state(keras, chain):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(2, name="out")])
    model.compile(keras.optimizers.Adam(1e-3), "mse")
    model.optimizer.build(model.trainable_variables)
    moments = next(v for v in model.optimizer.variables if "velocity" in v.path)
    values = np.zeros((2, 2), "float32")
    values[1, 0] = -1.0
    moments.assign(values)
    links = chain(model, x=1e-3 * np.ones((4, 2)), y=np.zeros((4, 2), "float32"))
    last = links[-1]
    assert last["what"] == "variable"
    assert "velocity" in last["name"]
    assert (last["index"], last["value"] < 0) == ("1,0", True)


def test_a_sum_that_overflows_while_it_is_written_names_what_was_added(keras, chain):
    model = keras.Sequential(
        [keras.layers.Input((2,)), keras.layers.Dense(1, use_bias=False, name="out")]
    )
    model.compile(keras.optimizers.SGD(1.0), lambda y, p: -1e38 * keras.ops.mean(p - y))
    model.get_layer("out").kernel.assign(np.array([[1e38], [3e38]]))
    x = np.array([[0.0, 1.0]], "float32")
    links = chain(model, x=x, y=np.full((1, 1), 3e38, "float32"))
    assert links[0]["followed"]
    assert abs(links[0]["value"]) == pytest.approx(1e38, rel=1e-3)
    assert links[0]["through"] == "the largest that was written"


def test_in_a_loop_the_way_leads_through_its_turns(keras, chain):
    import tensorflow as tf

    class Grow(keras.layers.Layer):
        def call(self, x):
            return tf.while_loop(lambda i, _v: i < 4, lambda i, v: (i + 1, v * 1e10), (0, x))[1]

    model = keras.Sequential([keras.layers.Input((2,)), Grow(name="grow"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.ones((3, 2), "float32")
    links = chain(model, x=x, y=np.zeros((3, 1), "float32"))
    # Of 1 * 1e10 in the first turn the factor of the code is what is dangerous.
    assert [link["name"] for link in links] == ["Mul"] * 3 + ["constant"]
    assert [link["value"] for link in links] == pytest.approx([1e30, 1e20, 1e10, 1e10])
    assert [link["link"] for link in links if link["departed"]] == [3]


def test_in_a_recurrent_layer_the_way_leads_through_its_time_steps(keras, chain):
    rnn = keras.Sequential(
        [keras.layers.Input((12, 1)),
         keras.layers.SimpleRNN(
             1, activation="linear", kernel_initializer="ones", name="rnn",
             recurrent_initializer=keras.initializers.Constant(1e8),
         )]
    )  # fmt: skip
    rnn.compile("sgd", "mse")
    links = chain(rnn, x=np.ones((2, 12, 1), "float32"), y=np.zeros((2, 1), "float32"))
    values = [link["value"] for link in links if link["name"] == "MatMul"]
    assert values[0] >= 1e30
    assert len(departed(links)) == 1


def test_an_op_that_cannot_be_followed_keeps_its_range(keras, chain):
    import tensorflow as tf

    class Factor(keras.layers.Layer):
        def call(self, x):
            return tf.math.log(tf.linalg.cholesky(x)[:, 1, 0:1])

    model = keras.Sequential([keras.layers.Input((2, 2)), Factor(name="f"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = np.stack([np.array([[1.0, 0.5], [0.5, 1.0]]), np.eye(2)]).astype("float32")
    links = chain(model, x=x, y=np.zeros((2, 1), "float32"))
    assert [link["name"] for link in links][:2] == ["StridedSlice", "Cholesky"]
    assert [link["followed"] for link in links] == [True, True, False]
    assert (links[-1]["name"], links[-1]["max"]) == ("x", 1.0)


def test_the_run_for_the_chain_leaves_the_state_as_it_was(keras, chain):
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", lambda y, p: keras.ops.mean(keras.ops.log(y) + p))
    before = [np.asarray(v) for v in model.variables]
    chain(model, x=np.ones((2, 2)), y=np.zeros((2, 1)))
    for variable, value in zip(model.variables, before, strict=True):
        np.testing.assert_array_equal(variable, value)


def test_it_goes_through_what_must_stay_above_minus_one(keras, chain):
    import tensorflow as tf

    @keras.saving.register_keras_serializable("test_chain")
    def entropy(y_true, y_pred):
        return tf.math.xlog1py(y_true, -y_pred)

    layer = keras.layers.Dense(1, bias_initializer=keras.initializers.Constant(3.0), name="p")
    model = keras.Sequential([keras.layers.Input((2,)), layer])
    model.compile("sgd", entropy)
    links = chain(model, x=np.zeros((4, 2), "float32"), y=np.ones((4, 1), "float32"))
    assert [(link["name"], link["value"]) for link in links][:2] == [("Neg", -3.0), ("AddV2", 3.0)]


@pytest.mark.parametrize(("weigh", "beside"), [("exp", "Exp"), ("tanh", "Tanh")])
def test_it_tells_what_a_mask_was_multiplied_with(keras, chain, weigh, beside):
    import tensorflow as tf

    @keras.saving.register_keras_serializable("test_chain")
    def weighted(y_true, y_pred):
        weights = getattr(tf.math, weigh)(y_pred) * y_true
        return weights / tf.reduce_sum(weights, axis=-1, keepdims=True)

    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(3)])
    model.compile("sgd", weighted)
    links = chain(model, x=np.ones((4, 2), "float32"), y=np.zeros((4, 3), "float32"))
    assert [(link["name"], link["beside"]) for link in links] == [
        ("Sum", ""),
        ("Mul", beside),
        ("y", ""),
    ]
