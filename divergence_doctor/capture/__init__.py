"""How do the batch and the state from before the failing step come to be there? They are kept.

:class:`FlightRecorder` rides along with ``model.fit`` or a loop of one's own; ``doctor run``
attaches it to a script that knows nothing of it. What it leaves is a crash bundle.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from divergence_doctor.capture.callback import FlightRecorder
    from divergence_doctor.capture.options import DivergenceError

#: Imported when they are asked for: the callback is a Keras class.
_HOMES: Final = {
    "DivergenceError": "divergence_doctor.capture.options",
    "FlightRecorder": "divergence_doctor.capture.callback",
}

__all__ = ["DivergenceError", "FlightRecorder"]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
