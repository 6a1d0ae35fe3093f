"""Where do two traces part, and what was different before they did?

Two replays are laid beside each other tensor by tensor, in the order of execution: the first whose
figures differ by more than rounding is where they part. What stands before it (batch, weights,
hyper-parameters, versions) is what may have made them.
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, Literal

import numpy as np

from divergence_doctor.diagnosis import diagnose

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from divergence_doctor.diagnosis import Diagnosis
    from divergence_doctor.trace import Table, Trace

#: Relative difference that the order of float32 sums makes; what is below is no difference.
TOLERANCE: Final = 1e-5

Phase = Literal["forward", "loss", "backward", "update"]

#: Figures that must be the same, and those that may differ by rounding, the most telling first.
_COUNTS: Final = ("nan", "posinf", "neginf")
_SIZES: Final = ("absmax", "l2", "std", "mean", "min", "max")
_PHASES: Final[dict[str, Phase]] = {
    "activations": "forward",
    "losses": "loss",
    "gradients": "backward",
    "updates": "update",
}
#: What tells the rows of a table apart.
_KEYS: Final = {
    "batch": ("batch", "name"),
    "weights": ("step", "when", "variable"),
    "slots": ("step", "when", "variable"),
    "activations": ("step", "layer", "call", "time", "role"),
    "gradients": ("step", "layer", "call", "time", "variable"),
    "updates": ("step", "variable"),
    "losses": ("step", "name"),
    "hyperparameters": ("step", "optimizer", "name"),
}


@dataclass(frozen=True, slots=True)
class Gap:
    """One thing that differs, and one figure of it in which it does.

    Attributes:
        what: layer, variable, array or name.
        tensor: which of its tensors, e.g. ``output``; empty where there is one.
        figure: the column of the trace: ``absmax``, ``nan``, ``shape``, ``value``, ...
        a, b: the figure in the one and in the other trace.
        step: replayed step; -1 where it belongs to none.
        phase: where in the step; empty where it belongs to none.
    """

    what: str
    tensor: str
    figure: str
    a: float | str
    b: float | str
    step: int = -1
    phase: Phase | Literal[""] = ""

    @property
    def breaks(self) -> bool:
        """It is finite in one of the two, and not in the other."""
        if isinstance(self.a, str) or isinstance(self.b, str):
            return False
        if self.figure in _COUNTS:
            return (self.a == 0) != (self.b == 0)
        return self.figure == "value" and math.isfinite(self.a) != math.isfinite(self.b)

    @property
    def relative(self) -> float:
        """Difference over the larger magnitude; Inf where one is no finite number or no number."""
        if isinstance(self.a, str) or isinstance(self.b, str):
            return math.inf
        if not (math.isfinite(self.a) and math.isfinite(self.b)):
            return math.inf
        largest = max(abs(self.a), abs(self.b))
        # Divided first: the difference of two numbers of 1e308 need not be a number.
        return abs(self.a / largest - self.b / largest) if largest else 0.0


@dataclass(frozen=True, slots=True)
class Side:
    """What one trace says of itself."""

    diagnosis: Diagnosis
    steps: int
    failing_step: int | None
    layers: int


@dataclass(frozen=True, slots=True)
class Comparison:
    """What differs between two traces.

    Attributes:
        a, b: the two, by what they say of themselves.
        parting: the first tensor in the order of execution that differs; None where none does.
        breaking: the first that is finite in one of them and not in the other; None where none is.
        parted: every tensor that differs in that step, in the order of execution.
        batch: arrays that were fed and differ.
        weights: variables that differ before the first step.
        slots: variables of the optimizer that do.
        hyperparameters: numbers of the optimizer that differ in the first step in which they do.
        setup: what else differs: versions, device, seed, hashes of the files.
        only_a, only_b: layers that only one of them has.
        tolerance: relative difference that counts as none.
    """

    a: Side
    b: Side
    parting: Gap | None
    breaking: Gap | None = None
    parted: tuple[Gap, ...] = ()
    batch: tuple[Gap, ...] = ()
    weights: tuple[Gap, ...] = ()
    slots: tuple[Gap, ...] = ()
    hyperparameters: tuple[Gap, ...] = ()
    setup: tuple[Gap, ...] = ()
    only_a: tuple[str, ...] = ()
    only_b: tuple[str, ...] = ()
    tolerance: float = TOLERANCE
    counts: dict[str, int] = field(default_factory=dict)

    @property
    def same(self) -> bool:
        """Nothing that was measured differs by more than rounding."""
        told = (self.batch, self.weights, self.slots, self.hyperparameters)
        return self.parting is None and not any((*told, self.only_a, self.only_b))


def compare(a: Trace, b: Trace, *, tolerance: float = TOLERANCE) -> Comparison:
    """Return what differs between two traces. Pure: the same traces, the same comparison.

    Args:
        a: one trace, e.g. of the last good step.
        b: the other.
        tolerance: relative difference up to which two figures count as the same; 0 for none.
    """
    parted = [
        gap
        for table, phase in _PHASES.items()
        for gap in _gaps(a.table(table), b.table(table), tolerance, phase=phase)
    ]
    # Sorted by step only: within one the phases come in the order in which they run.
    parted.sort(key=lambda gap: gap.step)
    layers = [dict.fromkeys(_layers(trace)) for trace in (a, b)]
    first = parted[0].step if parted else -1
    return Comparison(
        a=_side(a),
        b=_side(b),
        parting=parted[0] if parted else None,
        breaking=next((gap for gap in parted if gap.breaks), None),
        parted=tuple(gap for gap in parted if gap.step == first),
        batch=tuple(_gaps(a.table("batch"), b.table("batch"), tolerance)),
        weights=tuple(_gaps(_at_start(a, "weights"), _at_start(b, "weights"), tolerance)),
        slots=tuple(_gaps(_at_start(a, "slots"), _at_start(b, "slots"), tolerance)),
        hyperparameters=tuple(_numbers(a, b, tolerance)),
        setup=tuple(_setup(a, b)),
        only_a=tuple(layer for layer in layers[0] if layer not in layers[1]),
        only_b=tuple(layer for layer in layers[1] if layer not in layers[0]),
        tolerance=tolerance,
        counts={
            table: len(_matched(a.table(table), b.table(table), _KEYS[table])[0]) for table in _KEYS
        },
    )


def _side(trace: Trace) -> Side:
    return Side(
        diagnose(trace), len(trace.table("steps")), trace.failing_step, len(set(_layers(trace)))
    )


def _layers(trace: Trace) -> list[str]:
    return [str(layer) for layer in trace.table("layers")["layer"] if layer]


def _matched(a: Table, b: Table, keys: Sequence[str]) -> tuple[Any, Any]:
    """Return the rows of both that are about the same thing, in the order of the first."""
    there: dict[tuple[Any, ...], int] = {}
    for row, key in enumerate(zip(*(b[name].tolist() for name in keys), strict=True)):
        there.setdefault(key, row)
    pairs = [
        (row, there[key])
        for row, key in enumerate(zip(*(a[name].tolist() for name in keys), strict=True))
        if key in there
    ]
    rows = np.asarray(pairs, dtype=np.intp).reshape(-1, 2)
    return rows[:, 0], rows[:, 1]


def _gaps(
    a: Table, b: Table, tolerance: float, *, phase: Phase | Literal[""] = ""
) -> Iterator[Gap]:
    """Yield the tensors of a table that differ, with the most telling figure that does."""
    table = a.name
    rows = _matched(a, b, _KEYS[table])
    one, other = a.where(rows[0]), b.where(rows[1])
    figures = ("value",) if table == "losses" else (*_COUNTS, *_SIZES)
    differ = {name: _differ(one, other, name, tolerance) for name in figures}
    if table != "losses":
        differ = {
            "shape": one["shape"] != other["shape"],
            "dtype": one["dtype"] != other["dtype"],
            **differ,
        }
    some = np.zeros(len(one), dtype=bool)
    for mask in differ.values():
        some |= mask
    for row in np.flatnonzero(some):
        name = next(name for name, mask in differ.items() if mask[row])
        found, beside = one.row(int(row)), other.row(int(row))
        yield Gap(
            *_called(table, found), name, found[name], beside[name], found.get("step", -1), phase
        )


def _called(table: str, row: dict[str, Any]) -> tuple[str, str]:
    """Return what a row is about: layer, variable, array or name; and which tensor of it."""
    if table in ("activations", "gradients"):
        variable = row.get("variable", "")
        which = variable.removeprefix(f"{row['layer']}/") or row.get("role", "output")
        parts = [which] + ([f"call {row['call']}"] if row["call"] > 0 else [])
        parts += [f"time {row['time']}"] if row["time"] >= 0 else []
        return row["layer"] or which, ", ".join(parts)
    return row.get("variable", row.get("name", "")), ""


def _differ(a: Table, b: Table, name: str, tolerance: float) -> Any:
    """Return where two columns differ, each figure by its share of the tensor's magnitude."""
    left, right = a[name].astype(np.float64), b[name].astype(np.float64)
    with np.errstate(invalid="ignore", over="ignore"):
        if name in _COUNTS:
            return left != right
        # A mean near zero is as exact as the numbers that it is the mean of are large.
        scale = np.fmax(np.abs(left), np.abs(right))
        if name in ("mean", "min", "max", "std"):
            scale = np.fmax(scale, np.fmax(a["absmax"], b["absmax"]))
        near = np.abs(left - right) <= tolerance * scale
        return ~(near | (left == right) | (np.isnan(left) & np.isnan(right)))


def _at_start(trace: Trace, name: str) -> Table:
    """Return the variables as they were before the first step."""
    table = trace.table(name)
    return table.select(step=int(min(table["step"], default=0)), when="before")


def _numbers(a: Trace, b: Trace, tolerance: float) -> Iterator[Gap]:
    """Yield the hyper-parameters that differ, each in the first step in which it does."""
    one, other = a.table("hyperparameters"), b.table("hyperparameters")
    rows = _matched(one, other, _KEYS["hyperparameters"])
    one, other = one.where(rows[0]), other.where(rows[1])
    told: set[str] = set()
    classes = [
        ", ".join(dict.fromkeys(map(str, trace.table("hyperparameters")["optimizer_class"])))
        for trace in (a, b)
    ]
    if classes[0] != classes[1]:
        yield Gap("optimizer", "", "class", classes[0], classes[1])
    for row in np.flatnonzero(_differ(one, other, "value", tolerance)):
        name = str(one["name"][row])
        # Every step of training raises the count of steps; it says how far the run had come.
        if name in told:
            continue
        told.add(name)
        values = float(one["value"][row]), float(other["value"][row])
        yield Gap(name, "", "value", *values, int(one["step"][row]))


def _setup(a: Trace, b: Trace) -> Iterator[Gap]:
    """Yield the facts of the two runs that differ."""
    facts = [dict(_facts(trace)) for trace in (a, b)]
    for name in dict.fromkeys([*facts[0], *facts[1]]):
        left, right = (fact.get(name, "") for fact in facts)
        if left != right:
            yield Gap(name, "", "fact", left, right)


def _facts(trace: Trace) -> Iterator[tuple[str, str]]:
    run = _mapping(trace.context.get("run"))
    for name, version in sorted(_mapping(run.get("versions")).items()):
        yield f"{name} version", str(version)
    for name in ("device", "dtype_policy", "platform", "seed"):
        if run.get(name) is not None:
            yield name.replace("_", " "), str(run[name])
    checkpoint = _mapping(trace.context.get("checkpoint"))
    batch = _mapping(trace.context.get("batch"))
    if checkpoint.get("sha256"):
        yield "checkpoint (SHA-256)", str(checkpoint["sha256"])
    for index, sha256 in enumerate(batch.get("sha256") or ()):
        yield f"batch {index} (SHA-256)", str(sha256)


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}
