"""A survival loss is divided by the number of observed events, and everybody in the batch lives.

From liupei101/TFDeepSurv#15.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "loss",
    "layer": None,
    "op": "RealDiv",
    "samples": [],
}


@keras.saving.register_keras_serializable("b09")
def partial_likelihood(y_true, y_pred):
    """Return the negative log partial likelihood (Breslow) for each event."""
    time, event = y_true[:, 0], y_true[:, 1]
    order = tf.argsort(time, direction="DESCENDING", stable=True)
    risk, event = tf.gather(y_pred[:, 0], order), tf.gather(event, order)
    at_risk = tf.math.cumulative_logsumexp(risk)
    return -tf.reduce_sum((risk - at_risk) * event) / tf.reduce_sum(event)


def model():
    """Return a net for the log of the hazard."""
    built = keras.Sequential(
        [
            keras.Input((7,), name="patient"),
            keras.layers.Dense(16, activation="selu", kernel_initializer="lecun_normal"),
            keras.layers.AlphaDropout(0.1),
            keras.layers.Dense(8, activation="selu", kernel_initializer="lecun_normal"),
            keras.layers.Dense(1, use_bias=False, kernel_regularizer="l2"),
        ]
    )
    built.compile(keras.optimizers.SGD(1e-2, momentum=0.9, clipnorm=1.0), partial_likelihood)
    return built


def batch():
    """Return eight patients, all of them censored."""
    rng = np.random.default_rng(9)
    time = rng.exponential(24.0, 8)
    return {
        "x": rng.normal(size=(8, 7)).astype("float32"),
        "y": np.stack([time, np.zeros(8)], axis=1).astype("float32"),
    }
