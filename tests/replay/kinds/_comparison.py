"""The same step twice, watched and plain: what tapes, layers and variables came to, to the bit."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from divergence_doctor.batches import Batch
from divergence_doctor.replay import _seams as seams

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping


@dataclass
class Seen:
    """What the tests' own recorder saw of some steps."""

    targets: list[bytes] = field(default_factory=list)
    gradients: list[tuple[str, bytes]] = field(default_factory=list)
    losses: list[float] = field(default_factory=list)
    layers: set[str] = field(default_factory=set)
    variables: set[str] = field(default_factory=set)
    state: dict[str, bytes] = field(default_factory=dict)
    trace: Any = None


def batch(arrays: Mapping[str, Any]) -> Batch:
    """Return a batch over arrays."""
    named = {name: np.asarray(array) for name, array in arrays.items()}
    return Batch(arrays=named, source="made.npz", sha256="0" * 64)


def plain(model: Any, arrays: Mapping[str, Any], steps: int = 1) -> Seen:
    """Run the model's train_step eagerly with nothing but the recorder around it, and go back."""
    import tensorflow as tf

    from divergence_doctor.replay import match
    from divergence_doctor.replay.engine import run_step
    from divergence_doctor.replay.feeding import tensors
    from divergence_doctor.replay.state import Snapshot, seed_everything

    start = Snapshot(model)
    fed = match(batch(arrays), model)
    seen = Seen()
    tf.config.run_functions_eagerly(True)
    try:
        seed_everything(0)
        with _recording(model, seen):
            for _ in range(steps):
                run_step(model, tensors(fed))
    finally:
        tf.config.run_functions_eagerly(False)
    seen.state = _state(model)
    start.restore()
    return seen


def watched(model: Any, arrays: Mapping[str, Any], steps: int = 1) -> Seen:
    """Replay the steps with the engine, the same recorder outside of it."""
    from divergence_doctor.replay import Engine, match
    from divergence_doctor.trace import TraceBuilder

    seen, builder = Seen(), TraceBuilder()
    with _recording(model, seen):
        Engine(model, [match(batch(arrays), model)], builder).replay(steps=steps, seed=0)
    seen.state = _state(model)
    seen.trace = builder.build()
    return seen


def _state(model: Any) -> dict[str, bytes]:
    from divergence_doctor.checkpoints import optimizers_of

    slots = [v for optimizer in optimizers_of(model) for v in optimizer.variables]
    return {
        f"{number} {variable.path}": np.asarray(variable.value).tobytes()
        for number, variable in enumerate([*model.variables, *slots])
        if "string" not in str(variable.dtype)
    }


@contextmanager
def _recording(model: Any, seen: Seen) -> Iterator[None]:  # noqa: C901 - three small hooks
    import tensorflow as tf

    from divergence_doctor.replay.state import layer_path

    def gradient(original: Any) -> Any:
        def recorded(tape: Any, target: Any, sources: Any, *args: Any, **kwargs: Any) -> Any:
            found = original(tape, target, sources, *args, **kwargs)
            for tensor in tf.nest.flatten(target, expand_composites=True):
                seen.targets.append(tensor.numpy().tobytes())
            flat = found if isinstance(found, list | tuple) else [found]
            for source, tensor in zip(tf.nest.flatten(sources), flat, strict=False):
                values = getattr(tensor, "values", tensor)
                if hasattr(values, "numpy"):
                    path = getattr(source, "path", "")
                    seen.gradients.append((path, values.numpy().tobytes()))
                    seen.variables.add(path)
            return found

        return recorded

    def call(original: Any) -> Any:
        def recorded(layer: Any, *args: Any, **kwargs: Any) -> Any:
            outputs = original(layer, *args, **kwargs)
            flat = tf.nest.flatten(outputs, expand_composites=True)
            if any(getattr(getattr(t, "dtype", None), "is_floating", False) for t in flat):
                seen.layers.add(layer_path(layer, model))
            return outputs

        return recorded

    def loss(original: Any) -> Any:
        def recorded(owner: Any, *args: Any, **kwargs: Any) -> Any:
            value = original(owner, *args, **kwargs)
            if owner is model:
                seen.losses.append(float(value))
            return value

        return recorded

    with ExitStack() as stack:
        stack.enter_context(seams.patched(tf.GradientTape, "gradient", gradient))
        stack.enter_context(seams.patched(seams.layer_class(), "__call__", call))
        stack.enter_context(seams.patched(seams.trainer_class(), "_compute_loss", loss))
        yield
