"""Is what a notebook shows escaped, and does it say what it left out?"""

from __future__ import annotations

import math
import re
from html.parser import HTMLParser

import pytest

from divergence_doctor import _html
from divergence_doctor._verdict_card import card
from divergence_doctor.diagnosis import Diagnosis, diagnose
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

HOSTILE = "\x1b[2J\u202e</td><script>alert('1')</script><img src=x onerror=alert(1)>\" onload='x`y`"


def tags(html: str) -> set[str]:
    return set(re.findall(r"<\s*/?\s*([a-zA-Z]+)", html))


def attributes(html: str) -> set[str]:
    found: set[str] = set()

    class Reader(HTMLParser):
        def handle_starttag(self, _tag, attrs):
            found.update(name for name, _ in attrs)

    Reader().feed(html)
    return found


ATTRIBUTES = {
    *("style", "role", "aria-label", "width", "height"),
    *("fill", "stroke", "stroke-width", "points", "cx", "cy", "r"),
}
OURS = {
    *("div", "p", "table", "thead", "tbody", "tr", "th", "td", "code", "details", "summary", "em"),
    *("svg", "polyline", "circle"),
}


@pytest.mark.parametrize(
    "made",
    [
        _html.card("diverged", HOSTILE),
        _html.paragraph(HOSTILE),
        _html.table((HOSTILE,), [(HOSTILE,)]),
        _html.details(HOSTILE, ""),
        _html.sparkline([1.0, 2.0], HOSTILE),
    ],
)
def test_a_hostile_text_stays_text(made):
    assert tags(made) <= OURS
    assert "&lt;script&gt;" in made
    assert "\x1b" not in made
    assert "\u202e" not in made
    assert attributes(made) <= ATTRIBUTES


def test_what_stands_between_backticks_is_code():
    assert _html.marked("use `x < 1` here") == "use <code>x &lt; 1</code> here"
    assert _html.marked("a lone ` stays") == "a lone ` stays"


def test_rows_that_are_left_out_are_counted():
    html = _html.table(("n",), [(str(i),) for i in range(250)], most=200)
    assert html.count("<td") == 200
    assert "50 more" in html


def test_a_sparkline_marks_what_is_not_finite():
    html = _html.sparkline([1.0, 10.0, math.nan, math.inf], "loss")
    assert html.count("<circle") == 2
    assert len(re.search(r"points='([^']*)'", html)[1].split()) == 2
    assert "NaN" not in html
    assert _html.sparkline([math.nan, math.nan], "loss") == ""
    assert _html.sparkline([1.0], "loss") == ""


def test_a_sparkline_rises_with_its_values():
    html = _html.sparkline([1e-30, 1.0, 1e30], "loss")
    heights = [float(p.split(",")[1]) for p in re.search(r"points='([^']*)'", html)[1].split()]
    assert heights == sorted(heights, reverse=True)


@pytest.fixture(scope="module")
def proven() -> Diagnosis:
    event = SyntheticEvent("Log", layer="dense_1", samples=(5,), inputs=([0.0],), outputs=([-1.0],))
    trials = (
        {"name": "control", "breadth": 0, "outcome": "still-fails", "changed": "nothing"},
        {
            "name": "safe-op",
            "cause": "log-of-zero",
            "outcome": "finite",
            "changed": "in <log>",
        },
    )
    return diagnose(training_trace(losses=(0.9, math.nan), events=(event,), trials=trials))


def test_a_verdict_shows_cause_place_proof_and_fix(proven):
    html = card(proven)
    assert "Diverged: log-of-zero (confirmed" in html
    assert "layer: dense_1" in html
    assert "samples: 5" in html
    assert "&lt;log&gt;" in html
    assert "failure gone" in html
    assert "Fix:" in html
    assert html == proven._repr_html_()
    assert tags(html) <= OURS


def test_a_healthy_verdict_names_no_cause():
    html = diagnose(training_trace())._repr_html_()
    assert "Healthy: no cause to name" in html


def test_a_card_takes_its_colours_from_the_notebook(proven):
    html = card(proven)
    assert "background:#" not in html
    assert not re.search(r"[;']color:#", html)


def test_a_trace_shows_its_losses_and_what_it_holds():
    html = training_trace(losses=(1.0, 2.0, math.inf))._repr_html_()
    assert "Trace: diverged, at step 2" in html
    assert "<polyline" in html
    assert "<code>trace.activations</code>" in html
    assert "<code>trace.table(&#x27;layers&#x27;)</code>" in html
    assert tags(html) <= OURS


def test_a_long_replay_shows_its_first_and_last_steps():
    html = training_trace(losses=[1.0] * 50)._repr_html_()
    assert "50 steps" in html
    assert len(html) < 20_000
