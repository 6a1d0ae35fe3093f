"""Does the step live once a mask holds a large finite number in place of minus infinity?

The masked scores are changed where they are made, by replacing the result of the op that makes
them: everything that is done with them, the row's largest score among it, sees the finite ones.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor.replay.source import spell
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.replay.bench import Bench
    from divergence_doctor.replay.ops import Op, Spot
    from divergence_doctor.replay.opstream import OpStream


@final
class FiniteMask(Trial):
    """Raises masked scores to a finite number.

    Parameters: ``{"op_type": "Softmax", "layer": "attention", "source": "model.py:38", "where":
    "input", "floor": -1e9}``: the op that takes the scores in, or with ``"where": "result"`` the
    one that makes them, and what they are raised to (the lowest number of a narrower dtype).
    """

    name: ClassVar[str] = "finite-mask"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps with the scores of that op kept from below the floor."""
        kind, layer = str(parameters["op_type"]), str(parameters.get("layer") or "")
        source = str(parameters.get("source") or "")
        floor = float(parameters.get("floor", -1e9))
        at = f" in {layer}" if layer else (f" at {source}" if source else "")
        changed = f"masked scores of {kind}{at} raised to {floor:g}"
        if bench.stream is None:
            return Outcome.not_run(changed, "the failing step left no stream of ops")
        sites = [
            number
            for number, op in enumerate(bench.stream.ops)
            if _is_there(op, kind, layer, source)
        ]
        patched = _spots(bench.stream, sites, result=parameters.get("where") == "result")
        if not patched:
            return Outcome.not_run(changed, f"the scores of {kind} are made by no op of the step")

        def raised(x: Any) -> Any:
            import tensorflow as tf

            if not x.dtype.is_floating:
                return x
            return tf.maximum(x, tf.cast(max(floor, float(x.dtype.min)), x.dtype))

        return Outcome.of(changed, bench.run(patches=dict.fromkeys(patched, raised)))


def _is_there(op: Op, kind: str, layer: str, source: str) -> bool:
    return (
        op.op_type == kind
        and op.derivative_of < 0
        and op.phase in {"forward", "loss"}
        and op.place.layer == layer
        and (spell(*op.line) if op.line else "") == source
    )


def _spots(stream: OpStream, sites: list[int], *, result: bool) -> list[tuple[Spot, int]]:
    """Return the results to replace: those of the ops themselves, or those that they take in."""
    spots = stream.spots()
    found = []
    for number in sites:
        taken = stream.ops[number].inputs[:1]
        made = (number, 0) if result else (stream.output_of(taken[0]) if taken else None)
        spot = spots[made[0]] if made is not None else None
        if made is not None and spot is not None:
            found.append((spot, made[1]))
    return found
