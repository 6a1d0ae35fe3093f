"""Which older checkpoint of the same model, in the same folder, is the last that is sound?

Nothing is loaded: the arrays of each file are read, as they lie there, and looked at. Checkpoints
only get worse, a NaN in the weights stays, so the last sound one is found by bisection.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._archive import read_archive
from divergence_doctor.checkpoints._weights import in_memory, is_hdf5, survey
from divergence_doctor.errors import DoctorError

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from numpy.typing import NDArray

#: Checkpoints looked for in a folder, and bytes of arrays read of any one of them.
_MOST_FILES: Final = 10_000
_MOST_BYTES: Final = 2 << 30
_SUFFIXES: Final = (".weights.h5", ".keras", ".h5", ".hdf5")
_NUMBER: Final = re.compile(r"\d+(?:\.\d+)?")

#: The arrays of one file by name; None where it cannot be read, or is too large to be.
Arrays = dict[str, "NDArray[Any]"]


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """What makes a checkpoint a bad one, beside NaN and Inf.

    Attributes:
        negative: (shape, elements below zero) of each array in the replayed checkpoint that holds
            some where none may be.
        largest: magnitude beyond which an element is none that training leaves.
    """

    negative: tuple[tuple[tuple[int, ...], int], ...] = ()
    largest: float = math.inf


def last_good(path: Path, fault: Fault) -> dict[str, Any] | None:
    """Find the last sound checkpoint among those older than the one at a path, in its folder.

    Args:
        path: the checkpoint that was replayed: an archive, an HDF5 file, or the prefix of a
            ``tf.train.Checkpoint``.
        fault: what is wrong with it.

    Returns:
        ``file`` (name of the last sound one; empty where none is), ``next`` (the first that is
        not), ``oldest``, ``of`` (older checkpoints of this model) and ``read`` (how many of them
        were). None where there is none, or the replayed one cannot be read again.
    """
    own = _arrays(path)
    older = _older(path)
    if own is None or not older:
        return None
    never = _never_negative(own, fault)
    shapes = {name: array.shape for name, array in own.items()}
    del own
    found, bad, read = _bisect(older, lambda one: _is_sound(one, shapes, never, fault))
    if not read:
        return None
    return {
        "file": clean(found.name) if found is not None else "",
        "next": clean((bad or path).name),
        "oldest": clean(older[0].name),
        "of": len(older),
        "read": read,
    }


def _bisect(
    older: Sequence[Path], sound: Callable[[Path], bool | None]
) -> tuple[Path | None, Path | None, int]:
    """Return the last sound one, the first that is not, and how many were looked at.

    The newest goes first: most often it is the one. Where all are sound, the replayed one is the
    first that is not, and None stands for it.
    """
    left, read, bad = list(older), 0, None
    low, high = 0, len(left)
    middle = high - 1
    found = None
    while low < high:
        verdict = sound(left[middle])
        if verdict is None:
            del left[middle]
            high -= 1
        else:
            read += 1
            if verdict:
                found, low = left[middle], middle + 1
            else:
                bad, high = left[middle], middle
        middle = (low + high) // 2 if verdict is not None else min(middle, high - 1)
    return found, bad, read


def _older(path: Path) -> list[Path]:
    """Return the checkpoints beside a path that were written before it, the oldest first."""
    others = [other for other in _beside(path) if other.name != path.name][:_MOST_FILES]
    family, numbers = _family(path)
    kin = [(_family(other)[1], other) for other in others if _family(other)[0] == family]
    if numbers and kin:
        return [other for key, other in sorted(kin) if key < numbers]
    own = _age(path)
    aged = sorted((_age(other), other) for other in others)
    return [other for age, other in aged if age < own]


def _beside(path: Path) -> Iterator[Path]:
    if _index(path).is_file():
        yield from (index.with_suffix("") for index in path.parent.glob("*.index"))
        return
    suffix = next((end for end in _SUFFIXES if path.name.endswith(end)), path.suffix)
    for other in path.parent.iterdir():
        if other.name.endswith(suffix) and other.is_file() and not other.is_symlink():
            yield other


def _family(path: Path) -> tuple[str, tuple[float, ...]]:
    """Return a name with its numbers taken out, and the numbers."""
    name = path.name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return _NUMBER.sub("#", name), tuple(float(number) for number in _NUMBER.findall(name))


def _index(prefix: Path) -> Path:
    return prefix.with_name(f"{prefix.name}.index")


def _age(path: Path) -> float:
    index = _index(path)
    return (index if index.is_file() else path).stat().st_mtime


def _never_negative(own: Arrays, fault: Fault) -> frozenset[str]:
    return frozenset(
        name
        for name, array in own.items()
        if (array.shape, int(np.count_nonzero(array < 0))) in fault.negative
    )


def _is_sound(
    path: Path, shapes: dict[str, tuple[int, ...]], never: frozenset[str], fault: Fault
) -> bool | None:
    """Say whether a checkpoint is sound; None where it is another model's or cannot be read."""
    arrays = _arrays(path)
    if arrays is None or {name: array.shape for name, array in arrays.items()} != shapes:
        return None
    for name, array in arrays.items():
        wide = array if array.dtype.kind == "f" and array.dtype.itemsize > 2 else array.astype("f4")
        if not np.isfinite(wide).all() or (name in never and (wide < 0).any()):
            return False
        if wide.size and float(np.abs(wide).max()) > fault.largest:
            return False
    return True


def _arrays(path: Path) -> Arrays | None:
    """Return the floating arrays of a checkpoint by name, or None; nothing in it is run."""
    try:
        return _of_prefix(path) if _index(path).is_file() else _of_hdf5(path)
    except (DoctorError, OSError, ValueError, KeyError, TypeError):
        return None


def _of_hdf5(path: Path) -> Arrays | None:
    if not is_hdf5(path):
        read_archive(path)
    headers = survey(path)
    if headers.declared > _MOST_BYTES:
        return None
    with in_memory(path, _MOST_BYTES) as file:
        if file is None:
            return None
        return {
            name: np.asarray(file[name][()])
            for name in headers.datasets
            if file[name].dtype.kind == "f"
        }


def _of_prefix(prefix: Path) -> Arrays | None:
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes, dtypes = reader.get_variable_to_shape_map(), reader.get_variable_to_dtype_map()
        floating = [name for name in sorted(shapes) if dtypes[name].is_floating]
        size = sum(math.prod(shapes[name]) * dtypes[name].size for name in floating)
        stored = sum(f.stat().st_size for f in prefix.parent.glob(f"{prefix.name}.data-*"))
        if size > min(_MOST_BYTES, stored):
            return None
        return {name: np.asarray(reader.get_tensor(name)) for name in floating}
    except (tf.errors.OpError, RuntimeError, IndexError, UnicodeDecodeError):
        return None
