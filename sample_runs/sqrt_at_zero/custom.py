"""Which loss was the model trained with? A contrastive loss on the distances of pairs."""

import keras


@keras.saving.register_keras_serializable(package="sqrt_at_zero")
def contrastive_loss(same, distance):
    """Pull pairs of one signature together, push others at least 1 apart."""
    return same * distance + (1.0 - same) * keras.ops.maximum(1.0 - distance, 0.0)
