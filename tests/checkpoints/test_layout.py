"""Does Keras still keep each variable where the walk says? It is a private door."""

from __future__ import annotations

from typing import Any

import h5py
import keras
import pytest

from divergence_doctor.checkpoints._layout import layout


def mixed(model: Any) -> Any:
    keras.config.set_dtype_policy("mixed_float16")
    try:
        return model()
    finally:
        keras.config.set_dtype_policy("float32")


def nested() -> Any:
    inner = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="deep")], name="inner")
    inputs = keras.Input((4,))
    hidden = keras.layers.BatchNormalization()(keras.layers.Dense(3)(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(inner(hidden)))
    model.compile("adam", "mse", metrics=["mae"])
    return model


class Gan(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.bodies = [keras.layers.Dense(2), keras.layers.Dense(1)]

    def call(self, x):
        return self.bodies[1](self.bodies[0](x))

    def compile(self, first, second):
        super().compile()
        self.first, self.second = first, second


def gan() -> Any:
    model = Gan()
    model(keras.ops.ones((1, 4)))
    model.compile(keras.optimizers.Adam(), keras.optimizers.RMSprop())
    for optimizer in (model.first, model.second):
        optimizer.build(model.trainable_variables)
    return model


@pytest.mark.parametrize("make", [nested, lambda: mixed(nested), gan], ids=["nested", "mixed", "2"])
def test_the_walk_gives_the_paths_and_the_owners_of_the_file_that_keras_writes(make, tmp_path):
    model = make()
    if model.optimizer is not None:
        model.optimizer.build(model.trainable_variables)
    model.save_weights(tmp_path / "m.weights.h5")
    datasets, owners = {}, {}

    def visit(name, item):
        if isinstance(item, h5py.Dataset):
            datasets[name] = item.shape
        elif name.endswith("/vars"):
            owners[name.removesuffix("/vars")] = item.attrs["name"]

    with h5py.File(tmp_path / "m.weights.h5") as file:
        file.visititems(visit)
    found = layout(model)

    assert {name: tuple(value.shape) for name, value in found.values.items()} == datasets
    assert {place: name for place, name in found.owners.items() if place} == owners
    held = {id(value) for value in found.values.values()}
    optimizers = [v for v in vars(model).values() if isinstance(v, keras.optimizers.Optimizer)]
    for variable in (*model.weights, *(v for o in optimizers for v in o.variables)):
        assert id(variable) in held, variable.path
