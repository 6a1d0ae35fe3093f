"""How much a column of text would bring in, told before it is read."""

from __future__ import annotations

import zlib

import h5py
import numpy as np
import pytest

from divergence_doctor.trace._text_size import text_size

WORDS = ["", "a", "ü" * 300, "x" * 70_000, "dense/kernel"]


def written(path, texts, **options):
    with h5py.File(path, "w") as file:
        file.create_dataset(
            "t", data=np.array(texts, dtype=object), dtype=h5py.string_dtype(), **options
        )
    return path


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"chunks": (7,)},
        {"chunks": (300,), "compression": "gzip"},
        {"chunks": True, "compression": "gzip", "shuffle": True},
    ],
    ids=["in one piece", "in chunks", "packed", "as the doctor writes it"],
)
@pytest.mark.parametrize("count", [1, 5, 1_000])
def test_it_is_the_sum_of_what_is_read(tmp_path, options, count):
    texts = [WORDS[index % 3 if count > 5 else index] for index in range(count)]
    options = (
        {**options, "chunks": min(options["chunks"], (count,))}
        if (isinstance(options.get("chunks"), tuple))
        else options
    )
    path = written(tmp_path / "a.h5", texts, **options)
    with h5py.File(path) as file:
        assert text_size(file["t"], path) == sum(len(text.encode()) for text in texts)


def test_nothing_is_told_of_a_file_that_lies_otherwise(tmp_path):
    path = tmp_path / "a.h5"
    with h5py.File(path, "w") as file:
        options = {"chunks": (5,), "compression": "gzip"}
        made = file.create_dataset("t", shape=(9,), dtype=h5py.string_dtype(), **options)
        made.id.write_direct_chunk((0,), zlib.compress(b"short"))
    with h5py.File(path) as file:
        assert text_size(file["t"], path) is None


def test_an_empty_column_holds_nothing(tmp_path):
    path = written(tmp_path / "a.h5", [])
    with h5py.File(path) as file:
        assert text_size(file["t"], path) in {0, None}


def test_text_that_is_named_often_counts_as_often(tmp_path):
    # Thirty thousand references to one text of a megabyte: 30 GB out of a file of little more than
    # one, as a stranger's may be.
    path = written(tmp_path / "a.h5", ["x" * 1_000_000, *[""] * 29_999])
    with h5py.File(path) as file:
        place = file["t"].id.get_offset()
    raw = bytearray(path.read_bytes())
    raw[place : place + 16 * 30_000] = raw[place : place + 16] * 30_000
    path.write_bytes(raw)
    with h5py.File(path) as file:
        assert text_size(file["t"], path) == 30_000_000_000
        assert file["t"][29_999] == b"x" * 1_000_000
