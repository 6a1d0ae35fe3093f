"""A batch under the names of a batch file, in every structure that a step may be given."""

from __future__ import annotations

import numpy as np
import pytest

from divergence_doctor.capture import batch as batches


def _named(data):
    return batches.named(batches.keep(data))


def test_the_parts_of_a_batch_go_by_the_names_that_doctor_replay_reads(keras):
    import tensorflow as tf

    x, y, w = tf.ones((2, 3)), tf.zeros((2,), tf.int32), np.ones(2)
    cases = {
        ("x",): x,
        ("x", "y"): (x, y),
        ("sample_weight", "x", "y"): (x, y, w),
        ("x/a", "x/b", "y"): ({"a": x, "b": x}, y),
        ("x_0", "x_1", "y/out"): ([x, x], {"out": y}),
        ("x", "y_0", "y_1"): (x, (y, y)),
    }
    for names, data in cases.items():
        found = _named(data)
        assert tuple(sorted(found.arrays)) == names
        assert found.structure is None
        assert found.missing == []


def test_a_part_that_is_not_there_has_no_name(keras):
    import tensorflow as tf

    found = _named((np.ones((2, 3)), None, None))
    assert list(found.arrays) == ["x"]
    empty = tf.experimental.Optional.empty(tf.TensorSpec((), tf.float32))
    assert list(_named((np.ones(2), empty)).arrays) == ["x"]


def test_containers_in_containers_are_told_beside_the_names(keras):
    found = _named(({"a": {"b": np.ones(1), "c": [np.ones(1), np.ones(1)]}}, np.zeros(1)))
    assert sorted(found.arrays) == ["x/a/b", "x/a/c_0", "x/a/c_1", "y"]
    inner = {"dict": {"b": {"array": "x/a/b"},
                      "c": {"list": [{"array": "x/a/c_0"}, {"array": "x/a/c_1"}]}}}  # fmt: skip
    assert found.structure == {"tuple": [{"dict": {"a": inner}}, {"array": "y"}]}


def test_a_batch_of_more_than_three_parts_is_one_structure(keras):
    found = _named(tuple(np.full(1, n) for n in range(4)))
    assert sorted(found.arrays) == ["x_0", "x_1", "x_2", "x_3"]


def test_ragged_sparse_text_and_half_precision_are_kept(keras):
    import tensorflow as tf

    ragged = _named((tf.ragged.constant([[1, 2], [3]]), np.zeros(2)))
    assert ragged.arrays["x/values"].tolist() == [1, 2, 3]
    assert ragged.arrays["x/row_splits"].tolist() == [0, 2, 3]
    sparse = _named((tf.sparse.from_dense([[0.0, 2.0]]), np.zeros(1)))
    assert sparse.arrays["x"].tolist() == [[0.0, 2.0]]
    assert sparse.structure["tuple"][0] == {"sparse": "x"}
    text = _named(tf.constant([b"one", b"three"]))
    assert text.arrays["x"].tolist() == [b"one", b"three"]
    half = _named(tf.constant([1.5, 2.5], tf.bfloat16))
    assert half.arrays["x"].dtype == np.float32
    assert half.arrays["x"].tolist() == [1.5, 2.5]


def test_what_cannot_be_kept_is_named(keras):
    import tensorflow as tf

    twice = tf.ragged.constant([[[1], [2, 3]], [[4]]])
    found = _named((twice, np.zeros(2)))
    assert list(found.arrays) == ["y"]
    assert found.missing == ["x: a tensor that is ragged along two axes"]


def test_names_that_no_file_may_hold_are_told_otherwise_and_stay_apart(keras):
    found = _named(({"a/b": np.zeros(1), "a\\b": np.ones(1), "../c": np.ones(1)}, np.zeros(1)))
    assert len(found.arrays) == 4
    assert all("\\" not in name and name.count("/") <= 1 for name in found.arrays)
    told = found.structure["tuple"][0]["dict"]
    assert found.arrays[told["a/b"]["array"]].tolist() == [0.0]
    assert found.arrays[told["a\\b"]["array"]].tolist() == [1.0]


def test_arrays_are_copied_and_tensors_are_not(keras):
    import tensorflow as tf

    array, tensor, variable = np.zeros(2), tf.zeros(2), tf.Variable([0.0, 0.0])
    kept = batches.keep((array, tensor, variable, [1, 2]))
    array[:] = 9
    variable.assign([9.0, 9.0])
    assert kept[0].tolist() == [0, 0]
    assert kept[1] is tensor
    assert kept[2].numpy().tolist() == [0, 0]
    assert batches.size((np.zeros(4, np.float32), {"a": tf.zeros((2, 2))}, None)) == 32


@pytest.mark.parametrize("data", [(), None, [], {}, "text", 3])
def test_anything_at_all_is_no_error(keras, data):
    assert batches.named(batches.keep(data)).arrays.keys() <= {"x", "x_0", "x_1"}
    assert batches.samples(data) == 0
