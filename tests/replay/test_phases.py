"""In which phase of the step is the first producer found? One small model for every phase."""

import json

import numpy as np
import pytest

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(8, 4)).astype("float32")
Y = GENERATOR.normal(size=(8, 1)).astype("float32")


def mlp(keras, *, loss="mse", optimizer="sgd", **dense):
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.Dense(3, name="hidden", **dense),
            keras.layers.Dense(1, name="out"),
        ],
        name="mlp",
    )
    model.compile(optimizer, loss)
    return model


def told(event):
    return event["op_type"], event["phase"], event["layer"]


# ---------------------------------------------------------------------- terms of the loss


def test_a_regulariser_that_overflows_is_a_named_term_of_the_loss(keras, replayed, primary):
    model = mlp(keras, kernel_regularizer=keras.regularizers.L2(0.01))
    kernel = np.zeros((4, 3), "float32")
    kernel[1, 2] = 1e25
    model.get_layer("hidden").kernel.assign(kernel)
    x = X.copy()
    x[:, 1] = 0.0
    trace = replayed(model, x=x, y=Y)
    event = primary(trace)
    assert told(event) == ("Square", "loss", "")
    operands = trace.table("operands").select(role="input")
    assert operands["value"][0] == pytest.approx(1e25)
    terms = {row["name"]: row["value"] for row in trace.table("losses").rows()}
    assert terms["regularizer/mlp/hidden/kernel"] == np.inf
    assert np.isfinite(terms["mse"])
    assert event["term"] == "regularizer/mlp/hidden/kernel"


def test_a_term_that_a_layer_adds_is_named_after_the_layer(keras, replayed, primary):
    @keras.saving.register_keras_serializable("test_phases")
    class Sparse(keras.layers.Layer):
        def call(self, x):
            self.add_loss(keras.ops.sum(keras.ops.log(keras.ops.relu(x))))
            return x

    inputs = keras.layers.Input((4,))
    outputs = keras.layers.Dense(1)(Sparse(name="sparse")(inputs))
    model = keras.Model(inputs, outputs)
    model.compile("sgd", "mse")
    x = np.abs(X)
    x[3, 2] = -1.0
    trace = replayed(model, x=x, y=Y)
    event = primary(trace)
    assert told(event) == ("Log", "forward", "sparse")
    assert json.loads(event["samples"]) == [3]
    assert event["term"] == "add_loss/sparse"


def test_the_loss_of_the_second_output_is_told_from_the_first(keras, replayed, primary):
    def logarithmic(y_true, y_pred):
        return keras.ops.mean(keras.ops.log(keras.ops.abs(y_pred)) - y_true, axis=-1)

    inputs = keras.layers.Input((4,))
    first = keras.layers.Dense(1, name="first")(inputs)
    second = keras.layers.Dense(1, name="second", kernel_initializer="zeros")(inputs)
    model = keras.Model(inputs, {"first": first, "second": second})
    model.compile("sgd", {"first": "mse", "second": logarithmic})
    trace = replayed(model, x=X, y__first=Y, y__second=Y)
    event = primary(trace)
    assert told(event) == ("Log", "loss", "")
    assert event["term"] == "second/logarithmic"


# ---------------------------------------------------------------------- clipping


def test_a_norm_that_overflows_is_found_in_clipping_not_in_the_update(keras, replayed, primary):
    model = mlp(
        keras,
        loss=lambda y, p: keras.ops.mean(p - y) * 1e30,
        optimizer=keras.optimizers.SGD(0.01, global_clipnorm=1.0),
    )
    trace = replayed(model, x=X, y=Y)
    steps = trace.table("steps").row(0)
    assert steps["loss_finite"]
    assert steps["gradients_finite"]
    event = primary(trace)
    assert told(event) == ("Square", "clipping", "")
    assert event["reaches"] == "state"


def test_clipping_by_hand_between_gradient_and_update_is_clipping(keras, replayed, primary):
    import tensorflow as tf

    class Own(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = tf.reduce_mean(self(x, training=True) - y) * 1e30
            gradients = tape.gradient(loss, self.trainable_variables)
            gradients, _ = tf.clip_by_global_norm(gradients, 1.0)
            self.optimizer.apply(gradients, self.trainable_variables)
            return {"loss": loss}

    inputs = keras.layers.Input((4,))
    model = Own(inputs, keras.layers.Dense(1)(inputs))
    model.compile("sgd")
    event = primary(replayed(model, x=X, y=Y))
    assert told(event) == ("L2Loss", "clipping", "")
    assert event["source"].startswith("test_phases.py:")


def test_a_norm_of_a_gradient_that_is_nan_already_is_not_the_cause(keras, replayed, primary):
    model = mlp(
        keras,
        loss=lambda y, p: keras.ops.sum(keras.ops.sqrt((p - y) ** 2)),
        optimizer=keras.optimizers.SGD(0.01, global_clipnorm=1.0),
        kernel_initializer="zeros",
    )
    event = primary(replayed(model, x=X, y=np.zeros_like(Y)))
    assert told(event) == ("Sqrt", "backward", "")
    assert event["derivative"]


# ---------------------------------------------------------------------- update and state


def test_accumulated_gradients_that_overflow_are_found_in_the_update(keras, replayed, primary):
    model = mlp(
        keras,
        loss=lambda y, p: keras.ops.mean(p - y) * 3e38,
        optimizer=keras.optimizers.SGD(1e-3, gradient_accumulation_steps=2),
    )
    model.get_layer("out").kernel.assign(np.full((3, 1), 0.1))
    trace = replayed(model, steps=2, x=0.1 * np.ones_like(X), y=0.001 * np.ones_like(Y))
    steps = trace.table("steps")
    assert steps["state_finite"].tolist() == [True, False]
    event = primary(trace)
    assert (event["step"], event["op_type"], event["phase"]) == (1, "AddV2", "update")


def test_a_scaled_loss_that_overflows_is_found_where_it_overflows(keras, replayed, primary):
    keras.config.set_dtype_policy("mixed_float16")
    model = mlp(
        keras,
        optimizer=keras.optimizers.LossScaleOptimizer(
            keras.optimizers.SGD(1e-3), initial_scale=2.0**14
        ),
    )
    model.get_layer("hidden").kernel.assign(np.full((4, 3), 6e4))
    trace = replayed(model, steps=1, x=np.ones_like(X), y=Y)
    event = primary(trace)
    assert (event["op_type"], event["layer"], event["phase"]) == ("MatMul", "hidden", "forward")


def test_an_epsilon_of_zero_divides_in_the_update(keras, replayed, primary):
    model = mlp(keras, optimizer=keras.optimizers.Adam(1e-3, epsilon=0.0))
    x = X.copy()
    x[:, 2] = 0.0
    trace = replayed(model, x=x, y=Y)
    event = primary(trace)
    assert told(event) == ("RealDiv", "update", "")
    assert event["reaches"] == "state"
    values = trace.table("operands").select(role="input")["value"].tolist()
    assert values == [0.0, 0.0]


def test_a_negative_second_moment_is_met_by_the_root_in_the_update(keras, replayed, primary):
    model = mlp(keras, optimizer=keras.optimizers.Adam(1e-3))
    model.optimizer.build(model.trainable_variables)
    moments = [v for v in model.optimizer.variables if "velocity" in v.path]
    moments[0].assign(np.full((4, 3), -1.0))
    event = primary(replayed(model, x=0.01 * X, y=0.01 * Y))
    assert told(event) == ("Sqrt", "update", "")


def test_a_schedule_that_gives_nan_is_found_in_the_update(keras, replayed, primary):
    @keras.saving.register_keras_serializable("test_phases")
    class Broken(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            step = keras.ops.cast(step, "float32")
            return 0.01 * keras.ops.sqrt(0.5 - step)

    model = mlp(keras, optimizer=keras.optimizers.SGD(Broken()))
    trace = replayed(model, steps=3, x=X, y=Y)
    event = primary(trace)
    assert (event["step"], *told(event)) == (1, "Sqrt", "update", "")
    assert event["source"].startswith("test_phases.py:")


def test_a_constraint_is_found_after_the_update(keras, replayed, primary):
    @keras.saving.register_keras_serializable("test_phases")
    class Unit(keras.constraints.Constraint):
        def __call__(self, w):
            return w / keras.ops.sqrt(keras.ops.sum(w * w, axis=0, keepdims=True))

    model = mlp(keras, kernel_constraint=Unit(), kernel_initializer="zeros")
    model.get_layer("out").kernel.assign(np.zeros((3, 1)))
    trace = replayed(model, x=X, y=Y)
    event = primary(trace)
    assert told(event) == ("RealDiv", "update", "")
    assert event["source"].startswith("test_phases.py:")
    healthy = mlp(keras, kernel_constraint=keras.constraints.UnitNorm(), kernel_initializer="zeros")
    healthy.get_layer("out").kernel.assign(np.zeros((3, 1)))
    assert replayed(healthy, x=X, y=Y).outcome == "healthy"


def test_a_moving_average_of_the_weights_that_overflows_is_found(keras, replayed, primary):
    model = mlp(
        keras, optimizer=keras.optimizers.SGD(0.01, use_ema=True, ema_overwrite_frequency=1)
    )
    model.optimizer.build(model.trainable_variables)
    averages = [v for v in model.optimizer.variables if "average" in v.path]
    averages[0].assign(np.full((4, 3), np.inf))
    event = primary(replayed(model, x=X, y=Y))
    assert (event["origin"], event["phase"]) == ("variable", "update")
    assert "average" in event["origin_name"]


def test_moving_statistics_that_overflow_are_state_and_come_from_the_layer(
    keras, replayed, primary
):
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.BatchNormalization(name="norm"),
            keras.layers.Dense(1, name="out"),
        ]
    )
    model.compile("sgd", "mse")
    x = X.copy()
    x[0, 1] = 1e25
    trace = replayed(model, x=x, y=Y)
    event = primary(trace)
    assert (event["layer"], event["phase"]) == ("norm", "forward")
    assert event["reaches"] in {"loss", "state"}


# ---------------------------------------------------------------------- backward


def test_a_gradient_of_the_users_own_is_blamed_with_his_line(keras, replayed, primary):
    import tensorflow as tf

    @tf.custom_gradient
    def own(x):
        def back(upstream):
            return upstream / tf.where(x > 0.0, x, 0.0)

        return tf.maximum(x, 0.0), back

    class Own(keras.layers.Layer):
        def call(self, x):
            return own(x)

    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(3, name="hidden"), Own(name="own"),
         keras.layers.Dense(1, name="out")]
    )  # fmt: skip
    model.compile("sgd", "mse")
    event = primary(replayed(model, x=X, y=Y))
    assert (event["op_type"], event["phase"]) == ("RealDiv", "backward")
    assert event["source"].startswith("test_phases.py:")
    assert event["layer"] == "own"


def test_the_norm_of_a_gradient_penalty_is_blamed_at_its_derivative(keras, replayed, primary):
    import tensorflow as tf

    class Critic(keras.Model):
        def train_step(self, real):
            with tf.GradientTape() as tape:
                with tf.GradientTape() as inner:
                    inner.watch(real)
                    score = self(real, training=True)
                slope = tf.sqrt(tf.reduce_sum(inner.gradient(score, real) ** 2, axis=1))
                loss = tf.reduce_mean(score) + 10.0 * tf.reduce_mean((slope - 1.0) ** 2)
            weights = self.trainable_variables
            self.optimizer.apply(tape.gradient(loss, weights), weights)
            return {"loss": loss}

    inputs = keras.layers.Input((4,))
    hidden = keras.layers.Dense(3, activation="relu", name="hidden")(inputs)
    model = Critic(inputs, keras.layers.Dense(1, name="out")(hidden))
    model.compile("sgd")
    model.get_layer("hidden").kernel.assign(np.ones((4, 3)))
    x = np.abs(X)
    x[5] = -1.0
    trace = replayed(model, x=x)
    assert trace.table("steps")["loss_finite"].tolist() == [True]
    event = primary(trace)
    assert (event["op_type"], event["phase"], event["derivative"]) == ("Sqrt", "backward", True)
    assert event["source"].startswith("test_phases.py:")
    assert json.loads(event["samples"]) == [5]


def test_ops_of_a_loop_are_told_with_the_input_that_broke_them(keras, replayed, primary):
    import tensorflow as tf

    class Halve(keras.layers.Layer):
        def call(self, x):
            def body(i, v):
                return i + 1, tf.math.log(tf.nn.relu(v - 1.0))

            return tf.while_loop(lambda i, _v: i < 2, body, (0, x))[1]

    model = keras.Sequential(
        [keras.layers.Input((4,)), Halve(name="halve"), keras.layers.Dense(1, name="out")]
    )
    model.compile("sgd", "mse")
    x = np.full((8, 4), 100.0, "float32")
    x[6, 1] = 2.0
    trace = replayed(model, x=x, y=Y)
    event = primary(trace)
    assert told(event) == ("Log", "forward", "halve")
    assert json.loads(event["samples"]) == [6]
    assert trace.table("operands").select(role="input")["value"].tolist() == [0.0]


def test_a_clip_norm_that_overflows_zeroes_the_gradient_and_is_told(keras, replayed):
    model = mlp(
        keras,
        loss=lambda y, p: keras.ops.mean(p - y) * 1e30,
        optimizer=keras.optimizers.SGD(0.01, clipnorm=1.0),
    )
    trace = replayed(model, x=X, y=Y)
    assert trace.outcome == "healthy"
    rows = list(trace.table("harmless").rows())
    assert {(row["name"], row["phase"], row["reason"]) for row in rows} == {
        ("Mul", "clipping", "infinity-borne")
    }
    assert {row["ended_in"] for row in rows} == {"RealDiv"}
