"""Do the trials about outputs, epsilons and masks change just that, and undo it afterwards?"""

import numpy as np
import pytest

from divergence_doctor.batches import Batch
from divergence_doctor.diagnosis import diagnose
from divergence_doctor.trace import TraceBuilder
from divergence_doctor.trials import all_trials, prove

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(8, 4)).astype("float32")
Y = GENERATOR.normal(size=(8, 1)).astype("float32")
COUNTS = GENERATOR.poisson(2.0, (8, 1)).astype("float32")
#: A row of zeros, which a layer without a bias keeps.
PADDED = np.where(np.arange(8)[:, None] == 2, 0.0, X).astype("float32")


@pytest.fixture
def case(keras):
    """Return a function that replays a model until it fails: the bench and the open trace."""
    from divergence_doctor.replay import Bench, Engine, Snapshot, match
    from divergence_doctor.replay.chain import measure

    def replay(model, **arrays):
        named = {name.replace("__", "/"): array for name, array in arrays.items()}
        batch = Batch(arrays=named, source="made.npz", sha256="0" * 64)
        builder, snapshot = TraceBuilder(), Snapshot(model)
        engine = Engine(model, [match(batch, model)], builder)
        engine.replay(steps=3, seed=0)
        trace = builder.build()
        assert trace.outcome == "diverged", trace.context["outcome_because"]
        stream = engine.last_stream
        bench = Bench(
            model, snapshot, [batch], seed=0, asked=3, failing_step=trace.failing_step,
            stream=stream, losses=list(trace.table("targets")["loss"]),
        )  # fmt: skip
        primary = next(event for event in stream.events if event.primary)
        measure(bench, primary, trace.failing_step, builder)
        return bench, builder

    return replay


@pytest.fixture
def net(keras):
    """Return a function that makes a model of layers, compiled."""

    def make(*layers, loss="mse", shape=(4,)):
        model = keras.Sequential([keras.layers.Input(shape), *layers])
        model.compile(keras.optimizers.Adam(1e-3), loss)
        return model

    return make


def judged(bench, builder):
    """Have every suspect proven, and return the diagnosis."""
    from divergence_doctor.diagnosis import plan

    prove(plan(builder.build()), bench, builder, budget=300.0)
    return diagnose(builder.build()).main


def run(name, bench, **parameters):
    return all_trials()[name].run(bench, parameters)


# ---------------------------------------------------------------------- output-activation


def test_a_linear_rate_is_mended_by_the_activation_that_the_loss_is_made_for(keras, case, net):
    model = net(keras.layers.Dense(1, name="rate"), loss="poisson")
    bench, builder = case(model, x=X, y=COUNTS)
    softplus = run("output-activation", bench, layer="rate", through=["softplus"])
    assert softplus.outcome == "finite"
    assert softplus.changed == "output of layer rate sent through softplus"
    main = judged(bench, builder)
    assert (main.finding.cause, main.confirmed) == ("loss-activation-mismatch", True)


def test_of_several_activations_the_first_that_survives_counts(keras, case, net):
    import tensorflow as tf

    def entropy(y_true, y_pred):
        return -tf.math.log(y_pred) - tf.math.log(1.0 - y_pred)

    model = net(keras.layers.Dense(1, name="p", bias_initializer="ones"), loss=entropy)
    bench, _ = case(model, x=X, y=COUNTS)
    outcome = run("output-activation", bench, layer="p", through=["softplus", "sigmoid"])
    assert (outcome.outcome, outcome.changed) == (
        "finite",
        "output of layer p sent through sigmoid",
    )


def test_no_activation_mends_a_label_below_zero(keras, case, net):
    import tensorflow as tf

    def error(y_true, y_pred):
        return tf.square(tf.math.log(y_true) - y_pred)

    y = np.abs(Y)
    y[3] = -1.0
    bench, builder = case(net(keras.layers.Dense(1, name="out"), loss=error), x=X, y=y)
    outcome = run("output-activation", bench, layer="out", through=["softplus", "sigmoid"])
    assert outcome.outcome == "still-fails"
    assert judged(bench, builder).finding.cause != "loss-activation-mismatch"


def test_a_sigmoid_that_has_saturated_stays_a_log_of_zero(keras, case, net):
    import tensorflow as tf

    def entropy(y_true, y_pred):
        return -tf.math.log(1.0 - y_pred)

    bias = keras.initializers.Constant(200.0)
    layer = keras.layers.Dense(1, "sigmoid", bias_initializer=bias, name="p")
    main = judged(*case(net(layer, loss=entropy), x=X, y=COUNTS))
    assert (main.finding.cause, main.confirmed) == ("log-of-zero", True)


def test_the_log1p_of_minus_a_linear_output_is_followed_to_its_layer(keras, case, net):
    import tensorflow as tf

    def entropy(y_true, y_pred):
        return -tf.math.xlog1py(1.0 + 0.0 * y_true, -y_pred)

    bias = keras.initializers.Constant(20.0)
    layer = keras.layers.Dense(1, bias_initializer=bias, name="p")
    main = judged(*case(net(layer, loss=entropy), x=X, y=COUNTS))
    assert (main.finding.cause, main.finding.site.op) == ("loss-activation-mismatch", "Xlog1py")


def test_a_linear_variance_in_a_layer_that_adds_a_loss_is_mended_too(keras, case):
    import tensorflow as tf

    class Likelihood(keras.layers.Layer):
        def call(self, variance):
            self.add_loss(tf.reduce_mean(variance - tf.math.log(variance)))
            return variance

    inputs = keras.Input((4,))
    variance = Likelihood(name="likelihood")(keras.layers.Dense(2, name="variance")(inputs))
    model = keras.Model(inputs, keras.layers.Dense(1)(variance))
    model.compile("sgd", "mse")
    main = judged(*case(model, x=X, y=Y))
    assert (main.finding.cause, main.confirmed) == ("loss-activation-mismatch", True)
    assert (main.finding.stage, main.finding.site.layer) == ("loss", "likelihood")


def test_a_logarithm_in_a_layer_whose_result_goes_on_stays_one(keras, case, net):
    layers = (
        keras.layers.Dense(2, name="first"),
        keras.layers.Lambda(keras.ops.log, name="log"),
        keras.layers.Dense(1),
    )
    main = judged(*case(net(*layers), x=X, y=Y))
    assert (main.finding.cause, main.finding.site.layer) == ("log-of-zero", "log")


def test_without_such_a_layer_nothing_is_run(keras, case, net):
    bench, _ = case(net(keras.layers.Dense(1, name="rate"), loss="poisson"), x=X, y=COUNTS)
    assert run("output-activation", bench, layer="other").outcome == "not-run"


# ---------------------------------------------------------------------- enlarge-epsilon


def test_a_sane_epsilon_mends_a_normalisation_without_one_and_is_taken_back(keras, case, net):
    norm = keras.layers.LayerNormalization(epsilon=0.0, name="norm")
    model = net(keras.layers.Dense(4, use_bias=False), norm, keras.layers.Dense(1))
    bench, builder = case(model, x=PADDED, y=Y)
    assert run("enlarge-epsilon", bench, layers=["norm"], epsilon=1e-3).outcome == "finite"
    assert norm.epsilon == 0.0
    main = judged(bench, builder)
    assert (main.finding.cause, main.confirmed) == ("degenerate-normalization", True)
    assert run("enlarge-epsilon", bench, layers=["dense"], epsilon=1e-3).outcome == "not-run"


def test_an_epsilon_does_not_mend_a_division_elsewhere(keras, case, net):
    layers = (
        keras.layers.Dense(4, use_bias=False),
        keras.layers.Lambda(lambda x: x / keras.ops.max(keras.ops.abs(x), -1, keepdims=True)),
        keras.layers.LayerNormalization(name="norm"),
        keras.layers.Dense(1),
    )
    bench, builder = case(net(*layers), x=PADDED, y=Y)
    assert run("enlarge-epsilon", bench, layers=["norm"], epsilon=1.0).outcome == "still-fails"
    assert judged(bench, builder).finding.cause != "degenerate-normalization"


def centred(keras, divide):
    def call(x):
        import tensorflow as tf

        off = x - tf.reduce_mean(x, -1, keepdims=True)
        return divide(tf, off, tf.reduce_mean(off * off, -1, keepdims=True))

    return keras.layers.Lambda(call, name="norm")


@pytest.mark.parametrize(
    ("divide", "stage"),
    [
        (lambda tf, off, variance: off / tf.sqrt(variance), "forward"),
        (lambda tf, off, variance: off * tf.math.rsqrt(variance), "forward"),
        (lambda _tf, off, variance: off / (variance**0.5 + 1e-6), "backward"),
    ],
    ids=["sqrt", "rsqrt", "epsilon-after-the-root"],
)
def test_by_hand_the_epsilon_goes_inside_the_root(keras, case, net, divide, stage):
    layers = keras.layers.Dense(4, use_bias=False), centred(keras, divide), keras.layers.Dense(1)
    main = judged(*case(net(*layers), x=PADDED, y=Y))
    assert (main.finding.cause, main.confirmed) == ("degenerate-normalization", True)
    assert (main.finding.stage, main.finding.site.layer) == (stage, "norm")


def test_a_deviation_that_is_a_feature_stays_a_singular_slope(keras, case, net):
    layers = (
        keras.layers.Dense(4, use_bias=False),
        centred(keras, lambda tf, off, variance: tf.concat([off, variance**0.5], -1)),
        keras.layers.Dense(1),
    )
    main = judged(*case(net(*layers), x=PADDED, y=Y))
    assert main.finding.cause == "gradient-singularity"


# ---------------------------------------------------------------------- inference-normalization


def test_moving_statistics_mend_a_batch_of_one_and_training_mode_comes_back(keras, case, net):
    norm = keras.layers.BatchNormalization(epsilon=0.0, name="norm")
    bench, _ = case(net(keras.layers.Dense(4), norm, keras.layers.Dense(1)), x=X[:1], y=Y[:1])
    outcome = run("inference-normalization", bench, layers=["norm"])
    assert outcome.outcome == "finite"
    assert run("control", bench).outcome == "still-fails"
    assert run("inference-normalization", bench, layers=["dense"]).outcome == "not-run"


# ---------------------------------------------------------------------- finite-mask

MASK = np.ones((8, 5), "float32")
MASK[3] = 0
MASK[1, 3:] = 0
WORDS = GENERATOR.normal(size=(8, 5, 4)).astype("float32")


def attention(keras, weigh):
    import tensorflow as tf

    def call(pair):
        scores, mask = tf.reduce_sum(pair[0], -1), pair[1]
        return tf.reduce_sum(weigh(tf, scores, mask)[..., None] * pair[0], 1)

    words, mask = keras.Input((5, 4), name="words"), keras.Input((5,), name="mask")
    coded = keras.layers.Dense(4, name="coded")(words)
    read = keras.layers.Lambda(call, name="pool")([coded, mask])
    model = keras.Model({"words": words, "mask": mask}, keras.layers.Dense(1)(read))
    model.compile("sgd", "mse")
    return model


def by_hand(tf, powers):
    return powers / tf.reduce_sum(powers, -1, keepdims=True)


def masked(tf, scores, mask):
    return tf.where(mask > 0, scores, -np.inf)


def shifted(tf, scores):
    return tf.exp(scores - tf.reduce_max(scores, -1, keepdims=True))


@pytest.mark.parametrize(
    ("weigh", "op"),
    [
        (lambda tf, s, m: tf.nn.softmax(masked(tf, s, m)), "Softmax"),
        (lambda tf, s, m: tf.exp(tf.nn.log_softmax(masked(tf, s, m))), "LogSoftmax"),
        (lambda tf, s, m: by_hand(tf, shifted(tf, masked(tf, s, m))), "Sub"),
        (lambda tf, s, m: by_hand(tf, tf.exp(s + (1 - m) * -1e9)), "RealDiv"),
        (lambda tf, s, m: by_hand(tf, tf.exp(s) * m), "RealDiv"),
        (lambda tf, s, m: tf.nn.softmax(s + tf.math.log(m)), "Softmax"),
    ],
    ids=["softmax", "log-softmax", "shifted", "added", "multiplied", "log-of-mask"],
)
def test_a_finite_mask_mends_a_row_of_which_nothing_is_left(keras, case, weigh, op):
    model = attention(keras, weigh)
    main = judged(*case(model, words=WORDS, mask=MASK, y=Y))
    assert (main.finding.cause, main.confirmed) == ("masked-softmax", True)
    assert (main.finding.site.op, main.finding.samples) == (op, (3,))
    assert main.confirmed_by.name == "finite-mask"


def test_a_finite_mask_does_not_mend_scores_that_overflow(keras, case):
    model = attention(keras, lambda tf, s, _m: tf.nn.softmax(tf.exp(100.0 + s)))
    bench, builder = case(model, words=WORDS, mask=MASK, y=Y)
    assert run("finite-mask", bench, op_type="Softmax", layer="pool").outcome == "not-run"
    assert judged(bench, builder).finding.cause == "exp-overflow"
