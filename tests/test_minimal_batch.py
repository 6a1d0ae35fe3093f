"""Does an examination write the smallest batch that fails, and does that file fail by itself?"""

import numpy as np
import pytest

from divergence_doctor.batches import read_batches
from divergence_doctor.diagnosis import diagnose
from divergence_doctor.examination import Request, examine
from divergence_doctor.reporters._where import who

GENERATOR = np.random.default_rng(0)
X = GENERATOR.uniform(0.5, 1.5, size=(16, 4)).astype("float32")
Y = GENERATOR.normal(size=(16, 1)).astype("float32")


@pytest.fixture
def examined(keras, tmp_path):
    """Return a function that saves a model and batches, and examines them from the files."""

    def examination(model, *batches, steps=2, **options):
        model.save(tmp_path / "model.keras")
        paths = []
        for number, arrays in enumerate(batches):
            paths.append(str(tmp_path / f"batch_{number}.npz"))
            np.savez(paths[-1], **arrays)
        request = Request(str(tmp_path / "model.keras"), tuple(paths), steps=steps, **options)
        return examine(request, tmp_path)

    return examination


def log_inside(keras, **options):
    inputs = keras.layers.Input(shape=(4,), **options)
    summed = keras.layers.Dense(1, use_bias=False, kernel_initializer="ones")(inputs)
    model = keras.Model(inputs, keras.ops.log(keras.ops.relu(summed)))
    model.compile(keras.optimizers.SGD(1e-3), "mse")
    return model


def with_zeros(*rows):
    x = X.copy()
    x[list(rows)] = 0.0
    return x


def test_of_a_sequence_the_failing_steps_batch_is_cut(keras, examined, tmp_path):
    trace = examined(log_inside(keras), {"x": X, "y": Y}, {"x": with_zeros(2, 11), "y": Y})
    assert diagnose(trace).main.finding.samples == (2, 11)
    (minimal,) = read_batches([tmp_path / "minimal_batch.npz"])
    np.testing.assert_array_equal(minimal.arrays["x"], np.zeros((1, 4), "float32"))
    told = trace.context["minimal_batch"]
    assert (told["samples"], told["batch"], told["verified"]) == ([2], 1, True)
    sentence = who(trace, diagnose(trace)).sentence
    assert sentence.startswith("Of the batch, samples 2 and 11 are to blame.")
    assert "(Batch 1 of the sequence, that of the failing step.)" in sentence


def test_the_smallest_batch_fails_by_itself_in_the_same_way(keras, examined, tmp_path):
    model = log_inside(keras)
    trace = examined(model, {"x": with_zeros(7), "y": Y})
    (minimal,) = read_batches([tmp_path / "minimal_batch.npz"])
    again = examined(model, dict(minimal.arrays))
    first, second = (t.table("events") for t in (trace, again))
    assert again.outcome == "diverged"
    for column in ("op_type", "layer"):
        one, other = (t.where(t["primary"]).row(0)[column] for t in (first, second))
        assert one == other


def test_a_nan_is_told_by_its_cell(keras, examined):
    x = X.copy()
    x[5, 2] = np.nan
    trace = examined(log_inside(keras), {"x": x, "y": Y})
    sentence = who(trace, diagnose(trace)).sentence
    assert "sample 5 is to blame: cell `x[5, 2] = nan`." in sentence
    assert "`minimal_batch.npz` (sample 5) still fails alone (1 replay)." in sentence


def test_a_batch_of_fixed_size_is_kept_and_filled_with_copies(keras, examined, tmp_path):
    model = keras.Sequential(
        [
            keras.layers.Input(batch_shape=(16, 4)),
            keras.layers.Reshape((4, 1)),
            keras.layers.SimpleRNN(3, stateful=True),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    x = X.copy()
    x[5, 2] = np.inf
    trace = examined(model, {"x": x, "y": Y})
    assert diagnose(trace).main.finding.samples == (5,)
    (minimal,) = read_batches([tmp_path / "minimal_batch.npz"])
    assert minimal.samples == 16
    assert np.isinf(minimal.arrays["x"]).sum() == 1
    copy = trace.context["minimal_batch"]["copy"]
    np.testing.assert_array_equal(minimal.arrays["x"][0], x[copy])
    assert f"among copies of sample {copy}" in who(trace, diagnose(trace)).sentence


def test_without_trials_no_batch_is_cut(keras, examined, tmp_path):
    trace = examined(log_inside(keras), {"x": with_zeros(7), "y": Y}, trials=False)
    assert "culprits" not in trace.context
    assert not (tmp_path / "minimal_batch.npz").exists()


def test_a_budget_of_nothing_leaves_the_claim_of_the_rule(keras, examined, tmp_path):
    trace = examined(log_inside(keras), {"x": with_zeros(7), "y": Y}, budget=0.0)
    assert trace.context["culprits"]["outcome"] == "open"
    assert diagnose(trace).main.finding.samples == (7,)
    assert not (tmp_path / "minimal_batch.npz").exists()
