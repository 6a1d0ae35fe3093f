"""Does every stored array go to the variable that it belongs to, whatever Keras calls it here?"""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from divergence_doctor.checkpoints._fidelity import Fidelity
from divergence_doctor.checkpoints._restoring import put_back, tell


class Held:
    """A variable, as far as it takes part: a path, a value, and what was assigned to it."""

    def __init__(self, path, shape=(2,), dtype="float32"):
        self.path, self.shape = path, shape
        self.value = SimpleNamespace(dtype=SimpleNamespace(as_numpy_dtype=np.dtype(dtype).type))
        self.took = None

    def assign(self, value):
        self.took = value


def array(path, mark, shape=(2,), dtype="float32"):
    return SimpleNamespace(path=path, shape=shape, dtype=dtype, load=lambda: mark)


def put(stored, held, root="net"):
    arrays = [array(path, mark) for mark, path in enumerate(stored)]
    variables = [Held(path) for path in held]
    pairs = put_back(arrays, variables, root=root)
    return [variable.took for variable in variables], pairs


@pytest.mark.parametrize(
    ("stored", "held", "took"),
    [
        (["a/kernel", "b/kernel"], ["b/kernel", "a/kernel"], [1, 0]),
        (["net/a/kernel", "net/b/kernel"], ["a/kernel", "b/kernel"], [0, 1]),
        (["net_3/a/kernel", "net_3/b/kernel"], ["b/kernel", "a/kernel"], [1, 0]),
        (["dense/kernel", "dense_1/kernel"], ["dense_1/kernel", "dense_2/kernel"], [0, 1]),
        (["seed_generator_3/state", "seed_generator_9/state"],
         ["seed_generator/state", "seed_generator_1/state"], [0, 1]),
        (["loss_scale_optimizer/adam/net_a_kernel_momentum", "loss_scale_optimizer/adam/net_b_x"],
         ["adam/a_kernel_momentum", "adam/b_x"], [0, 1]),
    ],
)  # fmt: skip
def test_by_path_where_all_are_known_else_by_order(stored, held, took):
    found, pairs = put(stored, held)
    assert found == took
    assert not pairs.missing
    assert not pairs.left
    assert not pairs.renamed


def test_other_names_in_the_same_order_are_told():
    found, pairs = put(["enc/kernel", "dec/kernel"], ["first/kernel", "last/kernel"])
    assert found == [0, 1]
    assert pairs.renamed == ["first/kernel took enc/kernel", "last/kernel took dec/kernel"]
    fidelity = Fidelity()
    tell(pairs, "weight", fidelity)
    assert "The code may not be that of the training." in fidelity.notes[0]


def test_where_the_numbers_differ_only_what_is_known_by_path_is_filled():
    found, pairs = put(["a/kernel", "c/kernel", "d/kernel"], ["a/kernel", "b/kernel"])
    assert found == [0, None]
    assert [v.path for v in pairs.missing] == ["b/kernel"]
    assert [one.path for one in pairs.left] == ["c/kernel", "d/kernel"]
    fidelity = Fidelity()
    tell(pairs, "weight", fidelity)
    assert "no value for the weight b/kernel" in fidelity.notes[0]
    assert "holds the weight c/kernel, d/kernel, for which" in fidelity.notes[1]


@pytest.mark.parametrize(
    "other",
    [array("a/kernel", 0, shape=(3,)), array("a/kernel", 0, dtype="float16"), array("a/bias", 0)],
)
def test_what_does_not_fit_is_not_assigned(other):
    held = Held("a/kernel")
    pairs = put_back([other], [held], root="net")
    assert held.took is None
    assert (len(pairs.missing), len(pairs.left)) == (1, 1)
