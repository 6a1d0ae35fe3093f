"""Kinds by how the weights are moved."""

from tests.replay.kinds._kind import chain, kind, normal

X, Y = normal(6, 4), normal(6, 1, seed=1)


def _by(name, make, *, steps=3, **compiled):
    @kind(f"update: {name}", x=X, y=Y, steps=steps)
    def build(keras):
        return chain(
            keras,
            keras.layers.Input((4,)),
            keras.layers.Dense(5, activation="relu", kernel_constraint="max_norm", name="hidden"),
            keras.layers.Dense(1, name="out"),
            optimizer=make(keras.optimizers),
            **compiled,
        )

    return build


_by("EMA and weight decay", lambda o: o.AdamW(0.01, weight_decay=0.1, use_ema=True,
                                              ema_overwrite_frequency=2))  # fmt: skip
_by("clipped by value", lambda o: o.SGD(0.1, momentum=0.9, nesterov=True, clipvalue=0.05))
_by("clipped by norm", lambda o: o.RMSprop(0.1, clipnorm=0.05, centered=True))
_by("clipped by the global norm", lambda o: o.Adam(0.1, global_clipnorm=0.05, amsgrad=True))
_by("a cosine schedule", lambda o: o.SGD(o.schedules.CosineDecay(0.1, 10, warmup_steps=2,
                                                                 warmup_target=0.2)))  # fmt: skip
_by("a stepwise schedule", lambda o: o.Adam(o.schedules.PiecewiseConstantDecay([1], [0.1, 0.01])))
_by("accumulated by Keras", lambda o: o.Adam(0.1, gradient_accumulation_steps=2))
_by("several steps per execution", lambda o: o.Adam(0.1), steps_per_execution=4)
_by("compiled to run eagerly", lambda o: o.Adam(0.1), run_eagerly=True)
_by("compiled for XLA", lambda o: o.Adam(0.1), jit_compile=True)
for _name in ("Adadelta", "Adafactor", "Adagrad", "Adamax", "Ftrl", "Lamb", "Lion", "Muon",
              "Nadam", "Schedule-free"):  # fmt: skip
    if _name != "Schedule-free":
        _by(_name, lambda o, name=_name: getattr(o, name)(0.01), steps=2)


@kind("update: a part of the layers frozen", x=X, y=Y, steps=2)
def frozen(keras):
    model = chain(
        keras,
        keras.layers.Input((4,)),
        keras.layers.Dense(4, trainable=False, name="frozen"),
        keras.layers.BatchNormalization(trainable=False, name="norm"),
        keras.layers.Dense(1, name="out"),
    )
    model.layers[1].trainable = False
    model.compile("adam", "mse")
    return model


@kind("update: LoRA", x=X, y=Y, steps=2)
def lora(keras):
    model = chain(
        keras, keras.layers.Input((4,)), keras.layers.Dense(4, name="adapted"),
        keras.layers.Dense(1, name="out"),
    )  # fmt: skip
    model.layers[0].enable_lora(2)
    model.compile("adam", "mse")
    return model
