"""Are labels outside the domain of their loss named and proven on real models, and no others?"""

from __future__ import annotations

import numpy as np
import pytest
import tensorflow as tf

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.examination import Request, examine
from divergence_doctor.trials.valid_labels import valid

N = 16
GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(N, 6)).astype("float32")
IDS = GENERATOR.integers(0, 4, N)
ONE_HOT = np.eye(4, dtype="float32")[IDS]
BITS = GENERATOR.integers(0, 2, (N, 1)).astype("float32")


def put(labels, value, sample=3):
    changed = np.array(labels)
    changed[sample] = value
    return changed


@pytest.fixture
def examined(keras, tmp_path):
    """Return a function that trains a small model on labels, as the doctor replays it."""

    def run(loss, y, *, activation=None, optimizer=None, steps=30):
        keras.utils.set_random_seed(1)
        units = ONE_HOT.shape[1] if y.ndim == 1 else y.shape[1]
        model = keras.Sequential(
            [
                keras.layers.Input((6,)),
                keras.layers.Dense(12, activation="tanh"),
                keras.layers.Dense(units, activation=activation),
            ]
        )
        name, options = loss
        model.compile(
            optimizer or keras.optimizers.Adam(1e-2), getattr(keras.losses, name)(**options)
        )
        model.save(tmp_path / "model.keras")
        np.savez(tmp_path / "batch.npz", x=X, y=y)
        (tmp_path / "out").mkdir()
        request = Request(
            str(tmp_path / "model.keras"), (str(tmp_path / "batch.npz"),), steps=steps
        )
        return diagnose(examine(request, tmp_path / "out"))

    return run


SIGNS = 2 * BITS - 1
MINUS = tuple(np.flatnonzero(BITS[:, 0] == 0).tolist())
ONES = tuple(np.flatnonzero(BITS[:, 0] == 1).tolist())
LOGITS = {"from_logits": True}
SALES = BITS * np.linspace(1, 2, N, dtype="float32")[:, None]


@pytest.mark.parametrize(
    ("loss", "y", "options", "samples"),
    [
        (("SparseCategoricalCrossentropy", LOGITS), put(IDS, 4), {}, (3,)),
        (("SparseCategoricalCrossentropy", LOGITS), put(IDS, -1), {}, (3,)),
        (("CategoricalGeneralizedCrossEntropy", {}), put(IDS, 4), {"activation": "softmax"}, (3,)),
        (("BinaryCrossentropy", {}), SIGNS, {"activation": "sigmoid"}, MINUS),
        (("BinaryCrossentropy", {**LOGITS, "label_smoothing": 0.1}), SIGNS, {}, MINUS),
        (("BinaryFocalCrossentropy", {}), put(BITS, 255.0), {"activation": "sigmoid"}, (3,)),
        (("CategoricalCrossentropy", LOGITS), 2 * ONE_HOT - 1, {}, ()),
        (("CategoricalFocalCrossentropy", LOGITS), 2 * ONE_HOT - 1, {}, ()),
        (("SquaredHinge", {}), 255 * BITS, {"optimizer": "sgd"}, ONES),
        (("MeanAbsolutePercentageError", {}), SALES, {"optimizer": "sgd"}, MINUS),
        (("Dice", {}), 255 * ONE_HOT, {"activation": "sigmoid"}, ()),
        (("Tversky", {}), 255 * ONE_HOT, {"activation": "sigmoid"}, ()),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) and value else None,
)
def test_labels_outside_the_domain_are_the_proven_cause(examined, loss, y, options, samples):
    verdict = examined(loss, y, **options)
    assert verdict.main is not None
    finding = verdict.main.finding
    assert (finding.cause, verdict.main.confirmed) == ("bad-labels", True)
    assert finding.samples == samples
    mended = {trial.name for trial in verdict.main.trials if trial.mended}
    assert "valid-labels" in mended


@pytest.mark.parametrize(
    ("loss", "y", "options"),
    [
        (("SparseCategoricalCrossentropy", LOGITS), put(IDS.astype("float32"), -0.5), {}),
        (("SparseCategoricalCrossentropy", {**LOGITS, "ignore_class": -1}), put(IDS, -1), {}),
        (("CategoricalCrossentropy", {}), put(ONE_HOT, 0.0), {"activation": "softmax"}),
        (("KLDivergence", {}), 2 * ONE_HOT - 1, {"activation": "softmax"}),
        (("MeanSquaredLogarithmicError", {}), put(9 * BITS, -3.0), {"activation": "softplus"}),
        (("Poisson", {}), put(3 * BITS, -5.0), {"activation": "exponential"}),
        (("Circle", {}), IDS - 2, {}),
        (("CosineSimilarity", {}), put(ONE_HOT, 0.0), {}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) and value else None,
)
def test_labels_that_the_loss_bears_leave_a_run_healthy(examined, loss, y, options):
    verdict = examined(loss, y, steps=8, **options)
    assert verdict.outcome == "healthy"
    assert verdict.main is None


@pytest.mark.parametrize(
    ("loss", "y", "options"),
    [
        (("MeanSquaredError", {}), 20 * BITS - 10, {}),
        (("SquaredHinge", {}), SIGNS, {}),
        (("BinaryCrossentropy", LOGITS), BITS, {}),
    ],
    ids=lambda value: value[0] if isinstance(value, tuple) and value else None,
)
def test_a_rate_that_is_too_high_is_not_put_on_labels_in_the_domain(
    keras, examined, loss, y, options
):
    verdict = examined(loss, y, optimizer=keras.optimizers.SGD(1e4), **options)
    assert "bad-labels" not in {item.finding.cause for item in verdict.findings}


def test_zeros_become_the_usual_magnitude_and_long_rows_are_cut_to_what_can_be_spelt():
    y = np.array([0.0, -4.0, 2.0, 8.0])
    np.testing.assert_array_equal(valid(y, {"nonzero": True}), [4.0, -4.0, 2.0, 8.0])
    rows = np.array([[1, 1, 2, 0], [1, 2, 3, 4], [1, 2, 0, 0]])
    cut = valid(rows, {"low": 0, "high": 5, "integral": True, "steps": 3})
    np.testing.assert_array_equal(cut, [[1, 1, 0, 0], [1, 2, 3, 0], [1, 2, 0, 0]])
    assert cut.dtype == rows.dtype


# ---------------------------------------------------------------- a loss that nobody knows


def divergence(y_true, y_pred):
    return tf.reduce_sum(y_true * (tf.math.log(y_true) - tf.math.log(y_pred)), -1)


def log_of_output(y_true, y_pred):
    return tf.reduce_mean((tf.math.log(y_pred[:, :1]) - y_true[:, :1]) ** 2, -1)


SHARES = np.full((N, 4), 0.25, "float32")


@pytest.fixture
def by_hand(keras, tmp_path):
    """Return a function that examines a model whose loss is a function of the user's."""

    def run(loss, y, *, activation):
        keras.utils.set_random_seed(1)
        model = keras.Sequential(
            [
                keras.layers.Input((6,)),
                keras.layers.Dense(12, activation="tanh"),
                keras.layers.Dense(4, activation=activation),
            ]
        )
        model.compile(keras.optimizers.Adam(1e-3), keras.saving.register_keras_serializable()(loss))
        model.save(tmp_path / "model.keras")
        np.savez(tmp_path / "batch.npz", x=X, y=y)
        (tmp_path / "out").mkdir()
        request = Request(str(tmp_path / "model.keras"), (str(tmp_path / "batch.npz"),), steps=3)
        return diagnose(examine(request, tmp_path / "out")).main

    return run


def test_a_negative_share_in_a_divergence_by_hand_is_a_bad_label(by_hand):
    main = by_hand(divergence, put(SHARES, (0.5, -0.25, 0.5, 0.25), 6), activation="softmax")
    assert main.finding.cause == "bad-labels"
    assert main.confirmed
    assert main.finding.samples == (6,)
    assert main.finding.site.op == "Log"


def test_its_twin_with_a_share_of_zero_is_a_log_of_zero(by_hand):
    main = by_hand(divergence, put(SHARES, (0.5, 0.0, 0.25, 0.25), 6), activation="softmax")
    assert main.finding.cause == "log-of-zero"
    assert main.finding.samples == (6,)


def test_its_twin_in_which_the_output_is_negative_is_not_put_down_to_the_labels(by_hand):
    main = by_hand(log_of_output, put(SHARES, (-0.25, 0.5, 0.5, 0.25), 6), activation="tanh")
    assert main.finding.cause != "bad-labels"
