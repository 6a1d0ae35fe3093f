"""One model of every family of ``keras.applications``: watched equals plain, all layers seen."""

import pytest

from divergence_doctor._clean import clean
from tests.replay.kinds._comparison import plain, watched
from tests.replay.kinds._kind import classes, normal

#: The smallest member of each family, with the smallest image it takes.
FAMILIES = {
    "ConvNeXtTiny": 32,
    "DenseNet121": 32,
    "EfficientNetB0": 32,
    "EfficientNetV2B0": 32,
    "InceptionResNetV2": 75,
    "InceptionV3": 75,
    "MobileNet": 32,
    "MobileNetV2": 32,
    "MobileNetV3Small": 32,
    "NASNetMobile": 32,
    "ResNet50": 32,
    "ResNet50V2": 32,
    "VGG16": 32,
    "Xception": 71,
}


def test_no_family_is_missing(keras):
    import pkgutil

    from keras.src import applications

    modules = {module.name for module in pkgutil.iter_modules(applications.__path__)}
    modules -= {"imagenet_utils", "applications_test", "imagenet_utils_test"}
    covered = {getattr(keras.applications, name).__module__.rpartition(".")[2] for name in FAMILIES}
    # VGG19 is VGG16 with three layers more.
    assert modules - covered == {"vgg19"}


@pytest.mark.slow
@pytest.mark.parametrize("name", FAMILIES)
def test_a_watched_step_equals_a_plain_one_and_every_layer_is_seen(keras, name):
    size = FAMILIES[name]
    model = getattr(keras.applications, name)(weights=None, classes=3, input_shape=(size, size, 3))
    model.compile("sgd", "sparse_categorical_crossentropy")
    arrays = {"x": 255 * abs(normal(2, size, size, 3)) / 4, "y": classes(2, 3)}
    alone = plain(model, arrays)
    seen = watched(model, arrays)
    assert seen.trace.outcome == "healthy"
    assert seen.targets == alone.targets
    assert seen.gradients == alone.gradients
    assert [name for name in alone.state if seen.state.get(name) != alone.state[name]] == []
    assert alone.layers <= set(seen.trace.table("activations")["layer"].tolist())
    back = seen.trace.table("gradients")["variable"].tolist()
    assert {name for name in back if name} == {clean(v.path) for v in model.trainable_variables}
    # Behind the first convolution, the gradient comes back to every layer.
    forward = list(dict.fromkeys(seen.trace.table("activations")["layer"].tolist()))
    first = next(layer.name for layer in model.layers if layer.trainable_weights)
    came_back = set(seen.trace.table("gradients").select(variable="")["layer"].tolist())
    assert set(forward[forward.index(first) :]) <= came_back
