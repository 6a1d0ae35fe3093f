"""Does the step live once a normalisation has an epsilon that keeps its divisor away from zero?"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor.replay._seams import own_attribute
from divergence_doctor.replay.source import spell
from divergence_doctor.replay.state import layers_at
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from divergence_doctor.replay.bench import Bench


@final
class EnlargeEpsilon(Trial):
    """Gives normalisations a sane epsilon.

    Parameters: ``{"layers": ["norm_1"], "epsilon": 1e-3}`` sets it on Keras layers; by hand,
    ``{"op_type": "Mean", "layer": "norm", "source": "model.py:12", "epsilon": 1e-3}`` adds it to
    what the op that averages the squares puts out, inside the root.
    """

    name: ClassVar[str] = "enlarge-epsilon"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps with the larger epsilon."""
        epsilon = float(parameters.get("epsilon", 1e-3))
        if "layers" in parameters:
            return _on_layers(bench, [str(path) for path in parameters["layers"]], epsilon)
        return _at_the_variance(bench, parameters, epsilon)


def _on_layers(bench: Bench, paths: list[str], epsilon: float) -> Outcome:
    changed = f"epsilon of {', '.join(paths)} set to {epsilon:g}"
    layers = [layer for layer in layers_at(bench.model, paths) if hasattr(layer, "epsilon")]
    if not layers:
        return Outcome.not_run(changed, "no such layer with an epsilon")

    @contextmanager
    def enlarged() -> Iterator[None]:
        with ExitStack() as stack:
            for layer in layers:
                value = max(epsilon, float(layer.epsilon))
                stack.enter_context(own_attribute(layer, "epsilon", value))
            yield

    return Outcome.of(changed, bench.run(prepare=enlarged))


def _at_the_variance(bench: Bench, parameters: Mapping[str, Any], epsilon: float) -> Outcome:
    kind, layer = str(parameters["op_type"]), str(parameters.get("layer") or "")
    source = str(parameters.get("source") or "")
    changed = f"{epsilon:g} added to the variance in {layer or source}"
    if bench.stream is None:
        return Outcome.not_run(changed, "the failing step left no stream of ops")
    spots = [
        (spot, 0)
        for op, spot in zip(bench.stream.ops, bench.stream.spots(), strict=True)
        if spot is not None
        and (op.op_type, op.place.layer) == (kind, layer)
        and (spell(*op.line) if op.line else "") == source
    ]
    if not spots:
        return Outcome.not_run(changed, f"no {kind} runs there")

    def added(x: Any) -> Any:
        import tensorflow as tf

        return x + tf.cast(epsilon, x.dtype) if x.dtype.is_floating else x

    return Outcome.of(changed, bench.run(patches=dict.fromkeys(spots, added)))
