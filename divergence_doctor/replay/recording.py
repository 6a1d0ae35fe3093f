"""Which tensors did the ops of one step take in and put out? Kept only for the ops asked for.

The chain of origin is walked after the step, from its failure back to its source; until then the
tensors that may lie on the way must be held. The tape holds most of them anyway.
"""

from __future__ import annotations

from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.replay._seams import identity
from divergence_doctor.replay.source import users_line

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from divergence_doctor.replay.ops import Line, Op, Place

#: Ops that hand a tensor on unchanged; our own taps are among them.
HANDING_ON: Final = frozenset(
    {"Identity", "IdentityN", "StopGradient", "PreventGradient", "CheckNumerics", "Snapshot"}
)
#: Bytes of tensors held at most; beyond, the oldest are let go and their links keep no figures.
BUDGET: Final = 2 << 30

#: How the ops asked for are known again in another run: op type, layer, its call, source line.
Kind = tuple[str, str, int, "Line"]


def kind_of(op: Op) -> Kind:
    """Return how an op of a stream is known again in another run of the same step."""
    return op.op_type, op.place.layer, op.place.call, op.line


@final
@dataclass(frozen=True, slots=True)
class Made:
    """One op with its tensors and attributes."""

    op_type: str
    inputs: tuple[Any, ...]
    attrs: dict[str, Any]
    outputs: tuple[Any, ...]
    place: Place
    line: Line


@final
class Recording:
    """Holds the tensors of chosen ops while a step runs.

    Args:
        wanted: the ops to keep.
        place: says where the op that runs now stands.
        budget: bytes of outputs held at most.
    """

    def __init__(
        self, wanted: frozenset[Kind], place: Callable[[], Place], *, budget: int = BUDGET
    ) -> None:
        self._wanted = wanted
        self._place = place
        self._budget = budget
        self._made: dict[int, tuple[Made, int]] = {}
        self._held: deque[tuple[tuple[int, ...], int]] = deque()
        self._bytes = 0
        self._written: list[tuple[Kind, Any]] = []

    def on_op(
        self,
        op_type: str | bytes,
        inputs: Sequence[Any],
        attrs: Any,
        outputs: Sequence[Any],
        op_name: str | None = None,  # noqa: ARG002 - TensorFlow's signature
        graph: Any = None,
    ) -> None:
        """Take in one op (an op callback)."""
        if graph is not None:
            return
        kind = op_type.decode() if isinstance(op_type, bytes) else op_type
        place = self._place()
        line = users_line(2, place.line)
        if kind not in HANDING_ON and (kind, place.layer, place.call, line) not in self._wanted:
            return
        pairs = attrs or ()
        named = dict(zip(pairs[::2], pairs[1::2], strict=True))
        made = Made(kind, tuple(inputs), named, tuple(outputs), place, line)
        if not outputs and len(inputs) > 1:
            self._written.append(((kind, place.layer, place.call, line), inputs[1]))
        keys = tuple(identity(tensor) for tensor in outputs)
        for position, key in enumerate(keys):
            self._made[key] = made, position
        size = 0 if kind in HANDING_ON else sum(map(_bytes_of, outputs))
        self._held.append((keys, size))
        self._bytes += size
        while self._bytes > self._budget and self._held:
            gone, size = self._held.popleft()
            self._bytes -= size
            for key in gone:
                self._made.pop(key, None)

    def written(self, kind: Kind) -> list[Any]:
        """Return what ops of this kind wrote into variables."""
        return [tensor for other, tensor in self._written if other == kind]

    def maker_of(self, tensor: Any) -> tuple[Made, int] | None:
        """Return the kept op that made a tensor and which of its outputs it is, or None."""
        return self.maker_of_key(identity(tensor))

    def maker_of_key(self, key: int) -> tuple[Made, int] | None:
        """Return the same for the number of a tensor."""
        return self._made.get(key)


def _bytes_of(tensor: Any) -> int:
    count = tensor.shape.num_elements()
    return int(count * tensor.dtype.size) if count is not None and tensor.dtype.size else 0
