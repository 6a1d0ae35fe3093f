"""Can every label be read, of three layers and of three hundred? Measured, not looked at."""

from __future__ import annotations

import math
from itertools import combinations
from typing import TYPE_CHECKING

import pytest
from matplotlib.colors import to_hex
from matplotlib.figure import Figure as Canvas
from matplotlib.text import Text

from divergence_doctor.figures import all_figures
from divergence_doctor.figures._style import styled
from tests.figures._colours import contrast
from tests.figures._runs import run

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes
    from matplotlib.transforms import Bbox

    from divergence_doctor.trace import Trace

SIZES = (3, 40, 300)
#: Labels may come this near, in pixels: the box of a text is a little larger than its ink.
TOUCH = 1.5


@pytest.fixture(scope="module", params=SIZES)
def trace(request: pytest.FixtureRequest) -> Trace:
    return run(request.param)


@pytest.fixture(scope="module", params=all_figures(), ids=lambda figure: figure.name)
def canvas(request: pytest.FixtureRequest, trace: Trace) -> Canvas:
    """Return the picture, drawn once for all that is measured in it."""
    assert request.param.suits(trace)
    with styled(salt="test"):
        canvas = Canvas(layout="constrained")
        request.param.draw(trace, canvas)
        canvas.draw_without_rendering()
    return canvas


def ticks(axes: Axes) -> Iterator[list[Text]]:
    """Yield the labels that stand beside each axis within its limits, also a second one's."""
    parts = [axes, *axes.child_axes]
    for part in parts:
        for axis, limits in ((part.xaxis, part.get_xlim()), (part.yaxis, part.get_ylim())):
            low, high = sorted(limits)
            yield [
                tick.label1 if tick.label1.get_visible() else tick.label2
                for tick in (*axis.get_major_ticks(), *axis.get_minor_ticks())
                if low <= tick.get_loc() <= high
                and (tick.label1.get_visible() or tick.label2.get_visible())
                and (tick.label1.get_text() or tick.label2.get_text())
            ]


def box(text: Text) -> Bbox:
    return text.get_window_extent()


def overlap(one: Bbox, other: Bbox) -> bool:
    """Say whether two boxes share more than their rims."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width > TOUCH and height > TOUCH


def thickness(text: Text) -> float:
    """Return the height of a label's line as if it stood upright, in pixels."""
    turned = text.get_rotation()
    text.set_rotation(0.0)
    height = box(text).height
    text.set_rotation(turned)
    return float(height)


def collide(one: Text, other: Text) -> bool:
    """Say whether two neighbouring tick labels, both turned alike, lie on each other."""
    angle = math.radians(one.get_rotation())
    if angle == 0.0:
        return overlap(box(one), box(other))
    (first, _), (second, _) = (
        text.get_transform().transform(text.get_unitless_position()) for text in (one, other)
    )
    # Parallel strips: what parts their middles is the way between the ticks, seen at that angle.
    return abs(first - second) * math.sin(angle) < min(thickness(one), thickness(other)) - TOUCH


def test_no_label_of_an_axis_lies_on_another(canvas: Canvas) -> None:
    seen = 0
    for axes in canvas.axes:
        for labels in ticks(axes):
            seen += len(labels)
            for one, other in combinations(labels, 2):
                assert not collide(one, other), (one.get_text(), other.get_text())
    assert seen > 3


def test_no_word_leaves_the_picture(canvas: Canvas) -> None:
    edge = canvas.bbox.padded(TOUCH)
    outside = {
        text.get_text(): box(text).extents.round().tolist()
        for axes in canvas.axes
        for labels in ticks(axes)
        for text in labels
        if not within(box(text), edge)
    }
    titles = [axes.title for axes in canvas.axes] + [axes.xaxis.label for axes in canvas.axes]
    titles += [text for axes in canvas.axes for text in axes.texts]
    outside |= {
        text.get_text(): box(text).extents.round().tolist()
        for text in titles
        if text.get_text() and text.get_visible() and not within(box(text), edge)
    }
    assert outside == {}


def within(inner: Bbox, outer: Bbox) -> bool:
    return bool(
        inner.x0 >= outer.x0
        and inner.x1 <= outer.x1
        and inner.y0 >= outer.y0
        and inner.y1 <= outer.y1
    )


def test_no_legend_hides_what_is_drawn_and_none_is_cut(canvas: Canvas) -> None:
    legends = [axes.get_legend() for axes in canvas.axes] + list(canvas.legends)
    boxes = [legend.get_window_extent() for legend in legends if legend is not None]
    for legend in boxes:
        assert within(legend, canvas.bbox.padded(TOUCH))
        for axes in canvas.axes:
            if axes.get_visible():
                assert not overlap(legend, axes.bbox)
                for text in (axes.title, *axes.texts):
                    if text.get_text():
                        assert not overlap(legend, box(text)), text.get_text()
    for one, other in combinations(boxes, 2):
        assert not overlap(one, other)


def test_no_annotation_or_title_lies_on_another(canvas: Canvas) -> None:
    for axes in canvas.axes:
        titles = (axes.title, axes._left_title, axes._right_title)
        texts = [text for text in (*titles, *axes.texts) if text.get_text()]
        for one, other in combinations(texts, 2):
            assert not overlap(box(one), box(other)), (one.get_text(), other.get_text())


def test_every_word_stands_out_from_the_page(canvas: Canvas) -> None:
    for text in canvas.findobj(Text):
        if text.get_visible() and text.get_text():
            assert contrast(to_hex(text.get_color())) >= 4.5, text.get_text()


def test_the_measure_sees_labels_that_lie_on_each_other() -> None:
    canvas = Canvas(figsize=(4, 3))
    axes = canvas.subplots()
    axes.set_xlim(0, 10)
    for angle, name in ((0, "a long name"), (40, "a long name"), (90, "a long name")):
        axes.set_xticks([1.0, 1.1, 9.0], [name] * 3, rotation=angle)
        canvas.draw_without_rendering()
        first, second, third = next(ticks(axes))
        assert collide(first, second)
        assert not collide(second, third)
