"""Sparse and ragged batches from the file to the verdict, and out again as a minimal batch."""

import subprocess
import sys

import numpy as np
import pytest

from divergence_doctor import diagnose
from divergence_doctor.batches import read_batches
from divergence_doctor.examination import Request, examine
from divergence_doctor.reporters import document
from divergence_doctor.reporters.reproduction import Reproduction
from tests.replay.kinds._kind import normal

#: A layer that takes the mean over the tokens of each sample, and forgets that there may be none.
MEAN = """
import keras
import tensorflow as tf

@keras.saving.register_keras_serializable("mean")
class Mean(keras.layers.Layer):
    def call(self, x):
        return tf.reduce_sum(x, axis=1) / tf.cast(x.row_lengths(), tf.float32)[:, None]

    def compute_output_spec(self, x):
        return keras.KerasTensor((x.shape[0], x.shape[2]), x.dtype)
"""


def test_a_sparse_batch_with_an_infinite_cell(keras, tmp_path):
    model = keras.Sequential(
        [
            keras.layers.Input((5,), sparse=True, name="bag"),
            keras.layers.Dense(3, activation="relu", name="hidden"),
            keras.layers.Dense(1, name="out"),
        ]
    )
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.keras")
    x = np.maximum(normal(6, 5), 0)
    x[4, 2] = np.inf
    np.savez(tmp_path / "batch.npz", x=x, y=normal(6, 1))
    request = Request(str(tmp_path / "model.keras"), (str(tmp_path / "batch.npz"),), steps=2)
    verdict = diagnose(examine(request, tmp_path))
    assert verdict.main.finding.cause == "bad-input"
    assert verdict.main.confirmed
    assert verdict.main.finding.samples == (4,)
    (minimal,) = read_batches([tmp_path / "minimal_batch.npz"])
    np.testing.assert_array_equal(minimal.arrays["x"], x[[4]])


@pytest.mark.slow
def test_a_ragged_batch_with_a_sample_of_no_tokens(keras, tmp_path):
    (tmp_path / "mean.py").write_text(MEAN)
    namespace = {}
    exec(compile(MEAN, str(tmp_path / "mean.py"), "exec"), namespace)  # noqa: S102 - ours
    tokens = keras.layers.Input((None,), dtype="int64", ragged=True, name="tokens")
    vectors = keras.layers.Embedding(8, 3)(tokens)
    outputs = keras.layers.Dense(1)(namespace["Mean"](name="mean")(vectors))
    model = keras.Model(tokens, outputs)
    model.compile("sgd", "mse")
    model.save(tmp_path / "model.keras")
    splits = np.array([0, 3, 4, 4, 6, 7])
    np.savez(
        tmp_path / "batch.npz",
        **{"x/values": [3, 1, 4, 1, 5, 2, 6], "x/row_splits": splits, "y": normal(5, 1)},
    )
    request = Request(
        str(tmp_path / "model.keras"),
        (str(tmp_path / "batch.npz"),),
        custom_objects=(str(tmp_path / "mean.py"),),
        steps=2,
    )
    trace = examine(request, tmp_path)
    verdict = diagnose(trace)
    assert verdict.main.finding.cause == "division-by-zero"
    assert (verdict.main.finding.site.layer, verdict.main.finding.site.op) == ("mean", "RealDiv")
    assert verdict.main.confirmed
    assert verdict.main.finding.samples == (2,)
    (minimal,) = read_batches([tmp_path / "minimal_batch.npz"])
    assert minimal.arrays["x/row_splits"].tolist() == [0, 0]
    script = tmp_path / "reproduce.py"
    script.write_text(Reproduction().render(document(trace, verdict)))
    done = subprocess.run(
        [sys.executable, str(script)],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1, done.stdout + done.stderr
    assert "FAILS" in done.stdout
