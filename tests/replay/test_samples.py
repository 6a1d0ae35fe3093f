"""Is the sample to blame still known after the rows were sorted, picked or shuffled?"""

import json

import numpy as np
import pytest
import tensorflow as tf

X = np.array([[1.0, 1, 1], [-1, -1, 0], [2, 1, 1], [3, 1, 1]], "float32")
Y = np.array([[4.0], [3], [2], [1]], "float32")


def log_of(pick):
    """Return a loss that takes the log of the predictions in another order."""

    def loss(y_true, y_pred):
        return -tf.reduce_mean(tf.math.log(pick(y_true, tf.nn.relu(y_pred))))

    return loss


def sorted_by_target(y_true, y_pred):
    return tf.gather(y_pred, tf.argsort(y_true[:, 0]))


def shuffled(_, y_pred):
    return tf.gather(y_pred, tf.random.shuffle(tf.range(tf.shape(y_pred)[0]), seed=1))


def sorted_twice(y_true, y_pred):
    order = tf.argsort(y_true[:, 0])
    return tf.gather(tf.gather(y_pred, order), order)


def sorted_alike(y_true, y_pred):
    order = tf.argsort(y_true[:, 0])
    return tf.gather(y_true, order) * tf.gather(y_pred, order)


def upside_down(_, y_pred):
    return tf.reverse(y_pred, [0])


def back_to_front(_, y_pred):
    return tf.roll(tf.reverse(y_pred, [1]), 1, -1)


def mixed(y_true, y_pred):
    return sorted_by_target(y_true, y_pred) * y_pred


@pytest.mark.parametrize(
    ("pick", "samples"),
    [
        (lambda _, y_pred: y_pred, [1]),
        (sorted_by_target, [1]),
        (shuffled, [1]),
        (sorted_twice, [1]),
        (sorted_alike, [1]),
        (back_to_front, [1]),
        # Rows of two orders at once, or moved by an op that does not tell how: nobody is blamed.
        (upside_down, []),
        (mixed, []),
    ],
)
def test_the_blamed_sample_is_that_of_the_batch(keras, replayed, primary, pick, samples):
    model = keras.Sequential(
        [keras.layers.Input((3,)), keras.layers.Dense(1, kernel_initializer="ones", name="out")]
    )
    model.compile("sgd", log_of(pick))
    event = primary(replayed(model, x=X, y=Y))
    assert (event["op_type"], json.loads(event["samples"])) == ("Log", samples)


def test_a_derivative_in_another_order_is_put_back_too(keras, replayed, primary):
    def loss(y_true, y_pred):
        norms = tf.norm(sorted_by_target(y_true, y_pred), axis=-1)
        return tf.reduce_mean(norms * tf.range(1.0, 5.0))

    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(2, use_bias=False)])
    model.compile("sgd", loss)
    x = X.copy()
    x[2] = 0
    event = primary(replayed(model, x=x, y=Y))
    assert (event["op_type"], event["derivative"]) == ("Sqrt", True)
    assert json.loads(event["samples"]) == [2]


def test_a_where_on_the_way_leaves_only_the_samples_that_it_lets_through(keras, replayed, primary):
    def loss(y_true, y_pred):
        seen = y_true[:, :1] > 0
        return tf.reduce_mean(tf.where(seen, tf.math.log(y_true[:, 1:]), 0.0) * y_pred)

    model = keras.Sequential([keras.layers.Input((3,)), keras.layers.Dense(1)])
    model.compile("sgd", loss)
    widths = np.array([[0.0, 0.0], [1, 0.5], [1, 0.0], [0, 0.0]], "float32")
    event = primary(replayed(model, x=X, y=widths))
    assert (event["op_type"], json.loads(event["samples"])) == ("Log", [2])
