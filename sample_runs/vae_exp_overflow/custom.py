"""Which model was trained? A small variational autoencoder with its own training step."""

import keras
import tensorflow as tf


@keras.saving.register_keras_serializable(package="vae_exp_overflow")
class Sampling(keras.layers.Layer):
    """Draws a code from the normal distribution that the encoder describes."""

    def __init__(self, seed=1, **kwargs):
        super().__init__(**kwargs)
        self.seed = seed
        self.noise = keras.random.SeedGenerator(seed)

    def call(self, mean, log_var):
        epsilon = keras.random.normal(keras.ops.shape(mean), seed=self.noise)
        return mean + keras.ops.exp(0.5 * log_var) * epsilon

    def get_config(self):
        return {**super().get_config(), "seed": self.seed}


@keras.saving.register_keras_serializable(package="vae_exp_overflow")
class VariationalAutoencoder(keras.Model):
    """Encoder, sampling and decoder for square grey pictures in 0..1."""

    def __init__(self, side, codes, **kwargs):
        super().__init__(**kwargs)
        self.side, self.codes = side, codes
        self.flatten = keras.layers.Flatten(name="flatten")
        self.encoder = keras.layers.Dense(24, activation="relu", name="encoder")
        self.mean = keras.layers.Dense(codes, name="mean")
        self.log_var = keras.layers.Dense(codes, name="log_var")
        self.sampling = Sampling(name="sampling")
        self.decoder = keras.layers.Dense(24, activation="relu", name="decoder")
        self.pixels = keras.layers.Dense(side * side, name="pixels")

    def build(self, input_shape):
        self.encoder.build((None, self.side * self.side))
        self.mean.build((None, 24))
        self.log_var.build((None, 24))
        self.decoder.build((None, self.codes))
        self.pixels.build((None, 24))
        super().build(input_shape)

    def encode(self, pictures):
        hidden = self.encoder(self.flatten(pictures))
        return self.mean(hidden), self.log_var(hidden)

    def call(self, pictures):
        mean, log_var = self.encode(pictures)
        return self.pixels(self.decoder(self.sampling(mean, log_var)))

    def train_step(self, data):
        (pictures,) = data if isinstance(data, tuple) else (data,)
        with tf.GradientTape() as tape:
            mean, log_var = self.encode(pictures)
            logits = self.pixels(self.decoder(self.sampling(mean, log_var)))
            rebuilding = tf.reduce_sum(
                tf.nn.sigmoid_cross_entropy_with_logits(self.flatten(pictures), logits), axis=1
            )
            # nothing bounds log_var, and exp overflows at 88.72
            divergence = 0.5 * tf.reduce_sum(
                tf.exp(log_var) + tf.square(mean) - 1.0 - log_var, axis=1
            )
            loss = tf.reduce_mean(rebuilding + divergence)
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        return {"loss": loss}

    def get_config(self):
        return {**super().get_config(), "side": self.side, "codes": self.codes}
