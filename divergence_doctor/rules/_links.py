"""Where did the number come from that the first bad op was given? The chain as rules read it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Producer
    from divergence_doctor.trace import Trace

#: Ops that hand elements on as they are, in another place or shape.
MOVES: Final = frozenset(
    {
        *("Identity", "IdentityN", "StopGradient", "Reshape", "Squeeze", "ExpandDims", "Transpose"),
        *("StridedSlice", "Slice", "GatherV2", "Gather", "GatherNd", "Tile", "BroadcastTo", "Pack"),
        *("Unpack", "ConcatV2", "Split", "SplitV", "ReverseV2", "Cast", "DynamicPartition"),
        *("BooleanMask", "DynamicStitch"),
    }
)


@final
@dataclass(frozen=True, slots=True)
class Link:
    """One link of a chain of origin.

    Attributes:
        what: op, variable, batch or constant.
        name: op type, variable path or array name.
        layer, phase, source: where the op ran.
        value: the element on the way; NaN where none could be followed.
        size: elements of the tensor.
        beside: op that made the other side of a product or a choice.
        low, high, mean: of the tensor's finite elements.
    """

    what: str
    name: str
    layer: str
    phase: str
    source: str
    value: float
    size: int
    beside: str = ""
    low: float = math.nan
    high: float = math.nan
    mean: float = math.nan


def links_of(trace: Trace, producer: Producer) -> tuple[Link, ...]:
    """Return the chain of a producer, nearest link first; empty where none was walked."""
    rows = trace.table("chain").select(step=producer.step, op=producer.op).rows()
    ordered = sorted(rows, key=lambda row: int(row["link"]))
    return tuple(
        Link(
            what=row["what"],
            name=row["name"],
            layer=row["layer"],
            phase=row["phase"],
            source=row["source"],
            value=float(row["value"]) if row["followed"] else float("nan"),
            size=int(row["size"]),
            beside=str(row.get("beside", "")),
            low=float(row["min"]),
            high=float(row["max"]),
            mean=float(row["mean"]),
        )
        for row in ordered
    )
