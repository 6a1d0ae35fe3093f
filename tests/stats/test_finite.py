"""Does the quick test find every NaN and Inf, and nothing else, without a warning?"""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from _tensors import FLOATS, NUMBERS, dtype_of, numbers, tensors
from hypothesis import given, settings

from divergence_doctor.stats import all_finite


@given(tensors())
@settings(max_examples=400, deadline=None)
def test_it_says_what_a_look_at_every_number_says(array: np.ndarray[Any, Any]) -> None:
    assert all_finite(array) is all(math.isfinite(value) for value in numbers(array))


@pytest.mark.parametrize("name", [name for name in FLOATS if "float8" not in name])
@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf, -math.nan])
@pytest.mark.parametrize("place", [0, 4_999, 69_999])
def test_one_bad_number_among_many_is_found(name: str, bad: float, place: int) -> None:
    array = np.ones(70_000, dtype_of(name))
    assert all_finite(array)
    array[place] = bad
    assert not all_finite(array)


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "complex64", "complex128"])
def test_finite_numbers_whose_sum_overflows_are_finite(name: str) -> None:
    largest = np.finfo(name).max
    assert all_finite(np.full(1_000, largest, name))
    assert all_finite(np.full(1_000, -largest, name))


def test_infinities_of_both_signs_do_not_hide_each_other() -> None:
    assert not all_finite(np.array([np.inf, -np.inf], np.float32))
    assert not all_finite(np.array([complex(0.0, np.inf)], np.complex64))


@pytest.mark.parametrize("name", NUMBERS)
def test_an_empty_tensor_is_finite(name: str) -> None:
    assert all_finite(np.zeros((3, 0), dtype_of(name)))


@pytest.mark.parametrize("name", ["float16", "float32", "float64", "complex64"])
@pytest.mark.parametrize(
    "layout",
    [
        lambda array: array[::2],
        lambda array: array.T,
        lambda array: array.astype(array.dtype.newbyteorder(">")),
        lambda array: array.astype(array.dtype.newbyteorder(">"))[:, ::2],
        lambda array: array[0, 0],
    ],
    ids=["strided", "transposed", "other byte order", "both", "scalar"],
)
def test_the_memory_layout_makes_no_difference(layout: Any, name: str) -> None:
    array = np.arange(48, dtype=name).reshape(6, 8)
    assert all_finite(layout(array))
    array[0, 0] = np.nan
    assert not all_finite(layout(array))


def test_what_holds_no_numbers_is_a_type_error() -> None:
    for array in (np.array(["a"]), np.array([None]), np.zeros(1, np.longdouble)):
        with pytest.raises(TypeError, match="no statistics of dtype"):
            all_finite(array)
