from __future__ import annotations

import contextlib
import io
import math
import pickle
import re
import struct
import warnings
import zipfile
import zlib
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from divergence_doctor import batches
from divergence_doctor.batches import Batch, describe, read_batches, write_batch
from divergence_doctor.errors import (
    BatchError,
    DoctorError,
    NotFoundError,
    OutputError,
    RefusedError,
)
from divergence_doctor.trace import TraceBuilder


def saved(folder: Path, name: str = "batch.npz", **arrays: Any) -> Path:
    np.savez(folder / name, **arrays)
    return folder / name


def member(folder: Path, content: bytes, name: str = "x.npy", **options: Any) -> Path:
    path = folder / "batch.npz"
    with zipfile.ZipFile(path, "w", **options) as archive:
        archive.writestr(name, content)
    return path


def header(descr: str, shape: str) -> bytes:
    text = f"{{'descr': {descr}, 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (64 - (len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text


def npy(array: Any) -> bytes:
    stream = io.BytesIO()
    np.lib.format.write_array(stream, np.asarray(array), allow_pickle=False)
    return stream.getvalue()


def only(path: Path) -> Batch:
    (batch,) = read_batches([path])
    return batch


def refusal(path: Path, kind: type[DoctorError]) -> DoctorError:
    with pytest.raises(kind) as caught:
        read_batches([path])
    error = caught.value
    assert type(error) is kind
    assert error.message
    assert error.why
    assert error.fix
    assert not re.search(r"[\x00-\x1f\x7f]", error.message + error.why + error.fix)
    return error


def test_arrays_come_back_with_their_names_dtypes_and_values(tmp_path):
    arrays = {
        "x": np.arange(6, dtype=np.float32).reshape(3, 2),
        "y": np.array([0, 1, 2]),
        "sample_weight": np.array([True, False, True]),
        "x/image": np.asfortranarray(np.arange(12.0).reshape(3, 4)),
        "tabular": np.array([1 + 2j, 0, 3j]),
        "text": np.array(["a", "bc", "d"]),
    }
    batch = only(saved(tmp_path, **arrays))
    assert list(batch.arrays) == list(arrays)
    for name, array in arrays.items():
        np.testing.assert_array_equal(batch.arrays[name], array)
        assert batch.arrays[name].dtype == array.dtype
    assert batch.source == str(tmp_path / "batch.npz")
    assert len(batch.sha256) == 64
    assert batch.samples == 3


def test_unnamed_arrays_are_read_as_x_y_and_sample_weight(tmp_path):
    np.savez(tmp_path / "b.npz", np.zeros((2, 3)), np.ones(2), np.full(2, 0.5))
    batch = only(tmp_path / "b.npz")
    assert {name: array[0].max() for name, array in batch.arrays.items()} == {
        "x": 0.0,
        "y": 1.0,
        "sample_weight": 0.5,
    }


@pytest.mark.parametrize(
    ("name", "role"),
    [
        ("x", "x"),
        ("x_0", "x"),
        ("x/image", "x"),
        ("y", "y"),
        ("y_1", "y"),
        ("y/mask", "y"),
        ("sample_weight", "sample_weight"),
        ("sample_weight/mask", "sample_weight"),
        ("image", ""),
        ("x_ray", ""),
        ("yes", ""),
    ],
)
def test_the_role_is_read_off_the_name(name, role):
    assert Batch({name: np.zeros(1)}, "", "").role(name) == role


def test_big_endian_arrays_arrive_in_native_order(tmp_path):
    batch = only(saved(tmp_path, x=np.array([1.5, -2.0], dtype=">f4")))
    assert batch.arrays["x"].dtype == np.dtype("float32")
    assert batch.arrays["x"].dtype.isnative
    assert batch.arrays["x"].tolist() == [1.5, -2.0]


def test_a_compressed_batch_of_zeros_is_fine_while_it_is_small(tmp_path):
    np.savez_compressed(tmp_path / "z.npz", x=np.zeros((1000, 1000), dtype=np.float32))
    assert only(tmp_path / "z.npz").arrays["x"].shape == (1000, 1000)


def test_a_folder_is_a_sequence_in_natural_order(tmp_path):
    for step in (10, 2, 1):
        saved(tmp_path, f"step_{step}.npz", x=np.array([step]))
    (tmp_path / "notes.txt").write_text("no batch")
    found = read_batches([tmp_path, tmp_path / "step_2.npz"])
    assert [int(batch.arrays["x"][0]) for batch in found] == [1, 2, 10, 2]


def test_an_empty_file_name_list_gives_no_batches():
    assert read_batches([]) == ()


def test_a_missing_batch_is_not_found(tmp_path):
    assert "nowhere.npz" in refusal(tmp_path / "nowhere.npz", NotFoundError).message


def test_a_folder_without_batches_is_told_what_to_put_there(tmp_path):
    assert refusal(tmp_path, BatchError).slug == "no-batch"


@pytest.mark.parametrize(
    ("content", "why"),
    [
        (b"", "it is empty"),
        (b"x,y\n1,2\n", "no zip archive"),
        (bytes(range(200, 256)) * 20, "no zip archive"),
        (npy([1.0, 2.0]), "single .npy array"),
    ],
)
def test_what_is_no_archive_is_not_a_batch(tmp_path, content, why):
    path = tmp_path / "batch.npz"
    path.write_bytes(content)
    error = refusal(path, BatchError)
    assert error.slug == "not-a-batch"
    assert why in error.why


def test_an_archive_of_something_else_is_not_a_batch(tmp_path):
    assert (
        "'readme.md' is no array" in refusal(member(tmp_path, b"hi", "readme.md"), BatchError).why
    )
    assert "Keras archive" in refusal(member(tmp_path, b"{}", "config.json"), BatchError).why


def test_a_pickle_is_refused(tmp_path):
    path = tmp_path / "batch.npz"
    path.write_bytes(pickle.dumps({"x": [1, 2]}))
    assert refusal(path, RefusedError).message == "batch.npz holds pickled objects"


def test_pickled_objects_in_an_array_are_refused_and_never_run(tmp_path):
    class Bomb:
        def __reduce__(self) -> tuple[Any, ...]:
            return (Path.touch, (tmp_path / "ran",))

    np.savez(tmp_path / "run7.npz", x=np.ones(3), meta=np.array([Bomb()], dtype=object))
    error = refusal(tmp_path / "run7.npz", RefusedError)
    assert str(error) == (
        "error[not-a-batch]: run7.npz holds pickled objects\n"
        "  why: array 'meta' has dtype object; pickles can run code\n"
        "  fix: save it with np.savez(..., x=..., y=...), every array with a numeric or text dtype"
    )
    assert not (tmp_path / "ran").exists()


def test_opaque_bytes_are_told_to_be_bfloat16(tmp_path):
    error = refusal(saved(tmp_path, x=np.zeros(4, dtype="V2")), BatchError)
    assert "bfloat16" in error.why
    assert "astype('float32')" in error.fix


@pytest.mark.parametrize(
    "array",
    [
        np.array(["2026-01-01"], dtype="datetime64[D]"),
        np.zeros(2, dtype=[("a", "f4"), ("b", "i4")]),
        np.zeros(2, dtype=np.longdouble),
    ],
)
def test_a_dtype_that_no_model_takes_is_named(tmp_path, array):
    error = refusal(saved(tmp_path, x=array), BatchError)
    assert error.slug == "unsupported-dtype"
    assert "array 'x'" in error.message


def test_endless_texts_are_refused(tmp_path):
    assert refusal(saved(tmp_path, x=np.zeros(1, dtype="S70000")), RefusedError).slug == (
        "batch-too-large"
    )


def test_a_header_that_claims_a_trillion_floats_is_refused_before_memory_is_given(tmp_path):
    path = member(tmp_path, header("'<f8'", "(1000000000000,)") + b"\0" * 100)
    error = refusal(path, RefusedError)
    assert error.slug == "damaged-batch"
    assert "100 bytes of data" in error.why


@pytest.mark.parametrize(
    "content",
    [
        header("'<f8'", "(-1, -4)") + b"\0" * 32,
        header("'<f8'", "(4,)")[:40],
        header("'<f8'", "'many'"),
        header("(" * 4000, "(1,)"),
        header("'<U0'", "(1,)"),
        b"\x93NUMPY\x02\x00" + struct.pack("<I", 4_000_000_000),
        b"\x93NUMPY\x09\x00" + b"\0" * 60,
        b"not an array at all",
        b"",
    ],
    ids=[
        "negative",
        "cut",
        "text-shape",
        "nested",
        "no-width",
        "long",
        "version",
        "magic",
        "empty",
    ],
)
def test_a_header_that_makes_no_sense_is_refused(tmp_path, content):
    assert refusal(member(tmp_path, content), RefusedError).slug == "damaged-batch"


def test_a_deflate_bomb_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr(batches, "EXPANSION_FLOOR", 1 << 20)
    np.savez_compressed(tmp_path / "b.npz", x=np.zeros(1 << 20))
    assert refusal(tmp_path / "b.npz", RefusedError).slug == "batch-bomb"


def test_the_arrays_of_all_batches_together_are_bounded(tmp_path):
    for step in range(3):
        saved(tmp_path, f"s{step}.npz", x=np.zeros(1000, dtype=np.uint8))
    assert len(read_batches([tmp_path], max_bytes=3000)) == 3
    with pytest.raises(RefusedError, match="take"):
        read_batches([tmp_path], max_bytes=2999)


def test_too_many_members_are_refused(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        for index in range(1025):
            archive.writestr(f"a{index}.npy", b"")
    assert "1,025 members" in refusal(tmp_path / "b.npz", RefusedError).message


def test_an_array_that_is_there_twice_is_refused(tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
            archive.writestr("x.npy", npy([1.0]))
            archive.writestr("x.npy", npy([2.0]))
    assert "more than once" in refusal(tmp_path / "b.npz", RefusedError).message


def test_an_unnamed_array_beside_x_is_ambiguous(tmp_path):
    np.savez(tmp_path / "b.npz", np.zeros(1), x=np.ones(1))
    error = refusal(tmp_path / "b.npz", BatchError)
    assert "'x' more than once: 'x.npy', 'arr_0.npy'" in error.message


def test_names_are_cleaned_and_never_used_as_paths(tmp_path):
    with zipfile.ZipFile(tmp_path / "b.npz", "w") as archive:
        archive.writestr("../../up.npy", npy([1.0]))
        archive.writestr("\x1b[2Jred.npy", npy([2.0]))
        archive.writestr("<script>.npy", npy([3.0]))
    batch = only(tmp_path / "b.npz")
    assert list(batch.arrays) == ["../../up", "\\x1b[2Jred", "<script>"]
    write_batch(tmp_path / "m.npz", batch, [0])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["b.npz", "m.npz"]


def test_every_truncation_is_refused(tmp_path):
    whole = saved(tmp_path, x=np.arange(50.0), y=np.arange(50)).read_bytes()
    path = tmp_path / "cut.npz"
    for length in (4, 60, 200, 500, len(whole) // 2, len(whole) - 30, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert refusal(path, RefusedError).slug == "damaged-batch", length


def test_a_flipped_bit_in_the_data_is_noticed(tmp_path):
    whole = bytearray(saved(tmp_path, x=np.arange(50.0)).read_bytes())
    whole[300] ^= 1
    (tmp_path / "flipped.npz").write_bytes(whole)
    assert "CRC" in refusal(tmp_path / "flipped.npz", RefusedError).why


def test_a_flipped_bit_is_noticed_where_more_than_the_array_is_stored(tmp_path):
    path = member(tmp_path, npy(np.arange(50.0)) + bytes(10_000))
    whole = bytearray(path.read_bytes())
    whole[300] ^= 1
    path.write_bytes(whole)
    assert "CRC" in refusal(path, RefusedError).why


def test_a_check_sum_that_lies_about_deflated_data_is_noticed(tmp_path):
    np.savez_compressed(tmp_path / "b.npz", x=np.arange(5000.0))
    whole = bytearray((tmp_path / "b.npz").read_bytes())
    whole[len(whole) // 2] ^= 0x40
    (tmp_path / "b.npz").write_bytes(whole)
    assert refusal(tmp_path / "b.npz", RefusedError).slug == "damaged-batch"


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.data())
def test_any_damage_ends_in_a_batch_or_in_a_named_error(tmp_path_factory, data):
    folder = tmp_path_factory.mktemp("damage")
    whole = bytearray(saved(folder, x=np.arange(8.0), y=np.arange(8)).read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        whole[data.draw(st.integers(0, len(whole) - 1))] = data.draw(st.integers(0, 255))
    (folder / "b.npz").write_bytes(whole)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with contextlib.suppress(BatchError, RefusedError):
            read_batches([folder / "b.npz"])


def test_a_member_that_lies_about_its_size_ends_early(tmp_path):
    # Archive and header agree on 8 MB; 24 bytes of data are stored.
    path = member(
        tmp_path, header("'<f8'", "(1000000,)") + b"\0" * 24, compression=zipfile.ZIP_DEFLATED
    )
    whole = bytearray(path.read_bytes())
    at = whole.rindex(b"PK\x01\x02")
    whole[at + 24 : at + 28] = struct.pack("<I", 8_000_128)
    path.write_bytes(whole)
    assert "ends after 24 bytes" in refusal(path, RefusedError).why


# --- describe -------------------------------------------------------------------------------------


def table(batch: Batch, name: str, **options: Any) -> Any:
    builder = TraceBuilder()
    describe(batch, 3, builder, **options)
    return builder.build().table(name)


def batch_of(**arrays: Any) -> Batch:
    return Batch({name: np.asarray(array) for name, array in arrays.items()}, "b.npz", "0")


def test_an_array_is_described_by_its_statistics():
    x = np.array([[1.0, np.nan], [3.0, 10.0], [5.0, 30.0]], dtype=np.float32)
    row = table(batch_of(x=x), "batch").row(0)
    assert (row["batch"], row["name"], row["role"]) == (3, "x", "x")
    assert (row["dtype"], row["shape"], row["size"]) == ("float32", "3x2", 6)
    assert (row["nan"], row["min"], row["max"], row["integral"]) == (1, 1.0, 30.0, True)
    # Feature 1 holds 10 and 30: mean 20, deviation 10. Feature 0: sqrt(8/3) = 1.63.
    assert row["feature_std_max"] == pytest.approx(10.0)


def test_a_standard_deviation_at_the_edge_of_float64_does_not_overflow():
    row = table(batch_of(x=[[1e308], [-1e308]]), "batch").row(0)
    assert row["feature_std_max"] == pytest.approx(1e308)


def test_roles_settled_by_the_model_stand_in_every_table():
    batch = batch_of(image=[[1.0], [np.inf]], y=[0, 1])
    roles = {"image": "x", "y": "y"}
    assert table(batch, "batch", roles=roles)["role"].tolist() == ["x", "y"]
    assert table(batch, "samples", roles=roles)["role"].tolist() == ["x", "x", "y", "y"]


def test_cells_that_are_not_finite_are_told_with_their_index():
    x = np.zeros((2, 2, 3), dtype=np.float16)
    x[0, 1, 2], x[1, 0, 0] = -np.inf, np.nan
    cells = table(batch_of(x=x), "cells")
    assert cells["index"].tolist() == ["0,1,2", "1,0,0"]
    assert cells["sample"].tolist() == [0, 1]
    assert cells["value"][0] == -math.inf
    assert math.isnan(cells["value"][1])


def test_cells_are_told_up_to_a_thousand():
    x = np.full((40, 100), np.nan)
    cells = table(batch_of(x=x), "cells")
    assert len(cells) == 1000
    assert cells["index"][-1] == "9,99"


def test_samples_are_told_one_by_one():
    rows = list(table(batch_of(x=[[0.0, 2.0], [np.nan, np.nan], [0.5, np.inf]]), "samples").rows())
    assert [row["sample"] for row in rows] == [0, 1, 2]
    assert [row["nonfinite"] for row in rows] == [0, 2, 1]
    assert [row["zero"] for row in rows] == [1, 0, 0]
    assert [row["integral"] for row in rows] == [True, True, False]
    assert (rows[0]["min"], rows[0]["max"], rows[0]["size"]) == (0.0, 2.0, 2)
    assert math.isnan(rows[1]["min"])
    assert rows[2]["max"] == 0.5


def test_of_many_samples_the_notable_ones_are_told():
    x = np.linspace(0.0, 1.0, 10_000)
    x[9_000] = np.nan
    y = np.zeros(10_000, dtype=np.int64)
    y[8_000] = -1
    samples = table(batch_of(x=x, y=y), "samples")
    assert len(samples.select(name="x")) == len(samples.select(name="y")) == 4096
    assert samples.select(name="x", nonfinite=1)["sample"].tolist() == [9_000]
    assert samples.select(name="y", min=-1.0)["sample"].tolist() == [8_000]


def test_text_booleans_and_complex_numbers_are_described_as_far_as_they_go():
    batch = batch_of(x=["a", "b"], y=[True, False], z=[3 + 4j, complex(np.nan, 0)], n=[7, 8])
    rows = {row["name"]: row for row in table(batch, "batch").rows()}
    assert (rows["x"]["dtype"], rows["x"]["size"], rows["x"]["nan"]) == ("str32", 2, 0)
    assert (rows["y"]["dtype"], rows["y"]["max"], rows["y"]["integral"]) == ("bool", 1.0, True)
    assert (rows["z"]["dtype"], rows["z"]["nan"], rows["z"]["max"]) == ("complex128", 1, 5.0)
    assert rows["n"]["integral"] is True


@pytest.mark.parametrize("x", [np.zeros((0, 3)), np.zeros((3, 0)), np.float32(2.0)])
def test_empty_arrays_and_scalars_are_described(x):
    row = table(batch_of(x=x), "batch").row(0)
    assert row["size"] == x.size


# --- write ----------------------------------------------------------------------------------------


def test_a_minimal_batch_is_read_back_as_it_was(tmp_path):
    arrays = {
        "x/image": np.arange(12, dtype=np.float16).reshape(4, 3),
        "file": np.array([b"a", b"b", b"c", b"d"]),
        "allow_pickle": np.array([True, False, True, False]),
        "y": np.array([9, 8, 7, 6], dtype=np.uint8),
        "scalar": np.float64(2.5),
    }
    batch = Batch({name: np.asarray(array) for name, array in arrays.items()}, "b.npz", "0")
    path = tmp_path / "minimal_batch.npz"
    path.write_bytes(b"an older file")
    write_batch(path, batch, [3, 1])
    again = only(path)
    assert list(again.arrays) == list(arrays)
    for name, array in batch.arrays.items():
        expected = array[[3, 1]] if array.ndim else array
        np.testing.assert_array_equal(again.arrays[name], expected)
        assert again.arrays[name].dtype == array.dtype
    with zipfile.ZipFile(path) as archive:
        assert {info.compress_type for info in archive.infolist()} == {zipfile.ZIP_STORED}
    with np.load(path) as plain:
        assert plain["y"].tolist() == [6, 8]


def test_the_same_samples_give_the_same_bytes(tmp_path):
    batch = batch_of(x=np.arange(5.0))
    write_batch(tmp_path / "a.npz", batch, [1, 2])
    write_batch(tmp_path / "b.npz", batch, [1, 2])
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    (tmp_path / "m.npz").write_bytes(b"before")
    monkeypatch.setattr(np.lib.format, "write_array", full)
    with pytest.raises(OutputError, match="cannot be written") as caught:
        write_batch(tmp_path / "m.npz", batch_of(x=[1.0]), [0])
    assert caught.value.why == "No space left on device"
    assert [path.name for path in tmp_path.iterdir()] == ["m.npz"]
    assert (tmp_path / "m.npz").read_bytes() == b"before"


def test_a_folder_that_is_not_there_is_an_output_error(tmp_path):
    with pytest.raises(OutputError):
        write_batch(tmp_path / "nowhere" / "m.npz", batch_of(x=[1.0]), [0])


def test_deflate_is_what_the_bombs_are_made_of():
    # The bound on expansion rests on this: 1,032 to 1 is the most that deflate reaches.
    assert len(bytes(1 << 20)) / len(zlib.compress(bytes(1 << 20), 9)) > batches.MAX_EXPANSION
