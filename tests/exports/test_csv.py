"""Does a CSV file hold what the trace holds, as a spreadsheet and pandas read it?"""

from __future__ import annotations

import csv
import io
import math

import numpy as np
import pandas as pd
import pytest

from divergence_doctor.exports import all_exports, write_export
from divergence_doctor.trace.schema import TABLES
from divergence_doctor.trace.synthetic import training_trace


@pytest.fixture(scope="module")
def trace():
    return training_trace(losses=(0.1 + 0.2, -0.8, math.nan))


@pytest.fixture(scope="module")
def folder(trace, tmp_path_factory):
    folder = tmp_path_factory.mktemp("csv")
    write_export(all_exports()["csv"], trace, folder)
    return folder


def test_there_is_a_file_for_every_table_that_has_rows(trace, folder):
    filled = {f"{name}.csv" for name in TABLES if len(trace.table(name))}
    assert {"steps.csv", "layers.csv", "activations.csv"} <= filled
    assert {path.name for path in folder.iterdir()} == filled


@pytest.mark.parametrize("name", ["steps", "activations", "gradients", "weights", "updates"])
def test_pandas_reads_the_same_numbers_to_the_bit(trace, folder, name):
    read = pd.read_csv(folder / f"{name}.csv", keep_default_na=False, na_values=["nan"])
    table = trace.table(name)
    assert list(read.columns) == [c for c in table.columns if c != "exponents"]
    for column in read.columns:
        if table[column].dtype == np.float64:
            kept = read[column].to_numpy(np.float64)
            np.testing.assert_array_equal(kept, table[column], err_msg=column)
        else:
            assert read[column].tolist() == table[column].tolist(), column


@pytest.mark.parametrize("name", ["=1+1", "+1", "-dense", "@SUM(1)"])
def test_a_name_is_no_formula(name):
    trace = training_trace(layers=(name,))
    files = all_exports()["csv"].render(trace)
    rows = list(csv.DictReader(io.StringIO(files["layers.csv"].decode(), newline="")))
    assert f"'{name}" in {row["layer"] for row in rows}
    assert name not in {cell for row in rows for cell in row.values()}
    # A number below zero stays one.
    assert float(csv_loss(files)) == pytest.approx(float(trace.table("steps")["loss"][0]))


def csv_loss(files):
    return next(csv.DictReader(io.StringIO(files["steps.csv"].decode(), newline="")))["loss"]
