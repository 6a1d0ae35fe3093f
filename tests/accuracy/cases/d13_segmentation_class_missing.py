"""A segmentation net has one class too few; the class that it lacks is in one mask only.

From shekkizh/FCN.tensorflow#17 and shekkizh/FCN.tensorflow#22.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "bad-labels",
    "stage": "data",
    "layer": None,
    "op": "SparseSoftmaxCrossEntropyWithLogits",
    "samples": [1],
}

SIZE, CLASSES = 8, 3


@keras.saving.register_keras_serializable("d13")
def pixel_loss(masks, logits):
    """Return the mean cross-entropy over all pixels."""
    labels = tf.cast(tf.squeeze(masks, axis=3), tf.int32)
    found = tf.nn.sparse_softmax_cross_entropy_with_logits(labels=labels, logits=logits)
    return tf.reduce_mean(found)


def model():
    """Return a fully convolutional net in the manner of FCN-8s: two scores, the coarse one up."""
    image = keras.Input((SIZE, SIZE, 3), name="image")
    fine = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu", name="conv3")(image)
    coarse = keras.layers.Conv2D(12, 3, 2, padding="same", activation="relu", name="conv4")(fine)
    score = keras.layers.Conv2D(CLASSES, 1, name="score4")(coarse)
    score = keras.layers.Conv2DTranspose(CLASSES, 4, 2, padding="same", name="up4")(score)
    fused = keras.layers.Add(name="fuse")([score, keras.layers.Conv2D(CLASSES, 1)(fine)])
    logits = keras.layers.Conv2DTranspose(CLASSES, 4, 2, padding="same", name="up8")(fused)
    built = keras.Model(image, logits)
    built.compile(keras.optimizers.Adam(1e-4), pixel_loss)
    return built


def batch():
    """Return four scenes, with the masks as they were annotated."""
    rng = np.random.default_rng(13)
    masks = rng.integers(0, CLASSES, (4, SIZE, SIZE, 1))
    masks[1, 2:5, 3:6] = CLASSES
    return {"x": rng.random((4, SIZE, SIZE, 3)).astype("float32"), "y": masks.astype("uint8")}
