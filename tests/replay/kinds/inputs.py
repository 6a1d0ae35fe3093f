"""Kinds by what they are fed with."""

import numpy as np

from tests.replay.kinds._kind import chain, classes, kind, normal

X, Y = normal(4, 3), normal(4, 1, seed=1)


@kind("integers", x=classes(4, 7).reshape(4, 1), y=Y)
def integers(keras):
    layers = keras.layers
    return chain(
        keras, layers.Input((1,), dtype="int32"), layers.Embedding(7, 3), layers.Flatten(),
        layers.Dense(1, name="out"),
    )  # fmt: skip


@kind("booleans and bytes", x__flag=[[True], [False], [True], [True]],
      x__image=np.arange(16, dtype="uint8").reshape(4, 2, 2, 1), y=Y)  # fmt: skip
def small_integers(keras):
    layers = keras.layers
    flag = layers.Input((1,), dtype="bool", name="flag")
    image = layers.Input((2, 2, 1), dtype="uint8", name="image")
    pixels = layers.Flatten()(layers.Rescaling(1 / 255.0)(image))
    both = layers.Concatenate()([keras.ops.cast(flag, "float32"), pixels])
    model = keras.Model({"flag": flag, "image": image}, layers.Dense(1, name="out")(both))
    model.compile("sgd", "mse")
    return model


@kind("text", x=np.array([["good"], ["bad film"], ["good film"], ["bad"]]), y=Y)
def text(keras):
    layers = keras.layers
    return chain(
        keras,
        layers.Input((1,), dtype="string"),
        layers.TextVectorization(
            vocabulary=["good", "bad", "film"], output_sequence_length=3, name="words"
        ),
        layers.Embedding(6, 2),
        layers.GlobalAveragePooling1D(),
        layers.Dense(1, name="out"),
    )


@kind("sparse", x=X * (X > 0), y=Y, steps=2)
def sparse(keras):
    layers = keras.layers
    return chain(
        keras, layers.Input((3,), sparse=True, name="bag"),
        layers.Dense(4, activation="relu", name="hidden"), layers.Dense(1, name="out"),
    )  # fmt: skip


@kind("ragged", x__values=[3, 1, 4, 1, 5, 2, 6], x__row_splits=[0, 3, 3, 5, 7], y=Y, steps=2)
def ragged(keras):
    import tensorflow as tf

    layers = keras.layers

    class Mean(layers.Layer):
        def call(self, x):
            return tf.math.divide_no_nan(
                tf.reduce_sum(x, axis=1),
                tf.cast(tf.reshape(x.row_lengths(), (-1, 1)), tf.float32),
            )

        def compute_output_spec(self, x):
            return keras.KerasTensor((x.shape[0], x.shape[2]), x.dtype)

    tokens = layers.Input((None,), dtype="int64", ragged=True, name="tokens")
    vectors = layers.Embedding(8, 3, name="embedding")(tokens)
    model = keras.Model(tokens, layers.Dense(1, name="out")(Mean(name="mean")(vectors)))
    model.compile("adam", "mse")
    return model


@kind("sample weights", x=X, y=Y, sample_weight=[1.0, 0.0, 2.0, 0.5])
def weighted(keras):
    return chain(keras, keras.layers.Input((3,)), keras.layers.Dense(1, name="out"))


@kind("an input that may be left out", x__a=X, y=Y)
def optional(keras):
    class Sum(keras.layers.Layer):
        def call(self, a, b=None):
            return a if b is None else a + b

    a = keras.layers.Input((3,), name="a")
    b = keras.layers.Input((3,), name="b", optional=True)
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(1, name="out")(Sum(name="sum")(a, b)))
    model.compile("sgd", "mse")
    return model


@kind("float64 arrays and integer labels", x=X.astype("float64"), y=classes(4, 3))
def wide(keras):
    return chain(
        keras, keras.layers.Input((3,)), keras.layers.Dense(3, activation="softmax", name="out"),
        loss="sparse_categorical_crossentropy",
    )  # fmt: skip
