"""Does the picture of losses by sample point at the culprits?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from divergence_doctor.figures.sample_loss import SampleLoss
from divergence_doctor.trace import Trace, TraceBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure as Canvas

    Draw = Callable[[SampleLoss, Trace], Canvas]


def of_losses(*values: float, samples: str = "[]", step: int = 2) -> Trace:
    builder = TraceBuilder()
    for sample, value in enumerate(values):
        builder.add("sample_losses", step=step, name="y", sample=sample, value=value)
    builder.add("sample_losses", step=0, name="y", sample=0, value=77.0)
    builder.add("events", step=step, op=0, op_type="Log", primary=True, samples=samples)
    builder.describe(failing_step=step, outcome="diverged")
    return builder.build()


def test_culprits_and_losses_that_are_not_finite_are_marked(drawn: Draw) -> None:
    (axes,) = drawn(SampleLoss(), of_losses(0.5, 1.0, math.nan, 0.25, samples="[2]")).axes
    points, marks = axes.get_lines()
    np.testing.assert_array_equal(points.get_ydata(), [0.5, 1.0, np.nan, 0.25])
    assert np.asarray(marks.get_xdata()).tolist() == [2.0]
    assert axes.get_legend_handles_labels()[1] == [
        "one sample",
        "not finite",
        "fails in sample\n2",
    ]


def test_one_loss_far_above_the_others_is_drawn_by_its_logarithm(drawn: Draw) -> None:
    (axes,) = drawn(SampleLoss(), of_losses(0.5, 1.0, 1e7)).axes
    assert axes.get_yscale() == "log"


def test_a_list_of_samples_that_is_no_list_blames_nobody(drawn: Draw) -> None:
    for samples in ("{", '{"a": 1}', '[true, "1", -3, 2.5]', "[" * 100_000):
        (axes,) = drawn(SampleLoss(), of_losses(0.5, 1.0, samples=samples)).axes
        assert axes.get_legend_handles_labels()[1] == ["one sample"]


def test_the_caption_names_the_samples_of_the_failing_step() -> None:
    trace = of_losses(0.5, 1.5, math.inf, 2.5, samples="[2]")
    assert SampleLoss().caption(trace) == (
        "Loss of 4 samples in step 2; median 1.5, largest finite 2.5 at sample 3; not finite in "
        "sample 2; the first producer fails in sample 2."
    )


def test_samples_whose_removal_mends_the_step_are_to_blame(drawn: Draw) -> None:
    seen = of_losses(0.5, 1.0, math.nan, 0.25, samples="[0, 1, 2]")
    builder = TraceBuilder()
    builder.add("culprits", batch=0, sample=2, array="", evidence="left-out")
    builder.add("culprits", batch=0, sample=1, array="x", index="1,0", evidence="outlier")
    tables = {name: seen.table(name) for name in ("steps", "sample_losses", "events")}
    trace = Trace({**tables, "culprits": builder.build().table("culprits")}, seen.context)
    labels = drawn(SampleLoss(), trace).axes[0].get_legend_handles_labels()[1]
    assert "to blame: sample\n2" in labels
    assert SampleLoss().caption(trace).endswith("; to blame is sample 2.")


def test_losses_that_are_all_nan_need_no_picture() -> None:
    assert not SampleLoss().suits(of_losses(math.nan, math.inf))
