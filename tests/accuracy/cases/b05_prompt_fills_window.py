"""Fine-tuning on answers only: the prompts fill every window, so the loss averages over no token.

From keras-team/keras#3270, NVIDIA-NeMo/Automodel#3796 and huggingface/transformers#16711.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "division-by-zero",
    "stage": "loss",
    "layer": None,
    "op": "RealDiv",
    "samples": [],
}

VOCABULARY, LENGTH, WIDTH, IGNORED = 40, 12, 16, -100


@keras.saving.register_keras_serializable("b05")
def answer_loss(y_true, y_pred):
    """Return the mean cross-entropy of the tokens of the answers."""
    labels = tf.cast(y_true, tf.int32)
    answer = tf.not_equal(labels, IGNORED)
    entropy = tf.nn.sparse_softmax_cross_entropy_with_logits(
        labels=tf.where(answer, labels, 0), logits=y_pred
    )
    counts = tf.cast(answer, entropy.dtype)
    return tf.reduce_sum(entropy * counts) / tf.reduce_sum(counts)


def model():
    """Return one causal transformer block."""
    tokens = keras.Input((LENGTH,), dtype="int32", name="tokens")
    hidden = keras.layers.Embedding(VOCABULARY, WIDTH, name="embed")(tokens)
    seen = keras.layers.LayerNormalization(name="norm_1")(hidden)
    attention = keras.layers.MultiHeadAttention(2, 8, name="attention")
    hidden = hidden + attention(seen, seen, use_causal_mask=True)
    seen = keras.layers.LayerNormalization(name="norm_2")(hidden)
    hidden = hidden + keras.layers.Dense(WIDTH, activation="gelu", name="mlp")(seen)
    built = keras.Model(tokens, keras.layers.Dense(VOCABULARY, name="head")(hidden))
    built.compile(keras.optimizers.AdamW(3e-4, weight_decay=0.01), answer_loss)
    return built


def batch():
    """Return four windows; each of the answers begins behind the end of its window."""
    rng = np.random.default_rng(5)
    prompt = np.array([12, 15, 13, 20])
    tokens = rng.integers(0, VOCABULARY, (4, LENGTH)).astype("int32")
    following = np.concatenate([tokens[:, 1:], rng.integers(0, VOCABULARY, (4, 1))], axis=1)
    labels = np.where(np.arange(LENGTH) < prompt[:, None], IGNORED, following)
    return {"x": tokens, "y": labels.astype("int32")}
