"""How did the dangerous number come about? Back from the first producer, op by op, to its source.

The stream of the failing step says which op made each tensor. The way back is walked along the
inputs that carry data from the batch, and the step is run once more to measure the tensors on it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.source import spell
from divergence_doctor.stats import summarize

if TYPE_CHECKING:
    from divergence_doctor.replay.bench import Bench
    from divergence_doctor.replay.opstream import Event, OpStream, Spot
    from divergence_doctor.trace import TraceBuilder

#: Links of a chain: enough to pass through a block or two of any network.
_LONGEST: Final = 24
#: The input through which an op's danger comes in, where it is not the first.
_DANGEROUS_INPUT: Final = {"RealDiv": 1, "Div": 1, "Xdivy": 1, "Xlogy": 1, "FloorMod": 1}
#: Ops that only look at a tensor's shape, or set one up: no value comes through them.
_NO_VALUE: Final = frozenset({"Shape", "Rank", "Size", "ZerosLike", "OnesLike", "Range", "Fill"})


@dataclass(frozen=True, slots=True)
class Link:
    """One tensor on the way back: what made it, and where."""

    what: str
    name: str
    op: int
    output: int
    layer: str = ""
    phase: str = ""
    source: str = ""


def trace_back(stream: OpStream, event: Event) -> list[Link]:
    """Return the chain behind an event, nearest first, down to a batch array or a variable."""
    op = stream.ops[event.op]
    start = stream.ops[op.derivative_of] if op.derivative_of >= 0 else op
    position = _DANGEROUS_INPUT.get(start.op_type, 0)
    keys = [start.inputs[position]] if position < len(start.inputs) else list(start.inputs[:1])
    links: list[Link] = []
    seen: set[int] = set()
    while keys and len(links) < _LONGEST:
        key = keys[0]
        made = stream.output_of(key)
        if made is None:
            origin, name = stream.leaf(key)
            links.append(Link(origin, name, -1, 0))
            break
        if made[0] in seen:
            break
        seen.add(made[0])
        maker = stream.ops[made[0]]
        variable = stream.variable_read_by(maker)
        links.append(
            Link(
                "variable" if variable else "op",
                variable or maker.op_type,
                *made,
                maker.place.layer,
                maker.phase,
                spell(*maker.line) if maker.line else "",
            )
        )
        if variable:
            break
        keys = _onward(stream, maker.op_type, maker.inputs)
    return links


def _onward(stream: OpStream, kind: str, inputs: tuple[int, ...]) -> list[int]:
    """Return an op's inputs, those that carry data from the batch first."""
    position = _DANGEROUS_INPUT.get(kind)
    if position is not None and position < len(inputs):
        return [inputs[position]]
    ranked = [
        key
        for key in inputs
        if (made := stream.maker.get(key)) is None or stream.ops[made].op_type not in _NO_VALUE
    ]
    return sorted(ranked, key=lambda key: not stream.is_from_batch(key))


def measure(bench: Bench, event: Event, step: int, builder: TraceBuilder) -> None:
    """Run the steps once more, measure the tensors of the chain, and add it to the trace."""
    stream = bench.stream
    if stream is None:
        return
    links = trace_back(stream, event)
    spots = stream.spots()
    seen: dict[tuple[Spot, int], dict[str, Any]] = {}
    element = tuple(int(place) for place in event.element.split(",") if place)

    def look(key: tuple[Spot, int]) -> Any:
        def capture(tensor: Any) -> Any:
            if tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_complex:
                values = seams.view(tensor)
                seen[key] = {
                    "dtype": tensor.dtype.name,
                    "shape": "x".join(str(size) for size in values.shape),
                    "value": _at(values, element),
                    **summarize(values),
                }
            return tensor

        return capture

    keys = {
        link: (spot, link.output)
        for link in links
        if link.op >= 0 and (spot := spots[link.op]) is not None
    }
    bench.run(patches={key: look(key) for key in keys.values()}, steps=step + 1)
    batch = bench.batches[step % len(bench.batches)]
    for number, link in enumerate(links):
        fed = _fed(batch.arrays.get(link.name), element) if link.what == "batch" else {}
        builder.add(
            "chain",
            step=step,
            op=event.op,
            link=number,
            what=link.what,
            name=link.name,
            layer=link.layer,
            phase=link.phase,
            source=link.source,
            **(fed or seen.get(keys.get(link, (("", "", -1, "", -1), -1)), {})),
        )


def _fed(values: Any, element: tuple[int, ...]) -> dict[str, Any]:
    if values is None or values.dtype.kind not in "biufc":
        return {}
    return {
        "dtype": str(values.dtype),
        "shape": "x".join(str(size) for size in values.shape),
        "value": _at(values, element),
        **summarize(values),
    }


def _at(values: Any, element: tuple[int, ...]) -> float:
    """Return the value at the same place, where the tensor has the same rank and reaches there."""
    if values.size == 1:
        return float(np.real(values.reshape(-1)[0]))
    if values.ndim != len(element) or any(
        a >= s for a, s in zip(element, values.shape, strict=True)
    ):
        return math.nan
    return float(np.real(values[element]))
