"""What would the numbers around the failure be, had just that step been computed in float32?

The steps before it run as they were trained, so that both start from the same weights. An op is
found again by what it is, where it ran, and how many alike ran there before.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor.errors import DoctorError
from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.chain import Rerun, on_the_way
from divergence_doctor.replay.elements import value_at
from divergence_doctor.replay.precision import computed_in, narrow

if TYPE_CHECKING:
    from collections.abc import Iterator

    from divergence_doctor.replay.bench import Bench
    from divergence_doctor.replay.chain import Walked
    from divergence_doctor.replay.feeding import Fed
    from divergence_doctor.replay.ops import Event, Line
    from divergence_doctor.replay.opstream import OpStream
    from divergence_doctor.replay.recording import Made, Recording
    from divergence_doctor.trace import TraceBuilder

#: Links whose ops are compared: beyond, what is rounded on the way is no longer this failure's.
_LINKS: Final = 24
#: Inputs of one op that are compared.
_INPUTS: Final = 8

#: How an op is found again: its type, its forward op's key where it is of a derivative, phase,
#: layer, call, line, and how many alike ran before.
_Key = tuple[str, Any, str, str, int, "Line", int]


def measure(bench: Bench, event: Event, step: int, walked: Walked, builder: TraceBuilder) -> None:
    """Run the failing step in float32 and add what its numbers are there to ``float32``.

    Nothing is added where nothing of the failure is in half precision, or where that step cannot be
    computed otherwise.

    Args:
        bench: the failing step, ready to be run again.
        event: the primary event of the failing step.
        step: that step.
        walked: the same step as it was, with the tensors on the way to the failure held.
        builder: where the rows go.
    """
    compared = list(_compared(walked))
    if bench.stream is None or not any(_in_half(made) for _, _, made, _ in compared):
        return
    rerun = _Float32(bench, step, event)
    try:
        run = bench.run(steps=step + 1, watching=rerun.watching)
    except DoctorError:
        return
    if rerun.stream is None or rerun.recording is None or (run.fault and run.fault.raised):
        return
    keys, places = _keys(walked.stream), _places(rerun.stream)
    finite = not any(other.primary for other in rerun.stream.events)
    for link, index, made, element in compared:
        twin = _held(rerun.stream, rerun.recording, places.get(keys[index], -1))
        if twin is None and made.op_type == "Cast":
            # A cast to half precision that float32 does without: there it is what was cast.
            twin = replace(made, outputs=made.inputs)
        if twin is not None and len(twin.inputs) == len(made.inputs):
            for row in _rows(made, twin, element, walked.stream):
                builder.add(
                    "float32", step=step, op=event.op, link=link, op_type=made.op_type,
                    step_finite=finite, **row,
                )  # fmt: skip


class _Float32(Rerun):
    """The failing step in float32, watched, with the tensors on the way held."""

    def __init__(self, bench: Bench, step: int, event: Event) -> None:
        assert bench.stream is not None  # noqa: S101 - the caller has looked
        super().__init__(bench, step, on_the_way(bench.stream, event))

    @contextmanager
    def watching(self, step: int, fed: Fed, data: Any) -> Iterator[None]:
        if step != self.step:
            yield
            return
        with computed_in(self.bench.model, "float32"), super().watching(step, fed, data):
            yield


def _compared(walked: Walked) -> Iterator[tuple[int, int, Made, tuple[Any, Any]]]:
    """Yield (link, op, its tensors, (element, output)) of the event's op and of the chain's."""
    event = next((event for event in walked.stream.events if event.primary), None)
    if event is None:
        return
    op = walked.stream.ops[event.op]
    inner = _held(walked.stream, walked.recording, event.op)
    element = tuple(int(place) for place in event.element.split(",") if place)
    if inner is not None:
        bad = _first_bad(inner)
        yield -1, event.op, inner, (element, bad)
    if op.derivative_of >= 0:
        forward = _held(walked.stream, walked.recording, op.derivative_of)
        if forward is not None:
            yield -2, op.derivative_of, forward, (element, 0)
    for link, one in enumerate(walked.links[:_LINKS]):
        made = walked.stream.output_of(seams.identity(one.tensor)) if one.what == "op" else None
        held = _held(walked.stream, walked.recording, made[0]) if made is not None else None
        if made is not None and held is not None:
            yield link, made[0], held, (one.index, made[1])


def _held(stream: OpStream, recording: Recording, index: int) -> Made | None:
    if index < 0:
        return None
    found = (recording.maker_of_key(key) for key in stream.ops[index].outputs)
    return next((made for made in found if made is not None), (None, 0))[0]


def _first_bad(made: Made) -> int:
    """Return the first output that is not finite; 0 where all are."""
    for output, tensor in enumerate(made.outputs):
        if tensor.dtype.is_floating and not np.isfinite(_wide(tensor)).all():
            return output
    return 0


def _in_half(made: Made) -> bool:
    return narrow([tensor.dtype.name for tensor in (*made.inputs, *made.outputs)])


def _keys(stream: OpStream) -> list[_Key]:
    counts: dict[Any, int] = {}
    keys: list[_Key] = []
    phases = stream.phases()
    for index, op in enumerate(stream.ops):
        forward = keys[op.derivative_of] if op.derivative_of >= 0 else None
        alike = (op.op_type, forward, phases[index], op.place.layer, op.place.call, op.line)
        counts[alike] = counts.get(alike, 0) + 1
        keys.append((*alike, counts[alike]))
    return keys


def _places(stream: OpStream) -> dict[_Key, int]:
    return {key: index for index, key in enumerate(_keys(stream))}


def _rows(
    made: Made, twin: Made, followed: tuple[Any, int], stream: OpStream
) -> Iterator[dict[str, Any]]:
    element, output = followed
    shape = tuple(made.outputs[output].shape.as_list()) if made.outputs else ()
    pairs = [
        *(("input", *pair) for pair in enumerate(zip(made.inputs, twin.inputs, strict=True))),
        *(("output", *pair) for pair in enumerate(zip(made.outputs, twin.outputs, strict=False))),
    ]
    for role, position, (tensor, other) in pairs:
        floating = tensor.dtype.is_floating and other.dtype.is_floating
        if not floating or tensor.shape != other.shape or position >= _INPUTS:
            continue
        own, wide = _wide(tensor), _wide(other)
        elsewhere = role == "output" and position != output
        at = None if element is None or elsewhere or len(element) != len(shape) else element
        yield {
            "role": role,
            "position": position,
            "origin": _origin(stream, tensor),
            "dtype": tensor.dtype.name,
            "value": _at(own, at, shape),
            "float32": _at(wide, at, shape),
            "absmax": _absmax(own),
            "float32_absmax": _absmax(wide),
            "nonfinite": int((~np.isfinite(own)).sum()),
            "float32_nonfinite": int((~np.isfinite(wide)).sum()),
        }


def _origin(stream: OpStream, tensor: Any) -> str:
    made = stream.output_of(seams.identity(tensor))
    if made is None:
        return stream.leaf(seams.identity(tensor))[0]
    return "variable" if stream.variable_read_by(stream.ops[made[0]]) else "op"


def _at(values: Any, element: tuple[int, ...] | None, shape: tuple[int, ...]) -> float:
    if element is None and values.size != 1:
        return float("nan")
    return value_at(values, element or (), shape)


def _absmax(values: Any) -> float:
    finite = np.abs(values[np.isfinite(values)])
    return float(finite.max()) if finite.size else float("nan")


def _wide(tensor: Any) -> Any:
    values = seams.view(tensor)
    return values if values.dtype == np.float64 else values.astype(np.float32)
