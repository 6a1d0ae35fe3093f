"""ArcFace takes sin = sqrt(1 - cos^2), and one embedding lies exactly on the centre of its class.

From ktjonsson/keras-ArcFace#2 and ronghuaiyang/arcface-pytorch#32.
"""

import keras
import numpy as np
from keras import ops

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": "arcface",
    "op": "Sqrt",
    "samples": [4],
}


@keras.saving.register_keras_serializable("g11")
class ArcFace(keras.layers.Layer):
    """Logits with an angular margin on the true class."""

    def __init__(self, classes, scale=16.0, margin=0.3, **kwargs):
        super().__init__(**kwargs)
        self.classes, self.scale, self.margin = classes, scale, margin

    def build(self, shapes):
        """Make the classes' centres."""
        shape = (shapes[0][-1], self.classes)
        self.centres = self.add_weight(shape=shape, initializer="glorot_uniform", name="centres")

    def call(self, inputs):
        """Return the scaled cosines, with the margin added to the angle of the true class."""
        embedding, label = inputs
        unit = embedding / ops.norm(embedding, axis=-1, keepdims=True)
        cosine = ops.matmul(unit, self.centres / ops.norm(self.centres, axis=0, keepdims=True))
        sine = ops.sqrt(1.0 - ops.square(cosine))
        moved = cosine * float(np.cos(self.margin)) - sine * float(np.sin(self.margin))
        return self.scale * ops.where(label > 0, moved, cosine)

    def get_config(self):
        """Return what the layer is made of."""
        config = {"classes": self.classes, "scale": self.scale, "margin": self.margin}
        return {**super().get_config(), **config}


def model():
    """Return a pruned face model, whose embedding has a unit for each part of the face."""
    face = keras.Input((12,), name="face")
    label = keras.Input((4,), name="label")
    hidden = keras.layers.Dense(8, activation="relu", name="hidden")(face)
    embedding = keras.layers.Dense(4, activation="relu", name="embedding")(hidden)
    logits = ArcFace(4, name="arcface")([embedding, label])
    built = keras.Model({"face": face, "label": label}, keras.layers.Softmax(name="id")(logits))
    built.compile(keras.optimizers.SGD(0.05, momentum=0.9), "categorical_crossentropy")
    parts = np.kron(np.eye(4), np.ones((3, 2)))
    built.get_layer("hidden").set_weights([parts * np.linspace(0.2, 0.6, 8), np.zeros(8)])
    built.get_layer("embedding").set_weights([np.kron(np.eye(4), [[0.5], [0.7]]), np.zeros(4)])
    centres = np.full((4, 4), 0.6) - np.diag([0.0, 0.5, 0.4, 0.3])
    centres[:, 0] = [2.0, 0.0, 0.0, 0.0]
    built.get_layer("arcface").set_weights([centres])
    return built


def batch():
    """Return eight faces; of the fifth all but the first part is hidden."""
    rng = np.random.default_rng(0)
    faces = rng.random((8, 12)).astype("float32")
    faces[4, 3:] = 0.0
    labels = np.eye(4, dtype="float32")[[0, 1, 2, 3, 0, 1, 2, 3]]
    return {"x/face": faces, "x/label": labels, "y": labels}
