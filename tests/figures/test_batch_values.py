"""Does the picture of the batch point at the samples that stand out?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from divergence_doctor.figures._suspects import far_out, list_samples
from divergence_doctor.figures.batch_values import BatchValues
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    Draw = Callable[[BatchValues, Trace], Canvas]


def with_outlier() -> Trace:
    x = np.ones((8, 4))
    x[5, 2] = 1e6
    x[2, 0] = np.nan
    return training_trace(
        x=x, losses=(1.0, math.nan), events=[SyntheticEvent("Exp", samples=(5, 99))]
    )


def places(axes: Axes, label: str) -> list[float]:
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return np.asarray(line.get_xdata()).tolist()


def test_each_array_has_its_magnitudes_and_its_samples(drawn: Draw) -> None:
    canvas = drawn(BatchValues(), training_trace(sample_weight=np.ones(8)))
    assert len(canvas.axes) == 6
    assert [axes.get_title(loc="left") for axes in canvas.axes[::2]] == [
        "x   8x4 float64",
        "y   8x1 float64",
        "sample_weight   8 float64",
    ]


def test_the_bars_hold_the_share_of_every_magnitude_of_zeros_and_of_nan(drawn: Draw) -> None:
    builder = TraceBuilder()
    builder.add("batch", batch=0, name="x", role="x", **tensor([1.0, 1.5, 4.0, 0.0, math.nan]))
    axes = drawn(BatchValues(), builder.build()).axes[0]
    heights = [patch.get_height() for patch in axes.patches if patch.get_height() > 0]
    assert heights == [pytest.approx(0.4), pytest.approx(0.2), 0.2, 0.2]
    assert axes.get_xticklabels()[0].get_text() == "zero"
    assert axes.get_xticklabels()[-1].get_text() == "NaN\nInf"


def test_samples_that_stand_out_are_marked(drawn: Draw) -> None:
    axes = drawn(BatchValues(), with_outlier()).axes[1]
    assert places(axes, "far outside\nthe others") == [5]
    assert places(axes, "NaN or Inf") == [2.0]
    labels = axes.get_legend_handles_labels()[1]
    assert "fails in sample\n5" in labels


def test_the_batch_of_the_failing_step_is_shown() -> None:
    builder = TraceBuilder()
    for index in range(2):
        builder.add("steps", step=index, batch=index, loss=1.0)
        builder.add("batch", batch=index, name=f"x{index}", role="x", **tensor([1.0, 2.0 + index]))
    builder.describe(failing_step=0, outcome="diverged")
    assert BatchValues().caption(builder.build()) == "Values of the batch (1 array): 'x0' 1 to 2."


def test_the_caption_names_the_samples() -> None:
    assert BatchValues().caption(with_outlier()) == (
        "Values of the batch (2 arrays): 'x' 1 to 1e+06, 1 NaN or Inf, not finite in sample 2, "
        "far outside the others in sample 5; 'y' 0 to 1; the first producer fails in sample 5, 99."
    )


def test_more_arrays_than_fit_are_said_to_be_left_out(drawn: Draw) -> None:
    builder = TraceBuilder()
    for index in range(9):
        builder.add("batch", batch=0, name=f"x/{index}", role="x", **tensor([1.0]))
    canvas = drawn(BatchValues(), builder.build())
    assert canvas.get_suptitle() == "Values of the batch (first 6 of 9 arrays)"


def test_four_thousand_samples_still_make_a_small_picture() -> None:
    from divergence_doctor.figures import render_svg

    trace = training_trace(x=np.random.default_rng(0).normal(size=(4096, 2)))
    assert len(render_svg(BatchValues(), trace)) < 300_000


def test_far_out_is_a_hundred_times_the_median_and_never_overflows() -> None:
    assert far_out(np.array([1.0, 1.0, 1.0, 100.0, 101.0])).tolist() == [False] * 4 + [True]
    assert far_out(np.array([1e307, 1e308, math.nan])).tolist() == [False] * 3
    assert far_out(np.array([0.0, 0.0])).tolist() == [False, False]


def test_samples_are_listed_in_a_few_words() -> None:
    assert list_samples([3, 1, 1]) == "1, 3"
    assert list_samples(range(100)) == "0, 1, 2, 3, 4, 5 and 94 more"


def test_labels_are_seen_against_the_last_class_that_there_is(drawn: Draw) -> None:
    labels = {"y": [[0], [3], [10]], "loss_name": "SparseCategoricalCrossentropy", "classes": 10}
    axes = drawn(BatchValues(), training_trace(x=[[1.0], [2.0], [3.0]], **labels)).axes
    (line,) = [
        line
        for line in axes[3].get_lines()
        if line.get_label() == "above: no class\n(the last is 9)"
    ]
    assert list(line.get_ydata()) == [9.5, 9.5]
    assert not [line for line in axes[1].get_lines() if "class" in str(line.get_label())]
    other = training_trace(y=[[0], [3], [10]], x=[[1.0], [2.0], [3.0]], classes=10)
    drawn_of = drawn(BatchValues(), other).axes[3]
    assert not [line for line in drawn_of.get_lines() if "class" in str(line.get_label())]
