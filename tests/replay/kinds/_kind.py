"""One kind of model: how it is made, what it is fed with, and the start that both runs share."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: Every kind by its name, in the order of the files that hold them.
KINDS: dict[str, Kind] = {}


@dataclass(frozen=True)
class Kind:
    """A model that can be built, with a batch that it can be fed with.

    Attributes:
        name: what the kind is called.
        build: makes the compiled model; it is given ``keras``.
        arrays: the batch.
        steps: steps to compare.
    """

    name: str
    build: Callable[[Any], Any]
    arrays: Mapping[str, Any] = field(repr=False)
    steps: int = 1


def kind(name: str, *, steps: int = 1, **arrays: Any) -> Callable[[Any], Any]:
    """Register a function of ``keras`` as the builder of a kind; ``__`` in a name means ``/``."""

    def register(build: Callable[[Any], Any]) -> Callable[[Any], Any]:
        named = {key.replace("__", "/"): np.asarray(value) for key, value in arrays.items()}
        KINDS[name] = Kind(name, build, named, steps)
        return build

    return register


def normal(*shape: int, seed: int = 0) -> Any:
    """Return standard normal numbers in float32."""
    return np.random.default_rng(seed).normal(size=shape).astype("float32")


def classes(count: int, below: int, seed: int = 0) -> Any:
    """Return integer labels."""
    return np.random.default_rng(seed).integers(0, below, size=count)


def chain(
    keras: Any, *layers: Any, loss: Any = "mse", optimizer: Any = "sgd", **options: Any
) -> Any:
    """Return a compiled Sequential model."""
    model = keras.Sequential(list(layers), name="model")
    model.compile(optimizer, loss, **options)
    return model


def all_kinds() -> list[Kind]:
    """Return every kind of every file here."""
    from tests.replay.kinds import (  # noqa: F401 - each registers its kinds
        control_flow,
        inputs,
        own_steps,
        precision,
        recurrent,
        structures,
        updates,
    )

    return list(KINDS.values())
