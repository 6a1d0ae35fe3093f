"""What a trace keeps of the samples to blame."""

from __future__ import annotations

import json

import numpy as np
import pytest

from divergence_doctor.batches import Batch
from divergence_doctor.replay.excerpts import excerpt, keep
from divergence_doctor.trace import TraceBuilder


def test_a_row_keeps_its_first_64_values_in_strict_json():
    row = np.arange(100, dtype="float32")
    row[1:4] = np.nan, np.inf, -np.inf
    kept = excerpt(row)
    assert (kept["size"], kept["kept"]) == (100, 64)
    assert json.loads(kept["values"])[:5] == [0.0, "nan", "inf", "-inf", 4.0]
    assert "height" not in kept


def test_a_scalar_keeps_its_value():
    assert excerpt(np.int32(7)) == {"size": 1, "kept": 1, "values": "[7.0]"}


def test_a_picture_keeps_levels_from_its_smallest_to_its_largest_value():
    image = np.zeros((8, 8, 1))
    image[0, :3, 0] = -1.0, 3.0, np.nan
    kept = excerpt(image)
    assert (kept["height"], kept["width"], kept["channels"]) == (8, 8, 1)
    assert (kept["low"], kept["high"]) == (-1.0, 3.0)
    assert json.loads(kept["values"])[:4] == [0, 255, -1, 64]


def test_a_large_picture_is_thinned_out_and_loses_no_cell_that_is_not_finite():
    image = np.ones((200, 100, 3))
    image[151, 77, 1] = np.inf
    kept = excerpt(image)
    assert (kept["height"], kept["width"], kept["channels"]) == (40, 20, 3)
    levels = np.array(json.loads(kept["values"])).reshape(40, 20, 3)
    assert np.argwhere(levels == -1).tolist() == [[30, 15, 1]]
    assert kept["size"] == 60_000


@pytest.mark.parametrize("shape", [(7, 20), (20, 20, 2), (4, 4, 4, 4), (0, 9)])
def test_what_is_no_picture_is_kept_as_values(shape):
    assert "height" not in excerpt(np.ones(shape))


def test_the_span_of_the_largest_numbers_does_not_overflow():
    image = np.zeros((8, 8))
    image[0, 0], image[0, 1] = 1.7e308, -1.7e308
    assert json.loads(excerpt(image)["values"])[:3] == [255, 0, 128]


@pytest.fixture
def builder():
    made = TraceBuilder()
    made.add("steps", step=0, batch=1)
    for name in ("x", "y"):
        made.add("batch", batch=1, name=name, role=name)
    return made


def batch():
    arrays = {"x": np.arange(8.0).reshape(4, 2), "y": np.arange(4), "odd": np.ones(3)}
    return Batch(arrays={**arrays, "text": np.array(["a"] * 4)}, source="b.npz", sha256="0" * 64)


def test_every_array_of_the_samples_to_blame_is_kept(builder):
    keep((None, batch()), [2, 9], builder)
    rows = builder.build().table("excerpts").rows()
    columns = ("batch", "sample", "name", "role", "shape", "values")
    assert [tuple(row[column] for column in columns) for row in rows] == [
        (1, 2, "x", "x", "2", "[4.0, 5.0]"),
        (1, 2, "y", "y", "", "[2.0]"),
    ]


def test_where_nobody_is_to_blame_or_nothing_ran_nothing_is_kept(builder):
    keep((None, batch()), [], builder)
    keep((), [1], builder)
    keep((batch(),), [1], TraceBuilder())
    assert builder.rows("excerpts") == []
