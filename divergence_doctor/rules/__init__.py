"""Which causes does the doctor know? One per file; each says what it looks like in a trace."""

from divergence_doctor.rules._batch import raised as raised_step
from divergence_doctor.rules._culprits import settled
from divergence_doctor.rules._defects import may_be_negative
from divergence_doctor.rules._rule import (
    Evidence,
    Example,
    Finding,
    Proof,
    Rule,
    Site,
    Verdict,
    all_rules,
)

__all__ = [
    "Evidence",
    "Example",
    "Finding",
    "Proof",
    "Rule",
    "Site",
    "Verdict",
    "all_rules",
    "may_be_negative",
    "raised_step",
    "settled",
]
