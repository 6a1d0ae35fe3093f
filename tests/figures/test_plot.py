"""Is every figure of the registry one call away in a notebook?"""

from __future__ import annotations

import matplotlib as mpl
import pytest
from matplotlib.figure import Figure as Canvas

from divergence_doctor.errors import UsageError
from divergence_doctor.figures import all_figures, suited_figures
from divergence_doctor.trace import Trace
from divergence_doctor.trace.synthetic import training_trace

NAMES = [figure.name for figure in all_figures()]


@pytest.fixture(scope="module")
def trace() -> Trace:
    return training_trace(losses=(1.0, 30.0, float("nan")))


def test_every_figure_is_a_method(trace):
    assert set(dir(trace.plot)) == {name.replace("-", "_") for name in NAMES}
    assert all(callable(getattr(trace.plot, name)) for name in dir(trace.plot))


def test_a_figure_comes_as_matplotlibs_own(trace):
    picture = trace.plot.loss()

    assert isinstance(picture, Canvas)
    assert picture.axes
    assert picture._repr_png_().startswith(b"\x89PNG")


def test_every_figure_that_suits_the_trace_is_drawn(trace):
    suited = [figure.name for figure in suited_figures(trace)]
    assert len(suited) >= 3
    for name in suited:
        assert getattr(trace.plot, name.replace("-", "_"))().axes, name


def test_the_settings_of_the_user_stay_as_they_are(trace):
    before = dict(mpl.rcParams)
    trace.plot.loss()._repr_png_()
    assert dict(mpl.rcParams) == before


def test_a_figure_without_anything_to_draw_says_so():
    with pytest.raises(UsageError) as told:
        Trace({}, {}).plot.loss()
    assert "nothing for the figure 'loss'" in str(told.value)
    assert "steps/loss" in str(told.value)


def test_an_unknown_figure_is_answered_with_those_that_are_alike(trace):
    with pytest.raises(AttributeError, match="no figure 'los'; there is loss"):
        trace.plot.los  # noqa: B018 - what is asked is that it raises


def test_a_notebook_shows_which_figures_there_are(trace):
    html = trace.plot._repr_html_()
    assert "<code>.plot.magnitude_spectrum()</code>" in html
    assert "nothing to draw in this trace" in html


def test_a_name_that_is_maths_is_text_in_the_picture():
    trace = training_trace(layers=("$\\frac{$", "dense"), losses=(1.0, 2.0))
    assert trace.plot.gradient_norm()._repr_png_().startswith(b"\x89PNG")
