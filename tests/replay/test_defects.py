"""Are the places of bad elements told, and is their pattern named?"""

import json

import numpy as np
import pytest

from divergence_doctor.replay.defects import defects


def marked(shape, where, value=np.nan):
    values = np.ones(shape, "float32")
    values[where] = value
    return values


@pytest.mark.parametrize(
    ("values", "pattern", "axes", "index"),
    [
        (marked((6, 4), (5, 2)), "cell", [1, 1], "5,2"),
        (marked((6, 4), 5), "row", [1, 4], "5,0"),
        (marked((6, 4), [1, 3]), "row", [2, 4], "1,0"),
        (marked((6, 4), (slice(None), 1)), "column", [6, 1], "0,1"),
        (marked((3, 3, 5, 4), (..., 2)), "column", [3, 3, 5, 1], "0,0,0,2"),
        (marked((6, 4), (slice(1, 3), slice(0, 2))), "block", [2, 2], "1,0"),
        (marked((6, 4), ([0, 1], [0, 1])), "scattered", [2, 2], "0,0"),
        (marked((6, 4), slice(None)), "whole", [6, 4], "0,0"),
        (marked((6,), [1, 2]), "block", [2], "1"),
        (marked((), ()), "whole", [], ""),
    ],
)
def test_the_pattern_says_how_the_bad_elements_lie(values, pattern, axes, index):
    (row,) = defects("weights", "dense/kernel", values)
    assert (row["pattern"], json.loads(row["axes"]), row["index"]) == (pattern, axes, index)
    assert row["count"] == np.isnan(values).sum()
    assert row["kind"] == "nan"


def test_only_what_may_not_be_negative_is_looked_at_for_its_sign():
    values = marked((4,), 1, -0.5)
    kinds = [
        [row["kind"] for row in defects(owner, path, values, optimizer=optimizer)]
        for owner, path, optimizer in (
            ("weights", "bn/moving_variance", ""),
            ("weights", "bn/moving_mean", ""),
            ("slots", "adam/k_velocity", "Adam"),
            ("slots", "mine/k_velocity", "Mine"),
        )
    ]
    assert kinds == [["negative"], [], ["negative"], []]


def test_nan_and_infinity_are_told_apart_in_half_precision_too():
    values = np.ones(4, "float16")
    values[0], values[2] = np.nan, -np.inf
    rows = list(defects("weights", "a", values))
    assert [(row["kind"], row["index"]) for row in rows] == [("nan", "0"), ("inf", "2")]


def test_a_replay_records_them_of_the_weights_and_slots_as_loaded(keras, replayed):
    model = keras.Sequential([keras.Input((3,)), keras.layers.Dense(2, name="head")])
    model.compile("adam", "mse")
    model.optimizer.build(model.trainable_variables)
    kernel = np.ones((3, 2), "float32")
    kernel[1] = np.nan
    model.get_layer("head").kernel.assign(kernel)
    for slot in model.optimizer.variables:
        if slot.path.endswith("head_bias_velocity"):
            slot.assign([0.0, -1.0])
    trace = replayed(model, x=np.ones((4, 3), "float32"), y=np.ones((4, 2), "float32"))
    rows = [
        (r["owner"], r["kind"], r["pattern"], r["index"]) for r in trace.table("defects").rows()
    ]
    assert rows == [("weights", "nan", "row", "1,0"), ("slots", "negative", "cell", "1")]
