"""Which variables does a step of training read and change? All of them, each once, with its role.

In the order in which a bundle keeps them: weights first, then seeds and metrics, the optimizers
last.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.capture import _seams as seams
from divergence_doctor.capture.soundness import is_floating
from divergence_doctor.checkpoints import innermost, optimizers_of
from divergence_doctor.checkpoints._seams import layer_states

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

#: Metrics may be undefined, seeds hold any bits.
_CHECKED: Final = frozenset({"weight", "optimizer", "other"})


@final
@dataclass(frozen=True, slots=True, eq=False)
class Watched:
    """One variable.

    Attributes:
        variable: the Keras variable.
        role: ``weight``, ``seed``, ``metric``, ``optimizer``, ``loss-scale`` or ``other``.
        path, name, dtype: as Keras gives them.
        signed: it may hold numbers below zero.
        checked: non-finite numbers in it mean that training failed.
        on_host: it lies in host memory.
        read: reads it, uncopied where it lies in host memory.
    """

    variable: Any
    role: str
    path: str
    name: str
    dtype: str
    signed: bool
    checked: bool
    on_host: bool
    read: Callable[[], NDArray[Any]]


def watched(models: Sequence[Any], optimizers: Sequence[Any]) -> list[Watched]:
    """Return every variable that holds numbers, of models and of optimizers.

    Args:
        models: Keras models, built or not: what is not built yet has no variables.
        optimizers: Keras optimizers besides those that the models hold.
    """
    from divergence_doctor.rules import may_be_negative

    found: list[Watched] = []
    seen: set[int] = set()

    def add(variables: Iterable[Any], role: str, optimizer: str = "") -> None:
        for variable in variables:
            dtype = str(variable.dtype)
            if id(variable) in seen or dtype in {"string", "resource", "variant"}:
                continue
            seen.add(id(variable))
            path = str(variable.path)
            kept = role in _CHECKED and is_floating(dtype)
            owner = "slots" if role == "optimizer" else "weights"
            signed = not kept or may_be_negative(owner, path, optimizer)
            reader, on_host = seams.reader(variable), seams.is_on_host(variable)
            name = str(variable.name)
            found.append(Watched(variable, role, path, name, dtype, signed, kept, on_host, reader))

    for model in models:
        add(model.weights, "weight")
    for model in models:
        metrics = {id(variable) for variable in model.metrics_variables}
        add((v for v in model.variables if id(v) not in metrics), "seed")
    generator = seams.global_seed_generator()
    add(() if generator is None else (generator.state,), "seed")
    for model in models:
        add(model.metrics_variables, "metric")
        add(layer_states(model), "other")
    for optimizer in every_optimizer(models, optimizers):
        inner = innermost(optimizer)
        if inner is not optimizer:
            add(seams.own_variables(optimizer), "loss-scale")
        add(inner.variables, "optimizer", type(inner).__name__)
    return found


def every_optimizer(models: Sequence[Any], optimizers: Sequence[Any]) -> list[Any]:
    """Return the optimizers: those given, those the models are compiled with, and their others."""
    mine = {id(one): one for one in (*optimizers, *optimizers_of(*models))}
    return list(mine.values())
