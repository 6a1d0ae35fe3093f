"""Three unit conversions in a row are fine one by one; the graph multiplies them first: infinity.

The family of ROCm/legacy-rocm-build#6379: a scale moved by the compiler.
"""

import keras
import numpy as np

EXPECTED = {
    "outcome": "diverged",
    "cause": "execution-mismatch",
    "stage": "execution",
    "layer": "electronvolts",
}
HELD_OUT = True


@keras.saving.register_keras_serializable("c43")
class Electronvolts(keras.layers.Layer):
    """Turns masses of particles in kilograms into energies, in units of 1e9 eV."""

    def call(self, mass):
        """Return m c^2, over the charge of the electron, by way of one mole."""
        joules = mass * 6.022e23 * 8.988e16
        return joules * 6.242e18 * 1e-30 * 1.6605


def model():
    """Return a classifier of particles by mass, trained as a graph."""
    built = keras.Sequential(
        [
            keras.Input((3,)),
            Electronvolts(name="electronvolts"),
            keras.layers.Dense(8, "tanh", name="hidden"),
            keras.layers.Dense(1, name="charge"),
        ]
    )
    built.compile(keras.optimizers.SGD(1e-3), "mse", jit_compile=False)
    return built


def batch():
    """Return ten events of three particles, from electrons to protons."""
    rng = np.random.default_rng(55)
    mass = rng.choice([9.11e-31, 1.88e-28, 1.67e-27], (10, 3))
    return {"x": mass.astype("float32"), "y": rng.integers(-1, 2, (10, 1)).astype("float32")}
