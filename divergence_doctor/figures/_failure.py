"""Where did it fail, as far as a picture marks it? The step, the layer, the op and the samples."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from divergence_doctor.trace import Table, Trace

_EVENTS: Final = ("events/primary", "events/layer", "events/op_type", "events/samples")
_CULPRITS: Final = ("culprits/sample", "culprits/array")


@final
@dataclass(frozen=True, slots=True)
class Failure:
    """What a picture marks.

    Attributes:
        layer: path of the layer that the first producer ran in; empty outside any layer.
        op: TensorFlow op type of the first producer; empty when there is none.
        derivative: it happened in the derivative of that op.
        samples: samples of the batch in which it fails: those whose removal mends the step, where
            the trials found any, else those that hold the first producer's bad elements.
        proven: their removal mends the step: they are to blame.
    """

    layer: str = ""
    op: str = ""
    derivative: bool = False
    samples: tuple[int, ...] = ()
    proven: bool = False


def failure(trace: Trace) -> Failure:
    """Return the first producer of what reached loss, gradient or state; empty without one."""
    proven = _proven(trace)
    if not all(map(trace.has, _EVENTS)):
        return Failure(samples=proven, proven=bool(proven))
    primary = trace.table("events").select(primary=True)
    if not len(primary):
        return Failure(samples=proven, proven=bool(proven))
    return Failure(
        layer=str(primary["layer"][0]),
        op=str(primary["op_type"][0]),
        derivative=bool("derivative" in primary and primary["derivative"][0]),
        samples=proven or _samples(str(primary["samples"][0])),
        proven=bool(proven),
    )


def _proven(trace: Trace) -> tuple[int, ...]:
    """Return the samples without which the step lives."""
    if not all(map(trace.has, _CULPRITS)):
        return ()
    found = trace.table("culprits").select(array="")["sample"]
    return tuple(sorted({sample for sample in found.tolist() if sample >= 0}))


def step_to_show(trace: Trace, table: Table) -> int:
    """Return the failing step where the (non-empty) table holds it, else its last step."""
    steps = table["step"]
    failing = trace.failing_step
    return failing if failing is not None and bool(np.any(steps == failing)) else int(steps.max())


def nonfinite(table: Table) -> NDArray[np.int64]:
    """Return how many elements of each row's tensor are NaN or Inf."""
    counts = [np.maximum(table[name], 0) for name in ("nan", "posinf", "neginf")]
    return np.asarray(sum(counts), dtype=np.int64)


def _samples(text: str) -> tuple[int, ...]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return ()
    listed = found if isinstance(found, list) else []
    return tuple(sample for sample in listed if type(sample) is int and sample >= 0)
