"""What does a step take from outside the batch, the state and the seeds?

Two things can be told without knowing the user's code: which of its plain Python values and random
generators a step leaves changed (no checkpoint and no seed puts them back), and which of its lines
ask the operating system for random bytes or the time.
"""

from __future__ import annotations

import random
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints import optimizers_of
from divergence_doctor.replay.source import is_users, spell
from divergence_doctor.replay.state import layer_path, layers_of

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from types import CodeType, FrameType

    from numpy.typing import NDArray

    from divergence_doctor.replay.bench import Bench

#: Functions written in C whose answer no seed decides, by module and name.
_ENTROPY: Final = frozenset(
    {
        *(("posix", "urandom"), ("posix", "getrandom"), ("posix", "getpid"), ("nt", "urandom")),
        *(("time", name) for name in ("time", "time_ns", "perf_counter", "perf_counter_ns")),
        *(("time", name) for name in ("monotonic", "monotonic_ns", "process_time")),
        *(("builtins", name) for name in ("id", "hash")),
    }
)
_AS_USERS_WRITE: Final = {"posix": "os", "nt": "os", "builtins": ""}
#: Arrays and texts longer than this are no counters.
_LONG: Final = 4096
_SHOWN: Final = 40


def unseeded(bench: Bench) -> list[dict[str, Any]]:
    """Run the first step once more, and return rows of the table ``unseeded``.

    Args:
        bench: the failing step.
    """
    before = _held(bench.model)
    calls: list[dict[str, Any]] = []
    with _listening(calls):
        bench.run(steps=1)
    after = _held(bench.model)
    changed = [
        {
            "kind": "attribute",
            "name": name,
            "layer": layer,
            "before": _shown(before[name][1]),
            "after": _shown(value),
        }
        for name, (layer, value) in after.items()
        if name in before and before[name][1] != value
    ]
    return [*changed, *calls]


def _held(model: Any) -> dict[str, tuple[str, Any]]:
    """Return (layer, fingerprint) of every plain value that the user's code keeps, by its name."""
    import keras

    found: dict[str, tuple[str, Any]] = {}
    ordinary = {*vars(keras.layers.Layer()), *vars(keras.Model())}
    owners = [(layer, layer_path(layer, model)) for layer in layers_of(model)]
    owners += [(optimizer, "") for optimizer in optimizers_of(model)]
    for owner, path in owners:
        kind = type(owner)
        for name, value in vars(owner).items():
            if name not in ordinary and is_users_class(kind):
                _keep(found, f"{path or kind.__name__}.{name}", path, value)
        for base in kind.__mro__:
            if not is_users_class(base):
                continue
            for name, value in vars(base).items():
                _keep(found, f"{base.__name__}.{name}", path, value)
            module = sys.modules.get(base.__module__)
            for name, value in vars(module).items() if module is not None else ():
                _keep(found, f"{base.__module__}.{name}", "", value)
    return found


def is_users_class(kind: type) -> bool:
    """Say whether a class was written by the user."""
    return any(
        is_users(member.__code__) for member in vars(kind).values() if hasattr(member, "__code__")
    )


def _keep(found: dict[str, tuple[str, Any]], name: str, layer: str, value: Any) -> None:
    if "__" in name.rpartition(".")[2]:
        return
    fingerprint = _fingerprint(value)
    if fingerprint is not None:
        found.setdefault(clean(name), (layer, fingerprint))


def _fingerprint(value: Any) -> Any:
    """Return what tells one state of a plain value from another; None where it is not plain."""
    import tensorflow as tf

    readings: tuple[tuple[Any, Callable[[Any], Any]], ...] = (
        (bool | int | float | str, lambda v: v if len(str(v)) < _LONG else None),
        (np.random.Generator, lambda v: ("generator", repr(v.bit_generator.state))),
        (np.random.RandomState, lambda v: ("generator", repr(v.get_state()))),
        (random.Random, lambda v: ("generator", v.getstate())),
        (tf.random.Generator, lambda v: ("generator", v.state.numpy().tobytes())),
        (np.ndarray, lambda v: ("array", v.tobytes()) if _is_small(v) else None),
        (list | dict | set, lambda v: ("length", len(v)) if len(v) < _LONG else None),
    )
    return next((read(value) for kinds, read in readings if isinstance(value, kinds)), None)


def _is_small(array: NDArray[Any]) -> bool:
    return array.dtype.kind in "biuf" and array.size < _LONG


def _shown(value: Any) -> str:
    if not isinstance(value, tuple):
        return clean(str(value), _SHOWN)
    return f"{value[1]} entries" if value[0] == "length" else ""


@contextmanager
def _listening(calls: list[dict[str, Any]]) -> Iterator[None]:
    """Note which lines of the user's code ask for entropy or the time, each once."""
    seen: set[tuple[str, str]] = set()

    def listen(frame: FrameType, event: str, function: Any) -> None:
        if event != "c_call":
            return
        module, name = getattr(function, "__module__", None), getattr(function, "__name__", "")
        if (module, name) not in _ENTROPY:
            return
        caller = _users_frame(frame)
        if caller is None:
            return
        own = _AS_USERS_WRITE.get(str(module), str(module))
        spelled = f"{own}.{name}" if own else name
        line = spell(caller[0].co_filename, caller[1])
        if (spelled, line) not in seen:
            seen.add((spelled, line))
            calls.append({"kind": "call", "name": spelled, "layer": "", "source": line})

    before = sys.getprofile()
    sys.setprofile(listen)
    try:
        yield
    finally:
        sys.setprofile(before)


#: Frames between the user's line and the function in C: ``secrets``, ``uuid`` and ``random`` stand
#: there; farther up it is a library that asks on its own behalf.
_BETWEEN: Final = 4


def _users_frame(frame: FrameType | None) -> tuple[CodeType, int] | None:
    for _ in range(_BETWEEN):
        if frame is None:
            return None
        if is_users(frame.f_code):
            return frame.f_code, frame.f_lineno
        name = frame.f_globals.get("__name__")
        if name not in {"secrets", "random", "uuid", "tempfile", "datetime"}:
            return None
        frame = frame.f_back
    return None
