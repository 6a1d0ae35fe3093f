"""Is a crash bundle opened as the model that was about to fail, with everything where it was?"""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from divergence_doctor.checkpoints import OpenOptions, choose, open_checkpoint
from divergence_doctor.errors import CheckpointError, RefusedError, UsageError
from tests import recorded

GENERATOR = np.random.default_rng(0)


def batches(steps=4, *, last=0.0):
    """Return that many batches for a model of 4 inputs and 1 output; the last holds a label."""
    found = [
        (
            GENERATOR.normal(size=(6, 4)).astype("float32"),
            GENERATOR.normal(size=(6, 1)).astype("float32"),
        )
        for _ in range(steps)
    ]
    found[-1][1][2] = last
    return found


def drawing(keras, **options):
    """Return a model that holds every kind of state: slots, statistics, random state."""
    keras.utils.set_random_seed(5)
    layers = keras.layers
    model = keras.Sequential(
        [
            layers.Input((4,)),
            layers.Dense(8, activation="relu"),
            layers.Dropout(0.5),
            layers.GaussianNoise(0.1),
            layers.BatchNormalization(),
            layers.Dense(1, dtype="float32"),
        ]
    )
    model.compile(options.pop("optimizer", "adam"), options.pop("loss", "mse"), **options)
    return model


@pytest.fixture
def bundle(keras, tmp_path):
    """A bundle whose state is that from before step 1 of 3."""
    contents = recorded.train(drawing(keras), batches(3, last=np.nan), snapshot=1)
    path = recorded.write(tmp_path / "crashes", contents)
    keras.backend.clear_session()
    return path, contents


def opened(path, **options):
    return open_checkpoint(path, OpenOptions(**options))


def edited(path, change):
    """Change a bundle's model.json behind the manifest's back, with the hashes put right."""
    import hashlib

    from divergence_doctor.bundle import open_bundle

    file = path / "model.json"
    model = json.loads(file.read_text(encoding="utf-8"))
    change(model)
    del hashlib, open_bundle
    return model


def rewritten(tmp_path, contents, **changes):
    return recorded.write(tmp_path / "again", replace(contents, **changes))


def state(model):
    """Return every number that a step reads, as bytes, in the order of a bundle."""
    return [(v.role, np.asarray(v.array).tobytes()) for v in recorded.variables(model)]


# ---------------------------------------------------------------------- everything is back


def policies():
    yield "float32", {}
    yield "mixed_float16", {}
    yield "mixed_bfloat16", {}
    yield "bfloat16", {}
    yield "float32", {"optimizer": "sgd"}
    yield "float32", {"optimizer": "rmsprop"}
    yield "float32", {"optimizer": "adamw", "metrics": ["mae"]}
    yield "mixed_float16", {"auto_scale_loss": False}


@pytest.mark.parametrize(("policy", "options"), list(policies()))
def test_every_variable_holds_the_bits_from_before_the_step(keras, tmp_path, policy, options):
    keras.config.set_dtype_policy(policy)
    model = drawing(keras, **options)
    contents = recorded.train(model, batches(3), snapshot=2)
    path = recorded.write(tmp_path, contents)
    keras.config.set_dtype_policy("float32")
    keras.backend.clear_session()
    # What Keras counts through the process must not matter.
    [keras.layers.Dropout(0.1) for _ in range(3)]
    found = opened(path)
    wanted = [
        (v.role, np.asarray(v.array).tobytes()) for v in contents.variables if v.role != "metric"
    ]
    assert [pair for pair in state(found.model) if pair[0] != "metric"] == wanted
    assert found.fidelity["optimizer_state"] == "restored"
    assert found.fidelity["random_state"] == "restored"
    assert found.unseeded == ()
    assert not [note for note in found.fidelity["notes"] if "no value" in note or "order" in note]
    scaled = policy == "mixed_float16" and "auto_scale_loss" not in options
    assert hasattr(found.model.optimizer, "inner_optimizer") is scaled
