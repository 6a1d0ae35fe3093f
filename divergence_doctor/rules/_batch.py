"""What does the trace say of the batch, and how far did its bad values travel?

Shared by the rules about data. It reads the tables ``batch``, ``samples``, ``cells`` and
``events`` and names no cause itself.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from divergence_doctor.rules._rule import Site

if TYPE_CHECKING:
    from collections.abc import Collection, Iterable, Mapping

    from numpy.typing import NDArray

    from divergence_doctor.trace import Trace
    from divergence_doctor.trace.table import Table

#: What goes wrong downstream of a NaN or an Inf that came in from outside: each of these patterns
#: can be seen in a step that was fed one, and none of them is then the cause.
DOWNSTREAM: Final = frozenset(
    {
        "log-of-zero",
        "division-by-zero",
        "invalid-domain",
        "exp-overflow",
        "masked-softmax",
        "high-learning-rate",
        "exploding-gradient",
        "exploding-activation",
        "gradient-singularity",
        "low-precision-overflow",
        "low-precision-underflow",
        "degenerate-normalization",
        "execution-mismatch",
    }
)

Travel = Literal["primary", "reached", "carried", "unseen", "other-producer", "stopped", "harmless"]

#: How sure one can be that bad values are the cause, by how far they were seen to travel.
#: The first two follow them into what broke. "carried": the first bad op was fed a bad value, but
#: from another place. "unseen": the watched step shows no bad op at all (a fused kernel may have
#: turned NaN into 0). The last three are below even odds on purpose: the op that broke the step
#: had finite inputs, the values stopped on the way, or the step is healthy.
CONFIDENCE: Final[Mapping[Travel, float]] = {
    "primary": 0.97,
    "reached": 0.85,
    "carried": 0.6,
    "unseen": 0.6,
    "other-producer": 0.4,
    "stopped": 0.3,
    "harmless": 0.2,
}


#: The same in words, to end a sentence about the values.
TRAVELLED: Final[Mapping[Travel, str]] = {
    "primary": "they are the first bad values of the step",
    "reached": "they reached the loss, a gradient or a state",
    "carried": "the step broke on bad values, though first on others",
    "unseen": "no op was seen to pass them on",
    "other-producer": "but the op that broke the step had finite inputs",
    "stopped": "but they stopped on the way and reached neither loss, gradient nor state",
    "harmless": "but they reached neither loss nor state: told, not blamed",
}


@dataclass(frozen=True, slots=True)
class BadArray:
    """An array of a batch with NaN or Inf in it.

    Attributes:
        name: name of the array, e.g. ``x/image``.
        batch: index of the batch it belongs to.
        nan: NaN cells.
        inf: +Inf and -Inf cells.
        size: cells in all.
        rows: samples that hold bad cells.
        samples: samples in all.
        first: full index of the first bad cell, e.g. ``3,0,17``; empty when not recorded.
    """

    name: str
    batch: int
    nan: int
    inf: int
    size: int
    rows: tuple[int, ...]
    samples: int
    first: str

    @property
    def counts(self) -> str:
        """Return the counts in words, e.g. ``3 NaN and 1 Inf``."""
        parts = [
            f"{count} {kind}" for count, kind in ((self.nan, "NaN"), (self.inf, "Inf")) if count
        ]
        return " and ".join(parts)

    @property
    def blamed(self) -> tuple[int, ...]:
        """Return the samples to blame: none in particular when every sample is bad."""
        return self.rows if len(self.rows) < self.samples else ()


def arrays(trace: Trace, role: str) -> Table:
    """Return the rows of table ``batch`` of one role, of the batch that the failing step was fed.

    Without a failing step, or when that batch was not recorded, every batch counts.
    """
    table = trace.table("batch").select(role=role)
    steps = trace.table("steps")
    at = steps.select(step=trace.failing_step) if trace.failing_step is not None else steps
    if trace.failing_step is None or not len(at):
        return table
    fed = table.select(batch=at["batch"][0])
    return fed if len(fed) else table


def bad_arrays(trace: Trace, role: str) -> tuple[BadArray, ...]:
    """Return the arrays of a role that hold NaN or Inf, in the order of the file."""
    return tuple(
        _bad(trace, row)
        for row in arrays(trace, role).rows()
        if row["nan"] + row["posinf"] + row["neginf"]
    )


def _bad(trace: Trace, row: dict[str, Any]) -> BadArray:
    samples = of_array(trace, "samples", row)
    cells = of_array(trace, "cells", row)
    return BadArray(
        name=row["name"],
        batch=row["batch"],
        nan=row["nan"],
        inf=row["posinf"] + row["neginf"],
        size=row["size"],
        rows=picked(samples, samples["nonfinite"] > 0),
        samples=len(samples),
        first=str(cells["index"][0]) if len(cells) else "",
    )


def of_array(trace: Trace, table: str, row: Mapping[str, Any]) -> Table:
    """Return the rows of ``samples`` or ``cells`` that describe the array of a ``batch`` row."""
    return trace.table(table).select(batch=row["batch"], name=row["name"])


def picked(samples: Table, mask: NDArray[Any]) -> tuple[int, ...]:
    """Return the sample numbers for which a mask over table ``samples`` holds."""
    return tuple(int(sample) for sample in samples["sample"][mask])


def primary(trace: Trace) -> dict[str, Any] | None:
    """Return the event that broke the step: the first one marked primary, or None."""
    events = trace.table("events")
    marked = events.where(np.asarray(events["primary"], dtype=bool))
    return marked.row(0) if len(marked) else None


def travel(
    trace: Trace, names: Collection[str], *, origins: Collection[str] = ("batch",)
) -> Travel:
    """Say how far the bad values of some arrays (or variables) were seen to travel.

    Args:
        trace: the trace.
        names: names of the arrays, or paths of the variables.
        origins: values of ``events/origin`` that belong to such names.

    Returns:
        A key of :data:`CONFIDENCE`.
    """
    if trace.outcome == "healthy":
        return "harmless"
    first = primary(trace)
    if first is not None and first["origin"] in origins and first["origin_name"] in names:
        return "primary"
    own = _own(trace, names, origins)
    if np.any(own["reaches"] != ""):
        return "reached"
    if len(own):
        return "stopped"
    if first is None:
        return "unseen"
    return "other-producer" if first["produced"] else "carried"


def _own(trace: Trace, names: Collection[str], origins: Collection[str]) -> Table:
    """Return the events whose bad values came from some arrays or variables."""
    events = trace.table("events")
    pairs = zip(events["origin"], events["origin_name"], strict=True)
    mask = [origin in origins and name in names for origin, name in pairs]
    return events.where(np.asarray(mask, dtype=bool))


def entered(trace: Trace, names: Collection[str]) -> str:
    """Return where the bad values of some arrays entered the model, in words; empty if unseen."""
    own = _own(trace, names, ("batch",))
    if not len(own):
        return ""
    op, layer, phase = (str(own[column][0]) for column in ("op_type", "layer", "phase"))
    return f"{op} in layer '{layer}'" if layer else f"{op} in the {phase} phase"


def place(trace: Trace) -> Site:
    """Return the place of the event that broke the step; the bare step when there is none."""
    event = primary(trace)
    if event is None:
        return Site(step=trace.failing_step or 0)
    return Site(
        step=event["step"],
        layer=event["layer"] or None,
        op=event["op_type"] or None,
        source=event["source"] or None,
    )


def place_raised(step: Mapping[str, Any]) -> Site:
    """Return the place where a row of table ``steps`` raised."""
    return Site(
        step=step["step"],
        layer=step["raised_layer"] or None,
        op=step["raised_op"] or None,
        source=step["raised_source"] or None,
    )


def raised(trace: Trace) -> dict[str, Any] | None:
    """Return the row of the step that ended in an exception, or None."""
    steps = trace.table("steps")
    rows = steps.where(steps["raised"] != "")
    return rows.row(len(rows) - 1) if len(rows) else None


def losses(trace: Trace) -> NDArray[np.float64]:
    """Return the loss of each replayed step, in order."""
    return np.asarray(trace.table("steps")["loss"], dtype=np.float64)


def as_json(text: str) -> dict[str, Any]:
    """Return a config column as a dictionary; empty when it was cut or is none."""
    try:
        value = json.loads(text or "{}")
    except ValueError:
        return {}
    return value if isinstance(value, dict) else {}


def listed(samples: Iterable[int], *, most: int = 8) -> str:
    """Return sample numbers for a sentence: ``3, 5, 9`` or ``3, 5, ... (40 in all)``."""
    numbers = list(samples)
    if len(numbers) <= most:
        return ", ".join(map(str, numbers))
    return ", ".join(map(str, numbers[:most])) + f", ... ({len(numbers)} in all)"


def named(samples: Iterable[int]) -> str:
    """Return ``sample 3`` or ``samples 3, 5``."""
    numbers = list(samples)
    return f"sample{'s' if len(numbers) != 1 else ''} {listed(numbers)}"
