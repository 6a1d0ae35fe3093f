"""What does a step change? The variables of the model and its optimizers, and the random state."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints import innermost, optimizers_of
from divergence_doctor.replay._seams import forget_global_seed_generator, values_of

if TYPE_CHECKING:
    from collections.abc import Collection, Iterator

    from numpy.typing import NDArray

    from divergence_doctor.replay.generators import Generators


def layer_path(layer: Any, root: Any) -> str:
    """Return the path of a layer as Keras gives it, without the name of the whole model.

    Keras puts that name in front or not, depending on how the model came to be built; a layer at
    the top level goes by its plain name either way. A layer that was never built has no path yet.
    """
    path = str(getattr(layer, "path", None) or getattr(layer, "name", ""))
    if layer is not root:
        path = path.removeprefix(f"{root.name}/")
    return clean(path)


def layers_at(root: Any, paths: Collection[str]) -> list[Any]:
    """Return the layers of a model, nested ones too, that go by these paths."""
    wanted = set(paths)
    every = root._flatten_layers(include_self=False)  # noqa: SLF001 - Keras has no public walk through nested layers
    return [layer for layer in every if layer_path(layer, root) in wanted]


@dataclass(frozen=True, slots=True)
class Held:
    """One variable of the model: the Keras variable, its path, and the layer that owns it."""

    variable: Any
    path: str
    layer: str
    layer_class: str
    trainable: bool


def model_variables(model: Any) -> list[Held]:
    """Return weights and moving statistics by layer, without metrics and seed generators."""
    found: list[Held] = []
    seen: set[int] = set()
    for layer in layers_of(model):
        own = [
            *getattr(layer, "_trainable_variables", ()),
            *getattr(layer, "_non_trainable_variables", ()),
            *untracked(layer),
        ]
        for variable in own:
            if id(variable) in seen or not _is_floating(variable):
                continue
            seen.add(id(variable))
            found.append(
                Held(
                    variable,
                    clean(variable.path),
                    layer_path(layer, model),
                    type(layer).__name__,
                    bool(variable.trainable and layer.trainable),
                )
            )
    for variable in model.weights:
        if id(variable) not in seen and _is_floating(variable):
            seen.add(id(variable))
            path = clean(variable.path)
            found.append(
                Held(variable, path, path.rpartition("/")[0], "", bool(variable.trainable))
            )
    return found


def slot_variables(model: Any) -> Iterator[tuple[Any, str, str]]:
    """Yield (variable, path, optimizer class) of every floating variable of every optimizer.

    The slots of an optimizer inside a loss scale are that optimizer's own.
    """
    for optimizer in optimizers_of(model):
        inner = innermost(optimizer)
        inside = {id(variable) for variable in inner.variables}
        for variable in optimizer.variables:
            if _is_floating(variable):
                owner = inner if id(variable) in inside else optimizer
                yield variable, clean(variable.path), type(owner).__name__


def layers_of(model: Any) -> Iterator[Any]:
    """Yield the model and every layer inside it, each once, in the order Keras tracks them."""
    seen: set[int] = set()
    stack = [model]
    while stack:
        layer = stack.pop()
        if id(layer) in seen:
            continue
        seen.add(id(layer))
        yield layer
        stack.extend(reversed(list(getattr(layer, "_layers", ()))))


def untracked(layer: Any) -> list[Any]:
    """Return variables that a layer keeps past Keras' own list: the states of a stateful RNN."""
    import keras

    states = keras.tree.flatten(getattr(layer, "states", None))
    return [state for state in states if isinstance(state, keras.Variable)]


def _is_floating(variable: Any) -> bool:
    return "float" in str(variable.dtype)


def build_optimizer(model: Any) -> None:
    """Create the slots of the compiled optimizer, as ``fit`` does before its first step.

    Where a layer makes its weights only when it is first called, the first update creates them.
    """
    optimizer = getattr(model, "optimizer", None)
    if optimizer is None or optimizer.built or not model.trainable_variables:
        return
    if not any(_is_yet_to_build(layer) for layer in layers_of(model)):
        optimizer.build(model.trainable_variables)


def _is_yet_to_build(layer: Any) -> bool:
    import keras

    return not layer.built and type(layer).build is not keras.layers.Layer.build


@final
class Snapshot:
    """A host copy of everything a step changes, to start the same step again.

    Args:
        model: a built Keras model.
        generators: the random state of the process before the step, where it is known.
    """

    def __init__(self, model: Any, generators: Generators | None = None) -> None:
        build_optimizer(model)
        self._model = model
        self._generators = generators
        self._kept = {
            id(variable): (variable, values_of(variable)) for variable in self._variables()
        }

    def restore(self) -> None:
        """Put every variable back to what it was; one that came up since then, to zeros."""
        for variable in self._variables():
            _, value = self._kept.get(id(variable), (None, None))
            variable.assign(np.zeros(variable.shape, variable.dtype) if value is None else value)

    def start(self, seed: int) -> None:
        """Put everything back, the process' random state too: as it was known, else by a seed."""
        self.restore()
        self.draw_again(seed)

    def draw_again(self, seed: int) -> None:
        """Put back the process' random state alone: as it was known, else by a seed."""
        seed_everything(seed)
        if self._generators is not None:
            self._generators.restore()

    def value(self, variable: Any) -> NDArray[Any] | None:
        """Return what one variable held, not to be changed; None for one that came up since."""
        return self._kept.get(id(variable), (None, None))[1]

    def _variables(self) -> list[Any]:
        optimizers = optimizers_of(self._model)
        found = [
            *self._model.variables,
            *self._model.metrics_variables,
            *(v for layer in layers_of(self._model) for v in untracked(layer)),
            *(v for o in optimizers for v in o.variables),
        ]
        return [
            variable for variable in {id(v): v for v in found}.values() if _has_numbers(variable)
        ]


def _has_numbers(variable: Any) -> bool:
    return str(variable.dtype) not in {"string", "resource", "variant"}


def seed_everything(seed: int) -> None:
    """Set the random state of Python, NumPy, TensorFlow and Keras."""
    import keras

    keras.utils.set_random_seed(seed)
    forget_global_seed_generator()
