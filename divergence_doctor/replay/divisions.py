"""Where did the step divide by almost nothing, and does a layer divide by what an op made?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.replay._seams import identity, view
from divergence_doctor.replay.elements import listed, wide
from divergence_doctor.replay.source import spell

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from divergence_doctor.replay.ops import Op
    from divergence_doctor.replay.samples import Samples

#: Ops that divide, with the place of the denominator.
DIVIDES: Final = {"RealDiv": 1, "Div": 1, "DivNoNan": 1, "Xdivy": 1}
#: Ops that put out 1 over what they take in, and ops that guard a divisor or hand it on.
_INVERTS: Final = frozenset({"Reciprocal", "Inv"})
_GUARDS: Final = frozenset(
    {
        *("Add", "AddV2", "Maximum", "SelectV2", "ClipByValue", "Identity", "Reshape", "Squeeze"),
        *("ExpandDims", "BroadcastTo", "Cast"),
    }
)
#: Phases in which a model divides: an optimizer's own quotients are no matter of the model's.
FORWARDS: Final = frozenset({"forward", "loss"})
#: Guards that people write below the line, 1e-6 and less, and a quotient that no such guard is
#: meant to let through: a thousandfold ordinary value, squared, is still below it.
_ALMOST_NOTHING: Final = 1e-6
_LARGE_QUOTIENT: Final = 1e4


@final
class Divisions:
    """The divisions of one step that made a large, finite number of a small one.

    Args:
        samples: tells which rows of a tensor belong to which sample.
    """

    def __init__(self, samples: Samples) -> None:
        self._samples = samples
        self._found: list[dict[str, Any]] = []

    def note(self, index: int, kind: str, inputs: Sequence[Any], outputs: Sequence[Any]) -> None:
        """Keep a division by almost nothing that made a large, finite number."""
        quotient = view(outputs[0])
        if quotient.dtype.kind in "ciu":
            return
        size = np.abs(quotient.astype(wide(quotient), copy=False))
        if not quotient.size or not size.max() >= _LARGE_QUOTIENT:
            return
        below = np.broadcast_to(view(inputs[DIVIDES[kind]]), quotient.shape)
        almost = np.abs(below.astype(wide(below), copy=False)) <= _ALMOST_NOTHING
        large = almost & (size >= _LARGE_QUOTIENT)
        if not large.any():
            return
        at = np.unravel_index(int(np.argmax(np.where(large, size, 0))), quotient.shape)
        above = np.broadcast_to(view(inputs[1 - DIVIDES[kind]]), quotient.shape)
        key = identity(outputs[0])
        bad = self._samples.put_back(self._samples.rows(quotient, large), key)
        self._found.append(
            {
                "op": index,
                "numerator": float(above[at]),
                "denominator": float(below[at]),
                "quotient": float(quotient[at]),
                "samples": json.dumps(listed(bad if key in self._samples else None)),
            }
        )

    def rows(
        self, step: int, ops: Sequence[Op], phases: Sequence[str]
    ) -> Iterator[tuple[str, dict[str, Any]]]:
        """Yield (table, row) for each of them."""
        for division in self._found:
            op = ops[division["op"]]
            yield (
                "divisions",
                {
                    "step": step,
                    "op_type": op.op_type,
                    "phase": phases[division["op"]],
                    "layer": op.place.layer,
                    "layer_class": op.place.layer_class,
                    "source": spell(*op.line) if op.line else "",
                    **division,
                },
            )


def divides(op: Op, ops: Sequence[Op], untapped: Callable[[int], int]) -> bool:
    """Say whether its layer divides by an op's result: by itself, guarded, or reshaped."""
    first = op.derivative_of if op.derivative_of >= 0 else ops.index(op)
    known, place = set(ops[first].outputs), ops[first].place
    for later in ops[first + 1 :]:
        if later.derivative_of >= 0 or later.phase not in FORWARDS:
            continue
        if (later.place.layer, later.place.call) != (place.layer, place.call):
            continue
        ins = [untapped(key) for key in later.inputs]
        below = DIVIDES.get(later.op_type)
        if below is not None and below < len(ins) and ins[below] in known:
            return True
        if later.op_type in _INVERTS and ins and ins[0] in known:
            return True
        if later.op_type in _GUARDS and known.intersection(ins):
            known.update(later.outputs)
    return False
