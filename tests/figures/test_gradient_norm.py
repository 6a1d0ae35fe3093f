"""Does the picture of gradient norms show growth, zeros and breaks by depth?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from divergence_doctor.figures.gradient_norm import GradientNorm
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    Draw = Callable[[GradientNorm, Trace], Canvas]


def curve(axes: Axes, label: str) -> list[float]:
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return np.asarray(line.get_ydata()).tolist()


def places(axes: Axes, label: str) -> list[float]:
    (line,) = [line for line in axes.get_lines() if str(line.get_label()).startswith(label)]
    return np.asarray(line.get_xdata()).tolist()


def test_one_line_per_step_and_the_failing_one_bold(drawn: Draw) -> None:
    trace = training_trace(gradient_l2=[2.0, 0.25], losses=(1.0, 2.0, math.nan))
    (axes,) = drawn(GradientNorm(), trace).axes
    assert axes.get_yscale() == "log"
    np.testing.assert_allclose(curve(axes, "step 2"), [2.0, 0.25])
    widths = {str(line.get_label()): line.get_linewidth() for line in axes.get_lines()}
    assert widths["step 2"] > widths["step 0"] == widths["step 1"]


def test_of_many_steps_only_the_first_and_the_last_are_named(drawn: Draw) -> None:
    (axes,) = drawn(GradientNorm(), training_trace(losses=[1.0] * 12)).axes
    assert len(axes.get_lines()) == 12
    assert axes.get_legend_handles_labels()[1] == ["step 0", "step 10", "step 11"]


def test_a_gradient_that_is_not_finite_is_a_mark_and_a_gap(drawn: Draw) -> None:
    trace = training_trace(
        layers=["a", "b", "c"], gradient_l2=[1.0, math.nan, 3.0], losses=(1.0, math.nan)
    )
    (axes,) = drawn(GradientNorm(), trace).axes
    assert places(axes, "not finite") == [1.0]
    assert math.isnan(curve(axes, "step 1")[1])


def test_a_gradient_of_zero_is_marked_at_the_bottom(drawn: Draw) -> None:
    trace = training_trace(layers=["a", "b"], gradient_l2=[0.0, 1.0], losses=(1.0,))
    (axes,) = drawn(GradientNorm(), trace).axes
    assert places(axes, "zero in step 0") == [0.0]


def test_the_variables_of_the_failing_layer_are_shaded(drawn: Draw) -> None:
    trace = training_trace(
        layers=["a", "b"], losses=(1.0, 1.0), events=[SyntheticEvent("Sqrt", layer="b")]
    )
    (axes,) = drawn(GradientNorm(), trace).axes
    assert [patch.get_x() for patch in axes.patches] == [0.5]


def test_variables_stand_in_the_order_of_depth_whatever_the_order_of_rows(drawn: Draw) -> None:
    builder = TraceBuilder()
    for order, name in ((2, "top/w"), (0, "bottom/w"), (1, "middle/w")):
        builder.add("gradients", step=0, order=order, variable=name, layer="", **tensor([1.0]))
    (axes,) = drawn(GradientNorm(), builder.build()).axes
    assert [x.get_text() for x in axes.get_xticklabels()] == ["bottom/w", "middle/w", "top/w"]


def test_layers_stand_in_where_no_variable_has_a_gradient() -> None:
    builder = TraceBuilder()
    builder.add("gradients", step=0, order=0, variable="", layer="a", call=0, **tensor([3.0, 4.0]))
    assert GradientNorm().caption(builder.build()) == (
        "L2 norm of the gradient by layer in the order of depth, step 0; "
        "from 5 at 'a' to 5 at 'a'; all gradients are finite."
    )


def test_the_caption_names_the_extremes_and_the_deepest_break() -> None:
    trace = training_trace(
        layers=["a", "b", "c"], gradient_l2=[math.nan, 8.0, 0.5], losses=(1.0, math.nan)
    )
    assert GradientNorm().caption(trace) == (
        "L2 norm of the gradient by variable in the order of depth, step 1; from 0.5 at "
        "'c/kernel' to 8 at 'b/kernel'; 1 gradient not finite, the deepest at 'a/kernel'."
    )


def test_a_picture_of_nothing_but_nan_is_not_drawn() -> None:
    assert GradientNorm().suits(training_trace())
    assert not GradientNorm().suits(training_trace(gradient_l2=math.nan))
