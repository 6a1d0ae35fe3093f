"""Healthy: log1p of raw counts from 0 to a million, under a Poisson loss with a softplus rate."""

import keras
import numpy as np
from keras import ops

EXPECTED = {"outcome": "healthy"}


@keras.saving.register_keras_serializable("h_log1p")
class Log1p(keras.layers.Layer):
    """Compresses counts."""

    def call(self, counts):
        """Return log(1 + counts)."""
        return ops.log1p(counts)


def model():
    """Return a model of gene expression from raw reads and the size of the library."""
    reads = keras.Input((15,), name="reads")
    library = keras.Input((1,), name="library")
    both = keras.layers.Concatenate()([Log1p(name="log_reads")(reads), library])
    hidden = keras.layers.BatchNormalization(name="norm")(
        keras.layers.Dense(12, activation="relu", name="hidden")(both)
    )
    rate = keras.layers.Dense(3, activation="softplus", name="rate")(hidden)
    built = keras.Model({"reads": reads, "library": library}, rate)
    built.compile(keras.optimizers.Adam(1e-2), "poisson")
    return built


def batch():
    """Return sixteen cells; most genes are silent, a few are read a million times."""
    rng = np.random.default_rng(0)
    reads = np.where(rng.random((16, 15)) < 0.6, 0.0, np.floor(10 ** rng.uniform(0, 6, (16, 15))))
    return {
        "x/reads": reads.astype("float32"),
        "x/library": np.log10(1.0 + reads.sum(axis=1, keepdims=True)).astype("float32"),
        "y": rng.poisson(2.0, (16, 3)).astype("float32"),
    }
