"""Which model was trained? A variational autoencoder that also learns how noisy each pixel is."""

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
    """Encoder, sampling, and a decoder that gives every pixel a mean and a log-variance."""

    def __init__(self, pixels, codes, **kwargs):
        super().__init__(**kwargs)
        self.count, self.codes = pixels, codes
        self.encoder = keras.layers.Dense(16, activation="relu", name="encoder")
        self.code_mean = keras.layers.Dense(codes, name="code_mean")
        self.code_log_var = keras.layers.Dense(codes, name="code_log_var")
        self.sampling = Sampling(name="sampling")
        self.decoder = keras.layers.Dense(16, activation="relu", name="decoder")
        self.pixel_mean = keras.layers.Dense(pixels, name="pixel_mean")
        self.pixel_log_var = keras.layers.Dense(pixels, name="pixel_log_var")
        self.loss_tracker = keras.metrics.Mean(name="total_loss")

    def build(self, input_shape):
        self.encoder.build((None, self.count))
        for layer in (self.code_mean, self.code_log_var):
            layer.build((None, 16))
        self.decoder.build((None, self.codes))
        for layer in (self.pixel_mean, self.pixel_log_var):
            layer.build((None, 16))
        super().build(input_shape)

    def encode(self, frames):
        hidden = self.encoder(frames)
        return self.code_mean(hidden), self.code_log_var(hidden)

    def decode(self, codes):
        hidden = self.decoder(codes)
        return self.pixel_mean(hidden), self.pixel_log_var(hidden)

    def call(self, frames):
        return self.decode(self.sampling(*self.encode(frames)))

    def train_step(self, data):
        frames, _, _ = keras.utils.unpack_x_y_sample_weight(data)
        with tf.GradientTape() as tape:
            code_mean, code_log_var = self.encode(frames)
            mean, log_var = self.decode(self.sampling(code_mean, code_log_var))
            # nothing keeps log_var in bounds, and exp overflows at 88.72
            misfit = log_var + tf.square(frames - mean) * tf.exp(-log_var)
            divergence = tf.exp(code_log_var) + tf.square(code_mean) - 1.0 - code_log_var
            loss = 0.5 * tf.reduce_mean(
                tf.reduce_sum(misfit, axis=1) + tf.reduce_sum(divergence, axis=1)
            )
        gradients = tape.gradient(loss, self.trainable_variables)
        self.optimizer.apply_gradients(zip(gradients, self.trainable_variables, strict=True))
        self.loss_tracker.update_state(loss)
        return {"loss": self.loss_tracker.result()}

    def get_config(self):
        return {**super().get_config(), "pixels": self.count, "codes": self.codes}
