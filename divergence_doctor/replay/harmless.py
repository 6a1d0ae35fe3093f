"""Which non-finite values of a step did no harm, and by which mechanism? Told, not blamed.

A bad value is harmless when it reaches neither the loss nor a gradient nor the state. The stream of
the step says where it stopped: the ops that took it in and put out finite numbers only. What those
ops do with it is the reason.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.replay.source import spell

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from divergence_doctor.replay.ops import Event, Op
    from divergence_doctor.replay.opstream import OpStream

_POOLING: Final = frozenset({"MaxPool", "MaxPoolV2", "MaxPool3D", "MaxPoolWithArgmax"})
_COMPARING: Final = frozenset(
    {
        *("Maximum", "Minimum", "Max", "Min", "ClipByValue", "Relu", "Relu6", "TopKV2", "ArgMax"),
        *("UnsortedSegmentMax", "UnsortedSegmentMin", "SegmentMax", "SegmentMin"),
    }
)
_SELECTING: Final = frozenset({"Select", "SelectV2", "Where", "MulNoNan", "DivNoNan", "Xlogy"})
_LEAVING_OUT: Final = frozenset(
    {"GatherV2", "Gather", "GatherNd", "StridedSlice", "Slice", "Unpack", "Split", "SplitV"}
)
_LOOKING: Final = frozenset(
    {
        *("IsNan", "IsInf", "IsFinite", "Equal", "NotEqual", "Less", "LessEqual", "Greater"),
        *("GreaterEqual", "Shape", "Rank", "Size", "ZerosLike", "OnesLike", "Sign", "Cast"),
    }
)
#: Ops for which minus (or plus) infinity is an ordinary number with a finite limit.
_BEARING: Final = frozenset(
    {
        *("Softmax", "LogSoftmax", "Exp", "Expm1", "Sigmoid", "Tanh", "Softplus", "Elu", "Selu"),
        *("Erf", "Erfc", "Atan", "Reciprocal", "Inv", "RealDiv", "Rsqrt", "Softsign", "Xdivy"),
        *("SoftmaxCrossEntropyWithLogits", "SparseSoftmaxCrossEntropyWithLogits"),
    }
)

#: The mechanisms, as the trace spells them, each with the sentence that a report says.
BECAUSE: Final = {
    "skipped-step": "loss scaling skipped the step on purpose and halves its scale",
    "replaced-target": "replaced before the loss used it",
    "mask": "a mask on purpose: the op that takes it in turns an infinity into an ordinary number",
    "infinity-borne": "the op that takes it in turns an infinity into an ordinary number",
    "max-pooling": "max-pooling dropped it; it drops a NaN only while another value is there",
    "comparison": "a maximum, a minimum or a clipping took another value",
    "not-selected": "in the branch that was not selected, and no gradient flows through it",
    "left-out": "in the part that was left out",
    "metric": "only a metric keeps it",
    "only-looked-at": "it was only compared or counted",
    "unused": "nothing that leads to the loss or the state reads it",
    "other": "the op that takes it in puts out finite numbers all the same",
}


@dataclass(slots=True)
class _Bad:
    """One bad tensor, or many of one place, that came to nothing."""

    what: str
    name: str
    place: tuple[str, str, str]
    counts: tuple[int, int, int]
    reason: str
    op: Op | None
    times: int = 1


def harmless(stream: OpStream, *, step: int, skipped: bool) -> Iterator[dict[str, Any]]:
    """Yield rows of the table ``harmless``: where it arose, where it ended, and why it is benign.

    Args:
        stream: the watched stream of one step, settled.
        step: number of the step.
        skipped: loss scaling skipped this step's update on purpose.
    """
    if not stream.taints:
        return
    ends, phases = _ends(stream), stream.phases()
    kept: dict[tuple[Any, ...], _Bad] = {}
    blamed = {(event.origin, event.origin_name) for event in stream.events if event.reaches}
    for bad in _bad_ones(stream, ends, phases, skipped=skipped):
        if not skipped and (bad.what, bad.name) in blamed - {("op", bad.name)}:
            continue  # the same variable or array did its harm elsewhere
        ended = (bad.op.op_type, bad.op.place.layer) if bad.op is not None else ("", "")
        key = (bad.what, bad.name, bad.place, bad.reason, ended)
        if key in kept:
            known = kept[key]
            known.times += 1
            known.counts = tuple(  # type: ignore[assignment]
                a + b for a, b in zip(known.counts, bad.counts, strict=True)
            )
        else:
            kept[key] = bad
    for bad in kept.values():
        yield _row(bad, step)


def _row(bad: _Bad, step: int) -> dict[str, Any]:
    layer, phase, source = bad.place
    return {
        "step": step,
        "what": bad.what,
        "name": bad.name,
        "layer": layer,
        "phase": phase,
        "source": source,
        "times": bad.times,
        "nan": bad.counts[0],
        "posinf": bad.counts[1],
        "neginf": bad.counts[2],
        "reason": bad.reason,
        "because": BECAUSE[bad.reason],
        "ended_in": bad.op.op_type if bad.op is not None else "",
        "ended_layer": bad.op.place.layer if bad.op is not None else "",
        "ended_source": spell(*bad.op.line) if bad.op is not None and bad.op.line else "",
    }


def _bad_ones(
    stream: OpStream, ends: dict[int, list[int]], phases: list[str], *, skipped: bool
) -> Iterator[_Bad]:
    onward: dict[int, list[int]] = {}
    for number, event in enumerate(stream.events):
        for key in event.bad_inputs:
            parent = stream.taints[key].event if key in stream.taints else -1
            if parent >= 0:
                onward.setdefault(parent, []).append(number)
    for number, event in enumerate(stream.events):
        if not (event.produced or _is_first(stream, event)) or (event.reaches and not skipped):
            continue
        op = stream.ops[event.op]
        forward = stream.ops[op.derivative_of] if op.derivative_of >= 0 else op
        what, name = _named(event, forward)
        if (what, name) == ("variable", "variable"):
            continue  # no part of the model's state: a metric that was bad already
        line = spell(*forward.line) if forward.line else ""
        place = (forward.place.layer, phases[event.op], line)
        if skipped and event.reaches:
            yield _Bad(what, name, place, event.counts, "skipped-step", None)
            continue
        last = _outputs(stream, _led_to(number, onward))
        stops = [stream.ops[end] for key in last for end in ends.get(key, ())]
        reason, end = _reason(stops, only_infinite=not event.counts[0])
        yield _Bad(what, name, place, event.counts, _refined(reason, what, name), end)
    yield from _leaves(stream, ends, phases)


def _is_first(stream: OpStream, event: Event) -> bool:
    """Say whether what an event took in was bad from the start: no op of the step made it."""
    known = [stream.taints[key].event for key in event.bad_inputs if key in stream.taints]
    return all(number < 0 for number in known)


def _refined(reason: str, what: str, name: str) -> str:
    """Return the reason with what is known of the bad value's purpose."""
    if what == "constant" and reason == "infinity-borne":
        return "mask"
    if what == "batch" and name.partition("/")[0] == "y" and reason != "unused":
        return "replaced-target"
    return reason


def _leaves(stream: OpStream, ends: dict[int, list[int]], phases: list[str]) -> Iterator[_Bad]:
    """Yield bad arrays of the batch and constants that no op handed on as bad."""
    handed_on = {key for event in stream.events for key in event.bad_inputs}
    for key, taint in stream.taints.items():
        if taint.event >= 0 or key in handed_on or taint.origin not in {"batch", "constant"}:
            continue
        stops = ends.get(key, [])
        reason, end = _reason([stream.ops[at] for at in stops], only_infinite=not taint.nan)
        phase = phases[stops[0]] if stops else ""
        reason = _refined(reason, taint.origin, taint.name)
        yield _Bad(taint.origin, taint.name, ("", phase, ""), taint.counts, reason, end)


def _named(event: Event, forward: Op) -> tuple[str, str]:
    if event.origin in {"batch", "variable", "constant"} and not event.produced:
        return event.origin, event.origin_name
    return "op", forward.op_type


def _led_to(start: int, onward: dict[int, list[int]]) -> set[int]:
    seen, stack = {start}, [start]
    while stack:
        for number in onward.get(stack.pop(), ()):
            if number not in seen:
                seen.add(number)
                stack.append(number)
    return seen


def _outputs(stream: OpStream, events: Iterable[int]) -> Iterator[int]:
    for number in events:
        yield from stream.ops[stream.events[number].op].outputs


def _ends(stream: OpStream) -> dict[int, list[int]]:
    """Return for every bad tensor the ops that took it in and put out nothing bad."""
    taints = stream.taints
    found: dict[int, list[int]] = {}
    for index, op in enumerate(stream.ops):
        for key in op.inputs:
            if key in taints and not any(out in taints for out in op.outputs):
                found.setdefault(stream.untapped(key), []).append(index)
    return found


def _reason(stops: list[Op], *, only_infinite: bool) -> tuple[str, Op | None]:
    """Return the mechanism by which a bad value stopped, the most telling first, and the op."""
    for kinds, reason in (
        (_POOLING, "max-pooling"),
        (_SELECTING, "not-selected"),
        (_COMPARING, "comparison"),
        (_BEARING if only_infinite else frozenset(), "infinity-borne"),
        (_LEAVING_OUT, "left-out"),
    ):
        for op in stops:
            if op.op_type in kinds:
                return reason, op
    written = next((op for op in stops if op.op_type.startswith("Assign")), None)
    if written is not None:
        return "metric", written
    others = [op for op in stops if op.op_type not in _LOOKING and op.outputs]
    if others:
        return "other", others[0]
    return ("only-looked-at", stops[0]) if stops else ("unused", None)
