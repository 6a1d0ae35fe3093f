"""What does a report say of the training up to the crash?"""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from divergence_doctor.reporters import document
from divergence_doctor.reporters._history import MAX_ROWS, history
from divergence_doctor.reporters.html import Html
from divergence_doctor.reporters.json import Json
from divergence_doctor.reporters.markdown import Markdown
from divergence_doctor.reporters.terminal import Terminal
from divergence_doctor.trace import Trace, TraceBuilder

TOLD: dict[str, Any] = {
    "bundle": "crash-1", "trigger": "non-finite-loss", "message": "the loss of the step is nan",
    "failing": 31, "snapshot": 24, "loop": "fit", "watched": [29, 30], "elsewhere": [],
    "rolled": True, "mode": "graph", "steps": 8, "first_bad": 30, "batch": "00000030.npz",
    "why": "leaves dense/kernel not finite or impossible (its loss is finite, 0.7)",
    "losses": {"compared": 8, "equal": 8, "sentence": "8 of 8 losses equal to the bit",
               "first_difference": None},
}  # fmt: skip


def run(told: Any = TOLD, *, steps: int = 32) -> Trace:
    builder = TraceBuilder()
    for step in range(steps):
        builder.add(
            "history", step=step, epoch=step // 16, source="recorded",
            loss=math.nan if step == 31 else 1.0 / (1 + step), measured=step != 3,
            learning_rate=0.1 if step < 16 else 0.01,
        )  # fmt: skip
    for step in range(24, steps):
        builder.add(
            "history", step=step, epoch=1, source="rolled", loss=0.5, measured=True,
            ulp=0 if step < 30 else 3, bad_variable="dense/kernel" if step > 29 else "",
        )  # fmt: skip
    for step, norm in ((23, 1.5), (29, 900.0), (30, math.nan)):
        builder.add("history", step=step, source="watched", gradient_norm=norm)
    for step, size in ((23, 2.0), (28, 2.5), (29, 60.0), (30, 1e9)):
        for order, layer in enumerate(("a", "b`c")):
            builder.add(
                "ranges", step=step, order=order, layer=layer, absmax=size if order else 1.0,
                nonfinite=0, left=bool(order) and size > 20,
            )  # fmt: skip
    builder.describe(outcome="inconclusive", outcome_because="", recorded=told)
    return builder.build()


def sentences(trace: Trace) -> tuple[str, ...]:
    found = history(trace)
    assert found is not None
    return found.sentences


def test_it_says_what_was_seen_where_it_began_and_how_it_went() -> None:
    seen, lost, again, steps, losses, norms, layer = sentences(run())
    assert seen == "The flight recorder saw it at training step 31: the loss of the step is nan."
    assert lost == (
        "The weights were poisoned at training step 30 by the batch `00000030.npz`: the step leaves"
        " dense/kernel not finite or impossible (its loss is finite, 0.7). The recorder saw it 1"
        " step later."
    )
    assert again == (
        "From the weights of before training step 24 the recorded batches ran again as they were"
        " trained: 8 of 8 losses equal to the bit."
    )
    assert steps == "Steps 0 to 1 of this report are training steps 29 to 30."
    assert losses == (
        "The logged loss went from 1 at training step 0 to NaN at step 31, at learning rates of"
        " 0.01 to 0.1."
    )
    assert norms == "The gradient norm was 1.5 at training step 23 and 900 at step 29."
    assert layer == (
        "The first layer to leave its range was `b'c`, at training step 29: it put out up to 60,"
        " and 2 at step 23."
    )


def test_a_failure_that_did_not_come_again_is_said() -> None:
    said = " ".join(sentences(run({**TOLD, "first_bad": -1})))
    assert "The recorded failure did not come again: the same steps stay sound here." in said
    said = " ".join(sentences(run({**TOLD, "first_bad": -1, "trigger": "requested"})))
    assert "did not come again" not in said


def test_the_step_that_the_recorder_saw_is_said_to_fail_again() -> None:
    said = " ".join(sentences(run({**TOLD, "first_bad": 31, "why": "has a loss of nan"})))
    assert "It failed again at training step 31 by the batch `00000030.npz`" in said
    assert "poisoned" not in said


def test_the_last_steps_are_in_the_report_and_the_cut_is_told() -> None:
    told = document(run(), diagnosed(run()))
    assert told.history is not None
    assert (len(told.history.rows), told.history.total) == (MAX_ROWS, 32)
    text, page = Markdown().render(told), Html().render(told)
    assert "8 more of 32 steps left out here" in text
    assert "8 more of 32 training steps left out here." in page
    assert "| **30** | 1 | 0.03226 | 0.5 | 3 ulp apart | 0.01 |" in text
    assert "| 29 | 1 | 0.03333 | 0.5 | to the bit | 0.01 | — | 900 | — |" in text
    report = json.loads(Json().render(told))
    assert report["fidelity"]["recorded"]["losses"]["equal"] == 8
    assert report["fidelity"]["recorded"]["first_bad"] == 30


def test_a_report_of_another_checkpoint_says_nothing_of_it() -> None:
    trace = run(None)
    assert history(trace) is None
    told = document(trace, diagnosed(trace))
    assert "### Up to the crash" not in Markdown().render(told)
    assert 'id="history"' not in Html().render(told)
    assert "recorded" not in json.loads(Json().render(told))["fidelity"]


@pytest.mark.parametrize(
    "told",
    [
        {}, {"watched": "ab", "first_bad": "x", "failing": True, "losses": [1], "rolled": 1},
        {"message": "<script>alert(1)</script>|`", "watched": [1, "2"], "batch": "[x](http://a)"},
    ],
)  # fmt: skip
def test_what_a_stranger_wrote_into_the_trace_stays_text(told: Any) -> None:
    trace = run(told)
    found = document(trace, diagnosed(trace))
    assert "<script>alert" not in Html().render(found)
    assert "](http" not in Markdown().render(found)


def diagnosed(trace: Trace) -> Any:
    from divergence_doctor.diagnosis import diagnose

    return diagnose(trace, rules=())


def test_the_terminal_says_where_the_weights_were_lost() -> None:
    said = Terminal(width=120).render(document(run(), diagnosed(run())))
    assert "when     The weights were poisoned at training step 30 by the batch" in said
    assert "when" not in Terminal().render(document(run(None), diagnosed(run(None))))
