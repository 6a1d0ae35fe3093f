"""One image of the batch is NaN: loss scaling skips every step for good and nothing ever trains.

From openai/guided-diffusion#50 and tensorflow/tensorflow#38357.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-input",
    "stage": "data",
    "samples": [3],
}

SIZE, STEPS = 8, 100


@keras.saving.register_keras_serializable("h09")
class Diffusion(keras.Model):
    """Predicts the noise that was mixed into an image."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.time = keras.layers.Embedding(STEPS, 8, name="time")
        self.conv_in = keras.layers.Conv2D(8, 3, padding="same", activation="silu", name="conv_in")
        self.conv_mid = keras.layers.Conv2D(8, 3, padding="same", activation="silu", name="mid")
        self.conv_out = keras.layers.Conv2D(1, 3, padding="same", dtype="float32", name="conv_out")

    def call(self, inputs):
        """Return the predicted noise."""
        hidden = self.conv_in(inputs["noisy"]) + self.time(inputs["t"])[:, None, None, :]
        return self.conv_out(self.conv_mid(hidden))


def model():
    """Return the denoiser under mixed precision, with the loss scale that compile() adds."""
    keras.config.set_dtype_policy("mixed_float16")
    built = Diffusion(name="diffusion")
    built({"noisy": ops.zeros((1, SIZE, SIZE, 1)), "t": ops.zeros((1,), "int32")})
    built.compile(keras.optimizers.AdamW(1e-4), "mse")
    return built


def batch():
    """Return eight noisy images and their noise; the fourth was divided by its range of zero."""
    rng = np.random.default_rng(0)
    images = rng.random((8, SIZE, SIZE, 1)).astype("float32")
    images[3] = 0.5
    low, high = images.min((1, 2, 3), keepdims=True), images.max((1, 2, 3), keepdims=True)
    with np.errstate(invalid="ignore"):
        images = 2 * (images - low) / (high - low) - 1
    noise = rng.normal(size=images.shape).astype("float32")
    t = np.array([1, 5, 60, 20, 99, 42, 8, 77], "int32")
    keep = (1 - t / STEPS).astype("float32").reshape(-1, 1, 1, 1)
    noisy = np.sqrt(keep) * images + np.sqrt(1 - keep) * noise
    return {"x/noisy": noisy.astype("float32"), "x/t": t, "y": noise}
