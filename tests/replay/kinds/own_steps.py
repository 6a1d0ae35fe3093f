"""Kinds that bring their own ``train_step``."""

from tests.replay.kinds._kind import classes, kind, normal

X, Y = normal(6, 4), normal(6, 1, seed=1)


@kind("own step: variational autoencoder", x=X, steps=2)
def vae(keras):
    import tensorflow as tf

    ops = keras.ops

    class Sampling(keras.layers.Layer):
        def __init__(self, **kwargs):
            super().__init__(**kwargs)
            self.seeds = keras.random.SeedGenerator(7)

        def call(self, inputs):
            mean, log_var = inputs
            noise = keras.random.normal(ops.shape(mean), seed=self.seeds)
            return mean + ops.exp(0.5 * log_var) * noise

    class Vae(keras.Model):
        def __init__(self):
            super().__init__()
            inputs = keras.layers.Input((4,))
            mean = keras.layers.Dense(2, name="mean")(inputs)
            log_var = keras.layers.Dense(2, name="log_var")(inputs)
            z = Sampling(name="sampling")([mean, log_var])
            self.encoder = keras.Model(inputs, [mean, log_var, z], name="encoder")
            latent = keras.layers.Input((2,))
            self.decoder = keras.Model(
                latent, keras.layers.Dense(4, name="decoded")(latent), name="decoder"
            )
            self.total = keras.metrics.Mean(name="loss")

        @property
        def metrics(self):
            return [self.total]

        def call(self, x):
            return self.decoder(self.encoder(x)[2])

        def train_step(self, x):
            with tf.GradientTape() as tape:
                mean, log_var, z = self.encoder(x)
                rebuilt = ops.mean(ops.sum(ops.square(x - self.decoder(z)), axis=1))
                kl = -0.5 * (1 + log_var - ops.square(mean) - ops.exp(log_var))
                loss = rebuilt + ops.mean(ops.sum(kl, axis=1))
            grads = tape.gradient(loss, self.trainable_weights)
            self.optimizer.apply_gradients(zip(grads, self.trainable_weights, strict=True))
            self.total.update_state(loss)
            return {"loss": self.total.result()}

    model = Vae()
    model.compile("adam")
    model(X)
    return model


@kind("own step: WGAN-GP, two optimizers, a gradient inside", x=X, steps=2)
def wgan_gp(keras):
    import tensorflow as tf

    class Gan(keras.Model):
        def __init__(self):
            super().__init__()
            dense = keras.layers.Dense
            self.critic = keras.Sequential(
                [dense(6, activation="tanh", name="seen"), dense(1, name="score")], name="critic"
            )
            self.generator = keras.Sequential(
                [dense(6, activation="relu", name="made"), dense(4, name="fake")], name="generator"
            )
            self.critic.build((None, 4))
            self.generator.build((None, 3))
            self.epsilon = 1e-12
            self.built = True

        def compile(self, critic_optimizer, generator_optimizer):
            super().compile()
            self.critic_optimizer = critic_optimizer
            self.generator_optimizer = generator_optimizer

        def call(self, x):
            return self.critic(x)

        def penalty(self, real, fake):
            middle = real + tf.random.uniform((6, 1)) * (fake - real)
            with tf.GradientTape() as tape:
                tape.watch(middle)
                score = self.critic(middle, training=True)
            slope = tape.gradient(score, [middle])[0]
            norm = tf.sqrt(tf.reduce_sum(tf.square(slope), axis=1) + self.epsilon)
            return tf.reduce_mean((norm - 1.0) ** 2)

        def train_step(self, real):
            for _ in range(2):
                noise = keras.random.normal((6, 3))
                with tf.GradientTape() as tape:
                    fake = self.generator(noise, training=True)
                    loss = tf.reduce_mean(self.critic(fake)) - tf.reduce_mean(self.critic(real))
                    loss += 10.0 * self.penalty(real, fake)
                weights = self.critic.trainable_variables
                self.critic_optimizer.apply_gradients(
                    zip(tape.gradient(loss, weights), weights, strict=True)
                )
            with tf.GradientTape() as tape:
                made = -tf.reduce_mean(self.critic(self.generator(noise, training=True)))
            weights = self.generator.trainable_variables
            self.generator_optimizer.apply_gradients(
                zip(tape.gradient(made, weights), weights, strict=True)
            )
            return {"critic_loss": loss, "generator_loss": made}

    model = Gan()
    model.compile(keras.optimizers.Adam(0.01, beta_1=0.0), keras.optimizers.Adam(0.01, beta_1=0.0))
    return model


@kind("own step: gradients accumulated by hand", x=X, y=Y, steps=3)
def accumulating(keras):
    import tensorflow as tf

    class Accumulating(keras.Model):
        def build_sums(self):
            self.count = self.add_weight(shape=(), dtype="int32", trainable=False, name="count")
            self.sums = [
                self.add_weight(
                    shape=w.shape, trainable=False, initializer="zeros", name=f"sum_{number}"
                )
                for number, w in enumerate(self.trainable_weights)
            ]

        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                loss = self.compute_loss(x=x, y=y, y_pred=self(x, training=True))
            for total, gradient in zip(
                self.sums, tape.gradient(loss, self.trainable_weights), strict=True
            ):
                total.assign_add(gradient)
            self.count.assign_add(1)
            tf.cond(tf.equal(self.count.value % 2, 0), self.step, lambda: None)
            return {"loss": loss}

        def step(self):
            self.optimizer.apply([total / 2.0 for total in self.sums], self.trainable_weights)
            for total in self.sums:
                total.assign(tf.zeros_like(total))

    inputs = keras.layers.Input((4,))
    model = Accumulating(inputs, keras.layers.Dense(1, name="out")(inputs))
    model.build_sums()
    model.compile("adam", "mse")
    return model


@kind("own step: a persistent tape, clipped by hand", x=X, y=Y)
def clipped(keras):
    import tensorflow as tf

    class Clipped(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape(persistent=True) as tape:
                hidden = self.layers[1](x)
                prediction = self.layers[2](hidden)
                loss = tf.reduce_mean((prediction - y) ** 2)
            weights = self.trainable_variables
            gradients, _ = tf.clip_by_global_norm(tape.gradient(loss, weights), 0.1)
            self.add_metric_of(tape.gradient(loss, hidden))
            self.optimizer.apply_gradients(zip(gradients, weights, strict=True))
            return {"loss": loss}

        def add_metric_of(self, gradient):
            self.norm.update_state(tf.norm(gradient))

    inputs = keras.layers.Input((4,))
    hidden = keras.layers.Dense(3, activation="relu", name="hidden")(inputs)
    model = Clipped(inputs, keras.layers.Dense(1, name="out")(hidden))
    model.norm = keras.metrics.Mean(name="norm")
    model.compile("sgd", "mse")
    return model


@kind("own step: distillation by a frozen teacher", x=X, y=classes(6, 3))
def distilled(keras):
    import tensorflow as tf

    class Distiller(keras.Model):
        def __init__(self):
            super().__init__()
            self.teacher = keras.Sequential(
                [keras.layers.Input((4,)), keras.layers.Dense(3, name="wise")], name="teacher"
            )
            self.teacher.trainable = False
            self.student = keras.Sequential(
                [keras.layers.Input((4,)), keras.layers.Dense(3, name="young")], name="student"
            )
            self.built = True

        def call(self, x):
            return self.student(x)

        def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None):  # noqa: ARG002
            hard = keras.losses.sparse_categorical_crossentropy(y, y_pred, from_logits=True)
            soft = keras.losses.kl_divergence(
                tf.nn.softmax(self.teacher(x, training=False) / 3.0), tf.nn.softmax(y_pred / 3.0)
            )
            return tf.reduce_mean(hard) + tf.reduce_mean(soft)

    model = Distiller()
    model.compile("adam")
    return model


@kind("own step: a Jacobian and a second derivative", x=normal(4, 2), y=normal(4, 1))
def physics(keras):
    import tensorflow as tf

    class Pinn(keras.Model):
        def train_step(self, data):
            x, y = data
            with tf.GradientTape() as tape:
                with tf.GradientTape() as second:
                    second.watch(x)
                    with tf.GradientTape(persistent=True) as first:
                        first.watch(x)
                        u = self(x, training=True)
                    slope = first.batch_jacobian(u, x, experimental_use_pfor=False)[:, 0, :]
                curve = second.gradient(slope, x)
                loss = tf.reduce_mean((u - y) ** 2) + 0.1 * tf.reduce_mean(curve**2)
            weights = self.trainable_variables
            self.optimizer.apply_gradients(zip(tape.gradient(loss, weights), weights, strict=True))
            return {"loss": loss}

    inputs = keras.layers.Input((2,))
    hidden = keras.layers.Dense(5, activation="tanh", name="hidden")(inputs)
    model = Pinn(inputs, keras.layers.Dense(1, name="out")(hidden))
    model.compile("adam")
    return model
