"""Does a trace answer what a reader asks first, and is what it shows harmless?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from divergence_doctor.trace import Table, Trace
from divergence_doctor.trace.schema import TABLES
from divergence_doctor.trace.synthetic import training_trace


def test_the_summary_gives_the_first_figures() -> None:
    summary = training_trace(losses=(2.0, math.inf)).summary()
    assert summary["outcome"] == "diverged"
    assert summary["steps"] == 2
    assert summary["failing step"] == 1
    assert summary["first loss"] == 2.0
    assert summary["last loss"] == math.inf
    assert summary["layers"] == 2
    assert "outcome: diverged" in repr(training_trace(losses=(2.0, math.inf)))


def test_an_empty_trace_is_inconclusive() -> None:
    trace = Trace({}, {})
    assert trace.outcome == "inconclusive"
    assert trace.failing_step is None
    assert trace.summary()["first loss"] is None
    assert len(trace.table("events")) == 0
    assert "layer" in trace.table("events")


def test_has_asks_for_rows_and_columns() -> None:
    trace = training_trace()
    assert trace.has("gradients")
    assert trace.has("gradients/l2")
    assert not trace.has("gradients/nonsense")
    assert not trace.has("events")
    assert not trace.has("events/op_type")


def test_an_unknown_table_is_an_error_that_names_the_known_ones() -> None:
    with pytest.raises(KeyError, match="no table 'nope'; it has steps, layers"):
        training_trace().table("nope")


@pytest.mark.parametrize(
    "name",
    ["steps", "activations", "gradients", "weights", "updates", "samples", "events", "trials"],
)
def test_tables_open_in_pandas(name: str) -> None:
    trace = training_trace()
    frame = getattr(trace, name)
    assert list(frame.columns) == [column.name for column in TABLES[name].all_columns()]
    assert len(frame) == len(trace.table(name))


def test_what_a_notebook_shows_is_escaped() -> None:
    trace = training_trace(outcome="<img src=x onerror=alert(1)>")
    trace.context["outcome_because"] = "</td><script>alert('&')</script>"
    html = trace._repr_html_()
    assert "<script" not in html
    assert "<img" not in html
    assert "&lt;/td&gt;&lt;script&gt;alert(&#x27;&amp;&#x27;)&lt;/script&gt;" in html
    assert "&lt;img src=x onerror=alert(1)&gt;" in html


def test_a_notebook_shows_the_tables_that_have_rows() -> None:
    trace = Trace({"steps": Table.from_arrays("steps", {"loss": np.array([1.0, 2.0])})}, {})
    html = trace._repr_html_()
    assert "<code>trace.steps</code></td><td" in html
    assert ">2</td>" in html
    assert "trace.weights" not in html
