"""What is an op of the step, where did it run, and what is known of a tensor that is bad?"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, TypeAlias, final

from divergence_doctor.replay.elements import listed

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@final
@dataclass(slots=True)
class Place:
    """Where in the model an op ran: one call of one layer, at one time step if it walks in time."""

    layer: str = ""
    layer_class: str = ""
    call: int = -1
    time: int = -1
    #: The user's line that called the layer: where the way to the line of its ops ends.
    line: tuple[str, int] | None = None


#: The user's file and line that ran an op, or None.
Line: TypeAlias = "tuple[str, int] | None"
#: How an op is found again: op type, layer, call of the layer, source line, and how many alike
#: ran there before.
Spot = tuple[str, str, int, str, int]


@final
@dataclass(slots=True)
class Op:
    """One op of the stream."""

    op_type: str
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    place: Place
    phase: str
    line: Line
    derivative_of: int = -1


@final
@dataclass(slots=True)
class Taint:
    """Why a tensor is bad: where its badness came from, and the event that put it out."""

    origin: str
    name: str
    event: int = -1
    only_infinite: bool = False
    nan: bool = True
    #: NaN, +Inf and -Inf in a tensor that no op made.
    counts: tuple[int, int, int] = (0, 0, 0)


@final
@dataclass(slots=True)
class Event:
    """One op with a non-finite output."""

    op: int
    counts: tuple[int, int, int]
    produced: bool
    origin: str
    origin_name: str
    bad_inputs: tuple[int, ...]
    element: str
    #: Samples with bad elements, as a mask; None where the output has no axis of samples.
    rows: NDArray[np.bool_] | None
    message: str = ""
    stack: str = ""
    reaches: str = ""
    term: str = ""
    primary: bool = False
    operands: list[dict[str, Any]] = field(default_factory=list)

    @property
    def samples(self) -> tuple[int, ...]:
        """Return the samples to blame; none where all are bad, or none can be told."""
        return tuple(listed(self.rows))
