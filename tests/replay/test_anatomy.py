"""Does the trace say which labels each loss judges, as Keras pairs them?"""

from __future__ import annotations

import numpy as np
import pytest

SPARSE = "SparseCategoricalCrossentropy"
X = np.ones((4, 3), "float32")
PRICES = np.linspace(1e4, 3e4, 4, dtype="float32")[:, None]
KINDS = np.array([0, 1, 2, 1])


@pytest.fixture
def two_headed(keras):
    """Return a function that makes a model of a price and a kind, compiled with a loss."""

    def make(loss, *, keyed=False):
        i = keras.Input((3,), name="house")
        price = keras.layers.Dense(1, name="price")(i)
        kind = keras.layers.Dense(3, activation="softmax", name="kind")(i)
        model = keras.Model(i, {"price": price, "kind": kind} if keyed else [price, kind])
        model.compile("sgd", loss)
        return model

    return make


def pairs(trace):
    rows = trace.table("targets").rows()
    return {row["output"]: (row["array"], row["loss"], row["classes"]) for row in rows}


@pytest.mark.parametrize("keyed", [False, True])
@pytest.mark.parametrize("names", [("price", "kind"), ("kind", "price")])
def test_a_dict_of_losses_is_paired_by_name_in_any_order(two_headed, replayed, keyed, names):
    losses = {"price": "mse", "kind": "sparse_categorical_crossentropy"}
    arrays = {"price": PRICES, "kind": KINDS}
    model = two_headed({name: losses[name] for name in names}, keyed=keyed)
    trace = replayed(model, x=X, **{f"y__{name}": arrays[name] for name in reversed(names)})
    assert pairs(trace) == {
        "price": ("y/price", "MeanSquaredError", 1),
        "kind": ("y/kind", SPARSE, 3),
    }


@pytest.mark.filterwarnings("ignore:Gradients do not exist")
def test_an_output_without_a_loss_does_not_shift_the_others(two_headed, replayed):
    model = two_headed([None, "sparse_categorical_crossentropy"])
    trace = replayed(model, x=X, y__kind=KINDS, y__price=PRICES)
    assert pairs(trace) == {"kind": ("y/kind", SPARSE, 3)}


def test_a_list_of_losses_is_paired_by_place(two_headed, replayed):
    model = two_headed(["mse", "sparse_categorical_crossentropy"])
    trace = replayed(model, x=X, y_0=PRICES, y_1=KINDS)
    assert pairs(trace) == {
        "price": ("y_0", "MeanSquaredError", 1),
        "kind": ("y_1", SPARSE, 3),
    }


def test_one_loss_judges_every_output(two_headed, replayed):
    trace = replayed(two_headed("mse"), x=X, y_0=PRICES, y_1=np.ones((4, 3), "float32"))
    assert {pair[:2] for pair in pairs(trace).values()} == {
        ("y_0", "MeanSquaredError"),
        ("y_1", "MeanSquaredError"),
    }


def test_a_subclassed_model_has_one_nameless_output(keras, replayed):
    class Plain(keras.Model):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(1)

        def call(self, x):
            return self.dense(x)

    model = Plain()
    model.compile("sgd", "mse")
    model(X)
    assert pairs(replayed(model, x=X, y=PRICES)) == {"output/0": ("y", "MeanSquaredError", -1)}
