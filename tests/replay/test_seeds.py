"""Does the verdict hold with other random numbers? Steps whose failure hangs on a mask."""

import json

import numpy as np
import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.examination import Request, examine


@pytest.fixture
def examined(keras, tmp_path):
    """Return a function that saves a model, examines it on arrays of ones, and gives the trace."""

    def run(model, *, samples, **asked):
        model.save(tmp_path / "m.keras")
        ones = np.ones((samples, 1), "f4")
        np.savez(tmp_path / "b.npz", x=ones, y=ones)
        request = Request(
            checkpoint=str(tmp_path / "m.keras"), batches=(str(tmp_path / "b.npz"),), **asked
        )
        return examine(request, tmp_path)

    return run


def log_of_masked(keras, rate=0.5):
    """Return a model that takes the log of what a mask left over."""
    inputs = keras.Input((1,))
    masked = keras.layers.Dropout(rate, name="mask")(inputs)
    scaled = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(masked)
    model = keras.Model(inputs, keras.ops.log(scaled))
    model.compile(keras.optimizers.SGD(0.0), "mse")
    return model


def seeds_of(trace):
    return list(trace.table("seeds").rows())


def notes_of(trace):
    return trace.context["fidelity"]["notes"]


def test_a_failure_under_every_mask_holds_over_all_seeds(keras, examined):
    trace = examined(log_of_masked(keras), samples=64, steps=2)
    rows = seeds_of(trace)
    assert [row["seed"] for row in rows] == [0, 1, 2]
    assert all(row["outcome"] == "diverged" and row["same"] for row in rows)
    assert {row["op_type"] for row in rows} == {"Log"}
    assert notes_of(trace)[-1].startswith(
        "The verdict holds over all 3 seeds tried (0, 1 and 2): each fails the same way, first in"
        " Log of layer log"
    )
    assert trace.context["fidelity"]["random_state"] == "missing"
    assert diagnose(trace).main.finding.confidence > 0.9


@pytest.mark.slow
def test_a_failure_under_some_masks_says_so_and_loses_confidence(keras, examined):
    model = log_of_masked(keras)
    for seed in range(8):
        trace = examined(model, samples=1, steps=1, seed=seed)
        if trace.outcome == "diverged" and not all(row["same"] for row in seeds_of(trace)):
            break
    else:
        pytest.fail("every seed up to 8 ended alike")
    same = sum(row["same"] for row in seeds_of(trace))
    assert f"The verdict holds for {same} of 3 seeds tried" in notes_of(trace)[-1]
    assert "the steps stay finite" in notes_of(trace)[-1]
    main = diagnose(trace).main
    assert main.finding.cause == "log-of-zero"
    assert main.confirmed
    assert main.finding.confidence == pytest.approx(max(0.99 * same / 3, 0.5), abs=0.02)


@pytest.mark.slow
def test_a_healthy_replay_that_another_seed_contradicts_is_left_open(keras, examined):
    model = log_of_masked(keras)
    for seed in range(8):
        trace = examined(model, samples=1, steps=1, seed=seed)
        rows = seeds_of(trace)
        if rows[0]["outcome"] == "healthy" and any(row["outcome"] == "diverged" for row in rows):
            break
    else:
        pytest.fail("no seed up to 8 was healthy beside one that diverged")
    bad = next(row["seed"] for row in rows if row["outcome"] == "diverged")
    assert trace.outcome == "inconclusive"
    assert f"--seed {bad} replays that" in trace.context["outcome_because"]
    assert diagnose(trace).main is None
    assert "they diverge" in notes_of(trace)[-1]
    assert examined(model, samples=1, steps=1, seed=bad).outcome == "diverged"


def test_the_same_seed_gives_the_same_masks_however_the_process_was_seeded(keras, examined):
    model = log_of_masked(keras, rate=0.3)
    losses = []
    for _ in range(2):
        keras.utils.set_random_seed(len(losses))
        trace = examined(model, samples=9, steps=1, trials=False)
        losses.append([row["samples"] for row in trace.table("events").rows()])
    assert losses[0] == losses[1]
    assert 0 < len(json.loads(losses[0][0])) < 9


def test_a_step_that_draws_nothing_has_nothing_to_lose(keras, examined, tmp_path):
    (tmp_path / "spare.py").write_text(
        "import keras\n"
        "@keras.saving.register_keras_serializable('spare')\n"
        "class Spare(keras.layers.Layer):\n"
        "    def __init__(self, **kwargs):\n"
        "        super().__init__(**kwargs)\n"
        "        self.mask = keras.layers.Dropout(0.5)\n"
        "    def call(self, x):\n"
        "        return x\n",
        encoding="utf-8",
    )
    from divergence_doctor.checkpoints._user_code import import_user_code

    spare = import_user_code(str(tmp_path / "spare.py")).Spare
    model = keras.Sequential([keras.Input((1,)), spare(), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    trace = examined(model, samples=4, steps=2, custom_objects=(str(tmp_path / "spare.py"),))
    assert trace.context["fidelity"]["random_state"] == "missing"
    assert seeds_of(trace) == []
    assert notes_of(trace)[-1] == (
        "The replayed step drew no random numbers, so the missing random state changes nothing."
    )


def test_a_model_without_random_layers_is_not_run_again(keras, examined):
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    trace = examined(model, samples=4, steps=2)
    assert seeds_of(trace) == []
    assert trace.context["fidelity"]["random_state"] == "restored"
    assert notes_of(trace) == []


def test_numbers_drawn_outside_of_a_generator_are_missing_too(keras, examined, tmp_path):
    (tmp_path / "noisy.py").write_text(
        "import keras, tensorflow as tf\n"
        "@keras.saving.register_keras_serializable('noisy')\n"
        "class Noise(keras.layers.Layer):\n"
        "    def call(self, x):\n"
        "        return x + tf.random.normal(tf.shape(x))\n",
        encoding="utf-8",
    )
    from divergence_doctor.checkpoints._user_code import import_user_code

    noise = import_user_code(str(tmp_path / "noisy.py")).Noise
    model = keras.Sequential([keras.Input((1,)), noise(name="noise"), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    trace = examined(model, samples=4, steps=1, custom_objects=(str(tmp_path / "noisy.py"),))
    assert trace.context["fidelity"]["random_state"] == "missing"
    assert "RandomStandardNormal in layer noise" in notes_of(trace)[0]
    assert len(seeds_of(trace)) == 3


@pytest.mark.parametrize(
    ("asked", "why"), [({"trials": False}, "--no-trials"), ({"budget": 0.0}, "--budget")]
)
def test_what_was_not_tried_is_said(keras, examined, asked, why):
    trace = examined(log_of_masked(keras), samples=16, steps=1, **asked)
    assert seeds_of(trace) == []
    assert "was not tried" in notes_of(trace)[-1]
    assert why in notes_of(trace)[-1]
