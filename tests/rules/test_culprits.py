"""Does a finding keep just those samples that the search over the batch leaves to it?"""

import json
from dataclasses import replace

import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.rules import Finding, settled
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace


def told(outcome, samples=(), *, refuted=(), because="so it was seen", cells=()):
    """Return a trace in which a search over the batch came to an end."""
    builder = TraceBuilder()
    for sample in samples:
        builder.add("culprits", batch=0, sample=sample, array="", evidence="left-out")
    for array, index, value in cells:
        builder.add("culprits", batch=0, sample=0, array=array, index=index, value=value)
    builder.describe(
        culprits={
            "outcome": outcome,
            "samples": list(samples),
            "refuted": [list(rows) for rows in refuted],
            "because": because,
        }
    )
    return builder.build()


def finding(*samples, stage="loss"):
    return Finding("log-of-zero", "Log was given 0.", 0.9, stage, samples=samples)


@pytest.mark.parametrize(
    ("claimed", "search", "left"),
    [
        ((3, 5), told("rows", (5,)), (5,)),
        ((), told("rows", (5,)), (5,)),
        ((3,), told("whole"), ()),
        ((3,), told("open", refuted=[(3,)]), ()),
        # A search that came to nothing says nothing of a claim that it did not test.
        ((3,), told("open", refuted=[(3, 4)]), (3,)),
        ((3,), TraceBuilder().build(), (3,)),
    ],
)
def test_the_diagnosis_names_what_is_proven(claimed, search, left):
    assert settled(finding(*claimed), search, main=True).samples == left


def test_a_cause_in_the_state_of_the_run_is_not_put_on_samples():
    assert settled(finding(stage="update"), told("rows", (5,)), main=True).samples == ()
    assert settled(finding(stage="checkpoint"), told("rows", (5,)), main=True).samples == ()


@pytest.mark.parametrize(
    ("claimed", "left"), [((3, 5), (5,)), ((5,), (5,)), ((3,), (3,)), ((), ())]
)
def test_another_finding_is_narrowed_only_where_it_claims_the_proven_rows(claimed, left):
    assert settled(finding(*claimed), told("rows", (5,)), main=False).samples == left


def test_the_sentence_says_when_the_samples_are_not_those_claimed():
    search = told("rows", (5,), because="with sample 5 left out the step lives")
    assert settled(finding(5), search, main=True).summary == "Log was given 0."
    assert settled(finding(3, 5), search, main=True).summary == (
        "Log was given 0. Of the batch, sample 5 proved to be to blame: "
        "with sample 5 left out the step lives."
    )
    whole = settled(finding(3), told("whole", because="any sample fails alone"), main=True)
    assert whole.summary == (
        "Log was given 0. No sample of the batch is to blame by itself: any sample fails alone."
    )


def test_the_guilty_cells_are_among_the_evidence():
    search = told("rows", (5,), cells=[("x", "5,2", float("nan")), ("x/tab", "5,0", -3.5)])
    claims = [(e.claim, e.value) for e in settled(finding(5), search, main=True).evidence]
    assert claims == [
        ("samples to blame: so it was seen", 1),
        ("cell `x[5, 2] = nan`", None),
        ("cell `x/tab[5, 0] = -3.5`", -3.5),
    ]


def test_the_diagnosis_of_a_whole_trace_is_settled_and_survives_the_file(tmp_path):
    event = SyntheticEvent(
        "Log", samples=(3, 5), inputs=([1.0, 0.0],), input_values=(0.0,),
        outputs=([0.0, float("-inf")],),
    )  # fmt: skip
    trace = training_trace(losses=(0.69, float("-inf")), events=(event,))
    assert diagnose(trace).main.finding.samples == (3, 5)
    search = told("rows", (5,))
    tables = {
        name: trace.table(name) for name in ("steps", "layers", "events", "operands", "samples")
    }
    tables["culprits"] = search.table("culprits")
    both = Trace(tables, {**trace.context, **search.context})
    assert diagnose(both).main.finding.samples == (5,)
    both.save(tmp_path / "trace.h5")
    opened = Trace.open(tmp_path / "trace.h5")
    assert diagnose(opened).main.finding == diagnose(both).main.finding
    assert json.loads(json.dumps(opened.context["culprits"]))["samples"] == [5]


def test_samples_that_are_each_wrong_stay_though_the_step_lives_without_some_of_them():
    labels = replace(finding(3, 5, 9, stage="data"), each_wrong=True)
    assert settled(labels, told("rows", (5,)), main=True).samples == (3, 5, 9)
    assert settled(labels, told("rows", (5, 7)), main=True).samples == (5, 7)
    assert settled(labels, told("whole"), main=True).samples == ()
