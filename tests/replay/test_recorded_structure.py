"""Is a recorded batch fed in the structure in which the training step was given it?"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from divergence_doctor.errors import BatchError
from divergence_doctor.replay import match
from divergence_doctor.replay.feeding import tensors
from tests.replay.conftest import batch_of

X = np.arange(8, dtype="float32").reshape(4, 2)
NESTED = {
    "tuple": [
        {
            "dict": {
                "a": {"dict": {"left": {"array": "x/a/left"}, "right": None}},
                "b": {"list": [{"ragged": "x/b_0"}, {"sparse": "x/b_1"}]},
            }
        },
        {"array": "y"},
    ]
}


@pytest.fixture
def model(keras):
    class Nested(keras.Model):
        def train_step(self, data):
            raise NotImplementedError

    made = Nested()
    made.built = True
    return made


def nested(structure=NESTED):
    arrays = {
        "x__a__left": X, "x__b_0__values": np.arange(5.0), "x__b_0__row_splits": [0, 2, 2, 4, 5],
        "x__b_1": np.eye(4, dtype="float32"), "y": np.ones((4, 1), "float64"),
    }  # fmt: skip
    return replace(batch_of(**arrays), structure=structure)


def test_nested_parts_are_put_together_again_as_they_were(model):
    import tensorflow as tf

    fed = match(nested(), model, convert=False)
    assert fed.names == (
        {"a": {"left": "x/a/left", "right": None}, "b": ("x/b_0", "x/b_1")}, "y", None,
    )  # fmt: skip
    assert fed.samples == 4
    assert fed.sparse == ("x/b_1",)
    assert fed.roles["x/b_0/row_splits"] == "x"
    x, y, weight = tensors(fed)
    assert weight is None
    np.testing.assert_array_equal(x["a"]["left"], X)
    assert x["a"]["right"] is None
    assert isinstance(x["b"][0], tf.RaggedTensor)
    assert isinstance(x["b"][1], tf.SparseTensor)
    assert y.dtype == "float64"
    assert tensors(match(nested(), model))[1].dtype == "float32"


def test_what_is_no_tuple_of_parts_is_the_input(model):
    fed = match(replace(batch_of(x=X), structure={"array": "x"}), model)
    assert fed.names == ("x", None, None)


@pytest.mark.parametrize(
    "structure",
    [
        {"array": "z"}, {"array": 3}, {"tuple": {"array": "x"}}, {"dict": [1]}, {"what": "x"},
        {"array": "x", "dict": {}}, [], "x", 7, {"tuple": [{"ragged": "no"}]},
    ],
)  # fmt: skip
def test_a_structure_that_makes_no_sense_is_told(model, structure):
    with pytest.raises(BatchError) as caught:
        match(replace(batch_of(x=X), structure=structure), model)
    assert caught.value.slug == "bad-structure"


def test_a_structure_without_end_is_told(model):
    deep = {"array": "x"}
    for _ in range(500):
        deep = {"list": [deep]}
    with pytest.raises(BatchError):
        match(replace(batch_of(x=X), structure=deep), model)
