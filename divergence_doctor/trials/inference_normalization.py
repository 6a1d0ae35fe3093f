"""Does the step live once a batch normalisation takes its moving statistics, as in inference?"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor.replay._seams import patched
from divergence_doctor.replay.state import layers_at
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from divergence_doctor.replay.bench import Bench


@final
class InferenceNormalization(Trial):
    """Calls layers as in inference: ``{"layers": ["norm_1"]}``, all else as in training."""

    name: ClassVar[str] = "inference-normalization"
    breadth: ClassVar[int] = 2

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps with these layers in inference mode."""
        paths = [str(path) for path in parameters["layers"]]
        changed = f"{', '.join(paths)} normalises by its moving statistics"
        layers = [
            layer for layer in layers_at(bench.model, paths) if hasattr(layer, "moving_variance")
        ]
        if not layers:
            return Outcome.not_run(changed, "no such layer keeps moving statistics")
        chosen = {id(layer) for layer in layers}

        def in_inference(original: Callable[..., Any]) -> Callable[..., Any]:
            def call(layer: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
                if id(layer) in chosen:
                    return original(layer, inputs, **{**kwargs, "training": False})
                return original(layer, inputs, *args, **kwargs)

            return call

        @contextmanager
        def inferring() -> Iterator[None]:
            with ExitStack() as stack:
                for kind in {type(layer) for layer in layers}:
                    stack.enter_context(patched(kind, "call", in_inference))
                yield

        return Outcome.of(changed, bench.run(prepare=inferring))
