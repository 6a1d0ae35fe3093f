"""The gradient penalty of a WGAN takes the norm of a gradient that is zero: its critic is dead.

From keras-team/keras-io#910 and tdeboissiere/DeepLearningImplementations#68.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {
    "outcome": "diverged",
    "cause": "gradient-singularity",
    "stage": "backward",
    "layer": None,
    "op": "Sqrt",
    "samples": [],
}


@keras.saving.register_keras_serializable("g03")
class WassersteinGAN(keras.Model):
    """Generator and critic of small images, with a penalty on the critic's gradient."""

    def __init__(self, latent=4, penalty=10.0, **kwargs):
        super().__init__(**kwargs)
        self.latent, self.penalty = latent, penalty
        self.generator = keras.Sequential(
            [keras.layers.Dense(16, "relu"), keras.layers.Dense(36, "sigmoid")], name="generator"
        )
        self.critic = keras.Sequential(
            [keras.layers.Dense(16, "relu"), keras.layers.Dense(1)], name="critic"
        )
        self.seed = keras.random.SeedGenerator(5)

    def call(self, images):
        """Return the critic's score of real images."""
        return self.critic(images)

    def build(self, shape):
        """Build both halves."""
        self.generator.build((None, self.latent))
        self.critic.build(shape)

    def train_step(self, real):
        """Take a step of the critic, then one of the generator."""
        rows = tf.shape(real)[0]
        noise = keras.random.normal((rows, self.latent), seed=self.seed)
        mix = keras.random.uniform((rows, 1), seed=self.seed)
        with tf.GradientTape() as tape:
            fake = self.generator(noise, training=True)
            between = real + mix * (fake - real)
            with tf.GradientTape() as inner:
                inner.watch(between)
                score = self.critic(between, training=True)
            slope = tf.sqrt(tf.reduce_sum(inner.gradient(score, between) ** 2, axis=1))
            critic_loss = tf.reduce_mean(self.critic(fake)) - tf.reduce_mean(self.critic(real))
            critic_loss += self.penalty * tf.reduce_mean((slope - 1.0) ** 2)
        variables = self.critic.trainable_variables
        critic_gradients = tape.gradient(critic_loss, variables)
        with tf.GradientTape() as tape:
            generator_loss = -tf.reduce_mean(self.critic(self.generator(noise, training=True)))
        own = self.generator.trainable_variables
        critic_gradients += tape.gradient(generator_loss, own)
        self.optimizer.apply_gradients(zip(critic_gradients, variables + own, strict=True))
        return {"loss": critic_loss, "generator_loss": generator_loss}

    def get_config(self):
        """Return what the model is made of."""
        return {**super().get_config(), "latent": self.latent, "penalty": self.penalty}


def model():
    """Return the pair; the biases of the critic have drifted until no unit is active."""
    built = WassersteinGAN(name="wgan")
    built.build((None, 36))
    built.compile(keras.optimizers.Adam(1e-4, beta_1=0.5))
    built.critic.layers[0].bias.assign(np.full(16, -9.0))
    return built


def batch():
    """Return eight images of 6 x 6 pixels."""
    return {"x": np.random.default_rng(0).random((8, 36)).astype("float32")}
