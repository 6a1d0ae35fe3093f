"""Does the picture lead from the source to the failure, in powers of two, the departure marked?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np

from divergence_doctor.figures.chain import Chain
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Canvas

    Draw = Callable[[Chain, Trace], Canvas]


def chained(
    values: Sequence[float], *, departed: int, low: float = 0.0, high: float = 65536.0
) -> Trace:
    """Return a trace with a chain of these values, nearest the failure first."""
    event = SyntheticEvent("Log", layer="head", outputs=([-math.inf],))
    base = training_trace(losses=(math.nan,), events=(event,))
    builder = TraceBuilder()
    for link, value in enumerate(values):
        last = link == len(values) - 1
        builder.add(
            "chain",
            step=0,
            op=0,
            link=link,
            what="batch" if last else "op",
            name="x" if last else "MatMul",
            layer="" if last else f"dense_{link}",
            index="5,0",
            followed=not math.isnan(value),
            value=value,
            departed=link == departed,
            ordinary_low=low,
            ordinary_high=high,
            **tensor(np.float32([0.25, 4.0])),
        )
    return Trace({"chain": builder.build().table("chain"), "events": base.table("events")}, {})


def points(axes: Axes, label: str) -> tuple[list[float], list[float]]:
    (line,) = [line for line in axes.get_lines() if line.get_label() == label]
    return np.asarray(line.get_xdata()).tolist(), np.asarray(line.get_ydata()).tolist()


def test_the_links_lead_from_the_source_to_the_failure_in_powers_of_two(drawn: Draw) -> None:
    (axes,) = drawn(Chain(), chained([2.0**40, 2.0**20, 8.0], departed=1)).axes
    x, y = points(axes, "the element that is followed")
    assert x == [0, 1, 2, 3]
    assert y[:3] == [3.0, 20.0, 40.0]
    assert y[3] > 40.0
    assert points(axes, "left the ordinary range") == ([1], [20.0])
    names = [label.get_text() for label in axes.get_xticklabels()]
    assert names == ["x[5,0]", "MatMul dense_1", "MatMul dense_0", "Log"]


def test_zero_has_a_row_of_its_own_below_all_numbers(drawn: Draw) -> None:
    (axes,) = drawn(Chain(), chained([0.0, 0.0, -4.0], departed=1, low=2.0**-24)).axes
    _, y = points(axes, "the element that is followed")
    labels = dict(zip(axes.get_yticks(), axes.get_yticklabels(), strict=True))
    assert y[0] == 2.0
    assert y[1] == y[2] < -24.0
    assert labels[y[1]].get_text() == "0"
    assert labels[y[3]].get_text() == "not finite"


def test_the_dtypes_limit_is_drawn_where_the_numbers_come_near_it(drawn: Draw) -> None:
    (near,) = drawn(Chain(), chained([1e37, 1.0], departed=0)).axes
    (far,) = drawn(Chain(), chained([1e6, 1.0], departed=0)).axes
    assert [text.get_text() for text in near.texts if "largest" in text.get_text()]
    assert not [text.get_text() for text in far.texts if "largest" in text.get_text()]


def test_a_link_that_could_not_be_followed_is_a_gap(drawn: Draw) -> None:
    (axes,) = drawn(Chain(), chained([4.0, math.nan, 2.0], departed=-1)).axes
    _, y = points(axes, "the element that is followed")
    assert math.isnan(y[1])
    assert [
        line for line in axes.get_lines() if line.get_label() == "left the ordinary range"
    ] == []


def test_the_values_of_a_long_chain_do_not_cover_each_other(drawn: Draw) -> None:
    canvas = drawn(Chain(), chained([2.0 ** (90 - i) for i in range(90)], departed=70))
    (axes,) = canvas.axes
    boxes = [text.get_window_extent() for text in axes.texts if "largest" not in text.get_text()]
    assert len(boxes) == 3
    assert not any(a.overlaps(b) for i, a in enumerate(boxes) for b in boxes[:i])


def test_the_caption_names_both_ends_and_the_departure() -> None:
    assert Chain().caption(chained([0.0, 0.0, -4.0], departed=1, low=2.0**-24)) == (
        "The way of the number that made 'Log' fail in step 0, 3 links, from 'x[5,0]' = -4 to "
        "'MatMul dense_0' = 0; it left the ordinary range at 'MatMul dense_1' = 0."
    )
