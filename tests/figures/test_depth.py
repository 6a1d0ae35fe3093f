"""Does the picture of depth show how far each layer is from the end of its dtype?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest

from divergence_doctor.figures.depth import Depth
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    from divergence_doctor.trace import Trace

    Draw = Callable[[Depth, Trace], Canvas]


def growing(**fields: object) -> Trace:
    """Return four layers in float16, the last of which is not finite."""
    return training_trace(
        **{
            "layers": ["a", "b", "c", "d"],
            "dtype": "float16",
            "activation_absmax": [1.0, 256.0, 32768.0, math.nan],
            "gradient_l2": [2.0**40, 2.0**20, 1.0, 2.0**-20],
            "losses": (1.0, math.nan),
            "events": [SyntheticEvent("MatMul", phase="forward", layer="d")],
            **fields,
        }
    )


def line(axes: Axes, label: str) -> list[float]:
    (found,) = [line for line in axes.get_lines() if line.get_label() == label]
    return np.asarray(found.get_ydata()).tolist()


def test_the_largest_magnitudes_stand_at_their_base_2_logarithms(drawn: Draw) -> None:
    forward, backward = drawn(Depth(), growing()).axes
    np.testing.assert_allclose(
        line(forward, "largest magnitude")[1:], [0.0, 8.0, 15.0, math.nan], atol=2e-3
    )
    # The input column has no gradient; 64 elements share the norm, whose RMS is an eighth of it.
    np.testing.assert_allclose(
        line(backward, "typical (RMS)"), [math.nan, 37.0, 17.0, -3.0, -23.0], atol=1e-9
    )


def test_the_second_axis_counts_the_bits_to_the_largest_number(drawn: Draw) -> None:
    forward = drawn(Depth(), growing()).axes[0]
    (beside,) = forward.child_axes
    assert beside.get_ylabel() == "headroom of float16, bits"
    ticks = {tick.label2.get_text(): tick for tick in beside.yaxis.get_major_ticks()}
    for bits in ("0", "8", "16"):
        height = beside.transData.transform((0.0, ticks[bits].get_loc()))[1]
        there = forward.transData.transform((0.0, math.log2(65504.0) - int(bits)))[1]
        assert height == pytest.approx(there)


def test_limits_of_the_own_dtype_and_of_others_are_told_apart(drawn: Draw) -> None:
    own = {text.get_text() for text in drawn(Depth(), growing()).axes[0].texts}
    assert "float16 overflows beyond 65,504" in own
    other = {text.get_text() for text in drawn(Depth(), growing(dtype="float32")).axes[0].texts}
    assert "(float16 overflows beyond 65,504)" in other


def test_what_is_not_finite_is_marked_above_and_its_layer_shaded(drawn: Draw) -> None:
    forward = drawn(Depth(), growing()).axes[0]
    assert line(forward, "not finite") == [0.955]
    shaded = [patch.get_x() for patch in forward.patches]
    assert shaded == [3.5]


def test_the_first_step_is_drawn_beside_a_later_one_that_failed(drawn: Draw) -> None:
    forward = drawn(Depth(), growing()).axes[0]
    assert "largest, step 0" in [line.get_label() for line in forward.get_lines()]
    alone = drawn(Depth(), growing(losses=(math.nan,))).axes[0]
    assert "largest, step 0" not in [line.get_label() for line in alone.get_lines()]


def test_gradients_that_are_nan_throughout_leave_no_empty_panel(drawn: Draw) -> None:
    trace = growing(gradient_l2=math.nan)
    (forward,) = drawn(Depth(), trace).axes
    assert forward.get_title(loc="left").endswith("(nothing that came back is finite)")
    assert "backward 4 tensors not finite" in Depth().caption(trace)


def test_gradients_that_vanished_are_marked_as_zero(drawn: Draw) -> None:
    backward = drawn(Depth(), growing(gradient_l2=[0.0, 0.0, 0.0, 1.0])).axes[1]
    marks = [line for line in backward.get_lines() if line.get_label() == "all zero"]
    assert np.asarray(marks[0].get_xdata()).tolist() == [1.0, 2.0, 3.0]


def test_the_caption_names_the_layer_with_the_least_headroom() -> None:
    caption = Depth().caption(growing(gradient_l2=[2.0**-20, 1.0, 1.0, 1.0]))
    assert caption.startswith(
        "Magnitudes by layer in step 1, in order of execution; forward the least headroom is 1.0 "
        "bits of float16, at 'c' (largest 3.28e+04); forward 1 tensor not finite"
    )


def test_one_layer_alone_has_no_depth() -> None:
    trace = training_trace(layers=["a"])
    assert Depth().suits(trace)  # with the input before it
    assert not Depth().suits(training_trace(layers=[]))
