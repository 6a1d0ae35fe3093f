"""Runs to report on: one that diverged and is proven, a healthy one, and a hostile one."""

from __future__ import annotations

import math
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from divergence_doctor.diagnosis import Diagnosis, diagnose
from divergence_doctor.reporters import Document, document
from divergence_doctor.rules import Evidence, Finding, Proof, Rule, Site
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace

#: What a stranger may call a layer: every sink has one thing here that it must not let through.
HOSTILE = (
    "\x1b[2J\x1b]0;owned\x07<script>alert(1)</script>|`a``b```@everyone #1 $\\frac{$ "
    "![x](http://tracker/x.png) [l](javascript:alert(1)) \u202egnp.exe\u2069 "
    '"><img src=x onerror=alert(1)> {{ 7 * 7 }} {% raw %} www.evil.test </details> \\| a\nb\r\n# h'
)


class FixedRule(Rule):
    """A rule that finds what it is told, whatever the trace."""

    id = "log-of-zero"
    code = "DD201"

    def __init__(self, finding: Finding) -> None:
        self.finding = finding

    def examine(self, trace: Trace) -> Finding | None:
        del trace
        return self.finding

    @classmethod
    def fires_on(cls):
        return ()

    @classmethod
    def quiet_on(cls):
        return ()


class FixedSymptom(FixedRule):
    """A symptom that is always found."""

    id = "dead-units"
    code = "DD801"
    symptom = True


class NeedyRule(FixedRule):
    """A rule that is always skipped."""

    id = "bad-sample-weight"
    code = "DD104"
    needs = frozenset({"slots"})


def finding(**fields: Any) -> Finding:
    return Finding(
        **{
            "cause": "log-of-zero",
            "summary": "`Log` in the loss was given 2 zeros (samples 3 and 5) and made -Inf.",
            "confidence": 0.8,
            "stage": "loss",
            "site": Site(step=1, layer="decoder/dense_2", op="Log", source="losses.py:41"),
            "samples": (3, 5),
            "evidence": (
                Evidence("zeros among the inputs of Log", 2, "/operands[0]/zero"),
                Evidence("smallest input", 0.0, "/operands[0]/min"),
                Evidence("its output", -math.inf, "/operands[1]/min"),
                Evidence("the loss after it", math.nan, "/steps[1]/loss"),
            ),
            "remedies": (
                "Keep the argument away from zero: `tf.math.log(tf.maximum(p, 1e-7))`. Not `sqrt`.",
                "Or let Keras do it: `keras.losses.BinaryCrossentropy(from_logits=True)`",
            ),
            "proofs": (Proof("clip-input", {"op": "Log"}), Proof("lower-rate", {"by": 10})),
            **fields,
        }
    )


TRIALS = (
    {
        "name": "lower-rate",
        "cause": "high-learning-rate",
        "changed": "the learning rate divided by 10",
        "outcome": "still-fails",
        "detail": "loss -Inf at step 1",
        "breadth": 3,
    },
    {
        "name": "clip-input",
        "cause": "log-of-zero",
        "changed": "the input of Log kept above 1e-7",
        "outcome": "finite",
        "detail": "10 steps, loss 1.2 to 0.8",
        "breadth": 1,
    },
    {
        "name": "control",
        "cause": "",
        "changed": "",
        "outcome": "still-fails",
        "detail": "loss -Inf at step 1",
        "breadth": 0,
    },
)

CONTEXT: dict[str, Any] = {
    "run": {
        "versions": {"tensorflow": "2.21.0", "keras": "3.15.1"},
        "device": "CPU",
        "dtype_policy": "float32",
        "step": 1200,
        "timings": {"replay": 1.25},
    },
    "fidelity": {
        "optimizer_state": "restored",
        "random_state": "missing",
        "execution": {"reference": "eager", "as_trained": "graph"},
        "notes": ["dropout masks are not the ones of the crash"],
    },
    "checkpoint": {"path": "run 7/model.keras", "format": "keras", "sha256": "ab" * 32},
    "batch": {"paths": ["run 7/batch.npz"]},
    "minimal_batch": {"samples": [3], "verified": True},
    "reproduce": {
        "checkpoint": "run 7/model.keras",
        "format": "keras",
        "batch": "run 7/batch.npz",
        "custom_objects": ["losses.py"],
        "model": None,
        "loss": None,
        "optimizer": None,
        "learning_rate": None,
        "trust": False,
        "seed": 0,
        "steps": 10,
        "arrays": {"x": ["x"], "y": ["y"], "sample_weight": []},
        "input_structure": "single",
    },
}


_COUNTS = {"step": 0, "times": 2, "nan": 0, "posinf": 0, "neginf": 6}
#: A row of what does no harm.
MASKED = {
    **_COUNTS, "what": "op", "name": "Softmax", "layer": "attention", "phase": "forward",
    "source": "model.py:8", "reason": "mask", "because": "a mask on purpose",
    "ended_in": "Softmax", "ended_layer": "attention", "ended_source": "model.py:9",
}  # fmt: skip


def with_rows(trace: Trace, *rows: tuple[str, dict[str, Any]]) -> Trace:
    """Return the trace with these rows in place of the tables that they belong to."""
    builder = TraceBuilder()
    for table, row in rows:
        builder.add(table, **row)
    more = builder.build()
    names = {table for table, _ in rows}
    kept = ("steps", "layers", "activations", "gradients", "weights", "updates", "losses")
    kept += ("targets", "batch", "cells", "samples", "events", "operands", "trials")
    tables = {name: trace.table(name) for name in kept if name not in names}
    return Trace({**tables, **{name: more.table(name) for name in names}}, trace.context)


def diverged_trace(**fields: Any) -> Trace:
    x = np.linspace(-1.0, 1.0, 32).reshape(8, 4)
    x[3, 2] = math.nan
    p = np.full((8, 1), 0.5)
    p[3] = p[5] = 0.0
    log = np.log(np.maximum(p, 1e-300))
    log[3] = log[5] = -math.inf
    last = "decoder/dense_2"
    event = SyntheticEvent(
        "Log",
        layer=last,
        source="losses.py:41",
        samples=(3, 5),
        inputs=(p,),
        input_values=(0.0,),
        outputs=(log,),
    )
    masked = SyntheticEvent(
        "Softmax", phase="forward", layer="attention", reaches="", primary=False
    )
    trace = training_trace(
        **{
            "losses": (0.69, -math.inf),
            "layers": ("encoder/dense", "attention", "decoder/dense_2"),
            "x": x,
            "events": (event, masked),
            "trials": TRIALS,
            "context": CONTEXT,
            "classes": 1,
            "activation": "sigmoid",
            "loss_name": "my_loss",
            **fields,
        }
    )
    return with_rows(
        trace,
        (
            "chain",
            _link(
                p,
                link=0,
                what="op",
                name="Sigmoid",
                layer=last,
                source="model.py:12",
                index="3,0",
                value=0.0,
                departed=True,
                followed=True,
            ),
        ),
        (
            "chain",
            _link(
                p,
                link=1,
                what="variable",
                name=f"{last}/kernel",
                value=-210.0,
                index="1,0",
                followed=True,
                through="term 2 of 4: 1 * -210",
            ),
        ),
        ("chain", _link(x, link=2, what="batch", name="x", value=math.nan)),
        ("harmless", MASKED),
        ("sample_losses", {"step": 1, "name": "my_loss", "sample": 3, "value": math.inf}),
    )


def _link(values: Any, **columns: Any) -> dict[str, Any]:
    return {"step": 1, "op": 0, "phase": "forward", **columns, **tensor(values)}


def diagnosed(trace: Trace, **fields: Any) -> Diagnosis:
    symptom = Finding(
        "dead-units", "31 of 64 units of dense are dead.", 0.6, "forward", Site(step=1)
    )
    return diagnose(
        trace,
        rules=(
            FixedRule(finding(**fields)),
            FixedSymptom(symptom),
            NeedyRule(finding(cause="bad-sample-weight")),
        ),
    )


@pytest.fixture(scope="session")
def runs() -> SimpleNamespace:
    """What the tests make further runs from."""
    return SimpleNamespace(
        diverged_trace=diverged_trace,
        with_rows=with_rows,
        diagnosed=diagnosed,
        hostile_name=HOSTILE,
        context=CONTEXT,
    )


@pytest.fixture(scope="session")
def told(diverged, healthy, empty, hostile) -> dict[str, Document]:
    """The documents of the four runs, their pictures drawn only once."""
    runs = {"diverged": diverged, "healthy": healthy, "empty": empty, "hostile": hostile}
    return {name: document(*run) for name, run in runs.items()}


@pytest.fixture(scope="session")
def diverged() -> tuple[Trace, Diagnosis]:
    trace = diverged_trace()
    return trace, diagnosed(trace)


@pytest.fixture(scope="session")
def healthy() -> tuple[Trace, Diagnosis]:
    trace = training_trace(losses=(1.0, 0.9, 0.8))
    return trace, diagnose(trace, rules=())


@pytest.fixture(scope="session")
def empty() -> tuple[Trace, Diagnosis]:
    trace = TraceBuilder().build()
    return trace, diagnose(trace, rules=())


@pytest.fixture(scope="session")
def hostile() -> tuple[Trace, Diagnosis]:
    """A run in which everything that a stranger can name has a hostile name."""
    name = HOSTILE
    event = SyntheticEvent(
        name,
        layer=name,
        source=name,
        origin="batch",
        origin_name=name,
        samples=(0,),
        inputs=([0.0],),
        outputs=([math.nan],),
    )
    context = {
        **CONTEXT,
        "outcome_because": name,
        "run": {"versions": {name: name}, "device": name},
        "fidelity": {"notes": [name], "execution": {"reference": name, "as_trained": name}},
        "checkpoint": {"path": name, "format": name},
        "batch": {"paths": [name]},
        "died": {"how": name, "place": name},
        "reproduce": {**CONTEXT["reproduce"], "checkpoint": name, "batch": name, "loss": name},
    }
    trials = [
        {"name": name, "cause": "log-of-zero", "changed": name, "outcome": "finite", "detail": name}
    ]
    trace = with_rows(
        training_trace(
            losses=(1.0, math.nan),
            layers=(name, "x" * 100_000),
            events=(event,),
            trials=trials,
            context={key: value for key, value in context.items() if key != "outcome_because"},
        ),
        (
            "chain",
            _link(
                [0.0],
                link=0,
                what=name,
                name=name,
                layer=name,
                source=name,
                index=name,
                followed=True,
                departed=True,
                value=0.0,
                through=name,
            ),
        ),
        ("harmless", {key: name for key in MASKED if key not in _COUNTS} | _COUNTS),
        (
            "cells",
            {"batch": 0, "name": name, "sample": 0, "index": "0,0", "value": math.nan},
        ),
    )
    trace.context["outcome_because"] = name
    site = Site(step=1, layer=name, op=name, source=name)
    return trace, diagnosed(
        trace,
        summary=f"It broke in {name} at {name}",
        site=site,
        samples=(0,),
        evidence=(Evidence(name, name, name),),
        remedies=(f"Change {name}: `{name}`.", f"Look at {name}"),
    )
