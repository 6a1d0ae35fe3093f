"""Does the picture of update ratios show how far the step went, with its guides?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from divergence_doctor.figures.update_ratio import UpdateRatio
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.synthetic import tensor, training_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure as Canvas

    Draw = Callable[[UpdateRatio, Trace], Canvas]


def test_the_guides_stand_at_a_thousandth_and_at_one_and_are_in_view(drawn: Draw) -> None:
    (axes,) = drawn(UpdateRatio(), training_trace(update_ratio=50.0)).axes
    guides = {str(line.get_label()): line.get_ydata()[0] for line in axes.get_lines()}
    assert guides["customary: 0.001"] == 1e-3
    assert guides["as long as the weights: 1"] == 1.0
    assert guides["step 1"] == pytest.approx(50.0)
    low, high = axes.get_ylim()
    assert low < 1e-3
    assert high > 50.0


def test_a_variable_that_broke_and_one_that_was_zero_are_told_apart(drawn: Draw) -> None:
    builder = TraceBuilder()
    rows = (("a", 0.1, 0), ("b", math.nan, 0), ("c", math.nan, 7))
    for order, (name, ratio, bad) in enumerate(rows):
        builder.add(
            "updates",
            step=0,
            order=order,
            variable=name,
            layer="",
            ratio=ratio,
            after_nonfinite=bad,
            **tensor([1.0]),
        )
    trace = builder.build()
    (axes,) = drawn(UpdateRatio(), trace).axes
    marks = {
        str(line.get_label()): np.asarray(line.get_xdata()).tolist() for line in axes.get_lines()
    }
    assert marks["no ratio:\nweight is zero"] == [1.0]
    assert marks["not finite\n(step 0)"] == [2.0]
    assert UpdateRatio().caption(trace) == (
        "Ratio of update to weight (L2 over L2) of 3 variables, step 0; median 0.1, largest 0.1 "
        "at 'a' (0.001 is customary); 1 variable not finite after the step."
    )


def test_a_picture_of_nothing_but_nan_is_not_drawn() -> None:
    assert UpdateRatio().suits(training_trace())
    assert not UpdateRatio().suits(training_trace(update_ratio=math.nan))
