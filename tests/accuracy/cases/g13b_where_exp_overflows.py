"""A firing rate is where(z > 50, z, exp(z)), and at z near 100 the branch not taken is infinite.

The loss does not see it, the derivative does: 0 * inf. From tensorflow/tensorflow#27684.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": "rate",
    "op": "Exp",
    "samples": [3, 5],
}


@keras.saving.register_keras_serializable("g13b")
def capped_exponential(z):
    """Return exp(z), which turns linear where it would grow too large."""
    return tf.where(z > 50.0, z, tf.exp(z))


@keras.saving.register_keras_serializable("g13b")
class SpikingModel(keras.Model):
    """Predicts the spike counts of a few neurons from the stimulus."""

    def __init__(self, neurons=3, **kwargs):
        super().__init__(**kwargs)
        self.neurons = neurons
        self.filters = keras.layers.Conv1D(4, 5, activation="tanh", name="filters")
        self.flat = keras.layers.Flatten(name="flat")
        self.rate = keras.layers.Dense(neurons, activation=capped_exponential, name="rate")

    def call(self, stimulus):
        """Return the rate of each neuron."""
        return self.rate(self.flat(self.filters(stimulus)))

    def get_config(self):
        """Return what the model is made of."""
        return {**super().get_config(), "neurons": self.neurons}


def model():
    """Return the model; a sustained stimulus drives the first neuron hard."""
    built = SpikingModel(name="spikes")
    built(np.zeros((1, 12, 1), "float32"))
    built.compile(keras.optimizers.Adam(1e-3), "poisson", run_eagerly=True)
    built.filters.set_weights([np.full((5, 1, 4), 0.6), np.zeros(4)])
    weights = np.random.default_rng(1).normal(size=(32, 3)) * 0.05
    weights[:, 0] = 3.3
    built.rate.set_weights([weights, np.array([0.0, 0.5, 0.5])])
    return built


def batch():
    """Return eight stimuli; in two of them it is held up throughout."""
    rng = np.random.default_rng(0)
    phase = np.arange(12) * np.pi / 2.5 + rng.uniform(0.0, 6.0, (8, 1))
    stimulus = np.sin(phase)[..., None].astype("float32")
    stimulus[[3, 5]] = 1.0
    spikes = rng.poisson(2.0, (8, 3)).astype("float32")
    spikes[[3, 5], 0] = [95.0, 104.0]
    return {"x": stimulus, "y": spikes}
