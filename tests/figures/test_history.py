"""Does the picture of the recorded run show how it went and where it went wrong?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from divergence_doctor.figures.history import History
from divergence_doctor.trace import Trace, TraceBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure as Canvas

    Draw = Callable[[History, Trace], Canvas]


def run(*, norms: bool = True, first_bad: int = 12) -> Trace:
    builder = TraceBuilder()
    for step, loss in zip(range(9, 14), (1.0, 0.9, 40.0, 9e4, math.nan), strict=True):
        builder.add(
            "history", step=step, source="recorded", loss=loss, measured=True, learning_rate=0.1
        )
    for step, loss in ((12, 9e4), (11, 40.0)):
        builder.add("history", step=step, source="rolled", loss=loss, measured=True, ulp=0)
    for step, norm in ((10, 1.0), (11, 80.0), (12, math.nan)) if norms else ():
        builder.add("history", step=step, source="watched", gradient_norm=norm)
    builder.describe(recorded={"first_bad": first_bad, "failing": 13})
    return builder.build()


def test_loss_rate_and_norm_stand_over_the_same_steps_with_the_bad_one_marked(drawn: Draw) -> None:
    loss, rate, norm = drawn(History(), run()).axes
    assert (loss.get_yscale(), norm.get_yscale()) == ("log", "log")
    assert rate.get_ylabel() == "learning rate"
    assert loss.get_xlim() == norm.get_xlim()
    lines = {line.get_label(): line for line in loss.get_lines()}
    assert np.asarray(lines["as logged"].get_xdata()).tolist() == [9, 10, 11, 12, 13]
    assert np.asarray(lines["run again"].get_xdata()).tolist() == [11, 12]
    assert np.asarray(lines["not finite"].get_xdata()).tolist() == [13.0]
    assert np.asarray(lines["goes wrong: step 12"].get_xdata()).tolist() == [12, 12]


def test_what_was_not_measured_has_no_panel(drawn: Draw) -> None:
    assert len(drawn(History(), run(norms=False)).axes) == 2


def test_where_no_step_went_wrong_here_the_one_that_the_recorder_saw_is_marked(drawn: Draw) -> None:
    axes = drawn(History(), run(first_bad=-1)).axes[0]
    assert "goes wrong: step 13" in axes.get_legend_handles_labels()[1]


def test_the_caption_says_how_it_went() -> None:
    assert History().caption(run()) == (
        "Training steps 9 to 13: the logged loss goes from 1 to NaN; the gradient norm from 1 at"
        " step 10 to 80 at step 11; step 12 went wrong first."
    )


def test_a_step_without_a_logged_loss_is_left_out_and_one_step_needs_no_picture() -> None:
    builder = TraceBuilder()
    builder.add("history", step=1, source="recorded", loss=1.0, measured=True)
    builder.add("history", step=2, source="recorded", measured=False)
    assert not History().suits(builder.build())
