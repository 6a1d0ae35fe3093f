"""Which random state is no variable of the model? That of Python, NumPy, TensorFlow and Keras."""

from __future__ import annotations

import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

import numpy as np

from divergence_doctor.replay import _seams as seams

if TYPE_CHECKING:
    from collections.abc import Mapping


@final
@dataclass(frozen=True, slots=True)
class Generators:
    """The states of the generators that belong to the process; None leaves one as it is.

    Attributes:
        python: what ``random.getstate`` gives.
        numpy: what ``numpy.random.get_state`` gives.
        tensorflow: state of ``tf.random.get_global_generator``.
        keras: state behind ``keras.random`` calls without a seed.
        seed: what was given to ``tf.random.set_seed``.
        op_seeds: state from which eager random ops of TensorFlow get their seeds, where one is set.
    """

    python: Any = None
    numpy: Any = None
    tensorflow: Any = None
    keras: Any = None
    seed: int | None = None
    op_seeds: Any = None

    @classmethod
    def now(cls) -> Generators:
        """Return the states as they are."""
        import tensorflow as tf

        held = seams.global_seed_state()
        seed, op_seeds = seams.tensorflow_seed()
        return cls(
            python=random.getstate(),
            numpy=np.random.get_state(),  # noqa: NPY002 - the generator that user code draws from
            tensorflow=np.asarray(tf.random.get_global_generator().state),
            keras=None if held is None else np.asarray(held.value),
            seed=seed,
            op_seeds=op_seeds,
        )

    @classmethod
    def recorded(cls, told: Mapping[str, Any]) -> Generators:
        """Return the states that a crash bundle holds; what makes no sense in it is left out."""
        return cls(
            python=_python(told.get("python")),
            numpy=_numpy(told.get("numpy")),
            tensorflow=_integers(told.get("tf_global_generator"), np.int64),
            keras=_integers(told.get("keras_global_seed_generator"), np.int64),
            seed=_seed(told.get("tf_global_seed")),
            op_seeds=_python(told.get("tf_op_seeds")),
        )

    def restore(self) -> None:
        """Put the states back."""
        import tensorflow as tf

        if self.seed is not None:
            # The counters within a graph's stateful ops start anew by it: they cannot be had.
            seams.set_tensorflow_seed(self.seed, self.op_seeds)
        if self.python is not None:
            random.setstate(self.python)
        if self.numpy is not None:
            np.random.set_state(self.numpy)  # noqa: NPY002 - likewise
        if self.tensorflow is not None:
            tf.random.get_global_generator().reset(self.tensorflow)
        if self.keras is not None:
            seams.make_global_seed_state().assign(self.keras)


def _python(told: Any) -> Any:
    try:
        version, words, gauss = told
        state = (int(version), tuple(int(word) for word in words), gauss)
        random.Random().setstate(state)  # noqa: S311 - tried out, not drawn from
    except (TypeError, ValueError, OverflowError):
        return None
    return state


def _numpy(told: Any) -> Any:
    try:
        if isinstance(told, dict):
            inner = told["state"]
            told = [told["bit_generator"], inner["key"], inner["pos"], told["has_gauss"],
                    told["gauss"]]  # fmt: skip
        name, key, position, has_gauss, gauss = told
        state = (
            str(name),
            np.asarray(key, dtype=np.uint32),
            int(position),
            int(has_gauss),
            float(gauss),
        )
        np.random.RandomState().set_state(state)
    except (TypeError, ValueError, KeyError, OverflowError):
        return None
    return state


def _integers(told: Any, dtype: Any) -> Any:
    try:
        values = np.asarray(told, dtype=dtype)
    except (TypeError, ValueError, OverflowError):
        return None
    return values if values.shape in {(2,), (3,)} else None


def _seed(told: Any) -> int | None:
    return told if isinstance(told, int) and not isinstance(told, bool) else None
