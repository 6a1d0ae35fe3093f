"""Is what is written as JSON read back as it was, and strict?"""

from __future__ import annotations

import enum
import json
import math
from pathlib import Path

import ml_dtypes
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from divergence_doctor.bundle._json import MAX_DEPTH, decode, encode, number, restored

VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
    max_leaves=20,
)


@settings(deadline=None)
@given(st.dictionaries(st.text(), VALUES, max_size=4))
def test_what_json_can_hold_comes_back_as_it_was_exact_or_not(value):
    for exact in (False, True):
        text = encode(value, exact=exact)
        assert decode(text) == value
        assert text.isascii()


@settings(deadline=None)
@given(st.floats())
def test_every_float_comes_back_as_a_number(value):
    back = number(decode(encode({"a": value}))["a"])

    assert back == value or (math.isnan(back) and math.isnan(value))


class Color(enum.StrEnum):
    RED = "red"


class Level(enum.IntEnum):
    HIGH = 3


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (np.float32(0.5), 0.5),
        (np.float16("inf"), "Infinity"),
        (-np.inf, "-Infinity"),
        (np.float64("nan"), "NaN"),
        (ml_dtypes.bfloat16(1.5), 1.5),
        (np.int64(7), 7),
        (np.bool_(True), True),
        (np.array([[1, 2]]), [[1, 2]]),
        (np.array([np.nan]), ["NaN"]),
        (np.str_("a"), "a"),
        ((1, (2,)), [1, [2]]),
        (Path("a/b"), "a/b"),
        (Color.RED, "red"),
        (Level.HIGH, 3),
        ({1: 2, None: 3}, {"1": 2, "None": 3}),
        ("\ud800", "\ud800"),
        (b"x", "b'x'"),
    ],
)
def test_what_a_training_script_hands_over_is_told_as_json(value, told):
    assert decode(encode({"a": value})) == {"a": told}


@settings(deadline=None)
@given(st.dictionaries(st.text(), VALUES | st.floats() | st.just("NaN"), max_size=4))
def test_an_exact_encoding_tells_numbers_that_are_not_finite_from_texts(value):
    back = restored(decode(encode({"a": [value]}, exact=True)))

    assert repr(back) == repr({"a": [value]})


def test_what_only_looks_like_such_a_number_is_refused():
    with pytest.raises(TypeError, match=r"\$float"):
        encode({"a": {"$float": 1}}, exact=True)
    for value in ({"$float": "1"}, {"$float": 1}, {"$float": "NaN", "a": 1}, {"$float": ["NaN"]}):
        with pytest.raises(ValueError, match="no number"):
            restored({"a": [value]})


def test_an_exact_encoding_refuses_what_json_cannot_hold():
    for value in (b"x", object(), {None: 1}):
        with pytest.raises(TypeError):
            encode({"a": value}, exact=True)


def nested(depth: int) -> dict[str, object]:
    value: object = 0
    for _ in range(depth - 1):
        value = [value]
    return {"a": value}


def test_what_may_be_read_may_be_written_and_the_reverse_at_any_depth():
    deepest = nested(MAX_DEPTH)
    assert decode(encode(deepest)) == deepest
    with pytest.raises(ValueError, match="deeper"):
        encode(nested(MAX_DEPTH + 1))
    with pytest.raises(ValueError, match="deeper"):
        decode(json.dumps(nested(MAX_DEPTH + 1)).encode())


def test_a_value_that_holds_itself_is_refused():
    loop: list[object] = []
    loop.append(loop)

    with pytest.raises(ValueError, match="deeper"):
        encode({"a": loop})
