"""Healthy: a WGAN with gradient penalty, an epsilon in its norm; the loss crosses zero.

The remedy of keras-team/keras-io#910.
"""

import keras
import numpy as np
import tensorflow as tf

EXPECTED = {"outcome": "healthy"}
ARGUMENTS = ["--steps", "40"]


@keras.saving.register_keras_serializable("h_wgan")
class WassersteinGAN(keras.Model):
    """Generator and critic of small images."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.generator = keras.Sequential(
            [keras.layers.Dense(16, "relu"), keras.layers.Dense(36, "sigmoid")], name="generator"
        )
        self.critic = keras.Sequential(
            [keras.layers.Dense(16, "relu"), keras.layers.Dense(1)], name="critic"
        )
        self.seed = keras.random.SeedGenerator(5)

    def build(self, shape):
        self.generator.build((None, 4))
        self.critic.build(shape)

    def call(self, images):
        """Return the critic's score."""
        return self.critic(images)

    def compile(self, critic_optimizer, generator_optimizer):
        """Take one optimizer for each half."""
        super().compile()
        self.critic_optimizer = keras.optimizers.get(critic_optimizer)
        self.generator_optimizer = keras.optimizers.get(generator_optimizer)

    def get_compile_config(self):
        """Return the optimizers' configurations."""
        names = ("critic_optimizer", "generator_optimizer")
        return {name: keras.optimizers.serialize(getattr(self, name)) for name in names}

    def compile_from_config(self, config):
        """Compile as the saved model was."""
        self.compile(**{key: keras.optimizers.deserialize(value) for key, value in config.items()})

    def train_step(self, real):
        """Take two steps of the critic, then one of the generator."""
        rows = tf.shape(real)[0]
        noise = keras.random.normal((rows, 4), seed=self.seed)
        for _ in range(2):
            mix = keras.random.uniform((rows, 1), seed=self.seed)
            with tf.GradientTape() as tape:
                fake = self.generator(noise, training=True)
                between = real + mix * (fake - real)
                with tf.GradientTape() as inner:
                    inner.watch(between)
                    score = self.critic(between)
                slope = tf.reduce_sum(inner.gradient(score, between) ** 2, axis=1)
                penalty = 10.0 * tf.reduce_mean((tf.sqrt(slope + 1e-12) - 1.0) ** 2)
                gap = tf.reduce_mean(self.critic(fake)) - tf.reduce_mean(self.critic(real))
                loss = gap + penalty
            variables = self.critic.trainable_variables
            self.critic_optimizer.apply(tape.gradient(loss, variables), variables)
        with tf.GradientTape() as tape:
            generator_loss = -tf.reduce_mean(self.critic(self.generator(noise, training=True)))
        variables = self.generator.trainable_variables
        self.generator_optimizer.apply(tape.gradient(generator_loss, variables), variables)
        return {"loss": loss, "penalty": penalty, "generator_loss": generator_loss}


def model():
    """Return the pair; some units of the critic are dead."""
    built = WassersteinGAN(name="wgan")
    built.build((None, 36))
    adam = {"learning_rate": 2e-3, "beta_1": 0.5, "beta_2": 0.9}
    built.compile(keras.optimizers.Adam(**adam), keras.optimizers.Adam(**adam))
    built.critic.layers[0].bias.assign(np.where(np.arange(16) % 4 == 0, -9.0, 0.1))
    return built


def batch():
    """Return eight images of 6 x 6 pixels."""
    images = np.random.default_rng(0).random((8, 36)).astype("float32")
    return {"x": (images > 0.3).astype("float32")}
