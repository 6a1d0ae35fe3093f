"""Is a crash bundle explained to the end: rolled forward, judged, told, and shown without us?"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from types import SimpleNamespace

import numpy as np
import pytest

from divergence_doctor.errors import UsageError
from divergence_doctor.examination import Request
from divergence_doctor.postmortem import postmortem
from tests import recorded

GENERATOR = np.random.default_rng(11)


def batches(steps):
    return [
        (
            GENERATOR.normal(size=(8, 6)).astype("float32"),
            GENERATOR.normal(size=(8, 1)).astype("float32"),
        )
        for _ in range(steps)
    ]


def dropping(keras, **options):
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((6,)),
            layers.Dense(12, activation="relu", name="first"),
            layers.Dropout(0.4),
            layers.Dense(1, name="out"),
        ]
    )
    model.compile(options.pop("optimizer", "adam"), "mse", jit_compile=False, **options)
    return model


def replayed(path, folder, **options):
    """Replay a bundle in this process; return what came of it, and the report as JSON."""
    done = postmortem(Request(str(path), (), **options), folder, in_process=True)
    report = json.loads((folder / "report.json").read_text(encoding="utf-8"))
    return SimpleNamespace(
        trace=done.trace,
        cause=done.diagnosis.main and done.diagnosis.main.finding.cause,
        confirmed=bool(done.diagnosis.main and done.diagnosis.main.confirmed),
        report=report,
        told=report["fidelity"]["recorded"],
        notes=" ".join(report["fidelity"]["notes"]),
        folder=folder,
        bundle=path,
    )


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory):
    """Weights that one NaN took at step 7, where the fused ReLU hid it; the recorder saw step 9."""
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(4)
    data = batches(10)
    data[7][0][5, 3] = np.nan
    contents = recorded.train(dropping(keras), data, snapshot=1)
    assert recorded.finite(contents.history["loss"])
    reason = {**contents.reason, "trigger": "non-finite-state",
              "message": "NaN or Inf in weight first/kernel"}  # fmt: skip
    root = tmp_path_factory.mktemp("poisoned")
    path = recorded.write(root / "crashes", replace(contents, reason=reason))
    keras.backend.clear_session()
    keras.utils.set_random_seed(4)
    there = recorded.train(dropping(keras), data, snapshot=7)
    keras.backend.clear_session()
    done = replayed(path, root / "out")
    done.there = [np.asarray(v.array) for v in there.variables if v.role == "weight"]
    done.seeds = [list(v.array) for v in there.variables if v.role == "seed"]
    return done


def test_the_step_that_took_the_weights_is_blamed_and_not_the_one_that_showed_it(poisoned):
    assert (poisoned.cause, poisoned.confirmed) == ("bad-input", True)
    assert poisoned.told["failing"] == 9
    assert poisoned.told["first_bad"] == 7
    assert poisoned.told["watched"] == [6, 7]
    assert poisoned.told["losses"] == {
        "compared": 9, "equal": 9, "sentence": "9 of 9 losses equal to the bit",
        "first_difference": None,
    }  # fmt: skip
    assert poisoned.report["diagnosis"]["samples"] == [5]
    assert poisoned.report["fidelity"]["random_state"] == "restored"
    assert "Training steps 1 to 9 ran again" in poisoned.notes


def test_the_history_says_how_it_went(poisoned):
    rows = list(poisoned.trace.table("history").rows())
    by_source = {
        source: [row["step"] for row in rows if row["source"] == source]
        for source in ("recorded", "rolled", "watched")
    }
    assert by_source == {
        "recorded": list(range(10)), "rolled": list(range(1, 10)), "watched": list(range(1, 8)),
    }  # fmt: skip
    assert {row["ulp"] for row in rows if row["source"] == "rolled"} == {0}
    norms = [row["gradient_norm"] for row in rows if row["source"] == "watched"]
    assert np.isfinite(norms[:-1]).all()
    assert np.isnan(norms[-1])
    ranges = poisoned.trace.table("ranges")
    assert set(ranges["step"]) == set(range(1, 8))
    assert {"first", "out"} <= set(ranges["layer"])
    text = (poisoned.folder / "report.md").read_text(encoding="utf-8")
    assert (
        "The weights were poisoned at training step 7 by the batch `00000007.npz`: the step leaves"
        " first/kernel not finite"
    ) in text
    assert "The recorder saw it 2 steps later." in text
    assert "Steps 0 to 1 of this report are training steps 6 to 7." in text
    assert "| **7** |" in text
    page = (poisoned.folder / "report.html").read_text(encoding="utf-8")
    assert "Up to the crash" in page
    assert "9 of 9 losses equal to the bit" in page
    assert (poisoned.folder / "figures" / "history.png").stat().st_size > 5_000
    command = text.partition("doctor replay ")[2].partition("\n")[0]
    assert command == f"{poisoned.bundle} --seed 0"


def test_the_failure_is_shown_without_the_package(poisoned):
    import keras

    before = keras.saving.load_model(poisoned.folder / "before.keras")
    for variable, value in zip(before.weights, poisoned.there, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), value)
    script = poisoned.folder / "reproduce.py"
    text = script.read_text(encoding="utf-8")
    assert f"SEEDS = {[[int(word) for word in seed] for seed in poisoned.seeds]}" in text
    assert "divergence_doctor" not in text
    with np.load(poisoned.folder / "minimal_batch.npz") as batch:
        assert batch["x"].shape == (1, 6)
        assert np.isnan(batch["x"][0, 3])
    environment = {k: v for k, v in os.environ.items() if k != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, script], cwd=poisoned.folder.parent, env=environment,
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stderr
    assert "step 0: FAILS" in done.stdout


# ---------------------------------------------------------------------- what cannot be had


def test_a_failure_that_does_not_come_again_is_told_and_nothing_is_blamed(keras, tmp_path):
    contents = recorded.train(dropping(keras), batches(4), snapshot=1)
    losses = [*contents.history["loss"][:-1], float("nan")]
    history = {**contents.history, "loss": losses}
    path = recorded.write(tmp_path / "crashes", replace(contents, history=history))
    keras.backend.clear_session()
    found = replayed(path, tmp_path / "out")
    assert (found.report["outcome"], found.cause) == ("inconclusive", None)
    assert "the same steps stay sound here" in found.report["run"]["outcome_because"]
    assert found.told["losses"]["equal"] == 2
    assert found.told["losses"]["first_difference"]["step"] == 3
    assert "did not come again" in found.notes
    assert "Why losses may differ" in found.notes


def test_a_bundle_that_was_asked_for_is_healthy_where_nothing_fails(keras, tmp_path):
    contents = recorded.train(dropping(keras), batches(4), snapshot=1)
    reason = {**contents.reason, "trigger": "requested", "message": "asked for"}
    path = recorded.write(tmp_path / "crashes", replace(contents, reason=reason))
    keras.backend.clear_session()
    found = replayed(path, tmp_path / "out", trials=False)
    assert found.report["outcome"] == "healthy"
    assert found.told["watched"] == [1, 2, 3]


def test_where_batches_are_missing_the_steps_after_the_gap_are_replayed(keras, tmp_path):
    data = batches(6)
    data[-1][1][0] = np.nan
    contents = recorded.train(dropping(keras), data, snapshot=1)
    few = [batch for batch in contents.batches if batch.step not in {1, 2, 3}]
    path = recorded.write(tmp_path / "crashes", replace(contents, batches=few))
    keras.backend.clear_session()
    found = replayed(path, tmp_path / "out", trials=False)
    assert found.cause == "bad-labels"
    assert found.told["rolled"] is False
    assert found.told["watched"] == [4, 5]
    assert "weights that are too old by 3 steps" in found.notes


def test_a_step_whose_weights_ran_away_is_watched_from_where_it_began(keras, tmp_path):
    data = [(x, 10 * y) for x, y in batches(4) for _ in range(2)]
    model = dropping(keras, optimizer=keras.optimizers.SGD(3.0))
    contents = recorded.train(model, data, snapshot=0)
    bad = next(i for i, loss in enumerate(contents.history["loss"]) if not np.isfinite(loss))
    cut = {name: column[: bad + 1] for name, column in contents.history.items()}
    contents = replace(
        contents, history=cut, batches=contents.batches[: bad + 1],
        manifest={**contents.manifest, "step": bad},
    )  # fmt: skip
    path = recorded.write(tmp_path / "crashes", contents)
    keras.backend.clear_session()
    found = replayed(path, tmp_path / "out")
    assert found.told["first_bad"] == bad
    assert found.told["watched"] == list(range(bad + 1))
    assert (found.cause, found.confirmed) == ("high-learning-rate", True)
    text = (found.folder / "report.md").read_text(encoding="utf-8")
    assert "The first layer to leave its range was" in text


def test_a_batch_that_is_given_is_replayed_on_the_state_of_the_bundle(keras, tmp_path):
    data = batches(4)
    data[-1][0][1, 1] = np.inf
    contents = recorded.train(dropping(keras), data, snapshot=3)
    path = recorded.write(tmp_path / "crashes", contents, data=False)
    np.savez(tmp_path / "mine.npz", x=data[-1][0], y=data[-1][1])
    keras.backend.clear_session()
    request = Request(str(path), (str(tmp_path / "mine.npz"),), trials=False)
    done = postmortem(request, tmp_path / "out", in_process=True)
    assert done.diagnosis.main.finding.cause == "bad-input"
    report = json.loads((tmp_path / "out" / "report.json").read_text(encoding="utf-8"))
    assert "recorded" not in report["fidelity"]
    assert report["fidelity"]["random_state"] == "restored"
    before = keras.saving.load_model(tmp_path / "out" / "before.keras")
    kept = [np.asarray(v.array) for v in contents.variables if v.role == "weight"]
    for variable, value in zip(before.weights, kept, strict=True):
        np.testing.assert_array_equal(np.asarray(variable), value)
    assert (tmp_path / "out" / "before.keras").stat().st_mode & 0o777 == 0o600
    script = (tmp_path / "out" / "reproduce.py").read_text(encoding="utf-8")
    assert 'CHECKPOINT = "before.keras"' in script
    assert "SEEDS = [[" in script
    text = (tmp_path / "out" / "report.md").read_text(encoding="utf-8")
    assert f"doctor replay {path} {tmp_path / 'mine.npz'}" in text


def test_draws_outside_of_the_layers_are_known_where_every_loss_came_again(keras, tmp_path):
    @keras.saving.register_keras_serializable("crash")
    class Unseeded(keras.layers.Layer):
        def call(self, x):
            return x + 0.1 * keras.random.normal(keras.ops.shape(x))

    model = keras.Sequential([keras.layers.Input((6,)), Unseeded(), keras.layers.Dense(1)])
    model.compile("sgd", "mse", jit_compile=False)
    data = batches(4)
    data[-1][1][2] = np.nan
    path = recorded.write(tmp_path / "crashes", recorded.train(model, data, snapshot=1))
    keras.backend.clear_session()
    found = replayed(path, tmp_path / "out")
    assert found.told["losses"]["equal"] == found.told["losses"]["compared"] == 3
    assert found.report["fidelity"]["random_state"] == "restored"
    assert not len(found.trace.table("seeds"))


def test_a_step_that_cannot_run_at_all_is_no_divergence(keras, tmp_path):
    contents = recorded.train(dropping(keras), batches(3), snapshot=1)
    wrong = replace(contents.batches[-1], arrays={"x": np.ones((8, 5)), "y": np.ones((8, 1))})
    reason = {**contents.reason, "trigger": "exception", "message": "ValueError: shapes"}
    path = recorded.write(
        tmp_path / "crashes",
        replace(contents, batches=[contents.batches[0], wrong], reason=reason),
    )
    keras.backend.clear_session()
    with pytest.raises(UsageError) as caught:
        postmortem(Request(str(path), ()), tmp_path / "out", in_process=True)
    assert caught.value.slug == "not-a-divergence"
    assert "shape (8, 5)" in caught.value.message
    assert "reason.json" in caught.value.fix
    assert not (tmp_path / "out").exists()
