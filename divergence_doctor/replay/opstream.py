"""Which op made the first bad number, and did it matter? The stream of ops of one step, watched.

Every eager op of the step passes here, forward, backward and in the optimizer. An op with a
non-finite output becomes an *event*; which of them made their bad value and which only carried it
on follows from the tensors' identities, and so does whether it ever reached the loss, a gradient or
the state. Nothing is kept of a healthy op but its type, its place and the numbers of its tensors.
"""

from __future__ import annotations

import json
import re
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, final

import numpy as np

from divergence_doctor.replay._seams import (
    dtype_number,
    has_values,
    identities,
    identity,
    unrecorded,
    view,
)
from divergence_doctor.replay.bounds import Bounds
from divergence_doctor.replay.consequences import Consequences
from divergence_doctor.replay.divisions import DIVIDES, FORWARDS, Divisions, divides
from divergence_doctor.replay.elements import count, first_bad, has_nan, value_at, wide
from divergence_doctor.replay.ops import Event, Line, Op, Place, Spot, Taint
from divergence_doctor.replay.samples import Samples
from divergence_doctor.replay.source import UsersLines, spell, users_line, users_stack
from divergence_doctor.stats import all_finite, bound, summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator, Sequence

    from numpy.typing import NDArray

#: Ops that bring a variable's value into the stream: what they put out was there before.
_READS = frozenset({"ReadVariableOp", "ResourceGather", "ResourceGatherNd"})
#: Ops that write a variable: what they write is state from then on.
_WRITES = frozenset({"AssignVariableOp", "AssignAddVariableOp", "AssignSubVariableOp"})
#: Ops whose result is their input's own memory, which was looked at when it was made.
_VIEWS = frozenset({"Identity", "Reshape", "Squeeze", "ExpandDims"})
#: Ops that read the shape of a tensor and none of its values.
_SHAPES = frozenset({"Shape", "Rank", "Size", "ZerosLike", "OnesLike"})
#: Ops whose gradient is computed from their output: a second derivative reads it once more. The
#: tape hands their output to the gradient function, which tells them apart without doubt.
_READ_BY_DERIVATIVE = frozenset(
    {
        *("Elu", "Exp", "Expm1", "Inv", "Max", "MaxPool", "MaxPool3D", "Min", "Pow", "Reciprocal"),
        *("Relu", "Relu6", "Rsqrt", "Selu", "Sigmoid", "Softmax", "LogSoftmax", "Sqrt", "Tanh"),
        *("Cholesky", "MatrixInverse", "SelfAdjointEigV2", "Qr", "Svd"),
    }
)
#: Events of one step that are kept with their operands; beyond, NaN has flooded the step anyway.
_WITH_OPERANDS = 64


@final
class OpStream:
    """Watches the ops of one step.

    Args:
        place: says where the op that runs now stands.
        phase: says which phase runs now.
        names: names of leaf tensors by identity: ``("batch", "x")``.
        handles: variable paths by the identity of their resource handle.
        samples: number of samples in the batch.
    """

    def __init__(
        self,
        *,
        place: Callable[[], Place],
        phase: Callable[[], str],
        names: dict[int, tuple[str, str]],
        handles: dict[int, str],
        samples: int,
    ) -> None:
        self.consequences = Consequences()
        self.ops = self.consequences.ops
        self.events = self.consequences.events
        self.taints = self.consequences.taints
        self.maker: dict[int, int] = {}
        self._place = place
        self._phase = phase
        #: Results to replace in an experiment: (spot, output) -> what to make of it.
        self.patches: dict[tuple[Spot, int], Callable[[Any], Any]] = {}
        self._spots: dict[Spot, int] = {}
        self._names = names
        self._handles = handles
        self._samples = Samples(samples, names)
        self._derivative = -1
        self._lines = UsersLines()
        self._floating = _floating_dtypes()
        self._floating_numbers = frozenset(dtype.as_datatype_enum for dtype in self._floating)
        self._bounds = Bounds(_wide_dtypes())
        #: Handles of variables that were found finite, or were given what was.
        self._sound: set[int] = set()
        self._readers: dict[tuple[str, int], list[int]] = {}
        self._differentiated: set[int] = set()
        self._awaited: dict[tuple[int, int], Callable[[Any], None]] = {}
        self._written: dict[int, int] = {}
        self._twins: dict[int, int] = {}
        self._ours = False
        self._divisions = Divisions(self._samples)

    # ------------------------------------------------------------------ what TensorFlow calls

    def on_op(
        self,
        op_type: str | bytes,
        inputs: Sequence[Any],
        attrs: Any,  # noqa: ARG002 - TensorFlow's signature
        outputs: list[Any],
        op_name: str | None = None,  # noqa: ARG002
        graph: Any = None,
    ) -> None:
        """Take in one op (the op callback).

        What traces a graph even where functions run eagerly (`tf.vectorized_map`, a Jacobian) has
        no values to look at; the call of its function is an op of the stream.
        """
        if self._ours or graph is not None:
            return
        kind = op_type.decode() if isinstance(op_type, bytes) else op_type
        index = len(self.ops)
        place = self._place()
        # A derivative is told by the line of its forward op.
        line = self._lines.of_op(2, place.line) if self._derivative < 0 else None
        patched = bool(self.patches) and self._derivative < 0
        if patched:
            self._patch(kind, place, line, outputs)
        ins, outs = identities(inputs), identities(outputs)
        phase = self._phase()
        self.ops.append(Op(kind, ins, outs, place, phase, line, self._derivative))
        for out in outs:
            self.maker[out] = index
        if ins:
            self._readers.setdefault((kind, ins[0]), []).append(index)
        self._samples.follow(kind, ins, inputs, outs)
        bad = self._looked_at(kind, ins, inputs, outs, outputs, proven=not patched)
        if bad:
            self._bad_op(index, kind, inputs, outputs, bad)
        elif kind in _WRITES or kind.startswith("Resource"):
            self._write(index, kind, ins)
        elif self.taints:
            self._carry_through_variants(ins, outputs)
        if kind in DIVIDES and not bad and phase in FORWARDS and self._derivative < 0:
            self._divisions.note(index, kind, inputs, outputs)

    def gradient_wrapper(self, original: Callable[..., Any]) -> Callable[..., Any]:
        """Return the gradient function that ties each derivative to its forward op."""

        def differentiate(
            op_name: Any, attrs: Any, count: int, inputs: Any, outputs: Any, grads: Any, *rest: Any
        ) -> Any:
            kind = op_name.decode() if isinstance(op_name, bytes) else str(op_name)
            before, events = self._derivative, len(self.events)
            self._derivative = self._forward_op(kind, _tensors(inputs), _tensors(outputs))
            if self._awaited:
                self._hand_over(_tensors(grads))
            try:
                result = original(op_name, attrs, count, inputs, outputs, grads, *rest)
            finally:
                forward, self._derivative = self._derivative, before
            fresh = [event for event in self.events[events:] if event.produced]
            if fresh and forward >= 0:
                self._derivative_operands(
                    fresh[0], _tensors(inputs), _tensors(outputs), _tensors(grads), _tensors(result)
                )
            return result

        return differentiate

    # ------------------------------------------------------------------ what the watch calls

    def name_leaf(self, tensor: Any, origin: str, name: str, *, by_sample: bool = True) -> None:
        """Tell the stream what a tensor that no op made is: an array of the batch."""
        key = identity(tensor)
        self._names[key] = (origin, name)
        self._samples.add(key, by_sample=by_sample)
        if tensor.dtype in self._floating and not all_finite(view(tensor)):
            counts = count([view(tensor)])
            self.taints[key] = Taint(origin, name, nan=counts[0] > 0, counts=counts)

    def trust(self, held: Iterable[tuple[int, float]]) -> None:
        """Take in variables that are known to be finite as the step begins.

        Args:
            held: the handle of each, and a magnitude that nothing in it exceeds.
        """
        for handle, limit in held:
            self._sound.add(handle)
            self._bounds.holds(handle, limit)

    @contextmanager
    def ours(self) -> Iterator[None]:
        """Let ops of our own pass by: they are no part of the step."""
        before, self._ours = self._ours, True
        try:
            yield
        finally:
            self._ours = before

    def forget_calls(self) -> None:
        """Let go of the calls that the step's ops came out of; the step is over."""
        self._lines.forget()

    def see_output(self, tensor: Any) -> None:
        """Take in a layer's output that no op made: it left TensorFlow and came back."""
        key = identity(tensor)
        if key in self.maker or key in self._names or key in self.taints:
            return
        values = view(tensor)
        if all_finite(values):
            return
        index = len(self.ops)
        place = self._place()
        self.ops.append(Op("", (), (key,), place, self._phase(), users_line(2, place.line)))
        self.maker[key] = index
        counts, element = count([values]), first_bad(values)
        event = Event(index, counts, produced=True, origin="op", origin_name="", bad_inputs=(),
                      element=",".join(map(str, element)), rows=self._rows_of(values, key),
                      stack=users_stack())  # fmt: skip
        self.taints[key] = Taint("op", "", len(self.events), nan=counts[0] > 0)
        self.events.append(event)

    def passed_on(self, before: Any, after: Any) -> None:
        """Note that ``after`` is ``before`` seen through one of our own taps."""
        old, new = identity(before), identity(after)
        if old in self.maker:
            self.maker[new] = self.maker[old]
        if old in self._names:
            self._names[new] = self._names[old]
        self._twins[new] = old
        self._bounds.same(old, new)
        if old in self.taints:
            self.taints[new] = self.taints[old]
        self._samples.same(old, new)

    def is_read(self, key: int) -> bool:
        """Say whether an op has read a tensor's values, or the derivative of its own op will."""
        made = self.output_of(key)
        return made is not None and (
            self.ops[made[0]].op_type in _READ_BY_DERIVATIVE
            or any(key in op.inputs and op.op_type not in _SHAPES for op in self.ops[made[0] + 1 :])
        )

    def await_gradient(self, key: int, tell: Callable[[Any], None]) -> None:
        """Have the gradient of a tensor told, once the op that made it is differentiated."""
        made = self.output_of(key)
        if made is not None:
            self._awaited[made] = tell

    def _hand_over(self, grads: list[Any]) -> None:
        for position, gradient in enumerate(grads):
            tell = self._awaited.get((self._derivative, position))
            if tell is not None and gradient is not None:
                tell(gradient)

    def reach(self, tensors: Iterable[Any], sink: str) -> None:
        """Mark every event that led to these tensors (loss, gradient or state) as mattering."""
        keys = []
        for tensor in tensors:
            keys.append(identity(tensor))
            self._look_again(keys[-1], tensor)
        self.consequences.reach(keys, sink)

    def overflowed_on_write(self, handle: int) -> None:
        """Note that a write of finite numbers left a variable non-finite."""
        index = self._written.get(handle)
        if index is None:
            return
        event = Event(index, (0, 0, 0), produced=True, origin="op",
                      origin_name=self.ops[index].op_type, bad_inputs=(), element="", rows=None,
                      reaches="state")  # fmt: skip
        self.events.append(event)

    def rows(self, step: int) -> Iterable[tuple[str, dict[str, Any]]]:
        """Yield (table, row) for every event and its operands."""
        phases = self.phases()
        for event in self.events:
            op = self.ops[event.op]
            forward = self.ops[op.derivative_of] if op.derivative_of >= 0 else op
            yield (
                "events",
                {
                    "step": step,
                    "op": event.op,
                    "op_type": forward.op_type,
                    "inner_op": op.op_type,
                    "phase": phases[event.op],
                    "derivative": op.derivative_of >= 0,
                    "layer": forward.place.layer,
                    "layer_class": forward.place.layer_class,
                    "call": forward.place.call,
                    "time": forward.place.time,
                    "source": spell(*forward.line) if forward.line else "",
                    "nan": event.counts[0],
                    "posinf": event.counts[1],
                    "neginf": event.counts[2],
                    "produced": event.produced,
                    "origin": event.origin,
                    "origin_name": event.origin_name,
                    "reaches": event.reaches,
                    "term": event.term,
                    "primary": event.primary,
                    "divides": event.primary and divides(op, self.ops, self.untapped),
                    "element": event.element,
                    "samples": json.dumps(list(event.samples)),
                    "message": event.message,
                    "stack": event.stack,
                },
            )
            if event.produced or event.primary:
                for operand in event.operands:
                    yield "operands", {"step": step, "op": event.op, **operand}
        yield from self._divisions.rows(step, self.ops, phases)

    def phases(self) -> list[str]:
        """Return the phase of every op; what follows the last layer of a forward pass is loss."""
        phases = [op.phase for op in self.ops]
        layer_follows = False
        for index in range(len(self.ops) - 1, -1, -1):
            op = self.ops[index]
            if op.phase == "backward":
                layer_follows = False
            elif op.phase == "forward" and op.place.layer:
                layer_follows = True
            elif op.phase == "forward" and not layer_follows:
                phases[index] = "loss"
        return phases

    # ------------------------------------------------------------------ inside

    def _bad_op(
        self, index: int, kind: str, inputs: Sequence[Any], outputs: list[Any], bad: Sequence[int]
    ) -> None:
        arrays = [view(outputs[position]) for position in bad]
        counts = count(arrays)
        taints = self._bad_inputs(inputs)
        produced, origin, name = self._blame(kind, inputs, taints, counts)
        element, first = first_bad(arrays[0]), identity(outputs[bad[0]])
        event = Event(
            index,
            counts,
            produced,
            origin,
            name,
            tuple(taints),
            ",".join(str(place) for place in element),
            self._rows_of(arrays[0], first) if first in self._samples else None,
        )
        event.stack = users_stack() if produced or not taints else ""
        number = len(self.events)
        self.events.append(event)
        if (produced or not taints) and number < _WITH_OPERANDS:
            with self.ours():
                event.message = _check_numerics(outputs[bad[0]], kind)
            if self._derivative < 0:
                event.operands = [
                    *self._operands(inputs, "input", element, arrays[0].shape),
                    *self._operands(outputs, "output", element, arrays[0].shape),
                ]
        only_infinite = origin == "constant" and counts[0] == 0
        for position, array in zip(bad, arrays, strict=True):
            self.taints[identity(outputs[position])] = Taint(
                origin, name, number, only_infinite, nan=has_nan(array)
            )

    def output_of(self, key: int) -> tuple[int, int] | None:
        """Return (op, output) that made a tensor, also one seen through a tap; None for a leaf."""
        made = self.maker.get(key)
        key = self.untapped(key)
        if made is None or key not in self.ops[made].outputs:
            return None
        return made, self.ops[made].outputs.index(key)

    def untapped(self, key: int) -> int:
        """Return the tensor that an op made, for one that was seen through one of our taps."""
        while key in self._twins:
            key = self._twins[key]
        return key

    def leaf(self, key: int) -> tuple[str, str]:
        """Return what a tensor that no op made is: an array of the batch, or a constant."""
        return self._names.get(key, ("constant", "constant"))

    def is_from_batch(self, key: int) -> bool:
        """Say whether a tensor was computed from the batch."""
        return key in self._samples

    def variable_read_by(self, op: Op) -> str:
        """Return the path of the variable that an op reads; empty for any other op."""
        if op.op_type not in _READS or not op.inputs:
            return ""
        return self._handles.get(op.inputs[0], "")

    def _bad_inputs(self, inputs: Sequence[Any]) -> dict[int, Taint]:
        taints: dict[int, Taint] = {}
        for tensor in inputs:
            key = identity(tensor)
            self._look_again(key, tensor)
            known = self.taints.get(key)
            if known is not None:
                taints[key] = known
            elif key not in self.maker and tensor.dtype in self._floating:
                values = view(tensor)
                if not all_finite(values):
                    counts = count([values])
                    nan = counts[0] > 0
                    origin, name = self._names.get(key, ("constant", "constant"))
                    taints[key] = self.taints[key] = Taint(
                        origin, name, -1, not nan, nan=nan, counts=counts
                    )
        return taints

    def _look_again(self, key: int, tensor: Any) -> None:
        """Look at a tensor that cannot be bad, where what came of it is.

        A kernel that is broken, or hardware that is, keeps to no bound.
        """
        if key not in self._bounds.unseen:
            return
        self._bounds.unseen.discard(key)
        values = view(tensor)
        if all_finite(values):
            return
        index, counts = self.maker[key], count([values])
        kind = self.ops[index].op_type
        element = ",".join(map(str, first_bad(values)))
        rows = self._rows_of(values, key) if key in self._samples else None
        self.taints[key] = Taint("op", kind, len(self.events), nan=counts[0] > 0)
        self.events.append(Event(index, counts, True, "op", kind, (), element, rows))  # noqa: FBT003

    def _blame(
        self,
        kind: str,
        inputs: Sequence[Any],
        taints: dict[int, Taint],
        counts: tuple[int, int, int],
    ) -> tuple[bool, str, str]:
        if not taints:
            if kind in _READS:
                handle = identity(inputs[0]) if inputs else -1
                return False, "variable", self._handles.get(handle, "variable")
            return True, "op", kind
        deliberate = all(taint.only_infinite for taint in taints.values())
        if deliberate and counts[0]:
            return True, "op", kind
        first = next(
            (t for t in taints.values() if not t.only_infinite), next(iter(taints.values()))
        )
        return False, first.origin, first.name

    def _patch(self, kind: str, place: Place, line: Line, outputs: list[Any]) -> None:
        """Replace results on purpose."""
        spot = self._next_spot(self._spots, kind, place, line)
        for position in range(len(outputs)):
            change = self.patches.get((spot, position))
            if change is not None:
                # On the tape, so that the gradient finds its way through the change.
                with self.ours():
                    outputs[position] = change(outputs[position])

    @staticmethod
    def _next_spot(counts: dict[Spot, int], kind: str, place: Place, line: Line) -> Spot:
        group = (kind, place.layer, place.call, spell(*line) if line else "", 0)
        number = counts.get(group, 0)
        counts[group] = number + 1
        return (*group[:4], number)

    def spots(self) -> list[Spot | None]:
        """Return for each op how to find it again in another run of the step.

        The place in the stream alone will not do: the first run of a step may build or cache
        something that later ones do not. Ops of derivatives have no spot.
        """
        counts: dict[Spot, int] = {}
        return [
            self._next_spot(counts, op.op_type, op.place, op.line) if op.derivative_of < 0 else None
            for op in self.ops
        ]

    def _looked_at(
        self,
        kind: str,
        ins: tuple[int, ...],
        inputs: Sequence[Any],
        outs: tuple[int, ...],
        outputs: Sequence[Any],
        *,
        proven: bool,
    ) -> Sequence[int]:
        """Return the places of the results that are not finite.

        A variable is looked at when it is first read, and again once an op has written to it whose
        result is not known. Not looked at is what cannot be bad, and memory that was looked at.
        """
        if kind == "ReadVariableOp":
            if ins[0] in self._sound:
                self._bounds.read(ins[0], outs[0])
                return ()
            bad = self._bad(outs, outputs)
            if not bad:
                self._sound.add(ins[0])
                self._bounds.first_read(ins[0], outs[0])
            return bad
        if len(outs) == 1 and proven:
            dtype = dtype_number(outputs[0])
            if dtype not in self._floating_numbers:
                return ()
            if self._bounds.prove(kind, ins, inputs, outs[0], dtype):
                return ()
        if kind in _VIEWS and ins[0] in self.maker and ins[0] not in self.taints:
            return ()
        return self._bad(outs, outputs)

    def _bad(self, outs: Sequence[int], outputs: Sequence[Any]) -> list[int]:
        bad = []
        for position, tensor in enumerate(outputs):
            if dtype_number(tensor) in self._floating_numbers:
                found = bound(view(tensor))
                if found is None:
                    bad.append(position)
                else:
                    self._bounds.seen(outs[position], found)
        return bad

    def _write(self, index: int, kind: str, ins: tuple[int, ...]) -> None:
        if not ins:
            return
        bad = [key for key in ins[1:] if key in self.taints]
        value = ins[1] if len(ins) > 1 else -1
        sure = self._bounds.write(kind, ins[0], value) and not bad
        if sure or (kind == "AssignVariableOp" and not bad and value in self.maker):
            self._sound.add(ins[0])
        else:
            self._sound.discard(ins[0])
        # What reads the variable from now on reads what was written, and did not make it. That
        # holds for slots as well that an optimizer makes in the midst of the step.
        if bad:
            self.taints[ins[0]] = self.taints[bad[0]]
        elif kind == "AssignVariableOp":
            self.taints.pop(ins[0], None)
        if ins[0] in self._handles:
            self._written[ins[0]] = index
            self.consequences.bad_writes += bad

    def _carry_through_variants(self, ins: tuple[int, ...], outputs: list[Any]) -> None:
        """A tensor list or other opaque value is as bad as what was put into it."""
        if not outputs or outputs[0].dtype.name != "variant":
            return
        taint = next((self.taints[key] for key in ins if key in self.taints), None)
        if taint is not None:
            for tensor in outputs:
                self.taints[identity(tensor)] = taint

    def _forward_op(self, kind: str, inputs: list[Any], outputs: list[Any]) -> int:
        """Return the forward op that a gradient belongs to, or -1 where that cannot be told."""
        for tensor in outputs:
            made = self.maker.get(identity(tensor), -1) if tensor is not None else -1
            if made >= 0 and self.ops[made].op_type == kind:
                return made
        known = {p: identity(t) for p, t in enumerate(inputs) if t is not None}
        if not known:
            return -1
        anchor = self._readers.get((kind, known.get(0, -1)))
        candidates = anchor if anchor is not None else range(len(self.ops))
        fitting = [
            index
            for index in candidates
            if self.ops[index].op_type == kind
            and all(
                position < len(self.ops[index].inputs) and self.ops[index].inputs[position] == key
                for position, key in known.items()
            )
        ]
        # The tape walks backwards: of twins, the last one that is still open is the one.
        fresh = [index for index in fitting if index not in self._differentiated]
        if not fitting:
            return -1
        chosen = (fresh or fitting)[-1]
        self._differentiated.add(chosen)
        return chosen

    def _derivative_operands(
        self,
        event: Event,
        inputs: list[Any],
        outputs: list[Any],
        upstream: list[Any],
        gradients: list[Any],
    ) -> None:
        dense = [_dense(gradient) for gradient in gradients]
        bad = next(
            (
                values
                for gradient in dense
                if gradient is not None and gradient.dtype in self._floating
                for values in [view(gradient)]
                if not all_finite(values)
            ),
            None,
        )
        element = first_bad(bad) if bad is not None else ()
        shape = bad.shape if bad is not None else ()
        if bad is not None and not event.samples:
            keys = [identity(tensor) for tensor in (*inputs, *outputs) if tensor is not None]
            event.rows = self._rows_of(bad, self._samples.moved(keys))
        event.operands = [
            operand
            for role, tensors in (
                ("input", inputs),
                ("output", outputs),
                ("upstream", [_dense(tensor) for tensor in upstream]),
                ("gradient", dense),
            )
            for operand in self._operands(tensors, role, element, shape)
        ]

    def _operands(
        self, tensors: Sequence[Any], role: str, element: tuple[int, ...], shape: tuple[int, ...]
    ) -> list[dict[str, Any]]:
        rows = []
        for position, tensor in enumerate(tensors[:8]):
            if tensor is None or tensor.dtype.name in {"resource", "variant", "string"}:
                continue
            values = view(tensor)
            key = identity(tensor)
            made = self.maker.get(key, -1)
            origin, name = self._names.get(key, ("constant", ""))
            layer = ""
            if made >= 0:
                origin, name = "op", self.ops[made].op_type
                layer = self.ops[made].place.layer
                if name in _READS and self.ops[made].inputs:
                    origin = "variable"
                    name = self._handles.get(self.ops[made].inputs[0], name)
            rows.append(
                {
                    "position": position,
                    "role": role,
                    "origin": origin,
                    "origin_name": name,
                    "origin_layer": layer,
                    "value": value_at(values, element, shape),
                    "dtype": tensor.dtype.name,
                    "shape": "x".join(str(size) for size in values.shape),
                    **summarize(values),
                }
            )
        return rows

    def _rows_of(self, values: NDArray[Any], key: int) -> NDArray[np.bool_] | None:
        """Return which samples hold bad elements; None where the values have no axis of samples."""
        bad = ~np.isfinite(values.astype(wide(values), copy=False))
        return self._samples.put_back(self._samples.rows(values, bad), key)


def _floating_dtypes() -> frozenset[Any]:
    import tensorflow as tf

    return frozenset({tf.float16, tf.bfloat16, tf.float32, tf.float64, tf.complex64, tf.complex128})


def _wide_dtypes() -> frozenset[int]:
    import tensorflow as tf

    # bfloat16 holds numbers as large, but rounds them up by as much as 0.4 % at every op.
    return frozenset(dtype.as_datatype_enum for dtype in (tf.float32, tf.float64))


def _tensors(value: Any) -> list[Any]:
    if value is None:
        return []
    return list(value) if isinstance(value, list | tuple) else [value]


def _dense(tensor: Any) -> Any:
    """Return the values of an IndexedSlices, the tensor itself, or None for what is no tensor."""
    values = getattr(tensor, "values", tensor)
    return values if has_values(values) else None


def _check_numerics(tensor: Any, kind: str) -> str:
    """Return what TensorFlow's own check says of a tensor, the tensor's values left out."""
    import tensorflow as tf

    if tensor.dtype.is_complex:
        return ""
    with unrecorded():
        try:
            tf.debugging.check_numerics(tensor, f"output of {kind}")
        except tf.errors.InvalidArgumentError as error:
            return re.sub(r"^\{\{.*?\}\} ", "", str(error.message).split(" [Op:")[0])
    return ""
