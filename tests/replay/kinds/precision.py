"""Kinds by dtype and loss scale."""

from tests.replay.kinds._kind import chain, classes, kind, normal

X, Y = normal(4, 3), classes(4, 3)


def _in(policy, *, optimizer="adam", steps=2):
    @kind(f"{policy}, {optimizer if isinstance(optimizer, str) else 'scaled'}", x=X, y=Y,
          steps=steps)  # fmt: skip
    def build(keras):
        keras.config.set_dtype_policy(policy)
        try:
            return chain(
                keras,
                keras.layers.Input((3,)),
                keras.layers.Dense(4, activation="relu", name="hidden"),
                keras.layers.BatchNormalization(name="norm"),
                keras.layers.Dense(3, name="out"),
                keras.layers.Activation("softmax", dtype="float32", name="probabilities"),
                loss="sparse_categorical_crossentropy",
                optimizer=optimizer if isinstance(optimizer, str) else optimizer(keras),
            )
        finally:
            keras.config.set_dtype_policy("float32")

    return build


_in("float16", optimizer="sgd")
_in("bfloat16")
_in("float64")
_in("mixed_bfloat16")
_in("mixed_float16")
_in(
    "mixed_float16",
    optimizer=lambda keras: keras.optimizers.LossScaleOptimizer(
        keras.optimizers.SGD(0.1), initial_scale=2.0**17, dynamic_growth_steps=1
    ),
    steps=4,
)


@kind("float32 layers inside mixed_float16", x=X, y=normal(4, 1))
def islands(keras):
    inputs = keras.layers.Input((3,))
    half = keras.layers.Dense(4, dtype="mixed_float16", name="half")(inputs)
    norm = keras.layers.LayerNormalization(dtype="float32", name="norm")(half)
    model = keras.Model(inputs, keras.layers.Dense(1, dtype="mixed_bfloat16", name="out")(norm))
    model.compile("sgd", "mse")
    return model
