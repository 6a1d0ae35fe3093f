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
