"""Is a table read by column, each loaded once and only when asked for?"""

from __future__ import annotations

import numpy as np
import pytest

from divergence_doctor.trace import Table


def made() -> Table:
    return Table.from_arrays(
        "steps",
        {
            "step": np.array([0, 1, 2]),
            "loss": np.array([3.0, 2.0, np.nan]),
            "name": np.array(["a", "b", "a"], dtype=object),
        },
    )


def test_columns_are_loaded_once_and_only_when_asked_for() -> None:
    loaded = []

    def load() -> np.ndarray[tuple[int], np.dtype[np.int64]]:
        loaded.append("step")
        return np.arange(2)

    table = Table("steps", 2, {"step": load, "loss": pytest.fail})
    assert loaded == []
    assert len(table) == 2
    assert "loss" in table
    assert table.columns == ("step", "loss")
    assert table["step"].tolist() == [0, 1]
    assert table["step"].tolist() == [0, 1]
    assert loaded == ["step"]


def test_columns_of_unequal_length_are_an_error() -> None:
    with pytest.raises(ValueError, match="differ in length"):
        Table.from_arrays("steps", {"step": np.arange(2), "loss": np.arange(3)})


def test_select_and_where_keep_the_order_of_the_rows() -> None:
    table = made()
    assert table.select(name="a")["step"].tolist() == [0, 2]
    assert table.select(name="a", step=2)["step"].tolist() == [2]
    assert len(table.select(name="z")) == 0
    assert table.where(table["loss"] > 2)["step"].tolist() == [0]
    assert table.where(np.array([2, 0]))["step"].tolist() == [2, 0]
    assert len(table.where(np.array([2, 0]))) == 2


def test_a_selection_of_a_selection_refers_to_the_first() -> None:
    assert made().select(name="a").select(step=2)["name"].tolist() == ["a"]


def test_a_row_holds_plain_values() -> None:
    row = made().row(1)
    assert row == {"step": 1, "loss": 2.0, "name": "b"}
    assert [type(value) for value in row.values()] == [int, float, str]
    assert [row["step"] for row in made().rows()] == [0, 1, 2]


def test_an_unknown_column_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="'steps' has no column 'nope'; it has step, loss, name"):
        made()["nope"]


def test_it_becomes_a_data_frame() -> None:
    frame = Table.from_arrays(
        "weights", {"step": np.arange(2), "exponents": np.ones((2, 3), np.uint32)}
    ).to_dataframe()
    assert frame.step.tolist() == [0, 1]
    assert frame.exponents[1].tolist() == [1, 1, 1]


def test_its_repr_says_how_large_it_is() -> None:
    assert repr(made()) == "<Table 'steps': 3 rows x 3 columns>"
