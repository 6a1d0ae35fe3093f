"""A DAGMM factorises the covariance of its codes, and one unit of the code is dead: it is singular.

From tnakae/DAGMM#21 and danieltan07/dagmm#15.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "invalid-domain",
    "stage": "forward",
    "layer": "energy",
    "op": "Cholesky",
    "samples": [],
}


@keras.saving.register_keras_serializable("m01")
class MixtureEnergy(keras.layers.Layer):
    """Energy of each code under the Gaussian mixture that the batch itself spans."""

    def call(self, code, membership):
        """Return the energy; its mean is the layer's loss."""
        mass = tf.reduce_sum(membership, axis=0)
        mean = tf.matmul(membership, code, transpose_a=True) / mass[:, None]
        centred = code[:, None, :] - mean[None]
        outer = tf.einsum("nk,nki,nkj->kij", membership, centred, centred)
        factor = tf.linalg.cholesky(outer / mass[:, None, None])
        white = tf.linalg.triangular_solve(factor, tf.transpose(centred, [1, 2, 0]))
        log_det = 2.0 * tf.reduce_sum(tf.math.log(tf.linalg.diag_part(factor)), axis=-1)
        log_part = tf.math.log(mass / tf.reduce_sum(mass)) - 0.5 * log_det
        log_each = log_part[:, None] - 0.5 * tf.reduce_sum(white**2, axis=1)
        energy = -tf.reduce_logsumexp(log_each, axis=0)
        self.add_loss(0.1 * tf.reduce_mean(energy))
        return energy[:, None]


def model():
    """Return auto-encoder, estimation net and mixture; the bias of one code unit has run off."""
    record = keras.Input((8,), name="record")
    hidden = keras.layers.Dense(8, activation="tanh", name="encoder")(record)
    code = keras.layers.Dense(3, activation="relu", name="code")(hidden)
    made = keras.layers.Dense(8, activation="tanh", name="decoder")(code)
    made = keras.layers.Dense(8, name="made")(made)
    membership = keras.layers.Dense(2, activation="softmax", name="membership")(code)
    energy = MixtureEnergy(name="energy")(code, membership)
    built = keras.Model(record, {"made": made, "energy": energy})
    built.compile(keras.optimizers.Adam(1e-4), {"made": "mse"})
    kernel, _ = built.get_layer("code").get_weights()
    built.get_layer("code").set_weights([kernel, np.array([0.5, -9.0, 0.5])])
    return built


def batch():
    """Return sixteen records of a network log."""
    records = np.random.default_rng(0).normal(size=(16, 8)).astype("float32")
    return {"x/record": records, "y/made": records}
