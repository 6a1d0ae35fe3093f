"""What was the step given? Its batch, kept while it may be needed, and named as ``.npz`` files are.

Tensors do not change and are kept by reference; an array may be the buffer that the next batch is
written into, and is copied. Whatever can only be said at a cost (values side by side from several
replicas, names) is worked out when a bundle is written.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.capture import _seams as seams

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

ROLES: Final = ("x", "y", "sample_weight")
#: Bytes of an element, by TensorFlow's number of the dtype.
_widths: dict[int, int] = {}
#: A sparse tensor is written out in full below this many bytes.
_DENSE: Final = 1 << 30
#: What a name in a batch file is kept to: it becomes the name of a member of an archive.
_LONGEST: Final = 80


def keep(data: Any) -> Any:
    """Return a batch as it will still be later: structure and arrays copied, tensors as they are.

    Args:
        data: what the step is handed, in any structure of tuples, lists and dicts.
    """
    # Tensors first: the checks of a plain batch are made anew at every step.
    if hasattr(data, "_numpy"):
        return data
    if isinstance(data, tuple):
        parts = [keep(part) for part in data]
        return type(data)(*parts) if hasattr(data, "_fields") else tuple(parts)
    if isinstance(data, list):
        return [keep(part) for part in data]
    if isinstance(data, Mapping):
        return {key: keep(part) for key, part in data.items()}
    return _kept(data)


def _kept(leaf: Any) -> Any:
    if hasattr(leaf, "assign") and hasattr(leaf, "read_value"):
        return leaf.read_value()
    if isinstance(leaf, np.ndarray | np.generic) or hasattr(leaf, "__array__"):
        return np.array(leaf)
    return leaf


def size(data: Any) -> int:
    """Return the bytes that a kept batch holds on to, as far as they can be told without work."""
    if hasattr(data, "_num_elements"):
        # The seam's cheapest: asked of every tensor of every batch.
        kind = data._datatype_enum()  # noqa: SLF001
        width = _widths.get(kind)
        if width is None:
            width = _widths[kind] = max(data.dtype.size, 1)
        return int(data._num_elements() * width)  # noqa: SLF001
    if isinstance(data, tuple | list):
        return sum(map(size, data))
    if isinstance(data, Mapping):
        return sum(map(size, data.values()))
    if isinstance(data, np.ndarray):
        return data.nbytes
    if hasattr(data, "values") and not callable(data.values):
        return size(data.values)
    return 0


def samples(data: Any) -> int:
    """Return how many samples a batch holds, by its first tensor; 0 where that cannot be told."""
    while not hasattr(data, "_shape_tuple") and isinstance(data, tuple | list | Mapping):
        inner = data.values() if isinstance(data, Mapping) else data
        data = next((part for part in inner if part is not None), None)
    return seams.samples(data) if hasattr(data, "_shape_tuple") or hasattr(data, "shape") else 0


@final
@dataclass(slots=True, eq=False)
class Named:
    """A batch as the arrays of an ``.npz`` file.

    Attributes:
        arrays: by name: ``x``, ``x/NAME``, ``x_0``, ``y``, ``sample_weight``, ...
        structure: how they were nested, where the names alone do not say so: a JSON value of
            ``{"dict": {...}}``, ``{"list": [...]}``, ``{"tuple": [...]}``, ``{"array": NAME}``,
            ``{"ragged": NAME}``, ``{"sparse": NAME}`` and null.
        missing: what could not be written, as ``NAME: why``.
    """

    arrays: dict[str, NDArray[Any]] = field(default_factory=dict)
    structure: Any = None
    missing: list[str] = field(default_factory=list)


def named(data: Any) -> Named:
    """Return a kept batch as named arrays.

    Args:
        data: the batch; a tuple of one to three parts is read as Keras reads it, as inputs,
            targets and sample weights.
    """
    found = Named()
    parts = _parts(data)
    tree = [_add(found, role, part) for role, part in parts]
    if isinstance(data, tuple | list) and len(data) <= len(ROLES):
        held = all(_is_flat(part) for _, part in parts)
        whole = {"tuple": tree}
    else:
        held = _is_flat(data)
        whole = tree[0]
    if not held or '"sparse"' in json.dumps(whole):
        found.structure = whole
    return found


def _parts(data: Any) -> list[tuple[str, Any]]:
    if isinstance(data, tuple | list) and 0 < len(data) <= len(ROLES):
        return list(zip(ROLES, data, strict=False))
    return [("x", data)]


def _is_flat(part: Any) -> bool:
    """Say whether the names of a part's arrays tell its structure: no container in a container."""
    inner = (
        list(part.values())
        if isinstance(part, Mapping)
        else part
        if isinstance(part, tuple | list)
        else []
    )
    keys = list(part) if isinstance(part, Mapping) else []
    return all(
        not isinstance(leaf, Mapping | tuple | list) and leaf is not None for leaf in inner
    ) and all(_told(key) == key for key in keys)


def _add(found: Named, name: str, part: Any) -> Any:
    """Put the arrays of a part of the batch under their names, and return its structure."""
    if isinstance(part, Mapping):
        inner = {str(key): _add(found, _free(found, f"{name}/{_told(key)}"), value)
                 for key, value in part.items()}  # fmt: skip
        return {"dict": inner}
    if isinstance(part, tuple | list):
        listed = [_add(found, f"{name}_{index}", value) for index, value in enumerate(part)]
        return {"list" if isinstance(part, list) else "tuple": listed}
    if part is None or seams.is_missing(part):
        return None
    if seams.is_distributed(part):
        return _add(found, name, _side_by_side(seams.replicas(part)))
    return _leaf(found, name, part)


def _leaf(found: Named, name: str, value: Any) -> Any:
    import tensorflow as tf

    try:
        if isinstance(value, tf.RaggedTensor):
            if value.ragged_rank > 1:
                found.missing.append(f"{name}: a tensor that is ragged along two axes")
                return None
            found.arrays[f"{name}/values"] = _array(value.flat_values)
            found.arrays[f"{name}/row_splits"] = _array(value.row_splits)
            return {"ragged": name}
        if isinstance(value, tf.SparseTensor):
            shape = value.dense_shape.numpy()
            if float(np.prod(shape, dtype=np.float64)) * value.dtype.size > _DENSE:
                found.missing.append(f"{name}: a sparse tensor that is too large when written out")
                return None
            found.arrays[name] = _array(tf.sparse.to_dense(tf.sparse.reorder(value)))
            return {"sparse": name}
        found.arrays[name] = _array(value)
    except Exception as error:  # noqa: BLE001 - one odd part of a batch must not lose the others
        found.missing.append(f"{name}: {type(value).__name__} ({type(error).__name__})")
        return None
    return {"array": name}


def _array(value: Any) -> NDArray[Any]:
    array = seams.view(value) if hasattr(value, "_numpy") else np.asarray(value)
    if array.dtype.kind == "O":
        return np.array(array.tolist(), dtype=np.bytes_)
    if array.dtype.kind not in "biufcSU":
        # bfloat16 and float8 fit into float32 to the bit; NumPy's files do not know them.
        return array.astype(np.float32)
    return array


def _side_by_side(values: tuple[Any, ...]) -> Any:
    """Return the parts of the global batch that the replicas got as one, in their order."""
    import tensorflow as tf

    if isinstance(values[0], tf.SparseTensor):
        return tf.sparse.concat(0, list(values))
    if isinstance(values[0], tf.RaggedTensor):
        return tf.concat(list(values), 0)
    return np.concatenate([np.atleast_1d(_array(value)) for value in values])


def _told(key: Any) -> str:
    """Return a key of a dict as it can stand in a file of arrays."""
    text = "".join(c if c.isprintable() and c not in "/\\" else "_" for c in str(key))
    return text[:_LONGEST] or "_"


def _free(found: Named, name: str) -> str:
    """Return a name that is not taken: two keys may be told alike."""
    return next(free for free in _variants(name) if free not in found.arrays)


def _variants(name: str) -> Iterator[str]:
    yield name
    number = 2
    while True:
        yield f"{name}~{number}"
        number += 1
