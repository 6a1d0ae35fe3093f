"""Healthy: log_softmax of logits near 1e4 is exact, though softmax alone has zeros there."""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}


@keras.saving.register_keras_serializable("h_log_softmax")
def negative_log_likelihood(y_true, y_pred):
    """Return minus the log-probability of the true token, averaged over the caption."""
    chosen = tf.gather(y_pred, tf.cast(y_true, tf.int32), axis=-1, batch_dims=2)
    return -tf.reduce_mean(chosen, axis=-1)


def model():
    """Return a captioner: image features, then a token at each place."""
    image = keras.Input((6, 6, 2), name="image")
    features = keras.layers.Conv2D(8, 3, strides=2, activation="relu", name="conv")(image)
    state = keras.layers.RepeatVector(4)(keras.layers.Flatten()(features))
    state = keras.layers.LSTM(12, return_sequences=True, name="writer")(state)
    logits = keras.layers.Dense(9, name="logits")(state)
    tokens = keras.layers.Activation("log_softmax", name="tokens")(logits)
    built = keras.Model(image, tokens)
    built.compile(keras.optimizers.Adam(1e-3), negative_log_likelihood)
    kernel, bias = built.get_layer("logits").get_weights()
    built.get_layer("logits").set_weights([kernel * 2e4, bias])
    return built


def batch():
    """Return eight images with captions of four tokens."""
    rng = np.random.default_rng(0)
    return {
        "x": rng.random((8, 6, 6, 2)).astype("float32"),
        "y": rng.integers(0, 9, (8, 4)).astype("int32"),
    }
