"""report.json: strict, deterministic, and every key of the contract is always there."""

from __future__ import annotations

import json

import pytest
from jsonschema import Draft202012Validator, ValidationError

from divergence_doctor.reporters.json import SCHEMA, Json, schema
from tests.reporters._schema import everything_named

TOP_KEYS = {
    *("schema", "outcome", "diagnosis", "contributing", "findings", "ruled_out"),
    *("fidelity", "run", "chain", "harmless"),
}
CAUSE_KEYS = {
    *("cause", "code", "confidence", "confirmed", "stage", "step", "layer", "op", "source"),
    *("samples", "summary", "evidence", "remedies", "trials"),
}
FIDELITY_KEYS = {"optimizer_state", "random_state", "execution", "notes"}


def strictly(text):
    def refuse(token):
        raise AssertionError(f"{token} is no JSON")

    return json.loads(text, parse_constant=refuse)


def load(told):
    return strictly(Json().render(told))


@pytest.mark.parametrize("name", ["diverged", "healthy", "empty", "hostile"])
def test_a_report_keeps_to_the_schema_and_holds_nothing_that_it_does_not_name(name, told):
    closed = everything_named(schema())
    report = load(told[name])
    Draft202012Validator(closed).validate(report)
    with pytest.raises(ValidationError):
        Draft202012Validator(closed).validate({**report, "more": 1})


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (("outcome",), "fine"),
        (("diagnosis", "confidence"), 1.5),
        (("diagnosis", "stage"), "nowhere"),
        (("diagnosis", "evidence", 0, "value"), [1]),
        (("chain", "links", 0, "value"), "infinity"),
        (("diagnosis", "trials", 0, "outcome"), "died"),
        (("findings", 0, "symptom"), None),
        (("run", "versions"), "2.21"),
        (("outcome",), "healthy"),
    ],
)
def test_the_schema_refuses_what_a_report_may_not_say(path, value, told):
    report = load(told["diverged"])
    place = report
    for key in path[:-1]:
        place = place[key]
    place[path[-1]] = value
    with pytest.raises(ValidationError):
        Draft202012Validator(schema()).validate(report)


def test_the_schema_is_a_schema():
    Draft202012Validator.check_schema(schema())
    assert schema()["title"] == SCHEMA


@pytest.mark.parametrize("name", ["diverged", "healthy", "empty", "hostile"])
def test_every_key_of_the_contract_is_there(name, told):
    report = load(told[name])
    assert set(report) == TOP_KEYS
    assert report["schema"] == "divergence-doctor/report/1"
    assert set(report["fidelity"]) == FIDELITY_KEYS
    assert set(report["fidelity"]["execution"]) == {"reference", "as_trained"}
    assert {"versions", "device", "dtype_policy", "optimizer", "step", "timings"} <= set(
        report["run"]
    )
    for cause in [*filter(None, [report["diagnosis"]]), *report["contributing"]]:
        assert set(cause) == CAUSE_KEYS
    for cause in report["findings"]:
        assert set(cause) == CAUSE_KEYS | {"symptom", "explained_by"}


def test_the_diagnosis_says_cause_place_samples_and_proof(told):
    cause = load(told["diverged"])["diagnosis"]
    assert (cause["cause"], cause["code"], cause["confirmed"]) == ("log-of-zero", "DD201", True)
    assert (cause["stage"], cause["step"], cause["op"]) == ("loss", 1, "Log")
    assert (cause["layer"], cause["source"]) == ("decoder/dense_2", "losses.py:41")
    assert cause["samples"] == [3, 5]
    assert cause["confidence"] == 0.97
    assert [(t["name"], t["outcome"]) for t in cause["trials"]] == [
        ("control", "still-fails"),
        ("clip-input", "finite"),
    ]


def test_figures_that_are_not_finite_are_strings(told):
    values = [item["value"] for item in load(told["diverged"])["diagnosis"]["evidence"]]
    assert values == [2, 0.0, "-inf", "nan"]


def test_a_healthy_run_has_no_diagnosis(told):
    report = load(told["healthy"])
    assert report["outcome"] == "healthy"
    assert report["diagnosis"] is None
    assert report["contributing"] == []


def test_a_symptom_names_the_cause_that_explains_it(told):
    by_cause = {item["cause"]: item for item in load(told["diverged"])["findings"]}
    assert by_cause["dead-units"]["symptom"] is True
    assert by_cause["dead-units"]["explained_by"] == "log-of-zero"
    assert by_cause["log-of-zero"]["symptom"] is False


def test_a_rule_that_could_not_look_is_ruled_out_with_its_reason(told):
    assert load(told["diverged"])["ruled_out"] == [
        {"cause": "bad-sample-weight", "because": "not examined: the trace holds no slots"}
    ]


def test_a_trace_that_does_not_tell_its_fidelity_says_so(told):
    fidelity = load(told["empty"])["fidelity"]
    assert fidelity["notes"] == ["The trace does not say how true the replay is to the run."]


def test_the_text_is_ascii_and_shows_what_was_hidden(told):
    text = Json().render(told["hostile"])
    assert text.isascii()
    assert "\\\\u202e" in text
    assert "\\u202e" not in text.replace("\\\\u202e", "")
