"""Is the cell named that is to blame, and only where it is a cell?"""

import numpy as np
import pytest
import tensorflow as tf

from tests.replay.test_delta import X, Y, blamed, minus_log, mlp  # noqa: F401 - a fixture


@pytest.fixture
def cells(blamed):  # noqa: F811
    """Return a function that gives the guilty cells of a failing step."""

    def find(model, arrays, **options):
        blamed(model, arrays, **options)
        rows = blamed.trace.table("culprits")
        return [
            (row["array"], row["index"], row["value"], row["evidence"])
            for row in rows.where(rows["array"] != "").rows()
        ]

    return find


def test_a_nan_is_named_with_its_index(keras, cells):
    x = X.copy()
    x[5, 2] = np.nan
    (found,) = cells(mlp(keras), {"x": x, "y": Y})
    assert (found[0], found[1], found[3]) == ("x", "5,2", "non-finite")
    assert np.isnan(found[2])


def test_a_nan_in_a_row_that_fails_for_another_reason_is_not_named(keras, cells):
    x = np.concatenate([X, np.zeros((16, 1), "float32")], axis=1)
    x[5, :4] = 0.0
    x[5, 4] = np.nan

    class Ignore(keras.layers.Layer):
        def call(self, inputs):
            return inputs[:, :4]

    model = keras.Sequential(
        [keras.layers.Input((5,)), Ignore(), keras.layers.Dense(1, use_bias=False)]
    )
    model.compile("sgd", minus_log)
    model.layers[1].kernel.assign(np.ones((4, 1)))
    assert cells(model, {"x": x, "y": Y}) == []


def test_an_index_out_of_range_is_named(keras, cells):
    model = keras.Sequential(
        [
            keras.layers.Input((3,), dtype="int32"),
            keras.layers.Embedding(10, 2),
            keras.layers.Flatten(),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    tokens = np.ones((16, 3), "int32")
    tokens[6, 1] = 12
    assert cells(model, {"x": tokens, "y": Y}, claimed=[6]) == [("x", "6,1", 12.0, "out-of-range")]


def test_a_label_out_of_range_is_named(keras, cells):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, "softmax")])
    model.compile("sgd", "sparse_categorical_crossentropy")
    labels = np.arange(16) % 3
    labels[8] = 7
    assert cells(model, {"x": X, "y": labels}, claimed=[8]) == [("y", "8", 7.0, "out-of-range")]


def test_the_zero_that_a_logarithm_is_taken_of_is_named(keras, cells):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])

    def log_of_target(y_true, y_pred):
        return tf.reduce_mean((tf.math.log(y_true) - y_pred) ** 2)

    model.compile("sgd", log_of_target)
    y = np.abs(Y) + 0.1
    y[11] = 0.0
    assert cells(model, {"x": X, "y": y}) == [("y", "11,0", 0.0, "fed-to-op")]


def test_the_outlier_that_the_chain_ends_at_is_named(keras, cells):
    model = mlp(keras, lambda _, y_pred: tf.exp(y_pred))
    x = X.copy()
    x[4, 3] = 1e4
    assert cells(model, {"x": x, "y": Y}) == [("x", "4,3", 1e4, "fed-to-op")]


def test_one_cell_of_a_short_row_is_found_by_halving(keras, cells):
    model = mlp(keras, minus_log)
    x = X.copy()
    x[3, 1] = -9.0
    assert cells(model, {"x": x, "y": Y}) == [("x", "3,1", -9.0, "halving")]


def test_no_cell_is_named_where_it_takes_the_whole_row(keras, cells):
    x = X.copy()
    x[3] = -1.0
    assert cells(mlp(keras, minus_log), {"x": x, "y": Y}) == []
