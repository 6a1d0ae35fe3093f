"""With which numbers does each optimizer take this step? Its rate, its epsilon, its decays."""

from __future__ import annotations

import inspect
import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints import innermost, optimizers_of

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Numbers that change from step to step: they are read off the optimizer, not off its config.
CHANGING: Final = frozenset({"learning_rate", "iterations", "loss_scale"})
#: What an optimizer does without when it is left out.
_NEUTRAL: Final = {"weight_decay": 0.0, "loss_scale_factor": 1.0}


def hyperparameters(model: Any, step: int) -> Iterator[dict[str, Any]]:
    """Yield the rows of table ``hyperparameters`` for one step, as it begins.

    Args:
        model: a compiled model.
        step: replayed step; from the second on only what changes by itself is told again.
    """
    for index, optimizer in enumerate(optimizers_of(model)):
        inner = innermost(optimizer)
        common = {
            "step": step,
            "optimizer": index,
            "optimizer_class": clean(type(inner).__name__),
            "schedule": _schedule(inner),
        }
        numbers = [*_changing(optimizer, inner), *(_configured(inner) if step == 0 else ())]
        for name, value in numbers:
            yield {**common, "name": name, "value": value, "default": _default(inner, name)}


def default_of(optimizer: Any, name: str) -> Any:
    """Return what a class of optimizers takes when an argument is left out.

    Args:
        optimizer: the optimizer; the nearest of its classes that has the argument counts.
        name: name of the argument.

    Raises:
        KeyError: none of its classes names a default for it.
    """
    for kind in type(optimizer).__mro__:
        given = vars(kind).get("__init__")
        found = inspect.signature(given).parameters.get(name) if given is not None else None
        if found is not None and found.default is not inspect.Parameter.empty:
            return found.default
    raise KeyError(name)


def _changing(optimizer: Any, inner: Any) -> Iterator[tuple[str, float]]:
    rate = _number(lambda: inner.learning_rate)
    if rate is not None:
        yield "learning_rate", rate
    yield "iterations", float(np.asarray(inner.iterations))
    scale = getattr(optimizer, "dynamic_scale", None)
    if scale is not None:
        yield "loss_scale", float(np.asarray(scale))


def _configured(inner: Any) -> Iterator[tuple[str, float]]:
    try:
        config = inner.get_config()
    except Exception:  # noqa: BLE001 - a user's optimizer may have no config at all
        return
    for name, value in config.items():
        if name not in CHANGING and isinstance(value, int | float | bool):
            yield clean(str(name)), float(value)


def _number(read: Any) -> float | None:
    try:
        return float(np.asarray(read()))
    except (AttributeError, TypeError, ValueError):
        return None


def _default(optimizer: Any, name: str) -> float:
    try:
        value = default_of(optimizer, name)
    except (KeyError, ValueError, TypeError):
        return math.nan
    if value is None:
        return _NEUTRAL.get(name, math.nan)
    return float(value) if isinstance(value, int | float | bool) else math.nan


def _schedule(optimizer: Any) -> str:
    import keras

    schedule = getattr(optimizer, "_learning_rate", None)
    kept = isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule)
    return clean(type(schedule).__name__) if kept else ""
