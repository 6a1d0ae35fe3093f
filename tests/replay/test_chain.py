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
