"""Is a context whose values have other shapes refused, and what is let through always told?"""

from __future__ import annotations

import copy
from dataclasses import replace
from typing import Any

import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.errors import RefusedError
from divergence_doctor.reporters import document
from divergence_doctor.reporters._reporter import all_reporters
from divergence_doctor.trace import Trace
from divergence_doctor.trace._context import _SHAPES, misshapen
from divergence_doctor.trace.synthetic import training_trace

#: One value of every kind that JSON has.
VALUES = (
    5,
    2**80,
    -1.5,
    "x",
    "inf",
    True,
    None,
    [],
    [1],
    ["x"],
    [[]],
    [{}],
    {},
    {"a": 1},
    {"a": "b"},
)
#: Keys that readers look at, with those that they take in any shape.
KEYS = (*_SHAPES, "reproduce/names", "reproduce/model", "reproduce/input_structure", "run/seed",
        "run/dtype_policy", "reproduce/loss", "reproduce/jit", "more")  # fmt: skip
WHOLE: dict[str, Any] = {
    "run": {"versions": {"keras": "3"}, "timings": {}, "step": 3, "device": "CPU"},
    "fidelity": {"notes": ["a"], "execution": {"reference": "eager"}, "random_state": "missing"},
    "checkpoint": {"path": "model.keras"},
    "batch": {"paths": ["batch.npz"]},
    "optimizer": {"class": "SGD", "config": {"learning_rate": 0.1}},
    "culprits": {"outcome": "rows", "because": "so", "samples": [1], "batch": 0, "refuted": [[2]]},
    "minimal_batch": {"samples": [1], "copy": -1, "verified": True, "replays": 2},
    "died": {"how": "killed", "place": "step 1"},
    "last_good": {"file": "a", "of": 2, "read": 1, "next": "b", "oldest": "a"},
    "reproduce": {"checkpoint": "model.keras", "batch": "b.npz", "arrays": {"x": ["x"]},
                  "seed": 0, "steps": 3, "learning_rate": 0.1},
}  # fmt: skip


def with_value(path: str, value: Any) -> dict[str, Any]:
    context = copy.deepcopy(WHOLE)
    place = context
    *above, last = path.split("/")
    for key in above:
        place = place.setdefault(key, {})
    place[last] = value
    return context


@pytest.mark.parametrize("path", KEYS)
def test_what_is_let_through_can_be_told_and_the_rest_is_named(path: str) -> None:
    base = training_trace(losses=(1.0, 9e9), outcome="diverged")
    tables = {name: base.table(name) for name in ("steps", "layers", "batch", "samples", "trials")}
    passed = 0
    for value in VALUES:
        context = {**base.context, **with_value(path, value)}
        wrong = misshapen(context)
        if wrong:
            assert wrong.startswith(f"{path} that is not ")
            continue
        passed += 1
        trace = Trace(tables, context)
        told = replace(document(trace, diagnose(trace)), pictures=())
        for reporter in all_reporters():
            # A page takes long to make, and is made of the strings that the others show.
            if reporter.name != "html" and reporter.suits(told):
                reporter.render(told)
    assert passed > 0
    assert (passed < len(VALUES)) == (path in _SHAPES)


def test_a_file_with_such_a_context_is_refused_with_the_key(tmp_path) -> None:
    trace = training_trace()
    trace.context["culprits"] = {"samples": "all"}
    trace.save(tmp_path / "trace.h5")
    with pytest.raises(RefusedError) as refused:
        Trace.open(tmp_path / "trace.h5")
    assert refused.value.why == (
        "its context holds culprits/samples that is not a list of whole numbers"
    )


def test_a_whole_context_is_taken() -> None:
    assert misshapen(WHOLE) == ""
    assert misshapen({}) == ""
