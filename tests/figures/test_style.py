"""Can everyone tell the colours apart, and is no other colour drawn than those?"""

from __future__ import annotations

import re
from itertools import combinations, pairwise

import pytest

from divergence_doctor.figures import _style, all_figures, render_svg
from tests.figures._colours import DEFICIENCIES, difference, seen
from tests.figures._runs import run

#: A difference of 2.3 in CIE L*a*b* is just noticed between large patches side by side; thin lines
#: and small marks, apart from each other, need several times that.
FAR_ENOUGH = 15.0


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_colours_that_mean_different_things_are_told_apart(deficiency: str) -> None:
    for one, other in combinations({*_style.SERIES, _style.NOT_FINITE, _style.ORANGE}, 2):
        assert difference(one, other, deficiency) > FAR_ENOUGH, (one, other)


@pytest.mark.parametrize("deficiency", DEFICIENCIES)
def test_the_ramp_grows_darker_for_everyone(deficiency: str) -> None:
    lightness = [seen(colour, deficiency)[0] for colour in _style.RAMP]
    assert all(one - other > 10.0 for one, other in pairwise(lightness))


def test_the_measure_sees_red_and_green_as_alike_with_deuteranopia() -> None:
    assert difference("#9C6500", "#4C8A00", "none") > 2 * FAR_ENOUGH
    assert difference("#9C6500", "#4C8A00", "deuteranopia") < FAR_ENOUGH / 2


def test_no_figure_draws_a_colour_of_its_own() -> None:
    ours = {
        value.lower()
        for value in vars(_style).values()
        if isinstance(value, str) and re.fullmatch(r"#[0-9A-F]{6}", value)
    } | {colour.lower() for colour in _style.RAMP}
    trace = run(3)
    for figure in all_figures():
        drawn = set(re.findall(r"#[0-9a-f]{6}\b", render_svg(figure, trace)))
        assert drawn, figure.name
        assert [colour for colour in drawn - ours if not grey(colour)] == [], figure.name


def grey(colour: str) -> bool:
    parts = [int(colour[at : at + 2], 16) for at in (1, 3, 5)]
    return max(parts) - min(parts) <= 12
