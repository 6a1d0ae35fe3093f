"""Do the bars say what the figures say?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from divergence_doctor.cli import _spark


def test_values_that_grow_make_bars_that_rise():
    assert _spark.over_steps([1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 64.0, 128.0]) == "▁▂▃▄▅▆▇█"


def test_a_small_change_is_no_trend():
    assert _spark.over_steps([1.0, 1.1, 1.2]) == "▁▁▁"


def test_what_is_not_finite_or_not_measured_has_a_mark_of_its_own():
    assert _spark.over_steps([1.0, None, math.nan, math.inf, 0.0]) == "▁·××▁"  # noqa: RUF001


def test_the_extremes_of_float64_have_bars():
    assert _spark.over_steps([5e-324, 1.7e308]) == "▁█"


def test_every_character_is_ascii_where_it_has_to_be():
    bars = _spark.over_steps([1.0, 1e9, None, math.nan], plain=True)
    bars += _spark.of_magnitudes(np.array([1, 0, 100], np.uint32), 0, 2, plain=True)
    assert bars.isascii()


@pytest.mark.parametrize(
    ("counts", "bars"),
    [
        ([0, 100, 0], "·█·"),
        ([1, 0, 3], "█·█"),
        ([100, 24, 6], "█▇▆"),
        ([1_000_000, 0, 1], "█·▁"),
        ([0, 0, 0], ""),
    ],
)
def test_a_bar_is_the_share_of_the_values(counts, bars):
    assert _spark.of_magnitudes(np.array(counts, np.uint32), 0, 2) == bars


def test_bins_share_a_bar_where_there_are_more_of_them():
    counts = np.zeros(100, np.uint32)
    counts[[0, 99]] = 1
    assert _spark.of_magnitudes(counts, 0, 99, cells=10) == "█········█"


def test_the_range_is_that_of_all_that_is_shown():
    histograms = np.zeros((2, 9), np.uint32)
    histograms[0, 3] = histograms[1, 6] = 1
    assert _spark.range_of(histograms) == (3, 6)
    assert _spark.range_of(np.zeros((0, 9), np.uint32)) == (0, -1)
