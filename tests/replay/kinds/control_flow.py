"""Kinds whose own code holds functions, loops and branches."""

from tests.replay.kinds._kind import chain, kind, normal

X, Y = normal(4, 3), normal(4, 1, seed=1)


def _with(name, make, **arrays):
    @kind(name, **({"x": X, "y": Y} | arrays))
    def build(keras):
        import tensorflow as tf

        function = make(tf)

        class Own(keras.layers.Layer):
            def build(self, _):
                self.scale = self.add_weight(shape=(3,), initializer="ones", name="scale")

            def call(self, x):
                return function(x * self.scale)

        return chain(
            keras, keras.layers.Input((3,)), Own(name="own"), keras.layers.Dense(1, name="out")
        )

    return build


def _function(tf):
    @tf.function
    def step(x):
        if tf.reduce_sum(x) > 0:
            return x * 2.0
        for _ in tf.range(2):
            x = x + tf.sin(x)
        return x

    return step


def _custom_gradient(tf):
    @tf.custom_gradient
    def straight(x):
        return tf.round(x), lambda gradient: gradient

    return straight


_with("tf.function with a branch and a loop", _function)
_with(
    "tf.while_loop",
    lambda tf: (
        lambda x: tf.while_loop(lambda i, _: i < 3, lambda i, v: (i + 1, tf.tanh(v) * 1.5), (0, x))[
            1
        ]
    ),
)
_with(
    "tf.cond and tf.switch_case",
    lambda tf: (
        lambda x: tf.switch_case(
            tf.constant(1),
            [lambda: x, lambda: tf.cond(tf.reduce_mean(x) > 9.0, lambda: x, lambda: tf.exp(x))],
        )
    ),
)
_with("tf.map_fn", lambda tf: lambda x: tf.map_fn(lambda row: row / (1.0 + tf.norm(row)), x))
_with("tf.scan", lambda tf: lambda x: tf.scan(lambda a, b: 0.5 * a + b, x))
_with("tf.vectorized_map", lambda tf: lambda x: tf.vectorized_map(lambda row: tf.sin(row) + row, x))
_with("tf.numpy_function and tf.py_function", lambda tf: lambda x: x + tf.ensure_shape(
    tf.numpy_function(lambda v: v * 0.5, [tf.stop_gradient(x)], tf.float32)
    + tf.py_function(lambda v: v * 0.25, [x], tf.float32),
    x.shape,
))  # fmt: skip
_with("a gradient of one's own", _custom_gradient)
_with("tf.recompute_grad", lambda tf: tf.recompute_grad(lambda x: tf.sin(x) * tf.exp(x)))
_with(
    "TensorArray, gather, scatter, sort",
    lambda tf: (
        lambda x: tf.tensor_scatter_nd_add(
            tf.gather(tf.sort(x, axis=1), [3, 1, 0, 2]), [[0], [2]], x[:2]
        )
    ),
)
_with(
    "complex numbers",
    lambda tf: lambda x: tf.abs(tf.signal.fft(tf.cast(x, tf.complex64))) + 0.0,
)
_with(
    "matrices",
    lambda tf: (
        lambda x: tf.linalg.matmul(
            x, tf.linalg.inv(tf.linalg.matmul(x, x, transpose_a=True) + tf.eye(3))
        )
    ),
)


@kind("keras.ops loops: scan, while_loop, cond, fori_loop, map", x=X, y=Y)
def keras_loops(keras):
    ops = keras.ops

    class Loops(keras.layers.Layer):
        def call(self, x):
            x = ops.cond(ops.sum(x) > 1e9, lambda: x, lambda: x * 0.9)
            (x,) = ops.while_loop(lambda v: ops.max(v) > 1.0, lambda v: (v * 0.5,), (x,))
            x = ops.fori_loop(0, 2, lambda _, v: v + 0.1 * ops.sin(v), x)
            _, x = ops.scan(lambda carry, row: (carry + row, carry * row), x[0], x)
            return ops.map(lambda row: row * 2.0, x)

    return chain(
        keras, keras.layers.Input((3,)), Loops(name="loops"), keras.layers.Dense(1, name="out")
    )


@kind("keras.layers.Lambda and operators on symbols", x=X, y=Y)
def symbols(keras):
    inputs = keras.layers.Input((3,))
    x = keras.layers.Lambda(lambda v: v * 2.0, name="twice")(inputs)
    x = keras.ops.where(x > 0, x, 0.1 * x) + keras.ops.clip(x, -1, 1) @ keras.ops.eye(3)
    model = keras.Model(inputs, keras.layers.Dense(1, name="out")(x[:, :2]))
    model.compile("sgd", "mse")
    return model
