"""Does a tensor's summary say what a slow and exact computation says?"""

from __future__ import annotations

import math
import sys
import tracemalloc
from types import SimpleNamespace
from typing import Any

import ml_dtypes
import numpy as np
import pytest
from _tensors import NUMBERS, dtype_of, numbers, tensors, twin
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as npst

from divergence_doctor.stats import (
    _chunk,
    _compiled,
    _statistic,
    all_finite,
    exponents,
    extent,
    summarize,
)
from divergence_doctor.trace import schema
from divergence_doctor.trace.synthetic import tensor as synthetic_tensor

COUNTS = ("size", "nan", "posinf", "neginf", "zero", "subnormal", "negative")
RANGE = ("min", "max", "absmax")


def assert_alike(found: dict[str, Any], array: np.ndarray[Any, Any]) -> None:
    expected = twin(array)
    for name in COUNTS:
        assert found[name] == expected[name], name
        assert type(found[name]) is int, name
    for name in RANGE:
        assert found[name] == expected[name] or math.isnan(found[name] + expected[name]), name
        assert type(found[name]) is float, name
    np.testing.assert_array_equal(found["exponents"], expected["exponents"])
    assert found["exponents"].dtype == np.uint32
    assert found["l2"] == pytest.approx(expected["l2"], rel=1e-12, abs=1e-322)
    if not math.isnan(expected["mean"]):
        # Rounding is relative to the magnitudes that are summed, not to what is left of them.
        unit = expected["absmax"] * 1e-14 + 1e-322
        assert abs(found["mean"] - expected["mean"]) <= unit
        assert found["std"] == pytest.approx(expected["std"], rel=1e-9, abs=unit)
    else:
        assert math.isnan(found["mean"])
        assert math.isnan(found["std"])


@given(tensors())
@settings(max_examples=400, deadline=None)
def test_every_column_equals_its_exact_twin_for_every_dtype_and_bit_pattern(
    array: np.ndarray[Any, Any],
) -> None:
    assert_alike(summarize(array), array)


@given(tensors(("float64",), max_side=9), st.integers(1, 7))
@settings(max_examples=150, deadline=None)
def test_chunks_merge_to_what_the_whole_gives(array: np.ndarray[Any, Any], size: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(_chunk, "CHUNK_SIZE", size)
        found = summarize(array)
    assert_alike(found, array)


@pytest.mark.parametrize("name", NUMBERS)
def test_no_column_is_missing_and_none_is_unknown(name: str) -> None:
    found = summarize(np.ones(3, dtype_of(name)))
    assert set(found) == {column.name for column in schema.STATISTICS}


@given(npst.arrays(np.float32, npst.array_shapes(max_side=6), elements=st.floats(width=32)))
@settings(deadline=None)
def test_it_agrees_with_the_synthetic_traces(array: np.ndarray[Any, Any]) -> None:
    with np.errstate(all="ignore"):
        other = synthetic_tensor(array)
    found = summarize(array)
    for name in (*COUNTS, *RANGE):
        assert found[name] == other[name] or math.isnan(other[name]), name
    np.testing.assert_array_equal(found["exponents"], other["exponents"])


def test_the_histogram_has_the_bins_of_the_schema() -> None:
    assert exponents.EXPONENT_MIN == schema.EXPONENT_MIN
    assert exponents.EXPONENT_MAX == schema.EXPONENT_MAX
    assert exponents.EXPONENT_BINS == schema.EXPONENT_BINS


def test_squares_beyond_float64_do_not_overflow() -> None:
    found = summarize(np.array([3e300, -4e300]))
    assert found["l2"] == pytest.approx(5e300, rel=1e-15)
    assert found["std"] == pytest.approx(3.5e300, rel=1e-15)
    assert found["mean"] == pytest.approx(-0.5e300, rel=1e-15)


def test_squares_below_float64_do_not_vanish() -> None:
    found = summarize(np.array([3e-300, -4e-300, 0.0, 0.0]))
    assert found["l2"] == pytest.approx(5e-300, rel=1e-15)
    assert found["std"] == pytest.approx(2.4874685927665497e-300, rel=1e-12)


def test_a_chunk_of_zeros_does_not_drown_a_chunk_of_tiny_numbers() -> None:
    array = np.zeros(3 * _chunk.CHUNK_SIZE)
    array[_chunk.CHUNK_SIZE] = 3e-300
    array[-1] = 4e-300
    assert summarize(array)["l2"] == pytest.approx(5e-300, rel=1e-15)


def test_a_norm_beyond_float64_is_its_largest_number_and_never_infinite() -> None:
    assert summarize(np.full(100, sys.float_info.max))["l2"] == sys.float_info.max


def test_a_constant_tensor_scatters_not_at_all() -> None:
    found = summarize(np.full(200_001, 0.1, np.float32))
    assert found["std"] == 0.0
    assert found["mean"] == float(np.float32(0.1))


def test_scatter_around_a_large_mean_keeps_its_digits() -> None:
    array = 1e8 + np.tile([-1.0, 1.0], 100_000)
    found = summarize(array)
    assert found["std"] == pytest.approx(1.0, rel=1e-12)
    assert found["mean"] == pytest.approx(1e8, rel=1e-15)


def test_several_chunks_of_ordinary_numbers() -> None:
    array = np.random.default_rng(0).normal(3.0, 2.0, 300_007).astype(np.float32)
    wide = array.astype(np.float64)
    found = summarize(array)
    assert found["size"] == 300_007
    assert found["mean"] == pytest.approx(wide.mean(), rel=1e-12)
    assert found["std"] == pytest.approx(wide.std(), rel=1e-12)
    assert found["l2"] == pytest.approx(np.linalg.norm(wide), rel=1e-12)
    assert found["negative"] == int((wide < 0).sum())
    assert found["exponents"].sum() == 300_007


@pytest.mark.parametrize("name", ["float16", "float8_e4m3fn", "float8_e5m2", "bfloat16"])
def test_large_tensors_of_small_floats_are_widened_like_small_ones(name: str) -> None:
    dtype = dtype_of(name)
    patterns = np.arange(1 << (8 * dtype.itemsize), dtype=f"u{dtype.itemsize}").view(dtype)
    array = np.tile(patterns, 5_000 // patterns.size + 1)
    whole, once = summarize(array), summarize(patterns)
    times = array.size // patterns.size
    for column in COUNTS:
        assert whole[column] == times * once[column], column
    assert whole["min"] == once["min"]
    assert whole["max"] == once["max"]
    np.testing.assert_array_equal(whole["exponents"], times * once["exponents"])


def test_negative_zeros_are_not_negative_and_negative_subnormals_are() -> None:
    found = summarize(np.array([-0.0, 0.0, -1e-40, 1e-40, 1e-41, -1.0], np.float32))
    assert (found["zero"], found["negative"], found["subnormal"]) == (2, 2, 3)


def test_an_empty_tensor_has_counts_of_zero_and_no_moments() -> None:
    found = summarize(np.zeros((0, 3), np.float32))
    assert [found[name] for name in COUNTS] == [0] * 7
    assert all(math.isnan(found[name]) for name in (*RANGE, "mean", "std"))
    assert found["l2"] == 0.0
    assert found["exponents"].sum() == 0


def test_a_tensor_of_nothing_but_nan_and_inf_has_no_moments() -> None:
    found = summarize(np.array([np.nan, np.inf, -np.inf, np.nan], np.float32))
    assert [found[name] for name in COUNTS] == [4, 2, 1, 1, 0, 0, 0]
    assert all(math.isnan(found[name]) for name in (*RANGE, "mean", "std"))
    assert found["l2"] == 0.0


def test_a_scalar_is_a_tensor_of_one() -> None:
    found = summarize(np.float32(-2.5))  # type: ignore[arg-type]
    assert (found["size"], found["negative"], found["mean"], found["l2"]) == (1, 1, -2.5, 2.5)
    assert found["exponents"][1 + 150] == 1


def test_complex_numbers_are_measured_by_their_parts() -> None:
    found = summarize(np.array([3 - 4j, complex(0, math.inf)], np.complex64))
    assert (found["size"], found["posinf"], found["zero"], found["negative"]) == (4, 1, 1, 1)
    assert (found["min"], found["max"], found["l2"]) == (-4.0, 3.0, 5.0)


def test_subnormal_goes_by_the_tensors_own_dtype() -> None:
    assert summarize(np.array([1e-5, 1.0], np.float16))["subnormal"] == 1
    assert summarize(np.array([1e-5, 1.0], np.float32))["subnormal"] == 0
    assert summarize(np.array([1e-40], np.float32))["subnormal"] == 1
    assert summarize(np.array([1e-40], np.float64))["subnormal"] == 0
    assert summarize(np.array([5e-324], np.float64))["subnormal"] == 1
    assert summarize(np.array([1e-40], ml_dtypes.bfloat16))["subnormal"] == 1
    assert summarize(np.array([2**-9], ml_dtypes.float8_e4m3fn))["subnormal"] == 1


LAYOUTS = {
    "every other": lambda array: array[::2, ::3],
    "backwards": lambda array: array[::-1, ::-1],
    "Fortran": np.asfortranarray,
    "transposed": lambda array: array.T,
    "broadcast": lambda array: np.broadcast_to(array[:1], array.shape),
    "other byte order": lambda array: array.astype(array.dtype.newbyteorder(">")),
    "other byte order, strided": lambda array: array.astype(array.dtype.newbyteorder(">"))[:, ::2],
}


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    "name", ["float16", "bfloat16", "float32", "float64", "complex64", "int32"]
)
def test_the_memory_layout_makes_no_difference(layout: str, name: str) -> None:
    if name == "bfloat16" and "byte order" in layout:
        pytest.skip("ml_dtypes knows the machine's byte order only")
    values = np.random.default_rng(0).normal(0, 50, (120, 90)).astype(dtype_of(name))
    array = LAYOUTS[layout](values)
    array.flags.writeable = False
    expected = summarize(np.ascontiguousarray(array, dtype=dtype_of(name)))
    found = summarize(array)
    for column in ("mean", "std", "l2"):
        assert found.pop(column) == pytest.approx(expected.pop(column), rel=1e-9, abs=1e-12)
    np.testing.assert_array_equal(found.pop("exponents"), expected.pop("exponents"))
    assert found == expected


def test_a_strided_tensor_is_not_copied_as_a_whole() -> None:
    array = np.zeros((4000, 4000), np.float32)[:, ::2]
    tracemalloc.start()
    assert summarize(array)["zero"] == 8_000_000
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8_000_000 < array.nbytes


def test_a_signalling_nan_is_counted_without_a_warning() -> None:
    array = np.array([0x7F800001, 0xFF800001, 0x3F800000], np.uint32).view(np.float32)
    found = summarize(array)
    assert (found["nan"], found["negative"], found["mean"]) == (2, 0, 1.0)


@pytest.mark.parametrize(
    "array",
    [
        np.array([object()]),
        np.array(["a"]),
        np.array([b"a"]),
        np.array(["2020-01-01"], "M8[D]"),
        np.zeros(1, [("a", "f4")]),
        np.zeros(1, np.longdouble),
        np.zeros(1, np.clongdouble),
    ],
    ids=lambda array: str(array.dtype),
)
def test_what_holds_no_numbers_is_a_type_error(array: np.ndarray[Any, Any]) -> None:
    with pytest.raises(TypeError, match="no statistics of dtype"):
        summarize(array)


def test_the_tensor_is_left_as_it_was() -> None:
    array = np.array([1.0, np.nan, 3.0, 1e300])
    before = array.tobytes()
    summarize(array)
    assert array.tobytes() == before


def test_the_twin_reads_both_parts_of_a_complex_number() -> None:
    assert sorted(numbers(np.array([1 - 2j]))) == [-2.0, 1.0]


class Largest(_statistic.Statistic):
    """A statistic of somebody else's."""

    def __init__(self, form: _chunk.NumberFormat) -> None:
        super().__init__(form)
        self.chunks = 0

    def add(self, chunk: _chunk.Chunk) -> None:
        assert chunk.values.size
        self.chunks += 1

    def columns(self) -> dict[str, Any]:
        return {"chunks": self.chunks}


def test_the_folder_is_found_file_by_file() -> None:
    found = [kind.__name__ for kind in _statistic.all_statistics()]
    assert found == ["Counts", "Exponents", "Extremes", "Moments"]


def test_one_more_statistic_adds_its_columns(monkeypatch: pytest.MonkeyPatch) -> None:
    statistics = (*_statistic.all_statistics(), Largest)
    monkeypatch.setattr("divergence_doctor.stats.all_statistics", lambda: statistics)
    found = summarize(np.zeros(2 * _chunk.CHUNK_SIZE + 1, np.float64))
    assert found["chunks"] == 3
    assert found["zero"] == 2 * _chunk.CHUNK_SIZE + 1


@pytest.mark.parametrize("kind", _statistic.all_statistics())
def test_each_statistic_answers_alone(kind: type[_statistic.Statistic]) -> None:
    array = np.array([1.5, -2.0, np.inf, 0.0, 1e-40], np.float32)
    form = _chunk.number_format(array.dtype)
    statistic = kind(form)
    for chunk in _chunk.chunks(array, form):
        statistic.add(chunk)
    expected = twin(array)
    columns = statistic.columns()
    assert columns
    for name, value in columns.items():
        np.testing.assert_allclose(value, expected[name], rtol=1e-12)


def test_a_bin_that_is_full_stays_full() -> None:
    form = _chunk.number_format(np.dtype(np.float32))
    statistic = exponents.Exponents(form)
    statistic.add(_chunk.Chunk(np.ones(1, np.float32), form))
    statistic._bins[form.bias] = 2**32 + 5
    statistic._size = 2**32 + 6
    assert statistic.columns()["exponents"][150] == 2**32 - 1


@pytest.mark.parametrize("size", [2**18 - 1, 2**18 + 1, 2**20 + 3, 3 * 2**20 + 65_537])
def test_exponents_of_large_tensors_are_those_counted_one_by_one(size: int) -> None:
    array = np.random.default_rng(1).normal(0, 1e-3, size).astype(np.float32)
    array[::7], array[1::1001], array[-1] = 0.0, np.nan, 1e-40
    finite = array[np.isfinite(array) & (array != 0)].astype(np.float64)
    expected = np.bincount(np.frexp(finite)[1] - 1 + 150, minlength=279)
    np.testing.assert_array_equal(summarize(array)["exponents"], expected)


@pytest.mark.parametrize("numbers", ["ordinary", "with NaN and Inf", "tiny", "around 1e6"])
def test_the_compiled_loops_and_numpy_say_the_same(numbers, monkeypatch) -> None:
    rng = np.random.default_rng(3)
    array = rng.normal(0, 2, 600_011).astype(np.float32)
    if numbers == "with NaN and Inf":
        array[[5, 300_000]], array[7::9], array[600_010] = np.nan, -np.inf, np.inf
    elif numbers == "tiny":
        array = (array * np.float32(1e-38)).astype(np.float32)
        array[::3], array[1::3] = 0.0, -0.0
    elif numbers == "around 1e6":
        array = (array * np.float32(1e-2) + np.float32(1e6)).astype(np.float32)
    found, all_are, reach = summarize(array), all_finite(array), extent(array)
    for module in ("_chunk", "_finite"):
        monkeypatch.setattr(f"divergence_doctor.stats.{module}.kernels", lambda _size: None)
    expected = summarize(array)
    assert (all_are, reach) == (all_finite(array), extent(array))
    np.testing.assert_array_equal(found.pop("exponents"), expected.pop("exponents"))
    for name in ("mean", "std", "l2"):
        assert found.pop(name) == pytest.approx(expected.pop(name), rel=1e-11)
    assert found == expected


def test_without_numba_numpy_does_it_all(monkeypatch) -> None:
    monkeypatch.setitem(sys.modules, "numba", None)
    _compiled._load.cache_clear()
    try:
        assert _compiled.kernels(_compiled.LARGE) is None
        assert summarize(np.ones(300_000, np.float32))["mean"] == 1.0
    finally:
        _compiled._load.cache_clear()


@pytest.mark.parametrize("name", ["float16", "bfloat16", "float32", "float64", "int32"])
@pytest.mark.parametrize("size", [0, 7, 400_001])
def test_a_difference_is_measured_without_being_made(name: str, size: int) -> None:
    rng = np.random.default_rng(size)
    new, old = (rng.normal(0, 9, size).astype(dtype_of(name)) for _ in range(2))
    wide = np.float64 if name == "float64" else np.float32
    found, expected = summarize(new, minus=old), summarize(new.astype(wide) - old.astype(wide))
    np.testing.assert_array_equal(found.pop("exponents"), expected.pop("exponents"))
    np.testing.assert_equal(found, expected)


def test_without_a_folder_for_the_compiled_loops_they_are_compiled_each_time(monkeypatch) -> None:
    asked = []

    def njit(*, cache: bool, **_options: Any) -> Any:
        asked.append(cache)
        if cache:
            raise RuntimeError("cannot cache function: no locator available")
        return lambda function: function

    monkeypatch.setitem(sys.modules, "numba", SimpleNamespace(njit=njit))
    _compiled._load.cache_clear()
    try:
        assert _compiled.kernels(_compiled.LARGE) is not None
        assert asked == [True, False, False]
    finally:
        _compiled._load.cache_clear()
