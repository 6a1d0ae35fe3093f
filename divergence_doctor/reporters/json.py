"""What does a script read? ``report.json``: strict JSON, every key of the contract always there."""

from __future__ import annotations

import json
import math
from dataclasses import asdict
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.reporters._parts import Chain
from divergence_doctor.reporters._reporter import Reporter

if TYPE_CHECKING:
    from divergence_doctor.reporters._parts import Cause, Document

#: Changes when a key changes its meaning or goes.
SCHEMA: Final = "divergence-doctor/report/1"
_SCHEMA_FILE: Final = "report.schema.json"


@final
class Json(Reporter):
    """The report for scripts.

    JSON has no NaN and no Infinity: a figure that is not finite stands as the string ``"nan"``,
    ``"inf"`` or ``"-inf"``; what is not known is null.
    """

    name: ClassVar[str] = "json"
    filename: ClassVar[str] = "report.json"

    def render(self, document: Document) -> str:
        """Return the report as strict JSON, ASCII only, ending in a line feed."""
        fidelity = document.fidelity
        report = {
            "schema": SCHEMA,
            "outcome": document.outcome,
            "diagnosis": None if document.cause is None else _cause(document.cause),
            "contributing": [_cause(cause) for cause in document.contributing],
            "findings": [
                {**_cause(cause), "symptom": cause.symptom, "explained_by": cause.explained_by}
                for cause in document.findings
            ],
            "ruled_out": [
                {"cause": item.cause, "because": item.because} for item in document.ruled_out
            ],
            "fidelity": {
                "optimizer_state": fidelity.optimizer_state,
                "random_state": fidelity.random_state,
                "execution": {"reference": fidelity.reference, "as_trained": fidelity.as_trained},
                "notes": list(fidelity.notes),
                **_recorded(document),
            },
            "run": document.run,
            "chain": _chain(document.where.chain if document.where is not None else Chain()),
            "harmless": [asdict(told) for told in document.told],
        }
        return json.dumps(_strict(report), indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def _recorded(document: Document) -> dict[str, Any]:
    """Return how the recorded run of a crash bundle came again; empty for other checkpoints."""
    past = document.history
    return {} if past is None else {"recorded": {**past.told, "losses": past.losses}}


def schema() -> dict[str, Any]:
    """Return the JSON Schema (draft 2020-12) that every ``report.json`` keeps to."""
    text = resources.files(__package__).joinpath(_SCHEMA_FILE).read_text(encoding="utf-8")
    loaded: dict[str, Any] = json.loads(text)
    return loaded


def _chain(chain: Chain) -> dict[str, Any]:
    return {
        "sentence": chain.sentence,
        "links": [asdict(link) for link in chain.links],
        "left_out": chain.left_out,
    }


def _cause(cause: Cause) -> dict[str, Any]:
    return {
        "cause": cause.cause,
        "code": cause.code,
        "confidence": cause.confidence,
        "confirmed": cause.confirmed,
        "stage": cause.stage,
        "step": cause.step,
        "layer": cause.layer,
        "op": cause.op,
        "source": cause.source,
        "samples": list(cause.samples),
        "summary": cause.summary,
        "evidence": [
            {"claim": claim.claim, "value": claim.value, "where": claim.where}
            for claim in cause.evidence
        ],
        "remedies": list(cause.advice),
        "trials": [
            {
                "name": trial.name,
                "changed": trial.changed,
                "outcome": trial.outcome,
                "detail": trial.detail,
            }
            for trial in cause.trials
        ],
    }


def _strict(value: Any) -> Any:
    """Return JSON values without NaN and Infinity."""
    if isinstance(value, float) and not math.isfinite(value):
        return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
    if isinstance(value, dict):
        return {key: _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    return value
