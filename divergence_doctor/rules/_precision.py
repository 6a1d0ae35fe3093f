"""What do the numbers around a failure in half precision look like in float32?"""

from __future__ import annotations

import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.rules._producer import LOW_PRECISION, read
from divergence_doctor.rules._singular import DIVISIONS, DOMAINS, LOGARITHMS

if TYPE_CHECKING:
    from divergence_doctor.rules._producer import Producer
    from divergence_doctor.rules._rule import Stage
    from divergence_doctor.trace import Trace

#: Links of a chain that stand for the op that failed, and for the op whose derivative failed.
_EVENT: Final = -1
_FORWARD: Final = -2

#: Ops that fail, or whose derivative does, at 0 of their first input, beside divisions and roots.
_AT_ZERO: Final = frozenset({"Pow", "EuclideanNorm", "ComplexAbs", "SqrtGrad", "ReciprocalGrad"})
#: The last numbers of a domain, at which the function is finite and its derivative is not.
_EDGES: Final = {
    **dict.fromkeys(("Acos", "Asin"), (-1.0, 1.0)),
    "Acosh": (1.0,),
    "Sqrt": (0.0,),
}


@final
@dataclass(frozen=True, slots=True)
class Pair:
    """One tensor around the failure, and the same tensor in float32.

    Attributes:
        link: link of the chain; negative for the op that failed.
        op_type: the op that it went into or came out of.
        role: input or output.
        position: which one.
        origin: op, batch, variable or constant.
        dtype: what it was held in.
        value, wide: its value at the element followed, and that in float32; NaN where none fits.
        absmax, wide_absmax: largest magnitude of all its finite elements.
        nonfinite, wide_nonfinite: numbers of NaN and Inf.
    """

    link: int
    op_type: str
    role: str
    position: int
    origin: str
    dtype: str
    value: float
    wide: float
    absmax: float
    wide_absmax: float
    nonfinite: int
    wide_nonfinite: int

    @property
    def narrow(self) -> bool:
        """The tensor was held in half precision or less."""
        return self.dtype in LOW_PRECISION

    @property
    def went_bad(self) -> bool:
        """Something of it is not finite, and all of it is in float32."""
        return self.nonfinite > 0 and self.wide_nonfinite == 0


@final
@dataclass(frozen=True, slots=True)
class Beside:
    """The failure beside the same step in float32.

    Attributes:
        producer: the op that made the first bad value.
        pairs: the tensors around it, and around the links of its chain.
        finite: nothing that mattered in that step went bad in float32.
    """

    producer: Producer
    pairs: tuple[Pair, ...]
    finite: bool

    @property
    def dtype(self) -> str:
        """The narrow dtype that the numbers were held in, nearest the failure."""
        return next((pair.dtype for pair in self.pairs if pair.narrow), "")

    @property
    def stage(self) -> Stage:
        """Where the cause sits."""
        update = self.producer.phase in {"update", "clipping"}
        return "update" if update else self.producer.stage

    def own(self, role: str) -> tuple[Pair, ...]:
        """Return the tensors of one role of the op that failed."""
        return tuple(pair for pair in self.pairs if pair.link == _EVENT and pair.role == role)

    def of_link(self, link: int, role: str) -> tuple[Pair, ...]:
        """Return the tensors of one role of the op of a link."""
        return tuple(pair for pair in self.pairs if pair.link == link and pair.role == role)

    def lost(self) -> Pair | None:
        """Return the number that the op cannot take, which float32 gives it otherwise; or None.

        It is an input of the op that failed, or of the one whose derivative did; where no element
        of it was followed, what came out of the nearest link of the chain.
        """
        op = self.producer.op_type
        derivative = self.producer.derivative
        first = _FORWARD if derivative else _EVENT
        for pair in self.of_link(first, "input"):
            if (
                pair.op_type == op
                and pair.position == _dangerous(op)
                and not math.isnan(pair.value)
            ):
                return pair if _is_lost(op, pair, derivative=derivative) else None
        nearest = min((pair.link for pair in self.pairs if pair.link >= 0), default=None)
        if nearest is None:
            return None
        made = [pair for pair in self.of_link(nearest, "output") if not math.isnan(pair.value)]
        return next((pair for pair in made if _is_lost(op, pair, derivative=derivative)), None)

    def rounded_constant(self) -> Pair | None:
        """Return a constant of the code that the dtype turned to 0 or 1 on the way to the failure.

        An epsilon of 1e-8 is 0 in float16, and a bound of 1 - 1e-7 is 1 in either half precision.
        """
        for pair in self.pairs:
            constant = pair.origin == "constant" and pair.role == "input" and pair.narrow
            other = math.isfinite(pair.wide) and pair.wide != pair.value
            if constant and other and pair.value in {0.0, 1.0}:
                return pair
        return None

    def where_lost(self) -> Pair | None:
        """Return what the op put out that lost it: the link nearest the source that differs."""
        found = None
        for link in sorted({pair.link for pair in self.pairs if pair.link >= 0}):
            made = [pair for pair in self.of_link(link, "output") if not math.isnan(pair.value)]
            if made and not any(_differs(pair) for pair in made):
                break
            found = next((pair for pair in made if _differs(pair)), found)
        return found


def beside(trace: Trace) -> Beside | None:
    """Return the failure beside the same step in float32; None where that was not measured.

    Args:
        trace: any trace.
    """
    rows = trace.table("float32")
    if trace.outcome != "diverged" or not len(rows):
        return None
    # Of steps that were all skipped, the last is the one that no loss scale mended.
    step = int(rows["step"].max())
    rows = rows.select(step=step)
    event = trace.table("events").select(step=step, op=int(rows["op"][0]), primary=True)
    if not len(event):
        return None
    producer = read(trace, event.row(0))
    failing = trace.failing_step
    producer = producer if failing is None else replace(producer, step=failing)
    pairs = tuple(_pair(row) for row in rows.rows())
    found = Beside(producer, pairs, finite=bool(rows["step_finite"].all()))
    return found if found.dtype else None


def _pair(row: dict[str, Any]) -> Pair:
    return Pair(
        link=row["link"],
        op_type=row["op_type"],
        role=row["role"],
        position=row["position"],
        origin=row["origin"],
        dtype=row["dtype"],
        value=row["value"],
        wide=row["float32"],
        absmax=row["absmax"],
        wide_absmax=row["float32_absmax"],
        nonfinite=row["nonfinite"],
        wide_nonfinite=row["float32_nonfinite"],
    )


def _dangerous(op: str) -> int:
    """Return which input of an op its value or derivative fails of."""
    if op in LOGARITHMS:
        return LOGARITHMS[op][0]
    if op in DOMAINS:
        return DOMAINS[op].position
    return DIVISIONS.get(op, 0)


def _is_lost(op: str, pair: Pair, *, derivative: bool) -> bool:
    """Say whether the op fails of a number and not of what it is in float32."""
    value, wide = pair.value, pair.wide
    if not (math.isfinite(value) and math.isfinite(wide)):
        return False
    return _fails(op, value, derivative=derivative) and not _fails(op, wide, derivative=derivative)


def _fails(op: str, value: float, *, derivative: bool) -> bool:
    if op in LOGARITHMS:
        return value <= LOGARITHMS[op][1]
    if op in DIVISIONS and value == 0:
        return True
    if op in _AT_ZERO:
        return value <= 0
    if derivative and value in _EDGES.get(op, ()):
        return True
    return op in DOMAINS and DOMAINS[op].excludes(value)


def _differs(pair: Pair) -> bool:
    """Say whether not even the magnitude of a number is right."""
    value, wide = pair.value, pair.wide
    return bool(abs(value - wide) > 0.5 * max(abs(value), abs(wide)))


def spelled(value: float) -> str:
    """Return a number with the digits of float32 that hold: 1 - 1e-7 and 1 are told apart."""
    return f"{value:.7g}"
