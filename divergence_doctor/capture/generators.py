"""Which random state is no variable? That of Python, of NumPy and of TensorFlow itself."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import Any, final

import numpy as np

from divergence_doctor.capture import _seams as seams


@final
@dataclass(frozen=True, slots=True)
class Generators:
    """The state of the process' generators at one moment, as they themselves give it."""

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    tf_global_generator: Any
    tf_global_seed: int | None
    tf_op_seeds: Any

    @classmethod
    def now(cls) -> Generators:
        """Take the state of all of them; none is made by being asked, and none moves on."""
        generator = seams.tensorflow_generator()
        state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global state is meant
        return cls(
            python=random.getstate(),
            numpy=dict(state),
            tf_global_generator=None if generator is None else np.array(generator.state.numpy()),
            tf_global_seed=seams.tensorflow_seed(),
            tf_op_seeds=seams.tensorflow_op_seeds(),
        )

    def as_json(self) -> dict[str, Any]:
        """Return the states as JSON numbers, for ``state.json`` of a bundle."""
        generator = self.tf_global_generator
        return {
            "python": _listed(self.python),
            "numpy": _plain(self.numpy),
            "tf_global_generator": None if generator is None else generator.tolist(),
            "tf_global_seed": self.tf_global_seed,
            "tf_op_seeds": None if self.tf_op_seeds is None else _listed(self.tf_op_seeds),
        }


def _listed(state: Any) -> Any:
    return [_listed(part) for part in state] if isinstance(state, tuple) else state


def _plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _plain(part) for key, part in value.items()}
    if isinstance(value, np.ndarray):
        return value.tolist()
    return value.item() if isinstance(value, np.generic) else value
