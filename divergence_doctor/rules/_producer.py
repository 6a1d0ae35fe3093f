"""Which op made the first bad value, and what went into it? One reading for all numeric rules."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.rules._rule import Evidence, Proof, Site, Stage

if TYPE_CHECKING:
    from divergence_doctor.trace import Table, Trace

#: Dtypes whose short mantissa or range makes the precision itself a suspect.
LOW_PRECISION: Final = frozenset({"float16", "bfloat16", "float8_e4m3fn", "float8_e5m2"})

#: Ops that only hand a tensor on: their names say nothing of where a value came from.
_PASSING: Final = frozenset(
    {"Identity", "IdentityN", "Reshape", "Squeeze", "ExpandDims", "StopGradient", "StridedSlice"}
)

_ORIGINS: Final = {
    "batch": "stands in the batch array {name!r}",
    "variable": "is the variable {name!r}",
    "constant": "is a constant in the code",
}


_PHASES: Final = {
    "forward": "in the forward pass",
    "loss": "in the loss",
    "backward": "in the backward pass",
    "clipping": "in the clipping of the gradients",
}


@final
@dataclass(frozen=True, slots=True)
class Operand:
    """One tensor around the op.

    Attributes:
        position: which input or output, from 0.
        role: input, output, upstream (gradient in) or gradient (out).
        value: its value at the first bad element; NaN where none fits.
        low, high: smallest and largest finite element; NaN when there is none.
        absmax: largest magnitude among the finite elements.
        zero, negative, nonfinite, size: numbers of elements.
        dtype: dtype of the tensor.
        origin, origin_name, origin_layer: where it came from.
    """

    position: int
    role: str
    value: float
    low: float
    high: float
    absmax: float
    zero: int
    negative: int
    nonfinite: int
    size: int
    dtype: str
    origin: str = ""
    origin_name: str = ""
    origin_layer: str = ""

    def smallest(self) -> float:
        """Return the value at the bad element, or else the smallest element."""
        return self.value if math.isfinite(self.value) else self.low

    def largest(self) -> float:
        """Return the value at the bad element, or else the largest element."""
        return self.value if math.isfinite(self.value) else self.high

    def nearest(self, point: float) -> float:
        """Return the value at the bad element, or else what came nearest to ``point``."""
        if math.isfinite(self.value):
            return self.value
        if point == 0 and self.zero:
            return 0.0
        ends = [end for end in (self.low, self.high) if math.isfinite(end)]
        return min(ends, key=lambda end: abs(end - point)) if ends else math.nan

    @property
    def low_precision(self) -> bool:
        """The tensor is held in half precision or less."""
        return self.dtype in LOW_PRECISION

    @property
    def came_from(self) -> str:
        """Return where the tensor came from as the end of a sentence; empty when unknown."""
        if self.origin in _ORIGINS:
            return _ORIGINS[self.origin].format(name=self.origin_name)
        layer = f"layer {self.origin_layer!r}" if self.origin_layer else ""
        if self.origin_name and self.origin_name not in _PASSING:
            return f"comes out of {self.origin_name}" + (f" in {layer}" if layer else "")
        return f"comes out of {layer}" if layer else ""


@final
@dataclass(frozen=True, slots=True)
class Producer:
    """The op that made the first bad value of a step, with the tensors around it.

    Attributes:
        step, op, op_type, phase, layer, layer_class, call, time, source: the event's columns.
        derivative: it happened in the derivative of this (forward) op.
        reaches: loss, gradient or state.
        nan, inf: bad elements in what it put out.
        samples: rows of the batch that hold bad elements.
        batch_size: rows of the batch; 0 when unknown.
        loss_finite: the loss of this step is finite all the same.
        operands: the tensors around it.
    """

    step: int
    op: int
    op_type: str
    phase: str
    derivative: bool
    layer: str
    layer_class: str
    call: int
    time: int
    source: str
    reaches: str
    nan: int
    inf: int
    samples: tuple[int, ...]
    batch_size: int
    loss_finite: bool
    operands: tuple[Operand, ...]

    def all(self, role: str) -> tuple[Operand, ...]:
        """Return the operands of one role, by position."""
        found = (operand for operand in self.operands if operand.role == role)
        return tuple(sorted(found, key=lambda operand: operand.position))

    def input(self, position: int) -> Operand | None:
        """Return the forward input at ``position``, or None when it was not recorded."""
        return next((item for item in self.all("input") if item.position == position), None)

    @property
    def stage(self) -> Stage:
        """Where the cause sits: backward, loss or forward."""
        if self.derivative or self.phase == "backward":
            return "backward"
        return "loss" if self.phase == "loss" else "forward"

    @property
    def dead_branch(self) -> bool:
        """A forward value that the loss never used, yet whose derivative reached the gradients."""
        return (
            not self.derivative
            and self.phase in {"forward", "loss"}
            and self.reaches == "gradient"
            and self.loss_finite
        )

    @property
    def place(self) -> str:
        """Return where the op ran, e.g. ``in layer 'dense_1' at losses.py:41``."""
        where = f"in layer {self.layer!r}" if self.layer else _PHASES.get(self.phase, "in the step")
        if self.time >= 0:
            where += f" (time step {self.time})"
        return f"{where} at {self.source}" if self.source else where

    @property
    def site(self) -> Site:
        """Return the place for a finding."""
        return Site(
            step=self.step,
            layer=self.layer or None,
            op=self.op_type or None,
            source=self.source or None,
        )

    @property
    def blamed(self) -> tuple[int, ...]:
        """Return the rows to blame; empty when the whole batch is."""
        whole = self.batch_size > 0 and len(self.samples) >= self.batch_size
        return () if whole else self.samples

    @property
    def minority(self) -> bool:
        """The rows to blame are a strict minority of the batch."""
        return 0 < 2 * len(self.samples) < self.batch_size

    @property
    def whom(self) -> str:
        """Return the rows to blame as the end of a sentence; empty when the whole batch is."""
        if not self.blamed:
            return ""
        shown = ", ".join(str(sample) for sample in self.blamed[:5])
        more = ", ..." if len(self.blamed) > 5 else ""
        word = "sample" if len(self.blamed) == 1 else "samples"
        return f"; {word} {shown}{more} of {self.batch_size or 'the batch'}"


def primary_of(trace: Trace) -> Producer | None:
    """Return the first producer of what reached loss, gradient or state in the failing step.

    Args:
        trace: any trace.

    Returns:
        The producer, or None for a healthy trace, and where the bad value came in from the batch,
        a variable or a constant: then no op of the step made it.
    """
    if trace.outcome == "healthy":
        return None
    events = trace.table("events")
    primary = events.where(events["primary"] & events["produced"])
    if not len(primary):
        return None
    failing = primary.select(step=trace.failing_step)
    return read(trace, (failing if len(failing) else primary).row(0))


def producer_of(trace: Trace) -> Producer | None:
    """Return the primary producer, unless it belongs to the update.

    That phase is left to the rules that know the optimizer's state: a bad value that first appears
    there says something about slots and hyper-parameters, not about the model's arithmetic.
    """
    producer = primary_of(trace)
    known = producer is not None and producer.phase in {"forward", "loss", "backward"}
    return producer if known else None


def came_in(trace: Trace) -> bool:
    """Say whether the failing step's first bad value came in from outside: batch or variable."""
    events = trace.table("events")
    primary = events.where(events["primary"]).select(step=trace.failing_step)
    return bool(len(primary) and not primary["produced"].any())


def forward_fault(trace: Trace) -> Producer | None:
    """Return the first producer if a value itself went bad, not only a derivative."""
    producer = producer_of(trace)
    return None if producer is None or _only_derivative(producer) else producer


def derivative_fault(trace: Trace) -> Producer | None:
    """Return the first producer if the values are fine and a derivative went bad."""
    producer = producer_of(trace)
    return producer if producer is not None and _only_derivative(producer) else None


def _only_derivative(producer: Producer) -> bool:
    # An op of the backward pass that could not be tied to its forward op is a derivative as well.
    return producer.derivative or producer.phase == "backward" or producer.dead_branch


def read(trace: Trace, row: dict[str, Any]) -> Producer:
    """Return one row of ``events`` with the operands recorded around it."""
    step, op = row["step"], row["op"]
    steps = trace.table("steps").select(step=step)
    return Producer(
        step=step,
        op=op,
        op_type=row["op_type"],
        phase=row["phase"],
        derivative=row["derivative"],
        layer=row["layer"],
        layer_class=row["layer_class"],
        call=row["call"],
        time=row["time"],
        source=row["source"],
        reaches=row["reaches"],
        nan=max(row["nan"], 0),
        inf=max(row["posinf"], 0) + max(row["neginf"], 0),
        samples=tuple(int(sample) for sample in json.loads(row["samples"] or "[]")),
        batch_size=_batch_size(trace, steps),
        loss_finite=bool(len(steps) and steps["loss_finite"][0]),
        operands=tuple(_operand(operand) for operand in _operands(trace, row).rows()),
    )


def _operands(trace: Trace, row: dict[str, Any]) -> Table:
    """Return the tensors recorded around an event.

    A derivative is several ops, and what went into the forward op is recorded with the first of
    them that made a bad value; that need not be the one whose bad value mattered.
    """
    recorded = trace.table("operands").select(step=row["step"])
    own = recorded.select(op=row["op"])
    if len(own) or not row["derivative"]:
        return own
    same = ("step", "op_type", "layer", "call", "source", "derivative")
    siblings = trace.table("events").select(**{key: row[key] for key in same})
    known = sorted(set(siblings["op"].tolist()) & set(recorded["op"].tolist()))
    before = [op for op in known if op < row["op"]]
    return recorded.select(op=before[-1]) if before else own


def _operand(row: dict[str, Any]) -> Operand:
    return Operand(
        position=row["position"],
        role=row["role"],
        value=row["value"],
        low=row["min"],
        high=row["max"],
        absmax=row["absmax"],
        zero=max(row["zero"], 0),
        negative=max(row["negative"], 0),
        nonfinite=sum(max(row[kind], 0) for kind in ("nan", "posinf", "neginf")),
        size=row["size"],
        dtype=row["dtype"],
        origin=row["origin"],
        origin_name=row["origin_name"],
        origin_layer=row["origin_layer"],
    )


def _batch_size(trace: Trace, steps: Table) -> int:
    batch = int(steps["batch"][0]) if len(steps) else 0
    samples = trace.table("samples").select(batch=batch)
    return len(set(samples["sample"].tolist()))


def proofs(producer: Producer) -> tuple[Proof, ...]:
    """Return the smallest changes: the op kept in its domain, the bad rows left out."""
    safe = Proof(
        "safe-op",
        {
            "op_type": producer.op_type,
            "layer": producer.layer,
            "source": producer.source,
            "phase": producer.phase,
            "derivative": producer.derivative,
            "call": producer.call,
        },
    )
    return (safe, *left_out(producer))


def left_out(producer: Producer) -> tuple[Proof, ...]:
    """Return the trial without the bad rows, where they are a strict minority."""
    if producer.minority:
        return (Proof("drop-samples", {"samples": list(producer.samples)}),)
    return ()


def carried_on(trace: Trace, producer: Producer) -> int:
    """Return how many later forward ops handed the producer's bad value on."""
    events = trace.table("events").select(step=producer.step, derivative=False, produced=False)
    forward = (events["phase"] == "forward") | (events["phase"] == "loss")
    later = (events["op"] > producer.op) & forward & (events["origin_name"] == producer.op_type)
    return int(later.sum())


def measured(claim: str, value: float, where: str) -> Evidence:
    """Return a figure as evidence; None in place of a NaN or an infinity, which JSON lacks."""
    return Evidence(claim, value if math.isfinite(value) else None, where)


def bad_output(producer: Producer) -> Evidence:
    """Return how many bad values the op put out."""
    of = "the derivative of " if producer.derivative else ""
    return Evidence(
        f"non-finite values out of {of}{producer.op_type} ({producer.nan} NaN, {producer.inf} Inf)",
        producer.nan + producer.inf,
        "/events",
    )


def figure(value: float) -> str:
    """Return a number as a sentence holds it: four significant digits at most."""
    return f"{value:.4g}"
