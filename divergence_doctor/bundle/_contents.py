"""What does the flight recorder hand over to be written? Plain data, arrays when they are due."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Final, final

import numpy as np
from numpy.typing import NDArray

from divergence_doctor.bundle._dtypes import width

Arrays = Mapping[str, NDArray[Any]]

#: Written last and dropped first when room is short.
OPTIMIZER: Final = "optimizer"
#: A few numbers each: kept even where the weights are dropped.
SMALL_ROLES: Final = frozenset({"seed", "loss-scale"})


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Variable:
    """One variable of the model's state, as it was before the first recorded step.

    Attributes:
        role: ``weight``, ``seed``, ``metric``, ``optimizer``, ``loss-scale`` or ``other``.
        path: ``variable.path`` of Keras.
        name: ``variable.name``.
        array: its value, or a function that returns it when it is to be written: then one array
            at a time is in memory.
        dtype: its true dtype (``bfloat16``). An array of such a dtype may be given as it is, or
            as unsigned integers of the same width.
        shape: its shape, where ``array`` is a function; without it the room that the variable
            takes is not known before it is fetched.
    """

    role: str
    path: str
    name: str
    array: Callable[[], NDArray[Any]] | NDArray[Any]
    dtype: str
    shape: tuple[int, ...] | None = None

    def known_shape(self) -> tuple[int, ...] | None:
        """Return the shape, where it is known before the array is fetched."""
        return self.shape if callable(self.array) else np.shape(self.array)

    def estimate(self) -> int:
        """Return how many bytes the array takes; 0 where that is not known."""
        shape = self.known_shape()
        return 0 if shape is None else math.prod(shape) * width(self.dtype)

    def fetch(self) -> NDArray[Any]:
        """Return the array."""
        return np.asarray(self.array() if callable(self.array) else self.array)


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Recorded:
    """What one training step was fed with.

    Attributes:
        step: its number among all steps that the recorder saw, from 0.
        arrays: by name, as a batch file names them (``x``, ``y``, ``sample_weight``, ``x/NAME``);
            or a function that returns them when they are to be written.
        structure: strict JSON that says how nested structures were flattened; ``None`` where the
            names say it.
        before_snapshot: the step lies before the state; kept for what it shows, not to be replayed.
    """

    step: int
    arrays: Arrays | Callable[[], Arrays]
    structure: Any = None
    before_snapshot: bool = False

    def fetch(self) -> Arrays:
        """Return the arrays."""
        return self.arrays() if callable(self.arrays) else self.arrays


@final
@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Contents:
    """Everything that goes into a bundle; FORMAT.md says what each key means.

    Attributes:
        reason: ``reason.json``, without ``schema``.
        manifest: what ``manifest.json`` says of the run, without what the writer adds (``schema``,
            ``complete``, ``files``, ``batches``, ``dropped``, ``data``).
        history: columns of equal length, oldest step first.
        batches: in the order of the steps.
        model: ``model.json``; ``None`` where the model cannot be serialised, and then
            ``manifest["model"]["why"]`` says why.
        variables: in any order; each role keeps its own.
        generators: random state that is in no variable, as strict JSON.
    """

    reason: Mapping[str, Any]
    manifest: Mapping[str, Any] = field(default_factory=dict)
    history: Mapping[str, Sequence[Any]] = field(default_factory=dict)
    batches: Sequence[Recorded] = ()
    model: Mapping[str, Any] | None = None
    variables: Sequence[Variable] = ()
    generators: Mapping[str, Any] = field(default_factory=dict)
