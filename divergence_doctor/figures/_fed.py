"""Which arrays was a step fed?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from divergence_doctor.trace import Table, Trace


def arrays_of(trace: Trace, step: int) -> Table:
    """Return the arrays of the batch that a step was fed; of the last batch where none is named.

    Args:
        trace: its table ``batch`` must not be empty.
        step: replayed step.
    """
    arrays = trace.table("batch")
    if trace.has("steps/batch"):
        for index in trace.table("steps").select(step=step)["batch"].tolist():
            if index in arrays["batch"]:
                return arrays.select(batch=index)
    return arrays.select(batch=int(arrays["batch"][-1]))
