"""Do the axes hold numbers of any size and names of any number?"""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure as Canvas

from divergence_doctor.figures._axes import (
    bounded,
    log_scale,
    mark_not_finite,
    name_columns,
    number_samples,
    positive,
    power_of_ten,
    value_scale,
)
from divergence_doctor.figures._style import styled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes


@pytest.fixture
def axes() -> Iterator[Axes]:
    with styled(salt="test"):
        yield Canvas(figsize=(10, 4), layout="constrained").subplots()


def labels_of(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


@given(st.lists(st.floats(width=64), min_size=1, max_size=6))
@settings(max_examples=25, deadline=None)
def test_any_numbers_can_be_drawn_on_either_axis(values: list[float]) -> None:
    for scale in (value_scale, log_scale):
        with styled(salt="test"):
            canvas = Canvas(figsize=(3, 2), dpi=40)
            axes = canvas.subplots()
            axes.plot(bounded(values) if scale is value_scale else positive(values))
            scale(axes, values)
            FigureCanvasAgg(canvas).draw()
        low, high = axes.get_ylim()
        assert math.isfinite(high - low)
        assert low < high


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        ([1.0, 0.9], "linear"),
        ([0.1, 50.0], "log"),
        ([-1.0, 2.0, 3.0], "linear"),
        ([-1.0, 2.0, 3.0, 1e6], "symlog"),
        ([0.0, 0.0], "linear"),
        ([math.nan, math.inf], "linear"),
        ([5e-324, 1e308], "linear"),
    ],
)
def test_the_axis_suits_the_numbers(axes: Axes, values: list[float], kind: str) -> None:
    assert value_scale(axes, values) == kind
    assert axes.get_yscale() == kind


def test_every_number_lies_within_a_log_axis_of_whole_decades(axes: Axes) -> None:
    log_scale(axes, [3e-5, 0.0, math.inf, 200.0])
    low, high = axes.get_ylim()
    assert 1e-6 < low < 1e-5
    assert 1e3 < high < 1e4


def test_powers_of_ten_read_as_people_write_them() -> None:
    assert [power_of_ten(v) for v in (0.0, 0.01, 1.0, 1000.0, 1e6, -1e6, 1e-14)] == [
        "0",
        "0.01",
        "1",
        "1,000",
        "10⁶",
        "\N{MINUS SIGN}10⁶",
        "10⁻¹⁴",
    ]


def test_three_names_all_stand_level(axes: Axes) -> None:
    name_columns(axes, ["a", "b", "c"])
    assert labels_of(axes) == ["a", "b", "c"]
    assert {label.get_rotation() for label in axes.get_xticklabels()} == {0.0}


def test_three_hundred_names_are_thinned_out_and_the_failing_one_is_kept(axes: Axes) -> None:
    name_columns(axes, [f"conv2d_{i}" for i in range(300)], highlight=100)
    names = labels_of(axes)
    assert 35 <= len(names) <= 46
    assert names[:3] == ["conv2d_0", "conv2d_7", "conv2d_14"]
    assert "conv2d_100" in names
    places = np.asarray(axes.get_xticks())
    assert np.diff(places).min() >= 7
    bold = [x.get_text() for x in axes.get_xticklabels() if x.get_fontweight() == "bold"]
    assert bold == ["conv2d_100"]


def test_names_beside_each_other_do_not_overlap(axes: Axes) -> None:
    name_columns(axes, [f"conv2d_{i}" for i in range(300)])
    canvas = axes.get_figure()
    assert canvas is not None
    FigureCanvasAgg(canvas).draw()
    boxes = [label.get_window_extent() for label in axes.get_xticklabels()]
    assert all(left.x1 <= right.x0 + 1 for left, right in pairwise(boxes))


def test_what_is_not_finite_is_marked_at_the_top_and_in_the_legend(axes: Axes) -> None:
    mark_not_finite(axes, [3, 5])
    (line,) = axes.get_lines()
    assert line.get_label() == "not finite"
    assert np.asarray(line.get_xdata()).tolist() == [3.0, 5.0]
    assert min(np.asarray(line.get_ydata())) > 0.9


def test_no_tick_names_a_sample_that_is_not_there(axes: Axes) -> None:
    for count in (1, 8, 64, 4096):
        number_samples(axes, count)
        low, high = axes.get_xlim()
        assert -1 < low <= -0.5
        assert count - 1 < high < count
