"""Does the step live once a layer's output is sent through the activation that the loss asks for?

The result of the layer's last op is sent through softplus, sigmoid or softmax, on the tape: all
that the loss makes of it, and the gradient, see the output as it would be with that activation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.replay.source import spell
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from divergence_doctor.replay.bench import Bench
    from divergence_doctor.replay.ops import Spot
    from divergence_doctor.replay.opstream import OpStream


#: A floor under a scale or a rate: an output far below 0 is no tiny scale to divide by.
_FLOOR: Final = 1e-3
#: Keras' `epsilon()`, and in half precision twice its resolution at 1.
_EDGE: Final = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 1e-7, "float64": 1e-7}


def _softplus(x: Any) -> Any:
    import tensorflow as tf

    return tf.math.softplus(x) + tf.cast(_FLOOR, x.dtype)


def _sigmoid(x: Any) -> Any:
    import tensorflow as tf

    return _inside(tf.math.sigmoid(x))


def _softmax(x: Any) -> Any:
    import tensorflow as tf

    return _inside(tf.nn.softmax(x))


def _inside(p: Any) -> Any:
    """Return probabilities kept from 0 and 1 as Keras' own cross-entropies keep them."""
    import tensorflow as tf

    edge = tf.cast(_EDGE[p.dtype.name], p.dtype)
    return tf.clip_by_value(p, edge, 1 - edge)


#: Activations whose result is positive, inside 0..1, or a distribution along the last axis.
ACTIVATIONS: Final[Mapping[str, Callable[[Any], Any]]] = {
    "softplus": _softplus,
    "sigmoid": _sigmoid,
    "softmax": _softmax,
}


@final
class OutputActivation(Trial):
    """Sends the output of one layer through an activation: the first that survives counts.

    Parameters: ``{"layer": "scale", "op_type": "Relu", "source": "", "through": ["softplus",
    "sigmoid"]}``; without an op type, the last op that the layer runs in each of its calls.
    """

    name: ClassVar[str] = "output-activation"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps with the layer's output sent through one activation after the other."""
        layer = str(parameters["layer"])
        kind = str(parameters.get("op_type") or "")
        names = [str(name) for name in parameters.get("through", ("softplus",))]
        changed = f"output of layer {layer} sent through {' or '.join(names)}"
        if bench.stream is None:
            return Outcome.not_run(changed, "the failing step left no stream of ops")
        spots = _outputs(bench.stream, layer, kind, parameters.get("source"))
        if not spots:
            return Outcome.not_run(changed, f"layer {layer} runs no {kind or 'op'} to be changed")
        tried: list[str] = []
        for name in names:
            rerun = bench.run(patches=dict.fromkeys(spots, _real(ACTIVATIONS[name])))
            if rerun.finite:
                return Outcome.of(f"output of layer {layer} sent through {name}", rerun)
            tried.append(f"{name}: {rerun.why}")
        return Outcome(changed, "still-fails", "; ".join(tried), rerun)


def _real(change: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return lambda x: change(x) if x.dtype.is_floating else x


def _outputs(stream: OpStream, layer: str, kind: str, source: str | None) -> list[tuple[Spot, int]]:
    """Return the last op, of a kind and line if they are named, of each call of a layer."""
    last: dict[int, tuple[Spot, int]] = {}
    for op, spot in zip(stream.ops, stream.spots(), strict=True):
        here = op.place.layer == layer and op.phase == "forward" and op.outputs
        line = spell(*op.line) if op.line else ""
        if here and spot is not None and kind in {"", op.op_type} and source in {None, line}:
            last[op.place.call] = (spot, 0)
    return list(last.values())
