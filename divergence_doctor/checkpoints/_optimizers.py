"""Which optimizers does a model train with, and which of them takes the step?"""

from __future__ import annotations

from typing import Any


def optimizers_of(*models: Any) -> list[Any]:
    """Return the optimizers that models hold: the compiled one first, then those in attributes."""
    import keras

    held = [
        value
        for model in models
        for value in (getattr(model, "optimizer", None), *vars(model).values())
    ]
    found = {id(value): value for value in held if isinstance(value, keras.optimizers.Optimizer)}
    return list(found.values())


def innermost(optimizer: Any) -> Any:
    """Return the optimizer that takes the step: the one inside a loss-scaling wrapper."""
    return getattr(optimizer, "inner_optimizer", optimizer)
