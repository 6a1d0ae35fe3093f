"""A triplet net measures by tf.norm, and a positive is its anchor: no gradient at a zero norm.

From tensorflow/tensorflow#12071 and jina-ai/finetuner#34.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": "distance",
    "op": "Sqrt",
    "samples": [2],
}


@keras.saving.register_keras_serializable("g01")
class Distance(keras.layers.Layer):
    """Euclidean distance of two embeddings."""

    def call(self, one, other):
        """Return the distance of each pair."""
        return tf.norm(one - other, axis=-1, keepdims=True)


@keras.saving.register_keras_serializable("g01")
class TripletMargin(keras.losses.Loss):
    """The positive has to be nearer than the negative, by a soft margin."""

    def call(self, y_true, y_pred):
        """Return the loss of each triplet; ``y_true`` is its weight."""
        return tf.nn.softplus(y_pred[:, 0] - y_pred[:, 1]) * y_true[:, 0]


def model():
    """Return the triplet net; its three branches share the encoder."""
    encoder = keras.Sequential(
        [
            keras.Input((10, 10, 1)),
            keras.layers.Conv2D(4, 3, strides=2, activation="relu", name="conv"),
            keras.layers.Flatten(),
            keras.layers.Dense(8, name="embedding"),
        ],
        name="encoder",
    )
    images = [keras.Input((10, 10, 1), name=name) for name in ("anchor", "positive", "negative")]
    anchor, positive, negative = (encoder(image) for image in images)
    distance = Distance(name="distance")
    both = [distance(anchor, positive), distance(anchor, negative)]
    built = keras.Model(images, keras.layers.Concatenate(name="distances")(both))
    built.compile(keras.optimizers.RMSprop(1e-3), TripletMargin())
    return built


def batch():
    """Return eight triplets; in the third the positive is the anchor itself."""
    rng = np.random.default_rng(0)
    anchor, positive, negative = rng.random((3, 8, 10, 10, 1)).astype("float32")
    positive[2] = anchor[2]
    return {"x_0": anchor, "x_1": positive, "x_2": negative, "y": np.ones((8, 1), "float32")}
