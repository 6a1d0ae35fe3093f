"""Small models in which a step draws random numbers, moves statistics, or runs the user's code."""

from __future__ import annotations

import numpy as np

FEATURES = 6
SAMPLES = 52
BATCH = 8


def data(seed=0, samples=SAMPLES):
    """Return inputs and targets whose last batch is a partial one."""
    rng = np.random.default_rng(seed)
    x = rng.random((samples, FEATURES), np.float32)
    return x, x.sum(axis=1, keepdims=True)


def poisoned(sample=20):
    """Return the same with one target that is NaN."""
    x, y = data()
    y[sample] = np.nan
    return x, y


def dropout(**compiled):
    """Return a model whose step draws a mask."""
    import keras

    keras.utils.set_random_seed(0)
    return _compiled([keras.layers.Dense(5, "relu"), keras.layers.Dropout(0.4)], compiled)


def normalised(**compiled):
    """Return a model whose step moves statistics."""
    import keras

    keras.utils.set_random_seed(0)
    return _compiled([keras.layers.Dense(5), keras.layers.BatchNormalization()], compiled)


def half(**compiled):
    """Return a model that computes in half precision, with a loss scale."""
    import keras

    keras.config.set_dtype_policy("mixed_float16")
    keras.utils.set_random_seed(0)
    return _compiled([keras.layers.Dense(5, "relu")], compiled)


def custom(**compiled):
    """Return a model with a training step of the user's own, as Keras' guide has it."""
    import keras
    import tensorflow as tf

    class Custom(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                predicted = self(x, training=True)
                loss = self.compute_loss(y=y, y_pred=predicted)
            gradients = tape.gradient(loss, self.trainable_variables)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss, "mean": tf.reduce_mean(predicted)}

    keras.utils.set_random_seed(0)
    x = keras.Input((FEATURES,))
    model = Custom(x, keras.layers.Dense(1)(keras.layers.Dropout(0.4)(x)))
    model.compile("adam", "mse", **compiled)
    return model


def _compiled(layers, compiled):
    import keras

    model = keras.Sequential([keras.Input((FEATURES,)), *layers, keras.layers.Dense(1)])
    model.compile(compiled.pop("optimizer", "adam"), "mse", **compiled)
    return model


KINDS = {"Dropout": dropout, "BatchNormalization": normalised, "float16": half, "custom": custom}
MODES = {
    "graph": {},
    "eager": {"run_eagerly": True},
    "jit": {"jit_compile": True},
}


def state(model):
    """Return every variable of a model and its optimizer, as they are."""
    return [np.asarray(v.numpy()) for v in (*model.variables, *model.optimizer.variables)]


def assert_same(one, other):
    """Assert that two models hold the same, to the bit."""
    first, second = state(one), state(other)
    assert len(first) == len(second)
    for a, b in zip(first, second, strict=True):
        assert a.dtype == b.dtype
        assert a.tobytes() == b.tobytes()
