"""Are the cases that every article on NaN losses names found, proven and mended as it says?

Each test stands for one case of the article that the tool grew out of: rates of 1.0, cross-entropy
with log(0), its ``validate_input_data`` and ``validate_labels``, gradients that grow through depth,
``enable_check_numerics``, and the remedies that it prints.
"""

from __future__ import annotations

import numpy as np
import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.examination import Request, examine

CLASSES = 4


def inputs(rows=16, columns=6):
    return np.random.default_rng(0).normal(size=(rows, columns)).astype("float32")


def labels(rows=16):
    return (np.arange(rows) % CLASSES).astype("int32")


@pytest.fixture
def diagnosed(keras, tmp_path):
    """Return a function that goes from a model and a batch to the trace and its diagnosis."""

    def run(model, **arrays):
        model.save(tmp_path / "model.keras")
        np.savez(tmp_path / "batch.npz", **arrays)
        out = tmp_path / "out"
        out.mkdir()
        request = Request(str(tmp_path / "model.keras"), (str(tmp_path / "batch.npz"),))
        trace = examine(request, out)
        return trace, diagnose(trace)

    return run


def classifier(keras):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            keras.layers.Dense(24, "relu", name="hidden"),
            keras.layers.Dense(CLASSES, name="logits"),
        ]
    )
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    model.compile("adam", loss)
    return model


@pytest.mark.parametrize("optimizer", ["Adam", "SGD"])
def test_a_learning_rate_of_1_is_too_high(keras, diagnosed, optimizer):
    model = keras.Sequential(
        [
            keras.Input((6,)),
            *(keras.layers.Dense(32, "leaky_relu", name=f"hidden_{i}") for i in range(5)),
            keras.layers.Dense(1, name="price"),
        ]
    )
    model.compile(getattr(keras.optimizers, optimizer)(learning_rate=1.0), "mse")

    trace, diagnosis = diagnosed(model, x=inputs(), y=inputs(columns=1))

    assert (trace.outcome, diagnosis.main.finding.cause) == ("diverged", "high-learning-rate")
    assert diagnosis.main.confirmed
    assert any(f"{optimizer}(learning_rate=" in text for text in diagnosis.main.finding.remedies)


def test_a_hand_written_cross_entropy_takes_the_log_of_0(keras, diagnosed):
    @keras.saving.register_keras_serializable("textbook")
    def cross_entropy(y_true, y_pred):
        return -keras.ops.mean(keras.ops.sum(y_true * keras.ops.log(y_pred), axis=-1))

    model = keras.Sequential(
        [keras.Input((6,)), keras.layers.Dense(CLASSES, "softmax", name="probabilities")]
    )
    model.compile("adam", cross_entropy)
    x = inputs()
    x[3] *= 300.0

    trace, diagnosis = diagnosed(model, x=x, y=np.eye(CLASSES, dtype="float32")[labels()])

    finding = diagnosis.main.finding
    assert (finding.cause, finding.site.op, finding.samples) == ("log-of-zero", "Log", (3,))
    assert diagnosis.main.confirmed
    assert any("tf.clip_by_value(p, 1e-7, 1 - 1e-7)" in text for text in finding.remedies)
    assert any("from_logits=True" in text for text in finding.remedies)
    # What `tf.debugging.enable_check_numerics` would have raised is kept.
    events = trace.table("events")
    assert "Tensor had Inf" in events.where(events["primary"])["message"][0]


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_nan_and_inf_in_the_inputs_are_found(keras, diagnosed, value):
    x = inputs()
    x[5, 2] = value

    _, diagnosis = diagnosed(classifier(keras), x=x, y=labels())

    finding = diagnosis.main.finding
    assert (finding.cause, finding.stage, finding.samples) == ("bad-input", "data", (5,))
    assert diagnosis.main.confirmed


def test_inputs_out_of_range_are_found_and_are_to_be_normalised(keras, diagnosed):
    model = keras.Sequential([keras.Input((6,)), keras.layers.Dense(1, name="price")])
    model.compile(keras.optimizers.SGD(0.01), "mse")

    _, diagnosis = diagnosed(model, x=np.abs(inputs()) * 255, y=inputs(columns=1))

    assert diagnosis.main.finding.cause == "unscaled-input"
    assert diagnosis.main.confirmed
    remedies = " ".join(diagnosis.main.finding.remedies)
    assert "keras.layers.Rescaling(1/127.5, offset=-1)" in remedies


@pytest.mark.parametrize(
    ("wrong", "dtype"),
    [(-1, "int32"), (CLASSES, "int32"), (1.5, "float32"), (np.nan, "float32")],
    ids=["negative", "beyond the classes", "not whole", "NaN"],
)
def test_labels_outside_the_loss_are_found(keras, diagnosed, wrong, dtype):
    y = labels().astype(dtype)
    y[7] = wrong

    trace, diagnosis = diagnosed(classifier(keras), x=inputs(), y=y)

    if wrong == 1.5:
        # Keras cuts it down to 1 and trains on: told, not blamed.
        assert (trace.outcome, diagnosis.main) == ("healthy", None)
        return
    finding = diagnosis.main.finding
    assert (finding.cause, finding.stage, finding.samples) == ("bad-labels", "data", (7,))
    assert diagnosis.main.confirmed


def test_gradients_that_grow_through_depth_are_mended_by_clipping_to_5_or_milder(keras, diagnosed):
    x = place = keras.Input((6,), name="place")
    for i in range(12):
        scale = keras.initializers.RandomNormal(stddev=4.0, seed=i)
        x = keras.ops.sin(keras.layers.Dense(24, kernel_initializer=scale, name=f"hidden_{i}")(x))
    model = keras.Model(place, keras.layers.Dense(1, name="brightness")(x))
    model.compile(keras.optimizers.SGD(0.01), "mse")

    trace, diagnosis = diagnosed(model, x=inputs(), y=inputs(columns=1))

    assert diagnosis.main.finding.cause == "exploding-gradient"
    assert diagnosis.main.confirmed
    (trial,) = [t for t in diagnosis.trials if t.name == "clip-gradients"]
    assert trial.mended
    attempts = trace.table("attempts").select(trial="clip-gradients").rows()
    outcomes = {row["value"]: row["outcome"] for row in attempts}
    assert outcomes[5.0] == "finite"
    mildest = max(norm for norm, outcome in outcomes.items() if outcome == "finite")
    assert trial.changed == f"global gradient norm clipped to {mildest:g}"
    assert any("global_clipnorm=" in text for text in diagnosis.main.finding.remedies)
