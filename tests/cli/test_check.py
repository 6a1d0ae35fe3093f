from __future__ import annotations

import json

import numpy as np
import pytest


@pytest.fixture
def remarks(doctor, batch_file):
    """Check a batch, and return its remarks as (level, says, cause)."""

    def run(**arrays):
        said = doctor("check", batch_file(**arrays), "--json")
        assert said.status == 0, said.err
        (batch,) = json.loads(said.out)["batches"]
        return [(one["level"], one["says"], one["cause"]) for one in batch["remarks"]]

    return run


X = np.linspace(-1, 1, 32).reshape(8, 4)
Y = np.array([0, 1, 2, 0, 1, 2, 0, 1])


def test_a_sound_batch_is_told_to_be_sound(doctor, batch_file):
    said = doctor("check", batch_file(x=X, y=Y))

    assert said.status == 0
    assert said.err == ""
    assert "8 samples" in said.out
    assert "y as class ids (id: how often): 0: 3, 1: 3, 2: 2" in said.out
    assert said.out.endswith("✓ No NaN or Inf, and nothing else that breaks every model.\n")
    assert "✗" not in said.out


def test_the_table_gives_the_range_of_every_array(doctor, batch_file):
    said = doctor("check", batch_file(x=X.astype("float32"), y=Y))

    rows = [line.split() for line in said.out.splitlines()]
    assert rows[3] == ["x", "x", "float32", "8x4", "-1", "1", "0", "0.5957", "0", "0"]
    assert rows[4][:6] == ["y", "y", "int64", "8", "0", "2"]


@pytest.mark.parametrize(
    ("name", "cause"),
    [("x", "bad-input"), ("y", "bad-labels"), ("sample_weight", "bad-sample-weight")],
)
@pytest.mark.parametrize(("value", "told"), [(np.nan, "1 NaN"), (-np.inf, "1 Inf")])
def test_nan_and_inf_are_problems_wherever_they_stand(remarks, name, cause, value, told):
    arrays = {"x": X, "y": Y.astype(float), "sample_weight": np.ones(8)}
    arrays[name] = arrays[name].copy()
    arrays[name].reshape(8, -1)[3, -1] = value

    (first, *rest) = remarks(**arrays)

    assert first[0] == "problem"
    assert first[1].startswith(f"{name}: {told} among {arrays[name].size} values, in sample 3 (1")
    assert first[2] == cause
    assert all(level != "problem" for level, _, _ in rest)


def test_a_problem_comes_with_the_place_the_page_and_the_fix(doctor, batch_file):
    x = X.copy()
    x[[2, 5], 1] = np.nan

    said = doctor("check", batch_file(x=x, y=Y))

    assert (
        "✗ x: 2 NaN among 32 values, in samples 2, 5 (2 of 8), first at [2,1]. [bad-input]\n"
        "  fix: Drop the bad rows where the data is loaded"
    ) in said.out
    assert "✓" not in said.out


def test_inputs_beyond_a_thousand_are_suspicious(remarks):
    (only,) = remarks(x=X * 1_001, y=Y)

    assert only[0] == "suspicious"
    assert only[1].startswith("x: values reach from -1001 to 1001, beyond ±1000")
    assert only[2] == "unscaled-input"


def test_inputs_of_exactly_a_thousand_are_in_range(remarks):
    assert [level for level, _, _ in remarks(x=X * 1_000, y=Y)] == ["note"]


def test_raw_pixels_are_a_note(remarks):
    pixels = np.arange(32, dtype=np.uint8).reshape(8, 4) + 224
    (only,) = remarks(x=pixels, y=Y)

    assert (only[0], only[2]) == ("note", "unscaled-input")
    assert "`keras.layers.Rescaling`" in only[1]


def test_token_ids_are_not_out_of_range(remarks):
    assert remarks(x=np.arange(32).reshape(8, 4) * 1_000, y=Y) == []


def test_one_sample_far_beyond_the_others_is_named(remarks):
    x = X.copy()
    x[6, 2] = 500.0

    said = remarks(x=x, y=Y)

    assert ("suspicious", "unscaled-input") in [(level, cause) for level, _, cause in said]
    assert any("magnitudes up to 500 in sample 6 (1 of 8)" in says for _, says, _ in said)


def test_negative_class_ids_are_suspicious(remarks):
    (only,) = remarks(x=X, y=np.array([0, 1, -1, 0, 1, 2, 0, 1]))

    assert only[0] == "suspicious"
    assert only[1].startswith("y: whole numbers below zero in sample 2 (1 of 8)")
    assert only[2] == "bad-labels"


def test_labels_that_are_not_whole_are_a_note(remarks):
    (only,) = remarks(x=X, y=np.linspace(-1, 1, 8))

    assert only[0] == "note"
    assert "not whole numbers" in only[1]


def test_one_hot_labels_are_counted_by_class(doctor, batch_file):
    said = doctor("check", batch_file(x=X, y=np.eye(3)[Y]), "--json")

    assert json.loads(said.out)["batches"][0]["classes"] == {"y": {"0": 3, "1": 3, "2": 2}}


def test_the_size_that_class_ids_ask_of_the_last_layer_is_told(doctor, batch_file):
    said = doctor("check", batch_file(x=X, y=Y))

    assert "a last layer for them needs 3 units" in said.out


def test_labels_that_are_all_the_same_are_a_note(remarks):
    assert remarks(x=X, y=np.ones(8, dtype=int)) == [("note", "y: every label is 1.", None)]


def test_negative_weights_are_a_problem(remarks):
    weights = np.ones(8)
    weights[4] = -0.5

    (only,) = remarks(x=X, y=Y, sample_weight=weights)

    assert only[0] == "problem"
    assert only[1].startswith("sample_weight: negative in sample 4 (1 of 8), down to -0.5")
    assert only[2] == "bad-sample-weight"


def test_weights_that_are_all_zero_are_suspicious(remarks):
    (only,) = remarks(x=X, y=Y, sample_weight=np.zeros(8))

    assert (only[0], only[2]) == ("suspicious", "bad-sample-weight")


def test_a_silent_sample_is_noted(remarks):
    x = X.copy()
    x[5] = 0

    (only,) = remarks(x=x, y=Y)

    assert (only[0], only[2]) == ("note", None)
    assert only[1].startswith("x: nothing but zeros in sample 5 (1 of 8); a log, a norm")


def test_constant_features_are_counted(remarks):
    x = X.copy()
    x[:, [0, 3]] = 7.0

    (only,) = remarks(x=x, y=Y)

    assert only[0] == "note"
    assert only[1].startswith("x: 2 of 4 features hold the same value in every sample")


def test_samples_that_are_all_the_same_are_suspicious(remarks):
    said = remarks(x=np.ones((8, 4)), y=Y)

    assert [(level, says[:24]) for level, says, _ in said] == [
        ("suspicious", "x: every sample is the s")
    ]


def test_a_sample_that_comes_twice_is_noted(remarks):
    x = X.copy()
    x[7] = x[0]

    assert remarks(x=x, y=Y) == [
        ("note", "x: an earlier sample once more in sample 7 (1 of 8).", None)
    ]


def test_arrays_of_different_lengths_are_a_problem(remarks):
    assert ("problem", "The arrays differ in their number of samples: x 8, y 7.", None) in remarks(
        x=X, y=Y[:7]
    )


def test_an_empty_batch_is_a_problem(remarks):
    assert ("problem", "The batch holds no samples.", None) in remarks(
        x=np.zeros((0, 4)), y=np.zeros(0)
    )


def test_missing_labels_are_a_note(remarks):
    assert remarks(x=X) == [("note", "There are no labels (no array y).", None)]


def test_names_that_stand_alone_are_taken_for_inputs(remarks):
    assert remarks(image=X, y=Y) == [
        ("note", "Taken for inputs, since their names do not say: image.", None)
    ]


@pytest.mark.parametrize(
    "array",
    [
        np.float32(3.0),
        np.array(["a", "b"]),
        np.array([1 + 2j, 3]),
        np.array([True, False]),
        np.full((3, 2), np.nan),
        np.array([[np.finfo(np.float64).max], [np.finfo(np.float64).min], [0]]),
        np.zeros((2, 0, 3)),
    ],
    ids=["scalar", "text", "complex", "bool", "all NaN", "extremes", "no features"],
)
@pytest.mark.parametrize("name", ["x", "y", "sample_weight", "other"])
def test_whatever_a_batch_holds_is_looked_at(doctor, batch_file, name, array):
    path = batch_file(**{"x": np.ones((2, 1)), name: array})

    assert doctor("check", path).status == 0
    assert doctor("check", path, "--json").status == 0


def test_several_batches_are_looked_at_one_by_one(doctor, batch_file, tmp_path):
    batch_file("step_0.npz", x=X, y=Y)
    batch_file("step_1.npz", x=X * np.nan, y=Y)

    told = json.loads(doctor("check", tmp_path, "--json").out)

    assert [batch["path"][-10:] for batch in told["batches"]] == ["step_0.npz", "step_1.npz"]
    assert [batch["sound"] for batch in told["batches"]] == [True, False]
    assert told["sound"] is False
    assert told["schema"] == "divergence-doctor/check/1"


def test_json_is_strict(doctor, batch_file):
    def refuse(token):
        pytest.fail(f"{token} is no JSON")

    said = doctor("check", batch_file(x=np.full((2, 2), np.inf)), "--json")

    (array,) = json.loads(said.out, parse_constant=refuse)["batches"][0]["arrays"]
    assert array["posinf"] == 4
    assert array["max"] is None


def test_a_hostile_name_cannot_move_the_cursor(doctor, batch_file):
    said = doctor("check", batch_file(**{"x/\x1b[2J\u202e": X, "y": Y}))

    assert said.status == 0
    assert "\x1b" not in said.out
    assert "\u202e" not in said.out


def test_a_batch_that_is_not_there_is_named(doctor, tmp_path):
    doctor("check", tmp_path / "gone.npz").assert_refused(
        2, "error[batch-not-found]", "gone.npz", "no file or folder has this path"
    )


def test_a_pickle_is_refused(doctor, batch_file):
    path = batch_file(x=np.array([{}, None], dtype=object))

    doctor("check", path).assert_refused(4, "batch.npz holds pickled objects", "pickles can run")
