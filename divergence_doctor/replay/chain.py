"""How did the dangerous number come about? Back from the failure, element by element.

The failing step is run once more, the tensors that may lie on the way are held, and the way is
walked from the bad element through the element of each op's input that dominated it: to a cell of
the batch, a cell of a weight, or a constant. An op that cannot be followed keeps its range only.
"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.engine import watch_for
from divergence_doctor.replay.following import Danger, follow, number, turned, wide
from divergence_doctor.replay.recording import HANDING_ON, Recording, kind_of
from divergence_doctor.replay.source import spell
from divergence_doctor.stats import summarize
from divergence_doctor.trace import TraceBuilder

if TYPE_CHECKING:
    from collections.abc import Iterator

    from divergence_doctor.replay.bench import Bench
    from divergence_doctor.replay.feeding import Fed
    from divergence_doctor.replay.following import Index
    from divergence_doctor.replay.ops import Event, Op
    from divergence_doctor.replay.opstream import OpStream
    from divergence_doctor.replay.recording import Kind, Made

#: Links of a chain: enough for the deepest of networks, or a hundred steps of a recurrent one.
_LONGEST: Final = 160
#: Ops that only look at a tensor's shape, or set one up: no value comes through them.
_NO_VALUE: Final = frozenset({"Shape", "Rank", "Size", "ZerosLike", "OnesLike", "Range", "Fill"})
#: The input through which the data come, of ops that cannot be followed by element.
_DATA_INPUT: Final = {
    **dict.fromkeys(("Conv2DBackpropInput", "Conv3DBackpropInputV2"), 2),
    **dict.fromkeys(("Conv2DBackpropFilter", "Conv3DBackpropFilterV2"), 2),
    **dict.fromkeys(("DepthwiseConv2dNativeBackpropInput", "MaxPoolGrad"), 2),
}
#: Products and choices: what stood on the other side tells what was masked.
_TWO_SIDED: Final = frozenset({"Mul", "MulNoNan", "SelectV2", "Select"})
#: Ops that bring in a variable.
_READS: Final = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd"})

#: Ops, and derivatives of ops, that are singular at 0, with the input that must not be 0.
_AT_ZERO: Final = {
    **dict.fromkeys(("Log", "Sqrt", "Rsqrt", "Reciprocal", "Inv", "Pow", "ComplexAbs"), 0),
    **dict.fromkeys(("EuclideanNorm", "Lgamma", "Digamma", "SqrtGrad", "ReciprocalGrad"), 0),
    **dict.fromkeys(("Xlogy", "RealDiv", "Div", "Xdivy", "FloorMod", "FloorDiv"), 1),
}
#: Ops that fail outside a domain whose edge is not 0.
_AT_EDGE: Final = frozenset({"Acos", "Asin", "Acosh", "Atanh", "Log1p", "Xlog1py", "Erfinv"})
#: Units in the last place of float32 at 1: this near the edge its slope is useless.
_EDGE: Final = 1.2e-6
#: Which input of such an op has the domain, where that is not the first.
_EDGE_INPUT: Final = {"Xlog1py": 1}
_EXPONENTIALS: Final = frozenset({"Exp", "Expm1", "Sinh", "Cosh"})
#: Ops whose element stays the same number: a departure lies before them.
_UNCHANGED: Final = frozenset(
    {
        *("Reshape", "Squeeze", "ExpandDims", "Transpose", "StridedSlice", "Slice", "GatherV2"),
        *("GatherNd", "Tile", "BroadcastTo", "ReverseV2", "Pack", "Unpack", "ConcatV2", "Split"),
        *("SplitV", "Cast", "SelectV2", "Select", "Maximum", "Minimum", "Max", "Min", "Pad"),
    }
)

#: Ordinary magnitudes are those that half precision holds, for mixed-precision training rests on
#: activations and weights being such (Micikevicius et al. 2018, "Mixed Precision Training"): up to
#: 2**16. In a dtype that ends earlier: up to the square root of its largest number, beyond which a
#: square is infinite.
ORDINARY_MOST: Final = 2.0**16
#: Half precision's smallest number, and what float32 loses beside 1: below it a number that is
#: divided by, or logged, is as good as 0. In half precision itself: its smallest normal number.
ORDINARY_LEAST: Final = 2.0**-24
_SMALLEST_NORMAL_HALF: Final = 2.0**-14


@dataclass(frozen=True, slots=True)
class Link:
    """One tensor on the way back: what made it, where, and the element that is followed.

    Attributes:
        what: ``op``, ``variable``, ``batch`` or ``constant``.
        name: op type, path of the variable or name of the array.
        tensor: its values; None where they were not held.
        layer, phase, source: where the op ran.
        index: the element on the way; None where the op could not be followed.
        value: that element's value; NaN where there is none.
        through: how the next nearer link came from it, in words.
        beside: op that made what it was multiplied with, or what was selected in its place.
    """

    what: str
    name: str
    tensor: Any
    layer: str = ""
    phase: str = ""
    source: str = ""
    index: Index | None = None
    value: float = math.nan
    through: str = ""
    beside: str = ""


@dataclass(frozen=True, slots=True)
class Walked:
    """The step that was run for the chain: its ops, the tensors held of them, and the links."""

    stream: OpStream
    recording: Recording
    links: tuple[Link, ...]


def measure(bench: Bench, event: Event, step: int, builder: TraceBuilder) -> Walked | None:
    """Run the steps once more, walk back from the failure, and add the chain to the trace.

    Args:
        bench: the failing step, ready to be run again.
        event: the primary event of the failing step.
        step: that step.
        builder: where the rows of ``chain`` go.

    Returns:
        What was held of that step; None where it could not be run again.
    """
    if bench.stream is None:
        return None
    rerun = Rerun(bench, step, on_the_way(bench.stream, event))
    bench.run(steps=step + 1, watching=rerun.watching)
    if rerun.stream is None or rerun.recording is None:
        return None
    # What is summed over or written to may overflow while it is looked at.
    with np.errstate(all="ignore"):
        start = _begin(rerun.stream, rerun.recording, bench.stream.ops[event.op])
        links = _walk(rerun.stream, rerun.recording, start) if start is not None else []
        departed = departure(links, start) if start is not None else -1
        for place, link in enumerate(links):
            low, high = ordinary(link, start)
            builder.add(
                "chain",
                step=step,
                op=event.op,
                link=place,
                what=link.what,
                name=link.name,
                layer=link.layer,
                phase=link.phase,
                source=link.source,
                followed=link.index is not None,
                index=",".join(_spelled(link)),
                value=link.value,
                through=link.through,
                beside=link.beside,
                ordinary_low=low,
                ordinary_high=high,
                departed=place == departed,
                **_figures(link.tensor),
            )
    return Walked(rerun.stream, rerun.recording, tuple(links))


class Rerun:
    """The failing step watched once more, with the tensors on the way held."""

    def __init__(self, bench: Bench, step: int, wanted: frozenset[Kind]) -> None:
        self.bench, self.step, self._wanted = bench, step, wanted
        self.stream: OpStream | None = None
        self.recording: Recording | None = None

    @contextmanager
    def watching(self, step: int, fed: Fed, data: Any) -> Iterator[None]:
        """Watch the step if it is the failing one."""
        if step != self.step:
            yield
            return
        watch = watch_for(self.bench.model, TraceBuilder(), fed, data, step=step)
        self.stream = watch.stream
        self.recording = Recording(self._wanted, lambda: watch.place)
        with ExitStack() as stack:
            stack.enter_context(watch.watching())
            stack.enter_context(seams.op_callback(self.recording.on_op))
            yield
        watch.stream.consequences.settle()


def on_the_way(stream: OpStream, event: Event) -> frozenset[Kind]:
    """Return the ops that the way may lead through: all that the failing one depends on."""
    first = stream.ops[event.op]
    start = [event.op, first.derivative_of] if first.derivative_of >= 0 else [event.op]
    seen, stack = set(start), list(start)
    while stack:
        for key in stream.ops[stack.pop()].inputs:
            made = stream.output_of(key)
            if made is not None and made[0] not in seen:
                seen.add(made[0])
                stack.append(made[0])
    return frozenset(kind_of(stream.ops[index]) for index in seen)


# ---------------------------------------------------------------------- the walk


@dataclass(frozen=True, slots=True)
class _Start:
    """Where the walk begins: a tensor and its element, what is wrong with it, and what failed."""

    tensor: Any
    index: Index | None
    through: str
    danger: Danger
    failed: str


def _walk(stream: OpStream, recording: Recording, start: _Start) -> list[Link]:
    """Return the links, nearest first, to a cell of the batch or a weight, or to a constant."""
    links: list[Link] = []
    tensor, index, through = start.tensor, start.index, start.through
    danger = start.danger
    phases = stream.phases()
    while len(links) < _LONGEST:
        tensor, found = _before_taps(recording, tensor)
        index = _known(index, tensor)
        value = math.nan if index is None else number(seams.view(tensor)[index])
        link = replace(
            _link(stream, tensor, found, phases), index=index, value=value, through=through
        )
        if found is None or link.what != "op":
            links.append(_cell(link, found))
            break
        links.append(link)
        maker, output = found
        if danger is Danger.SMALL and abs(value) >= ORDINARY_LEAST:
            danger = Danger.LARGE  # no small number is left to explain
        onward = _onward(stream, maker, output, index, danger)
        if onward is None:
            break
        position, index, through = onward
        links[-1] = replace(link, beside=_beside(recording, maker, position))
        danger = turned(maker, position, danger)
        tensor = maker.inputs[position]
    return links


def _beside(recording: Recording, made: Made, position: int) -> str:
    """Return the op that made the other side of a product or a choice; empty where none did."""
    if made.op_type not in _TWO_SIDED:
        return ""
    sides = [place for place, tensor in enumerate(made.inputs) if tensor.dtype.is_floating]
    others = [
        _before_taps(recording, made.inputs[place])[1] for place in sides if place != position
    ]
    return next((found[0].op_type for found in others if found is not None), "")


def _cell(link: Link, found: tuple[Made, int] | None) -> Link:
    """Return a variable's link with the cell of the variable, where only rows of it were read."""
    if found is None or link.index is None or found[0].op_type != "ResourceGather":
        return link
    step = follow(*found, link.index, Danger.LARGE)
    return link if step is None else replace(link, index=step.index)


def _before_taps(recording: Recording, tensor: Any) -> tuple[Any, tuple[Made, int] | None]:
    """Return the tensor that was handed on as this one, and what made it."""
    found = recording.maker_of(tensor)
    while found is not None and found[0].op_type in HANDING_ON:
        tensor = found[0].inputs[min(found[1], len(found[0].inputs) - 1)]
        found = recording.maker_of(tensor)
    return tensor, found


def _known(index: Index | None, tensor: Any) -> Index | None:
    """Return the element; a tensor of one element has no other."""
    if index is None and seams.has_values(tensor) and _holds_numbers(tensor):
        shape = seams.view(tensor).shape
        return (0,) * len(shape) if math.prod(shape) == 1 else None
    return index


def _link(stream: OpStream, tensor: Any, found: tuple[Made, int] | None, phases: list[str]) -> Link:
    key = seams.identity(tensor)
    made = stream.output_of(key)
    if made is None and found is None:
        return Link(*stream.leaf(key), tensor)
    if made is None:
        return Link("op", found[0].op_type if found else "", tensor)
    op = stream.ops[made[0]]
    if op.op_type in _READS:
        name = stream.variable_read_by(op)
        return Link("variable", name or "variable", tensor)
    forward = stream.ops[op.derivative_of] if op.derivative_of >= 0 else op
    source = spell(*forward.line) if forward.line else ""
    return Link("op", op.op_type, tensor, forward.place.layer, phases[made[0]], source)


def _onward(
    stream: OpStream, made: Made, output: int, index: Index | None, danger: Danger
) -> tuple[int, Index | None, str] | None:
    """Return the next input to look at, its element where it can be told, and how it went in."""
    step = None
    if index is not None:
        step = follow(
            made,
            output,
            index,
            danger,
            from_batch=lambda p: stream.is_from_batch(seams.identity(made.inputs[p])),
        )
    if step is not None:
        return step.position, step.index, step.through
    position = _DATA_INPUT.get(made.op_type)
    if position is not None and position < len(made.inputs):
        return position, None, ""
    ranked = [
        place
        for place, tensor in enumerate(made.inputs)
        if _holds_numbers(tensor) and not _only_a_shape(stream, tensor)
    ]
    ranked.sort(key=lambda p: not stream.is_from_batch(seams.identity(made.inputs[p])))
    return (ranked[0], None, "") if ranked else None


def _only_a_shape(stream: OpStream, tensor: Any) -> bool:
    made = stream.output_of(seams.identity(tensor))
    return made is not None and stream.ops[made[0]].op_type in _NO_VALUE


# ---------------------------------------------------------------------- where it begins


def _begin(stream: OpStream, recording: Recording, first: Op) -> _Start | None:
    """Return the element of the failing op's input that made it fail.

    Args:
        stream: the second run of the step, settled.
        recording: its tensors.
        first: the failing op of the first run.
    """
    event = next((event for event in stream.events if event.primary), None)
    if event is None:
        return _of_write(recording, first)
    op = stream.ops[event.op]
    forward = stream.ops[op.derivative_of] if op.derivative_of >= 0 else op
    made = _kept(recording, forward.outputs)
    # Where it failed in another way this time, no chain is better than another failure's.
    if made is None or op.op_type != first.op_type:
        return None
    inner = _kept(recording, op.outputs) if forward is not op else made
    bad = _first_bad(inner) if inner is not None else None
    if made.op_type in _READS:
        return _Start(made.outputs[0], bad[1] if bad else None, "", Danger.BAD, made.op_type)
    guess = Danger.LARGE if event.produced else Danger.BAD
    if forward is op:
        step = None if bad is None else _of_value(stream, made, *bad, guess)
    else:
        step = _of_derivative(stream, made, inner, bad)
        if inner is not None and bad is not None and not _is_singular(made, step):
            # The derivative is an ordinary one: what came in from behind was too large for it.
            grown = _onward(stream, inner, *bad, guess)
            if grown is not None and grown[1] is not None:
                return _Start(inner.inputs[grown[0]], *grown[1:], guess, inner.op_type)
    if step is None:
        return None
    danger = _danger(made, step, derivative=forward is not op)
    return _Start(made.inputs[step[0]], step[1], step[2], danger, made.op_type)


def _kept(recording: Recording, keys: tuple[int, ...]) -> Made | None:
    found = next((found for key in keys if (found := recording.maker_of_key(key))), None)
    return found[0] if found is not None else None


def _first_bad(made: Made) -> tuple[int, Index] | None:
    for output, tensor in enumerate(made.outputs):
        if not (tensor.dtype.is_floating or tensor.dtype.is_complex):
            continue
        bad = ~np.isfinite(_comparable(tensor))
        if bad.any():
            at = np.unravel_index(int(np.argmax(bad)), bad.shape)
            return output, tuple(int(place) for place in at)
    return None


def _comparable(tensor: Any) -> Any:
    values = seams.view(tensor)
    return values if values.dtype.kind in "fc" else values.astype(np.float32)


def _of_value(
    stream: OpStream, made: Made, output: int, index: Index, danger: Danger
) -> tuple[int, Index | None, str] | None:
    position = _AT_ZERO.get(made.op_type)
    if position is not None and danger is not Danger.BAD and position < len(made.inputs):
        cell = _aligned(index, made, output, position)
        if cell is not None:
            value = number(seams.view(made.inputs[position])[cell])
            if value <= 0 or abs(value) < ORDINARY_LEAST:
                return position, cell, ""
    position = _EDGE_INPUT.get(made.op_type)
    if position is not None and danger is not Danger.BAD and position < len(made.inputs):
        return position, _aligned(index, made, output, position), ""
    return _onward(stream, made, output, index, danger)


def _of_derivative(
    stream: OpStream, made: Made, inner: Made | None, bad: tuple[int, Index] | None
) -> tuple[int, Index | None, str] | None:
    """Return the element of the forward op's input at which its derivative is not finite."""
    position = _AT_ZERO.get(made.op_type, 0)
    position = position if position < len(made.inputs) else 0
    tensor = made.inputs[position]
    if inner is None or bad is None or not _holds_numbers(tensor):
        return position, None, ""
    output, index = bad
    shape = inner.outputs[output].shape.as_list()
    if shape == tensor.shape.as_list():
        return position, index, ""
    if shape == made.outputs[0].shape.as_list():
        cell = _aligned(index, made, 0, position)
        if cell is not None:
            return position, cell, ""
        return _onward(stream, made, 0, index, Danger.SMALL)
    return position, None, ""


def _is_singular(made: Made, step: tuple[int, Index | None, str] | None) -> bool:
    """Say whether the forward input is where the derivative of such an op has no finite value."""
    if step is None or step[1] is None:
        return False
    value = number(seams.view(made.inputs[step[0]])[step[1]])
    if made.op_type in _AT_EDGE:
        return abs(abs(value) - 1) <= _EDGE
    near = made.op_type in _AT_ZERO and value < ORDINARY_LEAST
    return near or not math.isfinite(value)


def _aligned(index: Index, made: Made, output: int, position: int) -> Index | None:
    """Return the operand's element of an elementwise op; None where shapes do not broadcast."""
    whole = seams.view(made.outputs[output]).shape
    shape = seams.view(made.inputs[position]).shape
    tail = whole[len(whole) - len(shape) :]
    if len(shape) > len(whole) or any(s not in (1, w) for s, w in zip(shape, tail, strict=True)):
        return None
    own = index[len(whole) - len(shape) :]
    return tuple(0 if size == 1 else at for at, size in zip(own, shape, strict=True))


def _of_write(recording: Recording, first: Op) -> _Start | None:
    """Return the largest element that was written where a sum with it overflowed the variable."""
    found: tuple[float, Any, Index] | None = None
    for tensor in recording.written(kind_of(first)):
        sizes = np.abs(wide(seams.view(tensor)))
        if sizes.size and (found is None or sizes.max() > found[0]):
            at = np.unravel_index(int(np.argmax(sizes)), sizes.shape)
            found = float(sizes.max()), tensor, tuple(int(place) for place in at)
    if found is None:
        return None
    return _Start(found[1], found[2], "the largest that was written", Danger.LARGE, first.op_type)


def _danger(made: Made, step: tuple[int, Index | None, str], *, derivative: bool) -> Danger:
    """Return what was wrong with the number that the failing op was given."""
    position, index, _ = step
    kind = made.op_type
    if index is None:
        return Danger.SMALL if kind in _AT_ZERO and derivative else Danger.LARGE
    value = number(seams.view(made.inputs[position])[index])
    if not math.isfinite(value):
        return Danger.BAD
    if kind in _AT_EDGE:
        return Danger.OUTSIDE
    if _AT_ZERO.get(kind) != position:
        return Danger.LARGE
    if abs(value) >= ORDINARY_LEAST and value < 0:
        return Danger.OUTSIDE
    return Danger.SMALL if abs(value) < 1 else Danger.LARGE


# ---------------------------------------------------------------------- where it departed


def ordinary(link: Link, start: _Start | None) -> tuple[float, float]:
    """Return the least and the largest magnitude that is ordinary on a chain.

    Before an exponential its own limit counts: half the input at which it overflows,
    ln(largest) / 2, for beyond it the square of its result is infinite.

    Args:
        link: the link; its dtype counts.
        start: where the walk began.
    """
    danger, failed = (start.danger, start.failed) if start is not None else (Danger.LARGE, "")
    dtype = link.tensor.dtype if link.tensor is not None else None
    dtype = dtype.real_dtype if dtype is not None and dtype.is_complex else dtype
    if dtype is None or not dtype.is_floating:
        return 0.0, math.inf
    half = dtype.name == "float16"
    least = _SMALLEST_NORMAL_HALF if half else ORDINARY_LEAST
    largest = float(dtype.max)
    most = min(ORDINARY_MOST, math.sqrt(largest))
    if failed in _EXPONENTIALS:
        most = math.log(largest) / 2
    return (least, math.inf) if danger is Danger.SMALL else (0.0, most)


def departure(links: list[Link], start: _Start) -> int:
    """Return the link, nearest the source, from which on the number was not ordinary; -1 if none.

    The way from there to the failure leads only through numbers that are not ordinary either. A
    number outside a domain (a negative one under a root) departed where it became that number.
    """
    found = -1
    for place, link in enumerate(links):
        if link.index is None:
            break
        value = link.value
        if start.danger is Danger.OUTSIDE:
            moved = place > 0 and links[place - 1].name in _UNCHANGED
            beyond = place == 0 or (moved and value == links[0].value)
        elif start.danger is Danger.BAD:
            beyond = not math.isfinite(value)
        else:
            low, high = ordinary(link, start)
            beyond = abs(value) < low or abs(value) > high
        if not beyond:
            break
        found = place
    return found


def _spelled(link: Link) -> list[str]:
    """Return the element's index; of a source, a colon for each axis along which all are alike."""
    index = [str(place) for place in link.index or ()]
    # Where only rows of a variable were read, the index is one of the variable, not of the tensor.
    if link.what not in {"batch", "variable"} or not _lies_in(link):
        return index
    values = seams.view(link.tensor)
    for kept in range(len(index)):
        block = wide(values[link.index[:kept]] if link.index else values)
        alike = np.isnan(block) if math.isnan(link.value) else block == link.value
        if block.size > 1 and alike.all():
            return [*index[:kept], *[":"] * (len(index) - kept)]
    return index


def _lies_in(link: Link) -> bool:
    if link.index is None or link.tensor is None:
        return False
    values = seams.view(link.tensor)
    inside = len(link.index) == values.ndim and all(
        at < size for at, size in zip(link.index, values.shape, strict=False)
    )
    if not inside:
        return False
    here = number(values[link.index])
    return here == link.value or (math.isnan(here) and math.isnan(link.value))


def _figures(tensor: Any) -> dict[str, Any]:
    if tensor is None or not _holds_numbers(tensor) or tensor.dtype.is_bool:
        return {}
    values = seams.view(tensor)
    return {
        "dtype": tensor.dtype.name,
        "shape": "x".join(str(size) for size in values.shape),
        **summarize(values),
    }


def _holds_numbers(tensor: Any) -> bool:
    dtype = tensor.dtype
    return bool(dtype.is_floating or dtype.is_integer or dtype.is_complex or dtype.is_bool)
