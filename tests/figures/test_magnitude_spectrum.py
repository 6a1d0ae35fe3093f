"""Does the spectrum show where magnitudes run towards the end of the dtype?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import pytest
from matplotlib.text import Text

from divergence_doctor.figures.magnitude_spectrum import MagnitudeSpectrum
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    Draw = Callable[[MagnitudeSpectrum, Trace], Canvas]


def overflowing() -> Trace:
    """Return layers that grow until float16 overflows; the fourth holds only NaN."""
    return training_trace(
        layers=["a", "b", "c", "d"],
        dtype="float16",
        activation_absmax=[1.0, 200.0, 40000.0, math.nan],
        losses=(1.0, math.nan),
        events=[SyntheticEvent("MatMul", phase="forward", layer="d")],
    )


def of_dtypes(*dtypes: str) -> Trace:
    builder = TraceBuilder()
    for order, dtype in enumerate(dtypes):
        row = tensor([0.5, 1.0, 2.0, 0.0]) | {"dtype": dtype}
        builder.add(
            "activations", step=0, order=order, layer=f"l{order}", call=0, role="output", **row
        )
    return builder.build()


def lines(axes: Axes) -> list[tuple[float, float, float]]:
    """Return the limit lines as (height, first x, last x)."""
    found = []
    for collection in axes.collections:
        for path in getattr(collection, "get_segments", list)():
            (start, height), (end, _) = np.asarray(path).tolist()
            found.append((round(height, 3), start, end))
    return sorted(found)


def texts(axes: Axes) -> list[str]:
    return [text.get_text() for text in axes.texts]


def names(axes: Axes) -> list[str]:
    return [label.get_text() for label in axes.get_xticklabels()]


def test_float16_limits_stand_at_their_exponents(drawn: Draw) -> None:
    axes = drawn(MagnitudeSpectrum(), of_dtypes("float16", "float16")).axes[0]
    assert lines(axes) == [(-24.0, -0.5, 1.5), (-14.0, -0.5, 1.5), (15.999, -0.5, 1.5)]
    assert texts(axes) == [
        "float16 overflows\nbeyond 65,504",
        "float16 subnormal\nbelow 2⁻¹⁴",
        "float16 is zero\nbelow 2⁻²⁴",
    ]


def test_each_layer_is_measured_by_its_own_dtype(drawn: Draw) -> None:
    axes = drawn(MagnitudeSpectrum(), of_dtypes("float32", "float16", "float32", "float16")).axes[0]
    assert [line for line in lines(axes) if line[0] == 15.999] == [
        (15.999, 0.5, 1.5),
        (15.999, 2.5, 3.5),
    ]


def test_a_far_limit_is_named_and_leaves_the_picture_to_the_values(drawn: Draw) -> None:
    axes = drawn(MagnitudeSpectrum(), of_dtypes("float32", "float32")).axes[0]
    assert lines(axes) == []
    assert texts(axes) == ["↑ float32 overflows\nbeyond 3.40e38"]
    low, high = axes.get_ylim()
    assert high - low < 22


def test_a_float32_overflow_comes_into_view_when_it_is_near(drawn: Draw) -> None:
    trace = training_trace(activation_absmax=[1.0, 1e36])
    axes = drawn(MagnitudeSpectrum(), trace).axes[0]
    assert [line[0] for line in lines(axes)] == [128.0]
    assert axes.get_ylim()[1] > 128


def test_the_cells_hold_the_share_of_the_values(drawn: Draw) -> None:
    axes = drawn(MagnitudeSpectrum(), of_dtypes("float16")).axes[0]
    zeros, cells = (np.ma.filled(image.get_array(), np.nan) for image in axes.images)
    assert zeros.tolist() == [[pytest.approx(math.log10(0.25))]]
    low = int(axes.images[1].get_extent()[2])
    assert [index + low for index in np.flatnonzero(np.isfinite(cells[:, 0]))] == [-1, 0, 1]
    assert cells[-1 - low, 0] == pytest.approx(math.log10(0.25))


def test_columns_that_are_not_finite_are_marked_at_the_top_with_their_count(drawn: Draw) -> None:
    axes = drawn(MagnitudeSpectrum(), overflowing()).axes[0]
    marks = [c for c in axes.collections if c.get_label() == "not finite"]
    assert [np.asarray(mark.get_offsets())[:, 0].tolist() for mark in marks] == [[4.0]]
    assert np.asarray(marks[0].get_offsets())[0, 1] > 16
    assert "all" in texts(axes)
    assert axes.get_yticklabels()[-1].get_text() == "NaN, Inf"


def test_the_failing_layer_is_named_and_shaded_in_both_panels(drawn: Draw) -> None:
    canvas = drawn(MagnitudeSpectrum(), overflowing())
    forward, backward = canvas.axes[:2]
    assert forward.get_title(loc="right") == "first not finite: d (MatMul)"
    for axes in (forward, backward):
        assert [patch.get_x() for patch in axes.patches] == [3.5]
    bold = [x.get_text() for x in backward.get_xticklabels() if x.get_fontweight() == "bold"]
    assert bold == ["d"]


def test_without_an_event_the_first_bad_column_is_shaded(drawn: Draw) -> None:
    trace = training_trace(activation_absmax=[1.0, math.nan], losses=(1.0, math.nan))
    axes = drawn(MagnitudeSpectrum(), trace).axes[0]
    assert axes.get_title(loc="right") == "first not finite: dense_1"


def test_the_input_comes_first_and_calls_have_their_own_columns(drawn: Draw) -> None:
    builder = TraceBuilder()
    row = tensor([1.0, 2.0])
    for order, call in ((3, 0), (5, 1)):
        builder.add(
            "activations", step=0, order=order, layer="shared", call=call, role="output", **row
        )
    builder.add("activations", step=0, order=4, layer="other", call=0, role="output", **row)
    builder.add("activations", step=0, order=9, layer="", call=0, role="input", **row)
    axes = drawn(MagnitudeSpectrum(), builder.build()).axes[0]
    assert names(axes) == ["input", "shared", "other", "shared (call 2)"]


def test_the_batch_stands_in_for_an_input_that_was_not_recorded(drawn: Draw) -> None:
    axes = drawn(MagnitudeSpectrum(), training_trace()).axes[1]
    assert names(axes) == ["input: x", "dense", "dense_1"]


def test_the_outputs_of_one_call_are_taken_together() -> None:
    builder = TraceBuilder()
    for role in ("output", "output/1"):
        row = tensor([1.0, math.nan])
        builder.add("activations", step=0, order=0, layer="split", call=0, role=role, **row)
    caption = MagnitudeSpectrum().caption(builder.build())
    assert "first in 'split' (2 of 4 values)" in caption


def test_the_caption_says_how_far_the_values_reach_and_what_broke() -> None:
    assert MagnitudeSpectrum().caption(overflowing()) == (
        "Magnitudes through the network in step 1, 5 tensors in order of execution; "
        "forward between 2⁻¹⁰ and 2¹⁶; backward between 2⁻¹⁵ and 2⁻⁴; float16 overflows at 2¹⁶; "
        "NaN or Inf in 1 tensor, first in 'd' (64 of 64 values)."
    )


def test_a_gradient_that_breaks_is_named_where_the_backward_pass_first_met_it() -> None:
    trace = training_trace(
        layers=["a", "b", "c"], gradient_l2=[math.nan, math.nan, 1.0], losses=(1.0, math.nan)
    )
    assert "2 gradients, first in the one that came back to 'b'" in MagnitudeSpectrum().caption(
        trace
    )


def test_values_beyond_the_bins_are_told(drawn: Draw) -> None:
    builder = TraceBuilder()
    row = tensor([1.0, 1e150])
    builder.add("activations", step=0, order=0, layer="a", call=0, role="output", **row)
    axes = drawn(MagnitudeSpectrum(), builder.build()).axes[0]
    assert axes.get_title(loc="left").endswith("(outermost row: and beyond)")


def test_a_long_name_of_the_failing_layer_does_not_cover_the_title(drawn: Draw) -> None:
    name = "encoder/stage_4/residual_block_17/normalisation"
    event = SyntheticEvent(
        "SparseSoftmaxCrossEntropyWithLogits", phase="backward", derivative=True, layer=name
    )
    trace = training_trace(layers=[name, "b"], dtype="float16", events=[event])
    axes = drawn(MagnitudeSpectrum(), trace).axes[0]
    left, right = (
        title.get_window_extent()
        for title in axes.findobj(Text)
        if title.get_text() in {axes.get_title(loc="left"), axes.get_title(loc="right")}
    )
    assert left.x1 < right.x0
