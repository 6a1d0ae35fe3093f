"""What is one sample of an array, when the array is ragged?"""

import numpy as np
import pytest

from divergence_doctor import _rows
from divergence_doctor.batches import describe, read_batches, write_batch
from divergence_doctor.trace import TraceBuilder

VALUES = np.array([[1.0, 2.0], [3.0, np.nan], [5.0, 0.0]])
RAGGED = {"x/values": VALUES, "x/row_splits": np.array([0, 2, 2, 3]), "y": np.arange(3)}


def test_a_ragged_array_lies_in_two_and_counts_its_runs():
    assert _rows.ragged(RAGGED) == ("x",)
    assert [_rows.count(name, array, RAGGED) for name, array in RAGGED.items()] == [3, 3, 3]
    assert _rows.ragged({"x/row_splits": np.arange(3)}) == ()
    assert _rows.count("x", np.zeros(()), {}) == 0


def test_samples_are_picked_whole_and_in_the_order_asked_for():
    picked = _rows.pick(RAGGED, [2, 0], 3)
    np.testing.assert_array_equal(picked["x/values"], VALUES[[2, 0, 1]])
    assert picked["x/row_splits"].tolist() == [0, 1, 3]
    assert picked["x/row_splits"].dtype == RAGGED["x/row_splits"].dtype
    assert picked["y"].tolist() == [2, 0]
    assert _rows.pick(RAGGED, [], 3)["x/values"].shape == (0, 2)
    assert len(_rows.pick({"a": np.zeros(5)}, [0], 3)["a"]) == 5


@pytest.mark.parametrize(
    ("splits", "says"),
    [
        ([0.0, 3.0], "whole numbers"),
        ([0, 4], "3 rows"),
        ([0, 2, 1, 3], "rise"),
        ([1, 3], "from 0"),
        ([[0, 3]], "one axis"),
    ],
)
def test_row_splits_that_fit_no_values_are_told(splits, says):
    assert says in _rows.fault(VALUES, np.asarray(splits))


def test_a_ragged_batch_is_described_by_its_samples_and_survives_the_file(tmp_path):
    np.savez(tmp_path / "batch.npz", **RAGGED)
    (batch,) = read_batches([tmp_path / "batch.npz"])
    assert (batch.samples, batch.ragged) == (3, ("x",))
    builder = TraceBuilder()
    describe(batch, 0, builder)
    trace = builder.build()
    assert trace.table("batch")["name"].tolist() == ["x/values", "y"]
    rows = trace.table("samples").select(name="x/values")
    assert rows["nonfinite"].tolist() == [1, 0, 0]
    assert rows["size"].tolist() == [4, 0, 2]
    assert trace.table("cells")["sample"].tolist() == [0]
    write_batch(tmp_path / "small.npz", batch, [0])
    (small,) = read_batches([tmp_path / "small.npz"])
    np.testing.assert_array_equal(small.arrays["x/values"], VALUES[:2])
    assert small.arrays["x/row_splits"].tolist() == [0, 2]


def test_halves_that_do_not_fit_are_described_as_they_lie(tmp_path):
    np.savez(tmp_path / "batch.npz", **(RAGGED | {"x/row_splits": np.array([0, 9])}))
    (batch,) = read_batches([tmp_path / "batch.npz"])
    builder = TraceBuilder()
    describe(batch, 0, builder)
    assert len(builder.rows("samples")) == 6
