"""Are the private doors of Keras and TensorFlow that the formats go through still there?"""

from divergence_doctor.checkpoints import _seams as seams


def test_an_object_that_a_config_names_twice_by_one_number_is_one_object(keras):
    layer = keras.layers.Dense(2, name="once")
    config = {**keras.saving.serialize_keras_object(layer), "shared_object_id": 7}
    with seams.shared_objects():
        first, second = (keras.saving.deserialize_keras_object(config) for _ in range(2))
    assert first is second
    assert keras.saving.deserialize_keras_object(config) is not first


def test_whether_ops_are_deterministic_is_known():
    assert seams.op_determinism() is False


def test_the_states_of_a_stateful_layer_deep_inside_are_found(keras):
    inner = keras.Sequential([keras.layers.GRU(3, stateful=True, name="gru")])
    model = keras.Sequential([keras.Input((4, 2), batch_size=5), inner, keras.layers.Dense(1)])
    (state,) = seams.layer_states(model)
    assert tuple(state.shape) == (5, 3)
    assert id(state) not in {id(variable) for variable in model.weights}
