"""Does the picture of the loss show how it ran and where it broke?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from divergence_doctor.figures.loss import Loss
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.synthetic import training_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure as Canvas

    Draw = Callable[[Loss, Trace], Canvas]


def test_a_loss_that_runs_away_is_drawn_by_its_logarithm(drawn: Draw) -> None:
    loss, norm, _ = drawn(Loss(), training_trace(losses=(2.0, 90.0, 8e5, math.nan))).axes
    assert loss.get_yscale() == "log"
    assert norm.get_ylabel() == "gradient norm"
    marks = [line for line in loss.get_lines() if line.get_label() == "loss not finite"]
    assert [np.asarray(mark.get_xdata()).tolist() for mark in marks] == [[3.0]]
    assert "fails: step 3" in loss.get_legend_handles_labels()[1]


def test_a_loss_of_both_signs_over_many_decades_is_drawn_symmetrically(drawn: Draw) -> None:
    axes = drawn(Loss(), training_trace(losses=(1.0, -2.0, 1.5, 9e6))).axes[0]
    assert axes.get_yscale() == "symlog"


def test_terms_are_drawn_where_there_are_several_and_the_broken_one_is_named(drawn: Draw) -> None:
    builder = TraceBuilder()
    for step in range(2):
        builder.add("steps", step=step, loss=1.0 + step)
        builder.add("losses", step=step, name="_kl$", value=0.5 if step == 0 else math.inf)
        builder.add("losses", step=step, name="mse", value=0.5)
    canvas = drawn(Loss(), builder.build())
    assert len(canvas.axes) == 1
    assert canvas.axes[0].get_legend_handles_labels()[1] == [
        "term _kl$\n(not finite: step 1)",
        "term mse",
        "loss",
    ]


def test_a_single_term_is_the_loss_itself(drawn: Draw) -> None:
    axes = drawn(Loss(), training_trace()).axes[0]
    assert axes.get_legend_handles_labels()[1] == ["loss"]


def test_a_norm_of_the_finite_part_alone_is_not_shown_as_the_norm(drawn: Draw) -> None:
    builder = TraceBuilder()
    for step, (norm, finite) in enumerate(((1.0, True), (3.0, True), (0.0, False))):
        builder.add("steps", step=step, loss=1.0, gradient_norm=norm, gradients_finite=finite)
    curve, mark = drawn(Loss(), builder.build()).axes[1].get_lines()
    np.testing.assert_array_equal(curve.get_ydata(), [1.0, 3.0, np.nan])
    assert np.asarray(mark.get_xdata()).tolist() == [2.0]


def test_a_rate_that_a_schedule_changes_is_drawn_and_told(drawn: Draw) -> None:
    builder = TraceBuilder()
    for step, rate in enumerate((0.1, 0.01, 1e-4, math.inf)):
        builder.add("steps", step=step, loss=1.0, learning_rate=rate, loss_scale=2.0**15)
    trace = builder.build()
    _, rate_axes, scale_axes = drawn(Loss(), trace).axes
    assert rate_axes.get_ylabel() == "learning rate\n(log scale)"
    np.testing.assert_array_equal(rate_axes.get_lines()[0].get_ydata(), [0.1, 0.01, 1e-4, np.nan])
    assert np.asarray(rate_axes.get_lines()[1].get_xdata()).tolist() == [3.0]
    assert scale_axes.get_ylabel() == "loss scale"
    assert [label.get_text() for label in scale_axes.get_yticklabels()] == ["3.28e+04"]
    assert Loss().caption(trace).endswith("; learning rate 0.0001 to 0.1.")


def test_a_single_step_needs_no_picture() -> None:
    assert not Loss().suits(training_trace(losses=(math.nan,)))


def test_the_caption_tells_the_course() -> None:
    assert Loss().caption(training_trace(losses=(2.0, 9e3, math.inf))) == (
        "Loss over 3 replayed steps: 2 at step 0, +Inf at step 2; the largest finite value is "
        "9,000; not finite from step 2 on; learning rate 0.001."
    )
    assert Loss().caption(training_trace()) == (
        "Loss over 2 replayed steps: 1 at step 0, 0.9 at step 1; the largest finite value is 1; "
        "finite throughout; learning rate 0.001."
    )
