"""Does a builder collect what it is given, and does its journal survive a torn end?"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from divergence_doctor.trace import TraceBuilder
from divergence_doctor.trace.schema import EXPONENT_BINS, TABLES

if TYPE_CHECKING:
    from pathlib import Path


def filled(journal: io.StringIO | None = None) -> TraceBuilder:
    builder = TraceBuilder(journal)
    histogram = np.zeros(EXPONENT_BINS, np.uint32)
    histogram[[3, 278]] = [7, 4_000_000_000]
    builder.add("steps", step=0, loss=np.float32(0.5), loss_finite=np.bool_(True))
    builder.add("steps", step=np.int64(1), loss=math.nan, raised="bad: π\n  at x")
    builder.add("activations", step=0, layer="dense", max=math.inf, exponents=histogram)
    builder.describe(outcome="diverged", optimizer={"class": "Adam"})
    return builder


def assert_filled(builder: TraceBuilder) -> None:
    trace = builder.build()
    steps = trace.table("steps")
    assert steps["step"].tolist() == [0, 1]
    assert steps["loss"][0] == 0.5
    assert math.isnan(steps["loss"][1])
    assert steps["loss_finite"].tolist() == [True, False]
    assert steps["raised"].tolist() == ["", "bad: π\n  at x"]
    activation = trace.table("activations").row(0)
    assert activation["max"] == math.inf
    assert activation["exponents"][3] == 7
    assert activation["exponents"][278] == 4_000_000_000
    assert activation["exponents"].sum(dtype=np.int64) == 4_000_000_007
    assert trace.context == {"outcome": "diverged", "optimizer": {"class": "Adam"}}


def test_rows_become_tables() -> None:
    assert_filled(filled())


def test_a_journal_gives_the_same_rows_back(tmp_path: Path) -> None:
    journal = io.StringIO()
    filled(journal)
    (tmp_path / "journal").write_text(journal.getvalue(), encoding="utf-8")
    assert_filled(TraceBuilder.from_journal(tmp_path / "journal"))


@pytest.mark.parametrize("cut", [1, 5, 20, 60])
def test_a_torn_last_line_is_passed_over(tmp_path: Path, cut: int) -> None:
    journal = io.StringIO()
    builder = filled(journal)
    builder.add("losses", step=1, name="a name that is long enough to be torn somewhere", value=1.0)
    (tmp_path / "journal").write_text(journal.getvalue()[:-1][:-cut], encoding="utf-8")
    found = TraceBuilder.from_journal(tmp_path / "journal")
    assert_filled(found)
    assert found.rows("losses") == []


def test_an_empty_journal_is_an_empty_trace(tmp_path: Path) -> None:
    (tmp_path / "journal").write_text("")
    trace = TraceBuilder.from_journal(tmp_path / "journal").build()
    assert trace.outcome == "inconclusive"
    assert all(len(trace.table(name)) == 0 for name in TABLES)


def test_columns_that_are_left_out_hold_the_missing_values() -> None:
    builder = TraceBuilder()
    builder.add("activations")
    row = builder.build().table("activations").row(0)
    assert (row["step"], row["layer"], row["nan"]) == (-1, "", -1)
    assert math.isnan(row["mean"])
    assert row["exponents"].tolist() == [0] * EXPONENT_BINS


def test_none_is_a_missing_value() -> None:
    builder = TraceBuilder()
    builder.add("steps", step=None, loss=None, skipped=None)
    row = builder.build().table("steps").row(0)
    assert (row["step"], row["skipped"]) == (-1, False)
    assert math.isnan(row["loss"])


def test_every_column_has_the_dtype_of_its_kind() -> None:
    builder = TraceBuilder()
    dtypes = {"int": "int64", "float": "float64", "bool": "bool", "str": "object"}
    for name, spec in TABLES.items():
        for rows in range(2):
            table = builder.build().table(name)
            assert len(table) == rows
            for column in spec.all_columns():
                expected = dtypes.get(column.kind, "uint32")
                assert table[column.name].dtype == expected, (name, column.name)
            builder.add(name)


def test_a_column_that_the_schema_does_not_know_is_kept() -> None:
    builder = TraceBuilder()
    builder.add("steps", step=0)
    builder.add("steps", step=1, temperature=0.5, note="x", tries=3, lucky=True)
    row = builder.build().table("steps").row(1)
    assert (row["temperature"], row["note"], row["tries"], row["lucky"]) == (0.5, "x", 3, True)


def test_a_table_that_the_schema_does_not_know_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        TraceBuilder().add("nonsense", step=0)
