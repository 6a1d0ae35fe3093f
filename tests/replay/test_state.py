"""Is everything put back that a step has changed?"""

import numpy as np


def test_a_snapshot_puts_back_what_a_stateful_rnn_has_carried_over(keras):
    from divergence_doctor.replay import Snapshot

    model = keras.Sequential(
        [keras.layers.Input(batch_shape=(2, 3, 1)), keras.layers.LSTM(4, stateful=True)]
    )
    model.compile("sgd", "mse")
    snapshot = Snapshot(model)
    model(np.ones((2, 3, 1), "float32"))
    states = model.layers[0].states
    assert all(np.any(state.numpy()) for state in states)
    snapshot.restore()
    assert not any(np.any(state.numpy()) for state in states)


def test_layers_are_found_by_their_paths_in_nested_models_too(keras):
    from divergence_doctor.replay.state import layers_at

    inner = keras.Sequential(
        [keras.layers.Input((3,)), keras.layers.LayerNormalization(name="norm")], name="block"
    )
    model = keras.Sequential([keras.layers.Input((3,)), inner, keras.layers.Dense(1, name="out")])
    found = layers_at(model, ["block/norm", "out", "norm"])
    assert {layer.name for layer in found} == {"norm", "out"}
    assert layers_at(model, ["nowhere"]) == []
