"""Kinds by how layers are put together, and by what adds to the loss."""

from tests.replay.kinds._kind import chain, classes, kind, normal

X, Y = normal(6, 4), normal(6, 1, seed=1)
IMAGES = normal(4, 8, 8, 2)


@kind("sequential", x=X, y=Y, steps=2)
def sequential(keras):
    return chain(
        keras,
        keras.layers.Input((4,)),
        keras.layers.Dense(5, activation="relu", name="hidden"),
        keras.layers.Dense(1, name="out"),
    )


@kind("functional with branches", x=X, y=Y)
def functional(keras):
    inputs = keras.layers.Input((4,))
    left = keras.layers.Dense(3, activation="tanh", name="left")(inputs)
    right = keras.ops.exp(keras.layers.Dense(3, name="right")(inputs) * 0.1)
    both = keras.layers.Concatenate(name="both")([left, right - 1.0])
    model = keras.Model(inputs, keras.layers.Dense(1, name="out")(both))
    model.compile("adam", "huber")
    return model


@kind("subclassed", x=X, y=Y)
def subclassed(keras):
    class Net(keras.Model):
        def __init__(self):
            super().__init__()
            self.blocks = [keras.layers.Dense(4, activation="gelu") for _ in range(3)]
            self.heads = {"out": keras.layers.Dense(1, name="head")}

        def call(self, x):
            for block in self.blocks:
                x = x + block(x)
            return self.heads["out"](x)

    model = Net()
    model.compile("adam", "mse")
    model(X)
    return model


@kind("models inside models", x=X, y=Y)
def nested(keras):
    inner = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(4, activation="relu", name="deep")],
        name="inner",
    )
    inputs = keras.layers.Input((4,))
    middle = keras.Model(inputs, inner(inputs) + inputs, name="middle")
    outer = keras.layers.Input((4,))
    model = keras.Model(outer, keras.layers.Dense(1, name="out")(middle(outer)))
    model.compile("rmsprop", "mse")
    return model


@kind("one layer in several places", x__a=X, x__b=normal(6, 4, seed=2), y=Y)
def shared(keras):
    a, b = keras.layers.Input((4,), name="a"), keras.layers.Input((4,), name="b")
    tower = keras.layers.Dense(3, activation="tanh", name="tower")
    model = keras.Model({"a": a, "b": b}, keras.layers.Dot(1, name="dot")([tower(a), tower(b)]))
    model.compile("sgd", "mse")
    return model


@kind(
    "named inputs and outputs, weighted losses",
    x__image=IMAGES, x__table=normal(4, 3), y__digit=classes(4, 3), y__size=normal(4, 1),
    sample_weight__digit=[1.0, 0.5, 0.0, 2.0], sample_weight__size=[1.0, 1.0, 0.5, 1.0],
)  # fmt: skip
def several(keras):
    image, table = (
        keras.layers.Input((8, 8, 2), name="image"),
        keras.layers.Input((3,), name="table"),
    )
    seen = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3, name="conv")(image))
    both = keras.layers.Concatenate()([seen, keras.layers.Dense(4, name="dense")(table)])
    outputs = {
        "digit": keras.layers.Dense(3, activation="softmax", name="digit")(both),
        "size": keras.layers.Dense(1, name="size")(both),
    }
    model = keras.Model({"image": image, "table": table}, outputs)
    model.compile(
        "adam",
        loss={"digit": "sparse_categorical_crossentropy", "size": "mse"},
        loss_weights={"digit": 2.0, "size": 0.25},
        metrics={"digit": ["accuracy"]},
    )
    return model


@kind("add_loss and regularisers", x=X, y=Y)
def added(keras):
    class Penalty(keras.layers.Layer):
        def call(self, x):
            self.add_loss(0.1 * keras.ops.mean(keras.ops.square(x)))
            return x

    return chain(
        keras,
        keras.layers.Input((4,)),
        keras.layers.Dense(
            5, kernel_regularizer="l2", bias_regularizer="l1", activity_regularizer="l2",
            name="hidden",
        ),
        Penalty(name="penalty"),
        keras.layers.Dense(1, kernel_regularizer=keras.regularizers.L1L2(0.01, 0.02), name="out"),
    )  # fmt: skip


@kind("convolutions, BatchNormalization, Dropout", x=IMAGES, y=classes(4, 3), steps=2)
def cnn(keras):
    layers = keras.layers
    return chain(
        keras,
        layers.Input((8, 8, 2)),
        layers.Conv2D(4, 3, padding="same", name="conv"),
        layers.BatchNormalization(name="norm"),
        layers.ReLU(),
        layers.SpatialDropout2D(0.2),
        layers.DepthwiseConv2D(3, name="depthwise"),
        layers.SeparableConv2D(4, 3, name="separable"),
        layers.Conv2DTranspose(3, 2, strides=2, name="up"),
        layers.MaxPooling2D(),
        layers.Flatten(),
        layers.Dropout(0.5),
        layers.Dense(3, name="out"),
        loss=keras.losses.SparseCategoricalCrossentropy(from_logits=True),
        optimizer="adam",
    )


@kind("every normalisation", x=IMAGES, y=normal(4, 3), steps=2)
def normalised(keras):
    layers = keras.layers
    return chain(
        keras,
        layers.Input((8, 8, 2)),
        layers.Rescaling(0.5),
        layers.Conv2D(4, 3),
        layers.GroupNormalization(2),
        layers.LayerNormalization(),
        layers.RMSNormalization(),
        layers.UnitNormalization(),
        layers.GaussianNoise(0.1),
        layers.GlobalMaxPooling2D(),
        layers.SpectralNormalization(layers.Dense(3, name="spectral")),
    )


@kind("augmentation inside the model", x=IMAGES, y=classes(4, 3))
def augmented(keras):
    layers = keras.layers
    return chain(
        keras,
        layers.Input((8, 8, 2)),
        layers.RandomFlip(),
        layers.RandomRotation(0.1),
        layers.RandomTranslation(0.1, 0.1),
        layers.Conv2D(4, 3, name="conv"),
        layers.GlobalAveragePooling2D(),
        layers.Dense(3, activation="softmax", name="out"),
        loss="sparse_categorical_crossentropy",
    )


@kind("attention with masks over embeddings", x=[[3, 1, 4, 0, 0], [2, 7, 1, 8, 2]], y=Y[:2])
def attention(keras):
    layers, ops = keras.layers, keras.ops
    tokens = layers.Input((5,), dtype="int32", name="tokens")
    x = layers.Embedding(9, 8, mask_zero=True, name="embedding")(tokens)
    mask = ops.expand_dims(ops.not_equal(tokens, 0), 1)
    x = x + layers.MultiHeadAttention(2, 4, dropout=0.1, name="heads")(
        x, x, attention_mask=mask, use_causal_mask=True
    )
    x = layers.LayerNormalization(name="norm")(x)
    x = layers.GroupQueryAttention(4, 4, 2, name="grouped")(x, x)
    x = layers.Attention(name="dotted")([x, x])
    model = keras.Model(tokens, layers.Dense(1, name="out")(layers.GlobalAveragePooling1D()(x)))
    model.compile("adamw", "mse")
    return model
