"""Are names from strangers' files clean, short and told apart?"""

from __future__ import annotations

import math

from hypothesis import given, settings
from hypothesis import strategies as st

from divergence_doctor.figures._text import (
    clean,
    distinct,
    drawable,
    number,
    power_of_two,
    quoted,
    rounded,
    shorten,
)


def test_control_characters_and_overrides_are_replaced() -> None:
    assert clean("a\x1b[31m\u202eb\nc\ud800") == "a\ufffd[31m\ufffdb\ufffdc\ufffd"


def test_a_long_name_keeps_its_start_and_its_end() -> None:
    name = "encoder/stage_4/residual_block_17/conv2d_transpose_3"
    assert shorten(name) == "encoder/st…v2d_transpose_3"


def test_names_that_a_cut_would_make_alike_are_told_apart_by_where_they_differ() -> None:
    assert distinct([f"encoder/block_{n}/attention_dense" for n in (1, 27)] + ["log"]) == [
        "…block_1/attention_dense",
        "…block_27/attention_dense",
        "log",
    ]
    assert distinct([f"{'q' * 40}{n}{'r' * 40}" for n in (1, 2)]) == [
        "…qqqqqqqqqqqq1…",
        "…qqqqqqqqqqqq2…",
    ]
    assert distinct(["a\x1b", "a\x00", "a\x1b"]) == ["a? #1", "a? #2", "a? #1"]


@given(st.lists(st.text(st.characters(), max_size=60), max_size=8))
@settings(deadline=None)
def test_different_names_stay_different_and_short(names: list[str]) -> None:
    labels = distinct(names)
    assert all(len(label) <= 26 for label in labels)
    if all(map(str.isprintable, names)):
        assert len(set(labels)) == len(set(names))


def test_a_name_in_a_script_that_the_font_lacks_is_spelled_out() -> None:
    assert drawable("层1") == "\\u5c421"
    assert drawable("層2") != drawable("层2")


def test_a_name_of_megabytes_is_cut_before_it_is_looked_at() -> None:
    assert len(drawable("x" * 5_000_000)) == 26


@given(st.text(max_size=80))
@settings(max_examples=100, deadline=None)
def test_any_name_becomes_one_short_printable_line(name: str) -> None:
    assert len(drawable(name)) <= 26
    assert drawable(name).isprintable()
    assert len(quoted(name)) <= 62


def test_numbers_read_well() -> None:
    assert [number(v) for v in (0.00123456, 12.0, 4.5e10, math.nan, math.inf, -math.inf)] == [
        "0.00123",
        "12",
        "4.5e+10",
        "NaN",
        "+Inf",
        "-Inf",
    ]
    assert [rounded(2.0**e) for e in (-30, -10, -4, 0, 10, 128)] == [
        "9e-10",
        "1e-3",
        "0.06",
        "1",
        "1e3",
        "3e38",
    ]
    assert [power_of_two(e) for e in (-14, 15.999, 128)] == ["2⁻¹⁴", "2¹⁶", "2¹²⁸"]
