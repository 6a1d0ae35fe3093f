from __future__ import annotations

import os

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

from typing import Any

import keras
import numpy as np
import pytest
import tensorflow as tf

from divergence_doctor.batches import Batch
from divergence_doctor.errors import BatchError
from divergence_doctor.replay.feeding import feed, match, tensors


def batch(**arrays: Any) -> Batch:
    return Batch({name: np.asarray(array) for name, array in arrays.items()}, "b.npz", "0")


def named(**arrays: Any) -> Batch:
    """A batch whose names hold a slash, written as a doubled underscore."""
    return batch(**{name.replace("__", "/"): array for name, array in arrays.items()})


def refusal(fed: Batch, model: Any) -> BatchError:
    with pytest.raises(BatchError) as caught:
        match(fed, model)
    assert caught.value.why
    assert caught.value.fix
    return caught.value


def compiled(model: Any, loss: Any = "mse") -> Any:
    model.compile("sgd", loss)
    return model


@pytest.fixture(scope="module")
def one():
    return compiled(keras.Sequential([keras.Input((4,), name="features"), keras.layers.Dense(2)]))


def two_inputs() -> tuple[Any, Any]:
    return keras.Input((2, 2), name="image"), keras.Input((3,), name="tabular")


def joined(image: Any, tabular: Any) -> Any:
    return keras.layers.Concatenate()([keras.layers.Flatten()(image), tabular])


@pytest.fixture(scope="module")
def listed():
    image, tabular = two_inputs()
    return compiled(keras.Model([image, tabular], keras.layers.Dense(1)(joined(image, tabular))))


@pytest.fixture(scope="module")
def keyed():
    image, tabular = two_inputs()
    out = joined(image, tabular)
    return compiled(
        keras.Model(
            {"tabular": tabular, "image": image},
            {
                "mask": keras.layers.Dense(1, name="m")(out),
                "score": keras.layers.Dense(1, name="s")(out),
            },
        ),
        {"mask": "mse", "score": "mae"},
    )


class Subclassed(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.dense(x)


class OwnStep(keras.Model):
    def __init__(self) -> None:
        super().__init__()
        self.dense = keras.layers.Dense(1)

    def call(self, x: Any) -> Any:
        return self.dense(x)

    def train_step(self, data: Any) -> Any:
        return {"loss": keras.ops.mean(self(data))}


X = np.ones((5, 4), dtype=np.float32)
Y = np.ones((5, 2), dtype=np.float32)
IMAGE, TABULAR, LABEL = np.ones((5, 2, 2)), np.zeros((5, 3)), np.ones((5, 1))


# --- what fits ------------------------------------------------------------------------------------


def test_x_y_and_sample_weight_become_tensors_that_the_step_takes(one):
    x, y, weight = feed(batch(x=X, y=Y, sample_weight=np.ones(5)), one)
    assert isinstance(x, tf.Tensor)
    assert weight.dtype == tf.float32
    assert float(one.train_step((x, y, weight))["loss"]) >= 0


@pytest.mark.parametrize("name", ["x", "x_0", "x__features", "features", "x__anything"])
def test_the_only_input_goes_by_several_names(one, name):
    fed = match(named(**{name: X, "y": Y}), one)
    np.testing.assert_array_equal(fed.x, X)
    assert fed.roles == {name.replace("__", "/"): "x", "y": "y"}


@pytest.mark.parametrize(
    "names", [("x_0", "x_1"), ("x__image", "x__tabular"), ("image", "tabular")]
)
def test_two_inputs_are_matched_by_number_or_name(listed, names):
    fed = match(named(**{names[1]: TABULAR, "y": LABEL, names[0]: IMAGE}), listed)
    assert [part.shape for part in fed.x] == [(5, 2, 2), (5, 3)]
    assert set(fed.roles.values()) == {"x", "y"}
    assert np.isfinite(float(listed.train_step(tensors(fed)[:2])["loss"]))


@pytest.mark.parametrize(
    "names", [("image", "tabular"), ("x__image", "x__tabular"), ("x_0", "x_1")]
)
def test_a_dict_of_inputs_and_outputs_is_packed_as_the_model_wants_it(keyed, names):
    fed = match(
        named(**{names[0]: IMAGE, names[1]: TABULAR, "y__score": LABEL, "y__mask": LABEL * 0}),
        keyed,
    )
    assert {key: part.shape for key, part in fed.x.items()} == {
        "image": (5, 2, 2),
        "tabular": (5, 3),
    }
    assert fed.y["mask"].max() == 0
    assert fed.y["score"].max() == 1
    assert np.isfinite(float(keyed.train_step(tensors(fed)[:2])["loss"]))


def test_the_names_of_outputs_may_stand_alone(keyed):
    fed = match(batch(image=IMAGE, tabular=TABULAR, mask=LABEL, score=LABEL), keyed)
    assert fed.roles == {"image": "x", "tabular": "x", "mask": "y", "score": "y"}


def test_sample_weights_may_be_per_output(keyed):
    fed = match(
        named(
            image=IMAGE,
            tabular=TABULAR,
            mask=LABEL,
            score=LABEL,
            sample_weight__mask=np.ones(5),
            sample_weight__score=np.zeros(5),
        ),
        keyed,
    )
    assert fed.sample_weight["score"].max() == 0
    assert np.isfinite(float(keyed.train_step(tensors(fed))["loss"]))


def test_several_outputs_in_a_list_take_numbered_labels():
    inputs = keras.Input((4,))
    model = compiled(
        keras.Model(inputs, [keras.layers.Dense(1)(inputs), keras.layers.Dense(2)(inputs)]),
        ["mse", "mae"],
    )
    fed = match(batch(x=X, y_0=LABEL, y_1=Y), model)
    assert [part.shape for part in fed.y] == [(5, 1), (5, 2)]
    assert np.isfinite(float(model.train_step(tensors(fed)[:2])["loss"]))


def test_labels_for_the_outputs_that_have_a_loss_are_enough():
    inputs = keras.Input((4,))
    model = compiled(
        keras.Model(
            inputs,
            {"a": keras.layers.Dense(1)(inputs), "b": keras.layers.Dense(2)(inputs)},
        ),
        {"a": "mse", "b": None},
    )
    fed = match(named(x=X, y__a=LABEL), model)
    assert list(fed.y) == ["a"]


def test_keras_own_latitude_with_a_last_axis_is_kept(one):
    assert match(batch(x=X[..., None], y=Y), one).x.shape == (5, 4, 1)
    flat = compiled(keras.Sequential([keras.Input((1,)), keras.layers.Dense(2)]))
    assert match(batch(x=X[:, 0], y=Y), flat).x.shape == (5,)


def test_a_subclassed_model_gets_what_the_user_saved():
    model = compiled(Subclassed())
    assert match(batch(x=X, y=LABEL), model).x.shape == (5, 4)
    assert list(match(named(x__a=X, x__b=X, y=LABEL), model).x) == ["a", "b"]
    assert isinstance(match(batch(x_1=X, x_0=X * 2, y=LABEL), model).x, tuple)
    assert match(batch(x_1=X, x_0=X * 2, y=LABEL), model).x[0].max() == 2
    assert list(match(batch(user=X, item=X, y=LABEL), model).x) == ["user", "item"]


def test_a_step_of_its_own_needs_no_labels():
    model = OwnStep()
    model.compile("sgd")
    fed = match(batch(x=X), model)
    assert fed.y is None
    assert fed.sample_weight is None
    assert tensors(fed)[1] is None


def test_a_model_compiled_without_a_loss_needs_no_labels():
    inputs = keras.Input((4,))
    model = keras.Model(inputs, keras.layers.ActivityRegularization(l2=1.0)(inputs))
    model.compile("sgd")
    assert match(batch(x=X), model).y is None


# --- conversion -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("given", "fed"),
    [
        ("float64", "float32"),
        ("float16", "float32"),
        ("float32", "float32"),
        ("int64", "int64"),
        ("uint8", "uint8"),
        ("bool", "bool"),
    ],
)
def test_arrays_are_converted_as_keras_array_adapter_does(one, given, fed):
    from keras.src.trainers.data_adapters.array_slicing import convert_to_sliceable

    array = X.astype(given)
    assert match(batch(x=array, y=Y), one).x.dtype == fed
    assert convert_to_sliceable(array, target_backend="tensorflow").dtype == fed


def test_floatx_is_what_floats_become(one):
    keras.config.set_floatx("float64")
    try:
        assert match(batch(x=X, y=Y), one).x.dtype == "float64"
    finally:
        keras.config.set_floatx("float32")


def test_a_value_that_overflows_in_the_conversion_is_told(one):
    huge = X.astype(np.float64)
    huge[2, 1] = 1e300
    fed = match(batch(x=huge, y=Y), one)
    assert np.isinf(fed.x[2, 1])
    assert fed.overflowed == ("x",)
    huge[2, 1] = np.inf
    assert match(batch(x=huge, y=Y), one).overflowed == ()


def test_nan_and_indices_out_of_range_pass(one):
    assert np.isnan(match(batch(x=X * np.nan, y=Y), one).x).all()
    words = compiled(
        keras.Sequential([keras.Input((4,), dtype="int32"), keras.layers.Embedding(3, 2)])
    )
    assert match(batch(x=np.full((5, 4), 99), y=Y), words).x.max() == 99


def test_text_goes_to_a_model_that_takes_it():
    model = compiled(
        keras.Sequential(
            [
                keras.Input((1,), dtype="string"),
                keras.layers.StringLookup(vocabulary=["a", "b"], output_mode="multi_hot"),
                keras.layers.Dense(1),
            ]
        )
    )
    x, _, _ = feed(batch(x=[["a"], ["z"]], y=[[0.0], [1.0]]), model)
    assert x.dtype == tf.string
    assert model(x).shape == (2, 1)
    error = refusal(batch(x=[[1.0], [2.0]], y=[[0.0], [1.0]]), model)
    assert error.slug == "wrong-dtype"


# --- what does not fit ----------------------------------------------------------------------------


def test_a_wrong_shape_names_array_shape_and_what_was_expected(one):
    error = refusal(batch(x=np.ones((5, 3)), y=Y), one)
    assert error.slug == "wrong-shape"
    assert error.message == "array 'x' has shape (5, 3)"
    assert error.why == "the model's input 'features' takes (None, 4)"
    assert refusal(batch(x=np.ones((5, 4, 2)), y=Y), one).slug == "wrong-shape"
    assert refusal(batch(x=np.float32(1), y=Y), one).message == "array 'x' is a single number"


def test_a_rank_that_a_subclassed_model_was_not_built_on_is_told():
    model = compiled(Subclassed())
    model(X)
    assert match(batch(x=X[:, :3], y=LABEL), model).x.shape == (5, 3)
    error = refusal(batch(x=X[:, :, None, None], y=LABEL), model)
    assert error.why == "the model was built on inputs of shape (None, 4)"


@pytest.mark.parametrize(
    ("arrays", "slug"),
    [
        ({"x": IMAGE, "y": LABEL}, "missing-input"),
        ({"image": IMAGE, "y": LABEL}, "missing-input"),
        ({"y": LABEL}, "missing-input"),
        ({"image": IMAGE, "tabular": TABULAR, "x": IMAGE, "y": LABEL}, "extra-array"),
        ({"image": IMAGE, "tabular": TABULAR, "label": LABEL}, "extra-array"),
        ({"x_0": TABULAR, "x_1": IMAGE, "y": LABEL}, "wrong-shape"),
        ({"image": IMAGE, "tabular": TABULAR}, "missing-labels"),
        ({"image": IMAGE, "tabular": TABULAR, "y_0": LABEL, "y_1": LABEL}, "label-count"),
        ({"image": IMAGE, "tabular": TABULAR[:4], "y": LABEL}, "sample-count"),
        ({"image": IMAGE, "tabular": TABULAR, "y": LABEL[:2]}, "sample-count"),
        ({"image": IMAGE, "tabular": TABULAR * 1j, "y": LABEL}, "wrong-dtype"),
        ({"image": IMAGE, "tabular": TABULAR.astype(str), "y": LABEL}, "wrong-dtype"),
        ({"image": IMAGE, "tabular": TABULAR, "y": LABEL.astype("S3")}, "wrong-dtype"),
        (
            {"image": IMAGE, "tabular": TABULAR, "y": LABEL, "sample_weight": ["a"] * 5},
            "wrong-dtype",
        ),
    ],
)
def test_what_does_not_fit_is_refused_by_name(listed, arrays, slug):
    assert refusal(batch(**arrays), listed).slug == slug


def test_a_missing_input_tells_what_came_and_what_was_expected(listed):
    error = refusal(batch(x=IMAGE, y=LABEL), listed)
    assert error.message == ("the model has 2 inputs, and 1 array came: 'x' of shape (5, 2, 2)")
    assert error.why == (
        "expected were 'image' of shape (None, 2, 2), 'tabular' of shape (None, 3)"
    )
    assert "'x/image': ..., 'x/tabular': ..." in error.fix


def test_labels_that_are_too_few_for_the_outputs_are_told(keyed):
    error = refusal(batch(image=IMAGE, tabular=TABULAR, y=LABEL), keyed)
    assert error.slug == "label-count"
    assert "'y/mask': ..., 'y/score': ..." in error.fix
    assert refusal(batch(image=IMAGE, tabular=TABULAR, mask=LABEL), keyed).slug == "label-count"


def test_a_name_from_a_strangers_file_stays_printable(one):
    with pytest.raises(BatchError) as caught:
        match(Batch({"x": X, "y": Y, "\\x1b[2J": X}, "b", "0"), one)
    assert "\x1b" not in str(caught.value)


def test_a_batch_of_no_samples_is_fed_as_the_generator_gave_it(listed):
    fed = match(batch(image=IMAGE[:0], tabular=TABULAR[:0], y=LABEL[:0]), listed)
    assert fed.samples == 0
    assert [part.shape for part in fed.x] == [(0, 2, 2), (0, 3)]


# ---------------------------------------------------------------------- sparse and ragged


def test_a_dense_array_becomes_a_sparse_tensor_for_a_sparse_input():
    inputs = keras.layers.Input((4,), sparse=True, name="bag")
    model = compiled(keras.Model(inputs, keras.layers.Dense(1)(inputs)))
    x = X * (X > 0)
    fed = match(batch(x=x, y=Y), model)
    assert fed.sparse == ("x",)
    tensor = tensors(fed)[0]
    assert isinstance(tensor, tf.SparseTensor)
    np.testing.assert_array_equal(tf.sparse.to_dense(tensor), x)
    assert tensor.dtype == "float32"


def ragged_model() -> Any:
    inputs = keras.layers.Input((None, 2), ragged=True, name="series")
    return compiled(keras.Model(inputs, keras.layers.Identity()(inputs)), None)


RAGGED = {"values": np.arange(12.0).reshape(6, 2), "row_splits": np.array([0, 2, 2, 3, 6, 6])}


@pytest.mark.parametrize("prefix", ["x", "x/series", "series", "x_0"])
def test_values_and_row_splits_become_a_ragged_tensor(prefix):
    arrays = {f"{prefix}/{half}": array for half, array in RAGGED.items()}
    fed = match(batch(**arrays), ragged_model())
    assert fed.samples == 5
    assert {fed.roles[f"{prefix}/{half}"] for half in RAGGED} == {"x"}
    tensor = tensors(fed)[0]
    assert isinstance(tensor, tf.RaggedTensor)
    assert tensor.dtype == "float32"
    assert tensor.row_lengths().numpy().tolist() == [2, 0, 1, 3, 0]


@pytest.mark.parametrize(
    ("arrays", "slug"),
    [
        ({"x__values": RAGGED["values"], "x__row_splits": np.array([0, 9])}, "bad-row-splits"),
        ({"x__row_splits": RAGGED["row_splits"]}, "bad-row-splits"),
        ({"x__values": np.zeros((6, 3)), "x__row_splits": RAGGED["row_splits"]}, "wrong-shape"),
        (
            {
                "x__values__values": RAGGED["values"],
                "x__values__row_splits": RAGGED["row_splits"],
                "x__row_splits": np.array([0, 5]),
            },
            "bad-row-splits",
        ),
    ],
)
def test_halves_that_are_no_ragged_array_are_refused_by_name(arrays, slug):
    assert refusal(named(**arrays), ragged_model()).slug == slug


def test_an_optional_input_that_is_left_out_is_fed_as_none():
    a = keras.layers.Input((4,), name="a")
    b = keras.layers.Input((4,), name="b", optional=True)
    model = compiled(keras.Model({"a": a, "b": b}, keras.layers.Dense(1)(a)))
    data = tensors(match(named(x__a=X, y=Y), model))
    assert data[0]["b"] is None
    assert list(match(named(x__a=X, y=Y), model).named(data)) == ["x/a", "y"]


def test_class_weights_are_told_to_come_as_sample_weights(one):
    error = refusal(batch(x=X, y=Y, class_weight=np.ones(3)), one)
    assert error.slug == "class-weight"
    assert "sample_weight=" in error.fix
