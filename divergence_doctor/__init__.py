"""Post-mortem divergence diagnosis for TensorFlow and Keras 3.

Importing this package loads neither TensorFlow nor Keras; the public names are imported when they
are first asked for.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from divergence_doctor.capture import FlightRecorder
    from divergence_doctor.diagnosis import Diagnosis, diagnose
    from divergence_doctor.errors import DoctorError
    from divergence_doctor.notebook import load, replay_step
    from divergence_doctor.postmortem import postmortem
    from divergence_doctor.rules import Finding, Rule
    from divergence_doctor.trace import Trace

__version__: Final = "0.1.0"

_HOMES: Final = {
    "Diagnosis": "divergence_doctor.diagnosis",
    "DoctorError": "divergence_doctor.errors",
    "Finding": "divergence_doctor.rules",
    "FlightRecorder": "divergence_doctor.capture",
    "Rule": "divergence_doctor.rules",
    "Trace": "divergence_doctor.trace",
    "diagnose": "divergence_doctor.diagnosis",
    "load": "divergence_doctor.notebook",
    "postmortem": "divergence_doctor.postmortem",
    "replay_step": "divergence_doctor.notebook",
}

__all__ = [
    "Diagnosis",
    "DoctorError",
    "Finding",
    "FlightRecorder",
    "Rule",
    "Trace",
    "__version__",
    "diagnose",
    "load",
    "postmortem",
    "replay_step",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name]), name)
    # The import has just bound a module of that name here, perhaps; the function takes its place.
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return __all__
