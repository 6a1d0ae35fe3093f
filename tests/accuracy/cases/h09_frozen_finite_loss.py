"""The loss is finite and its gradient never: loss scaling skips every step, the loss stands still.

The output starts at zero and one target is zero, where a norm has no derivative.
From openai/guided-diffusion#50 and tensorflow/tensorflow#38357.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": None,
    "op": "Sqrt",
    "samples": [6],
}

SIZE = 8


@keras.saving.register_keras_serializable("h09b")
def euclidean_error(noise, predicted):
    """Return the distance between noise and prediction, one for each image."""
    return tf.norm(tf.reshape(noise - predicted, (-1, SIZE * SIZE)), axis=-1)


def model():
    """Return a denoiser whose last convolution starts at zero, under mixed precision."""
    keras.config.set_dtype_policy("mixed_float16")
    noisy = keras.Input((SIZE, SIZE, 1), name="noisy")
    hidden = keras.layers.Conv2D(8, 3, padding="same", activation="silu", name="conv_in")(noisy)
    hidden = keras.layers.GroupNormalization(4, name="norm")(hidden)
    hidden = keras.layers.Conv2D(8, 3, padding="same", activation="silu", name="mid")(hidden)
    noise = keras.layers.Conv2D(
        1, 3, padding="same", kernel_initializer="zeros", dtype="float32", name="zero_conv"
    )(hidden)
    built = keras.Model(noisy, noise)
    built.compile(keras.optimizers.Adam(1e-4), loss=euclidean_error)
    return built


def batch():
    """Return eight images with their noise; the seventh is clean."""
    rng = np.random.default_rng(0)
    images = rng.uniform(-1, 1, (8, SIZE, SIZE, 1)).astype("float32")
    noise = rng.normal(size=images.shape).astype("float32")
    noise[6] = 0.0
    return {"x": images + noise, "y": noise}
