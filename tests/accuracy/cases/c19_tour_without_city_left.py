"""A pointer net masks the cities it has visited with -inf, and one tour has visited them all.

The family of pytorch/pytorch#41508 and tensorforce/tensorforce#586.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "masked-softmax",
    "stage": "forward",
    "layer": "pointer",
    "op": "Softmax",
    "samples": [6],
}
HELD_OUT = True

CITIES = 5


@keras.saving.register_keras_serializable("c19")
class Pointer(keras.layers.Layer):
    """Gives each city its probability of being the next one."""

    def build(self, shapes):
        """Make the scorer."""
        self.scorer = keras.layers.Dense(1, name="scorer")
        self.scorer.build(shapes[0])

    def call(self, inputs):
        """Return the probabilities."""
        cities, visited = inputs
        scores = self.scorer(cities)[..., 0] + tf.where(visited > 0, -np.inf, 0.0)
        return tf.nn.softmax(scores)


def model():
    """Return the pointer behind an encoder of cities."""
    cities, visited = keras.Input((CITIES, 2), name="cities"), keras.Input((CITIES,), name="seen")
    coded = keras.layers.Dense(8, "tanh", name="encoder")(cities)
    built = keras.Model(
        {"cities": cities, "seen": visited}, Pointer(name="pointer")([coded, visited])
    )
    built.compile(keras.optimizers.Adam(1e-3), "categorical_crossentropy")
    return built


def batch():
    """Return nine tours on their way; the seventh is at its end."""
    rng = np.random.default_rng(31)
    seen = np.zeros((9, CITIES), "float32")
    seen[np.arange(9), np.arange(9) % CITIES] = 1
    seen[6] = 1
    target = np.roll(np.eye(CITIES, dtype="float32"), 1, 1)[np.arange(9) % CITIES]
    return {"x/cities": rng.random((9, CITIES, 2)).astype("float32"), "x/seen": seen, "y": target}
