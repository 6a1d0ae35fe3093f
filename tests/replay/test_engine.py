"""The watched step: does it find the first producer, and does it change nothing?"""

import json

import numpy as np
import pytest

from divergence_doctor.replay import _seams as seams

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(8, 4)).astype("float32")
Y = GENERATOR.normal(size=(8, 1)).astype("float32")


def mlp(keras, *, loss="mse", optimizer="adam", last=1, **compile_options):
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(6, activation="relu", name="hidden"),
            keras.layers.Dense(last, name="out"),
        ],
        name="mlp",
    )
    model.compile(optimizer, loss, **compile_options)
    return model


# ---------------------------------------------------------------------- nothing is changed


def one_of_each(keras):
    layers = keras.layers
    yield "mlp", mlp(keras), X, Y
    yield (
        "clipped",
        mlp(keras, optimizer=keras.optimizers.SGD(0.1, momentum=0.9, clipnorm=0.1)),
        X,
        Y,
    )
    yield (
        "averaged",
        mlp(keras, optimizer=keras.optimizers.AdamW(use_ema=True, weight_decay=0.01)),
        X,
        Y,
    )
    images = GENERATOR.normal(size=(4, 8, 8, 1)).astype("float32")
    cnn = keras.Sequential(
        [
            layers.Input((8, 8, 1)),
            layers.Conv2D(3, 3),
            layers.BatchNormalization(),
            layers.ReLU(),
            layers.MaxPooling2D(),
            layers.Dropout(0.5),
            layers.Flatten(),
            layers.Dense(3, kernel_regularizer="l2"),
        ]
    )
    cnn.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    yield "cnn", cnn, images, np.array([0, 1, 2, 1])
    tokens = GENERATOR.integers(0, 20, size=(4, 6))
    rnn = keras.Sequential(
        [layers.Input((6,), dtype="int32"), layers.Embedding(20, 5, mask_zero=True),
         layers.LSTM(4), layers.Dense(1)]
    )  # fmt: skip
    rnn.compile("rmsprop", "mse")
    yield "rnn", rnn, tokens, Y[:4]
    inputs = layers.Input((6, 8))
    attended = layers.MultiHeadAttention(2, 4)(inputs, inputs)
    shared = layers.Dense(8, name="shared")
    summed = layers.LayerNormalization()(shared(attended) + shared(inputs))
    transformer = keras.Model(inputs, layers.Dense(1)(layers.GlobalAveragePooling1D()(summed)))
    transformer.compile("adam", "mse")
    yield "transformer", transformer, GENERATOR.normal(size=(3, 6, 8)).astype("float32"), Y[:3]
    accumulated = mlp(keras, optimizer=keras.optimizers.Adam(gradient_accumulation_steps=2))
    yield "accumulated", accumulated, X, Y
    yield "critic and generator", gan(keras), X, None
    yield "vae", vae(keras), X, None
    keras.config.set_dtype_policy("mixed_float16")
    scaled = keras.optimizers.LossScaleOptimizer(
        keras.optimizers.Adam(0.01), initial_scale=2.0**17, dynamic_growth_steps=1
    )
    half = mlp(keras, optimizer=scaled)
    keras.config.set_dtype_policy("float32")
    yield "mixed precision", half, X, Y


def gan(keras):
    """Return a WGAN-GP: two optimizers, a tape inside a tape, its own ``train_step``."""
    import tensorflow as tf

    class Gan(keras.Model):
        def __init__(self):
            super().__init__()
            dense = keras.layers.Dense
            self.critic = keras.Sequential([dense(6, activation="tanh"), dense(1)], name="critic")
            self.generator = keras.Sequential([dense(6, activation="relu"), dense(4)], name="made")
            self.critic.build((None, 4))
            self.generator.build((None, 3))
            self.critic_optimizer = keras.optimizers.Adam(0.01, beta_1=0.0)
            self.generator_optimizer = keras.optimizers.Adam(0.01, beta_1=0.0)
            self.built = True

        def call(self, x):
            return self.critic(x)

        def train_step(self, real):
            noise = keras.random.normal((8, 3))
            with tf.GradientTape() as tape:
                fake = self.generator(noise, training=True)
                middle = real + tf.random.uniform((8, 1)) * (fake - real)
                with tf.GradientTape() as inner:
                    inner.watch(middle)
                    score = self.critic(middle, training=True)
                slope = tf.norm(inner.gradient(score, middle), axis=1)
                loss = tf.reduce_mean(self.critic(fake) - self.critic(real))
                loss += 10.0 * tf.reduce_mean((slope - 1.0) ** 2)
            weights = self.critic.trainable_variables
            self.critic_optimizer.apply(tape.gradient(loss, weights), weights)
            with tf.GradientTape() as tape:
                made = -tf.reduce_mean(self.critic(self.generator(noise, training=True)))
            weights = self.generator.trainable_variables
            self.generator_optimizer.apply(tape.gradient(made, weights), weights)
            return {"critic_loss": loss, "generator_loss": made}

    model = Gan()
    model.compile()
    model.critic_optimizer.build(model.critic.trainable_variables)
    model.generator_optimizer.build(model.generator.trainable_variables)
    return model


def vae(keras):
    """Return a variational autoencoder with its own ``train_step`` and random draws."""
    import tensorflow as tf

    ops = keras.ops

    class Vae(keras.Model):
        def __init__(self):
            super().__init__()
            self.encoder = keras.layers.Dense(4, name="encoder")
            self.decoder = keras.layers.Dense(4, name="decoder")
            self.tracker = keras.metrics.Mean(name="loss")

        @property
        def metrics(self):
            return [self.tracker]

        def call(self, x):
            return self.decoder(self.encoder(x)[:, :2])

        def train_step(self, x):
            with tf.GradientTape() as tape:
                mean, log_var = ops.split(self.encoder(x), 2, axis=-1)
                z = mean + ops.exp(0.5 * log_var) * keras.random.normal((8, 2))
                loss = ops.mean((self.decoder(z) - x) ** 2)
                loss -= 0.5 * ops.mean(1 + log_var - mean**2 - ops.exp(log_var))
            self.optimizer.apply(tape.gradient(loss, self.trainable_weights))
            self.tracker.update_state(loss)
            return {"loss": self.tracker.result()}

    model = Vae()
    model.compile("adam")
    model(X)
    return model


@pytest.mark.parametrize("index", range(10))
def test_a_watched_step_equals_a_plain_one_to_the_bit(keras, replayed, index):
    import tensorflow as tf

    from divergence_doctor.checkpoints import optimizers_of
    from divergence_doctor.replay import match
    from divergence_doctor.replay.engine import run_step
    from divergence_doctor.replay.feeding import tensors
    from divergence_doctor.replay.state import Snapshot, seed_everything
    from tests.replay.conftest import batch_of

    _, model, x, y = list(one_of_each(keras))[index]
    arrays = {"x": x} if y is None else {"x": x, "y": y}
    start = Snapshot(model)
    tf.config.run_functions_eagerly(True)
    try:
        seed_everything(0)
        fed = match(batch_of(**arrays), model)
        logs = [run_step(model, tensors(fed)).logs for _ in range(2)]
    finally:
        tf.config.run_functions_eagerly(False)
    slots = [variable for held in optimizers_of(model) for variable in held.variables]
    state = [v for v in [*model.variables, *slots] if "seed" not in v.path]
    after = [variable.numpy() for variable in state]
    start.restore()
    trace = replayed(model, steps=2, **arrays)
    if "loss" in logs[0]:
        plain = [float(log["loss"]) for log in logs]
        assert trace.table("steps")["loss"].tolist() == pytest.approx(plain, rel=1e-6)
    for variable, value in zip(state, after, strict=True):
        if "loss" not in variable.path and "metric" not in variable.path:
            np.testing.assert_array_equal(variable.numpy(), value, err_msg=variable.path)


def test_no_hook_is_left_behind_by_a_step_that_raises(keras, replayed):
    import tensorflow as tf

    layer = seams.layer_class()
    before = (layer.__call__, tf.GradientTape.gradient, seams.optimizer_class().apply)
    model = mlp(keras, loss="sparse_categorical_crossentropy", last=3)
    trace = replayed(model, x=X, y=np.full(8, 7))
    assert trace.table("steps")["raised_op"][0] == "SparseSoftmaxCrossEntropyWithLogits"
    assert (layer.__call__, tf.GradientTape.gradient, seams.optimizer_class().apply) == before
    assert tf.config.functions_run_eagerly() is False
    seen = []
    with seams.op_callback(lambda kind, *_rest: seen.append(kind)):
        tf.math.exp(tf.constant(1.0))
    assert seen == ["Exp"]


# ---------------------------------------------------------------------- what is recorded


def test_a_healthy_step_records_every_layer_gradient_weight_and_update(keras, replayed):
    trace = replayed(mlp(keras), steps=2, x=X, y=Y)
    assert trace.outcome == "healthy"
    forward = trace.table("activations").select(step=1)
    assert forward["layer"].tolist() == ["", "hidden", "out", "mlp"]
    back = trace.table("gradients").select(step=1)
    assert back.where(back["variable"] == "")["layer"].tolist() == ["mlp", "out", "hidden"]
    assert sorted(name for name in back["variable"] if name) == [
        "mlp/hidden/bias",
        "mlp/hidden/kernel",
        "mlp/out/bias",
        "mlp/out/kernel",
    ]
    assert len(trace.table("updates")) == 8
    assert np.all(trace.table("updates")["ratio"][trace.table("updates")["shape"] == "4x6"] > 0)
    assert trace.table("events").length == 0


def test_the_gradient_that_comes_back_is_the_tapes_own(keras, replayed):
    import tensorflow as tf

    model = mlp(keras)
    with tf.GradientTape() as tape:
        loss = tf.reduce_mean((model(X) - Y) ** 2)
    expected = tape.gradient(loss, model.trainable_variables)
    trace = replayed(model, x=X, y=Y)
    rows = {row["variable"]: row for row in trace.table("gradients").rows() if row["variable"]}
    for variable, gradient in zip(model.trainable_variables, expected, strict=True):
        norm = float(np.linalg.norm(np.asarray(gradient, dtype="float64")))
        assert rows[variable.path]["l2"] == pytest.approx(norm, rel=1e-5)


def test_each_loss_term_is_recorded_by_name(keras, replayed):
    inputs = keras.layers.Input((4,))
    hidden = keras.layers.Dense(3, kernel_regularizer="l2", name="hidden")(inputs)
    outputs = {
        "a": keras.layers.Dense(1, name="a")(hidden),
        "b": keras.layers.Dense(1, name="b")(hidden),
    }
    model = keras.Model(inputs, outputs)
    model.compile("sgd", loss={"a": "mse", "b": "mae"}, loss_weights={"a": 1.0, "b": 0.5})
    trace = replayed(model, x=X, y__a=Y, y__b=Y)
    names = trace.table("losses")["name"].tolist()
    assert "regularizer/hidden/kernel" in names
    assert len(names) == 3


def test_the_loss_of_each_sample_is_recorded(keras, replayed):
    trace = replayed(mlp(keras), x=X, y=Y)
    losses = trace.table("sample_losses")
    assert losses["sample"].tolist() == list(range(8))
    assert losses["value"].mean() == pytest.approx(trace.table("steps")["loss"][0], rel=1e-5)


# ---------------------------------------------------------------------- the first producer


def test_log_of_zero_in_the_loss_is_found_with_its_sample_and_its_line(keras, replayed, primary):
    def cross_entropy(y_true, y_pred):
        p = keras.ops.softmax(y_pred)
        return -keras.ops.sum(y_true * keras.ops.log(p), axis=-1)

    model = mlp(keras, loss=cross_entropy, last=2)
    model.layers[-1].kernel.assign(np.full((6, 2), [50.0, -50.0]))
    model.layers[0].kernel.assign(np.ones((4, 6)))
    x = np.zeros((8, 4), "float32")
    x[5] = 10.0
    event = primary(replayed(model, x=x, y=np.eye(2)[[0] * 8]))
    assert (event["op_type"], event["phase"], event["layer"]) == ("Log", "loss", "")
    assert json.loads(event["samples"]) == [5]
    assert event["source"].startswith("test_engine.py:")
    assert "Inf" in event["message"]


def test_a_singular_derivative_is_blamed_on_its_forward_op(keras, replayed, primary):
    def distance(y_true, y_pred):
        return keras.ops.sqrt(keras.ops.sum((y_true - y_pred) ** 2, axis=-1))

    model = mlp(keras, loss=distance)
    model.layers[-1].kernel.assign(np.zeros((6, 1)))
    y = Y.copy()
    y[3] = 0.0
    trace = replayed(model, x=X, y=y)
    assert trace.table("steps")["loss_finite"].tolist() == [True]
    event = primary(trace)
    assert event["derivative"]
    assert (event["op_type"], event["phase"]) == ("Sqrt", "backward")
    assert json.loads(event["samples"]) == [3]
    inputs = trace.table("operands").select(role="output")
    assert inputs["value"].tolist() == [0.0]


def test_nan_in_the_input_comes_from_the_batch_and_from_no_op(keras, replayed, primary):
    x = X.copy()
    x[2, 1] = np.nan
    event = primary(replayed(mlp(keras), x=x, y=Y))
    assert (event["origin"], event["origin_name"], event["produced"]) == ("batch", "x", False)


def test_nan_in_a_weight_comes_from_the_variable(keras, replayed, primary):
    model = mlp(keras)
    kernel = model.layers[-1].kernel.numpy()
    kernel[0, 0] = np.nan
    model.layers[-1].kernel.assign(kernel)
    trace = replayed(model, x=X, y=Y)
    event = primary(trace)
    assert (event["origin"], event["origin_name"]) == ("variable", "mlp/out/kernel")
    assert trace.context["failing_step"] == 0


def test_a_mask_of_minus_infinity_that_a_softmax_swallows_is_told_but_not_blamed(keras, replayed):
    @keras.saving.register_keras_serializable("test_engine")
    class Masked(keras.layers.Layer):
        def call(self, scores):
            keep = keras.ops.arange(4) < 3
            return keras.ops.softmax(keras.ops.where(keep, scores, -np.inf))

    model = keras.Sequential([keras.layers.Input((4,)), Masked(name="mask"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    trace = replayed(model, x=X, y=Y)
    assert trace.outcome == "healthy"
    assert set(trace.table("events")["origin"]) == {"constant"}
    assert not trace.table("events")["primary"].any()


def test_where_every_score_is_masked_the_softmax_is_the_producer(keras, replayed, primary):
    class Masked(keras.layers.Layer):
        def call(self, scores):
            return keras.ops.softmax(keras.ops.where(scores > 100.0, scores, -np.inf))

    model = keras.Sequential([keras.layers.Input((4,)), Masked(name="mask"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    event = primary(replayed(model, x=X, y=Y))
    assert (event["op_type"], event["layer"]) == ("Softmax", "mask")


def test_an_overflow_of_the_update_is_found_in_the_update(keras, replayed):
    model = mlp(keras, optimizer=keras.optimizers.SGD(1e38))
    trace = replayed(model, x=1e3 * X, y=Y)
    row = trace.table("steps").row(0)
    assert row["loss_finite"]
    assert not row["state_finite"]
    events = trace.table("events")
    assert events["phase"][events["primary"]].tolist() == ["update"]


def test_code_inside_a_tf_function_and_a_while_loop_is_seen(keras, replayed, primary):
    import tensorflow as tf

    @tf.function
    def grow(x):
        return tf.while_loop(lambda i, _v: i < 4, lambda i, v: (i + 1, v * 1e10), (0, x))[1]

    class Grow(keras.layers.Layer):
        def call(self, x):
            return grow(x)

    model = keras.Sequential([keras.layers.Input((4,)), Grow(name="grow"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    event = primary(replayed(model, x=X, y=Y))
    assert (event["op_type"], event["layer"]) == ("Mul", "grow")
    assert event["source"].startswith("test_engine.py:")


def test_an_op_that_runs_once_per_sample_is_blamed_with_its_sample_and_its_line(
    keras, replayed, primary
):
    import tensorflow as tf

    class Share(keras.layers.Layer):
        def call(self, x):
            return tf.map_fn(lambda row: row / tf.reduce_sum(tf.abs(row)), x)

    model = keras.Sequential([keras.layers.Input((4,)), Share(name="share"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    x = X.copy()
    x[5] = 0.0
    event = primary(replayed(model, x=x, y=Y))
    assert (event["op_type"], event["layer"]) == ("RealDiv", "share")
    assert json.loads(event["samples"]) == [5]
    assert event["source"].startswith("test_engine.py:")


@pytest.mark.parametrize("weighted", [False, True])
def test_a_custom_step_gets_the_batch_packed_as_fit_packs_it(keras, replayed, weighted):
    seen = []

    class Own(keras.Model):
        def train_step(self, data):
            seen.append(len(data))
            return super().train_step(data)

    inputs = keras.layers.Input((4,))
    model = Own(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd", "mse")
    weights = {"sample_weight": np.ones(8)} if weighted else {}
    assert replayed(model, x=X, y=Y, **weights).outcome == "healthy"
    assert seen == [2 + weighted]


def test_the_time_step_of_a_recurrent_layer_is_named(keras, replayed, primary):
    rnn = keras.Sequential(
        [
            keras.layers.Input((12, 1)),
            keras.layers.SimpleRNN(
                1, activation="linear", kernel_initializer="ones", name="rnn",
                recurrent_initializer=keras.initializers.Constant(1e8),
            ),
        ]
    )  # fmt: skip
    rnn.compile("sgd", "mse")
    event = primary(replayed(rnn, x=np.ones((2, 12, 1), "float32"), y=Y[:2]))
    assert event["layer"].startswith("rnn/")
    # 1e8 ** 4 is the last finite power: time step 5. Keras calls the cell once before the first.
    assert event["call"] == 6


# ---------------------------------------------------------------------- the outcome


def test_a_loss_scale_that_still_searches_is_healthy(keras, replayed):
    keras.config.set_dtype_policy("mixed_float16")
    model = mlp(
        keras,
        optimizer=keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(1e-3), initial_scale=2.0**40
        ),
    )
    trace = replayed(model, steps=3, x=X, y=Y)
    assert trace.table("steps")["skipped"][0]
    assert trace.outcome == "healthy"


def test_a_step_that_can_never_take_effect_has_diverged(keras, replayed):
    keras.config.set_dtype_policy("mixed_float16")
    x = X.copy()
    x[0, 0] = np.nan
    trace = replayed(mlp(keras), steps=2, x=x, y=Y)
    assert trace.outcome == "diverged"


def test_a_finite_runaway_has_diverged(keras, replayed):
    model = mlp(keras, optimizer=keras.optimizers.SGD(2.0))
    trace = replayed(model, steps=6, x=3 * X, y=Y)
    assert trace.outcome == "diverged"


def test_labels_that_push_a_bounded_loss_below_zero_have_diverged(keras, replayed):
    model = mlp(
        keras,
        loss=keras.losses.BinaryCrossentropy(from_logits=True),
        optimizer=keras.optimizers.Adam(0.5),
    )
    trace = replayed(model, steps=10, x=X, y=np.full((8, 1), -1.0))
    assert trace.outcome == "diverged"
    assert "cannot be negative" in trace.context["outcome_because"]


def test_a_step_that_cannot_run_says_why(keras, replayed):
    from divergence_doctor.errors import UsageError

    model = mlp(keras)
    with pytest.raises(UsageError) as caught:
        replayed(model, x=X, y=np.zeros((8, 3, 5), "float32"))
    assert caught.value.fix


def test_the_gradient_of_a_gather_passes_a_layers_output(keras, replayed):
    import tensorflow as tf

    def loss(_, y_pred):
        return tf.reduce_mean(tf.square(tf.gather(y_pred, [0, 2])))

    trace = replayed(mlp(keras, loss=loss), x=X, y=Y)
    assert trace.outcome == "healthy"
    gradients = trace.table("gradients").select(layer="out", variable="")
    assert gradients["shape"].tolist() == ["2x1"]


def test_what_traces_a_graph_inside_the_step_is_borne(keras, replayed, primary):
    import tensorflow as tf

    class Mapped(keras.layers.Layer):
        def build(self, shape):
            self.inner = keras.layers.Dense(3, kernel_initializer="identity", name="inner")
            self.inner.build((None, shape[-1]))

        def call(self, x):
            return tf.vectorized_map(lambda e: tf.math.log(self.inner(e[None]))[0], x)

    model = keras.Sequential(
        [keras.layers.Input((3,)), Mapped(name="mapped"), keras.layers.Dense(3, name="out")]
    )
    model.compile("sgd", "mse")
    x = np.ones((4, 3), "float32")
    assert replayed(model, x=x, y=x).outcome == "healthy"
    x[2, 1] = 0.0
    event = primary(replayed(model, x=x, y=np.ones((4, 3))))
    assert (event["layer"], json.loads(event["samples"])) == ("mapped", [2])


def test_a_batch_of_no_samples_leaves_a_loss_of_nothing(keras, replayed, primary):
    import tensorflow as tf

    empty = {"x": X[:0], "y": Y[:0]}
    assert replayed(mlp(keras), **empty).outcome == "healthy"
    own = mlp(keras, loss=lambda y, p: tf.reduce_mean(tf.square(y - p)))
    assert primary(replayed(own, **empty))["op_type"] == "Mean"


def test_a_division_by_its_epsilon_is_kept_though_its_result_is_finite(keras, replayed):
    import tensorflow as tf

    def loss(y_true, y_pred):
        count = tf.reduce_sum(tf.cast(y_true > 0, tf.float32))
        return tf.reduce_sum(tf.square(y_true - y_pred)) / (count + 1e-7)

    trace = replayed(mlp(keras, loss=loss), x=X, y=np.zeros_like(Y))
    (row,) = trace.table("divisions").rows()
    assert (row["op_type"], row["phase"], row["layer"]) == ("RealDiv", "loss", "")
    assert row["denominator"] == pytest.approx(1e-7)
    assert row["quotient"] == pytest.approx(row["numerator"] * 1e7)
    assert len(replayed(mlp(keras, loss=loss), x=X, y=np.ones_like(Y)).table("divisions")) == 0


def test_an_infinity_that_a_mask_adds_is_not_what_made_a_score_nan(keras, replayed, primary):
    import tensorflow as tf

    class Attention(keras.layers.Layer):
        def call(self, x):
            causal = tf.math.log(tf.linalg.band_part(tf.ones((3, 3)), -1, 0))
            return tf.nn.softmax(tf.sqrt(x) + causal)

    model = keras.Sequential(
        [keras.layers.Input((3, 3)), Attention(name="attention"), keras.layers.Dense(3)]
    )
    model.compile("sgd", "mse")
    scores = np.ones((2, 3, 3), "float32")
    assert replayed(model, x=scores, y=scores).outcome == "healthy"
    scores[1, 2, 0] = -1.0
    event = primary(replayed(model, x=scores, y=np.ones((2, 3, 3))))
    assert (event["op_type"], json.loads(event["samples"])) == ("Sqrt", [1])


def test_a_bug_of_ours_is_not_blamed_on_the_batch(keras, replayed, monkeypatch):
    from divergence_doctor.replay import watch

    def broken(_watch, _table, _tensor, **_row):
        raise KeyError("ours")

    monkeypatch.setattr(watch.StepWatch, "_record", broken)
    model = mlp(keras)
    with pytest.raises(KeyError, match="ours"):
        replayed(model, x=X.astype("int32").astype("float32"), y=Y)


@pytest.mark.parametrize(
    ("guarded", "divides"),
    [
        (lambda x, root: x / (root + 1e-6), True),
        (lambda x, root: x / root.dtype.as_numpy_dtype(2.0) + root, False),
        (lambda x, root: x + root, False),
    ],
    ids=["a divisor", "beside a division", "a feature"],
)
def test_the_primary_event_says_whether_its_layer_divides_by_it(
    keras, replayed, primary, guarded, divides
):
    def call(x):
        return guarded(x, x**0.5)

    model = keras.Sequential(
        [
            keras.layers.Input((3,)),
            keras.layers.Dense(3, "relu", use_bias=False),
            keras.layers.Lambda(call, name="root"),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    x = np.ones((4, 3), "float32")
    x[1] = 0.0
    event = primary(replayed(model, x=x, y=np.ones((4, 1), "float32")))
    assert (event["op_type"], event["derivative"]) == ("Pow", True)
    assert event["divides"] == divides
