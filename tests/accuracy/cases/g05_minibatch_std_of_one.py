"""A minibatch-deviation feature meets the last batch of an epoch, one image: the std of one value.

From tensorflow/tensorflow#56830.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": "minibatch_std",
    "op": "Sqrt",
    "samples": [],
}


@keras.saving.register_keras_serializable("g05")
class MinibatchDeviation(keras.layers.Layer):
    """Appends the mean deviation across the batch to every sample, as a critic of variety."""

    def call(self, features):
        """Return the features with one more column."""
        deviation = tf.reduce_mean(tf.math.reduce_std(features, axis=0))
        column = tf.fill([tf.shape(features)[0], 1], deviation)
        return tf.concat([features, column], axis=-1)

    def compute_output_shape(self, shape):
        """Return the shape with one more column."""
        return (*shape[:-1], shape[-1] + 1)


def model():
    """Return the discriminator of a GAN."""
    built = keras.Sequential(
        [
            keras.Input((8, 8, 1)),
            keras.layers.Conv2D(6, 3, strides=2, name="down"),
            keras.layers.LeakyReLU(negative_slope=0.2),
            keras.layers.Flatten(),
            keras.layers.Dense(6, name="features"),
            MinibatchDeviation(name="minibatch_std"),
            keras.layers.Dense(1, name="real"),
        ]
    )
    loss = keras.losses.BinaryCrossentropy(from_logits=True)
    built.compile(keras.optimizers.Adam(2e-4, beta_1=0.5), loss)
    return built


def batch():
    """Return what was left of the images: one."""
    image = np.random.default_rng(0).uniform(-1.0, 1.0, (1, 8, 8, 1)).astype("float32")
    return {"x": image, "y": np.ones((1, 1), "float32")}
