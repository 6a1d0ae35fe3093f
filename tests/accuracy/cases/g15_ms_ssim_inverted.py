"""Images are restored under the multi-scale SSIM, and one target is a negative: 0 to the power 0.3.

The structure term is negative, the ReLU in MS-SSIM makes it zero. From tensorflow/tensorflow#50400.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": None,
    "op": "Pow",
    "samples": [1],
}


@keras.saving.register_keras_serializable("g15")
def ms_ssim_loss(y_true, y_pred):
    """Return 1 - MS-SSIM of each image, over three scales."""
    return 1.0 - tf.image.ssim_multiscale(y_true, y_pred, 1.0, power_factors=(0.3, 0.4, 0.3))


def model():
    """Return a residual net that takes the noise out of an image."""
    noisy = keras.Input((64, 64, 1), name="noisy")
    hidden = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name="conv_1")(noisy)
    noise = keras.layers.Conv2D(1, 3, padding="same", name="conv_2")(hidden)
    clean = keras.layers.Subtract(name="clean")([noisy, noise])
    built = keras.Model(noisy, clean)
    built.compile(keras.optimizers.Adam(1e-3), ms_ssim_loss)
    kernel, bias = built.get_layer("conv_2").get_weights()
    built.get_layer("conv_2").set_weights([kernel * 0.1, bias])
    return built


def batch():
    """Return four images; of the second the target was stored as a negative."""
    rng = np.random.default_rng(0)
    coarse = rng.random((4, 16, 16, 1))
    clean = np.kron(coarse, np.ones((1, 4, 4, 1))).astype("float32")
    noisy = clean + rng.normal(size=clean.shape).astype("float32") * 0.05
    clean[1] = 1.0 - clean[1]
    return {"x": noisy, "y": clean}
