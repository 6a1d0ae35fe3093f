"""How do the tables become labelled arrays? One node for each, its keys as dimensions (xarray).

A table has one row per observation; here a column becomes an array over step x layer, or
step x variable, that is selected from by name. What does not change from step to step (class,
shape, dtype) stands as a coordinate beside the names.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor._optional import optional
from divergence_doctor.trace.schema import EXPONENT_MAX, EXPONENT_MIN, TABLES

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from numpy.typing import NDArray

    from divergence_doctor.trace.model import Trace
    from divergence_doctor.trace.table import Table


@dataclass(frozen=True, slots=True)
class _Node:
    """One node of the tree: of which table, along which columns, and which of its rows.

    The last dimension is that of the names; ``label`` gives them where no single column does.
    """

    table: str
    dims: tuple[str, ...]
    label: Callable[[Table], NDArray[Any]] | None = None
    of: Callable[[Table], NDArray[Any]] | None = None


def tensor_labels(table: Table) -> NDArray[Any]:
    """Return a name for each row of ``activations`` or of the gradients of layers.

    It is the layer's path, with what tells its tensors apart where a step holds several of them:
    ``rnn (call 1)``, ``lstm (time 3)``, ``split (output/1)``.
    """
    roles = table["role"].tolist() if "role" in table else [""] * len(table)
    columns = (table["layer"], table["call"], table["time"], roles)
    labels = np.empty(len(table), dtype=object)
    for index, (layer, call, time, role) in enumerate(zip(*columns, strict=True)):
        parts = [str(role)] if role not in ("", "output") else []
        parts += [f"call {call}"] if call > 0 else []
        parts += [f"time {time}"] if time >= 0 else []
        told = ", ".join(parts)
        labels[index] = (f"{layer} ({told})" if told else str(layer)) if layer else told
    return labels


def _hyperparameters(table: Table) -> NDArray[Any]:
    several = len(set(table["optimizer"].tolist())) > 1
    pairs = zip(table["optimizer"], table["name"], strict=True)
    labels = [f"{name} ({number})" if several else str(name) for number, name in pairs]
    return np.asarray(labels, dtype=object)


_NODES: Final = {
    "steps": _Node("steps", ("step",)),
    "activations": _Node("activations", ("step", "layer"), tensor_labels),
    "layer_gradients": _Node(
        "gradients", ("step", "layer"), tensor_labels, lambda table: table["variable"] == ""
    ),
    "variable_gradients": _Node(
        "gradients", ("step", "variable"), of=lambda table: table["variable"] != ""
    ),
    "weights": _Node("weights", ("step", "when", "variable")),
    "updates": _Node("updates", ("step", "variable")),
    "slots": _Node("slots", ("step", "when", "variable")),
    "hyperparameters": _Node("hyperparameters", ("step", "hyperparameter"), _hyperparameters),
    "losses": _Node("losses", ("step", "name")),
    "samples": _Node("samples", ("batch", "sample", "name")),
    "sample_losses": _Node("sample_losses", ("step", "sample", "name")),
    "along_update": _Node("along_update", ("step", "scale")),
}


#: Numbers that tell which tensor it is, and nothing of what was measured.
_OF_THE_NAME: Final = frozenset({"call", "time"})


def to_xarray(trace: Trace) -> Any:
    """Return the trace as an ``xarray.DataTree``; :meth:`Trace.to_xarray` says what is in it.

    Raises:
        MissingPackageError: xarray is not installed.
    """
    xr = optional("xarray", pip="xarray", to="to read a trace as labelled arrays")
    steps = np.unique(trace.table("steps")["step"])
    nodes = {}
    for name, node in _NODES.items():
        table = trace.table(node.table)
        table = table.where(node.of(table)) if node.of is not None else table
        if len(table):
            nodes[f"/{name}"] = _dataset(xr, table, node, steps)
    root = xr.Dataset(
        coords={
            "step": ("step", steps, {"long_name": "replayed step, from 0"}),
            "exponent": (
                "exponent",
                np.arange(EXPONENT_MIN, EXPONENT_MAX + 1, dtype=np.int16),
                {"long_name": "floor(log2(|x|)) of what a bin of a histogram counts"},
            ),
        },
        attrs={
            "outcome": trace.outcome,
            "outcome_because": str(trace.context.get("outcome_because", "")),
            "failing_step": -1 if trace.failing_step is None else trace.failing_step,
        },
    )
    return xr.DataTree.from_dict({"/": root, **nodes}, name="trace")


def _dataset(xr: Any, table: Table, node: _Node, steps: NDArray[Any]) -> Any:
    last = table[node.dims[-1]] if node.label is None else node.label(table)
    keys = [*(table[dim] for dim in node.dims[:-1]), last]
    found = [
        _labels(key, steps if dim == "step" else None)
        for dim, key in zip(node.dims, keys, strict=True)
    ]
    labels, where = [label for label, _ in found], tuple(index for _, index in found)
    shape = tuple(len(label) for label in labels)
    # Where several rows have one key, the first stands: what was seen first.
    flat = np.ravel_multi_index(where, shape)
    _, first = np.unique(flat, return_index=True)
    place = tuple(index[first] for index in where)
    named = node.dims[-1] if node.dims[-1] not in ("step", "scale", "sample") else None
    coords: dict[str, Any] = {
        dim: (dim, _plain(label)) for dim, label in zip(node.dims, labels, strict=True)
    }
    arrays: dict[str, Any] = {}
    known = {column.name: column for column in TABLES[node.table].all_columns()}
    for column in table.columns:
        if column in node.dims and (node.label is None or column != node.dims[-1]):
            continue
        values = table[column][first]
        column_of = known.get(column)
        attrs = {} if column_of is None else _attributes(column_of.meaning, column_of.units)
        of_name = _by_name(values, place[-1], shape[-1]) if named and values.ndim == 1 else None
        name = f"{column}_path" if column == node.dims[-1] else column
        if of_name is not None and (values.dtype.kind in "OUb" or column in _OF_THE_NAME):
            coords[name] = (named, _plain(of_name), attrs)
        else:
            arrays[name] = _spread(values, place, shape, node.dims, attrs)
    return xr.Dataset(arrays, coords, {"row": TABLES[node.table].row})


def _attributes(meaning: str, units: str) -> dict[str, str]:
    return {"long_name": meaning} | ({"units": units} if units else {})


def _labels(values: Any, steps: Any | None) -> tuple[NDArray[Any], NDArray[Any]]:
    """Return what occurs, once, and which of these each value is.

    Numbers rise, names stand in the order in which they first occur. Every step is there also
    where nothing was seen, so that all nodes share the coordinate of the root.
    """
    if values.dtype.kind == "O":
        index = {name: place for place, name in enumerate(dict.fromkeys(values.tolist()))}
        names = np.empty(len(index), dtype=object)
        names[:] = list(index)
        return names, np.fromiter((index[name] for name in values.tolist()), np.intp, len(values))
    if steps is not None and np.isin(values, steps).all():
        return steps, np.searchsorted(steps, values)
    return np.unique(values, return_inverse=True)


def _by_name(values: NDArray[Any], place: NDArray[Any], length: int) -> NDArray[Any] | None:
    """Return one value per name, or None where a name has several values."""
    found: dict[int, Any] = {}
    for index, value in zip(place.tolist(), values.tolist(), strict=True):
        if found.setdefault(index, value) != value:
            return None
    out = np.empty(length, dtype=object)
    out[:] = [found.get(index, "") for index in range(length)]
    return out if values.dtype.kind == "O" else out.astype(values.dtype)


def _spread(
    values: NDArray[Any],
    place: tuple[NDArray[Any], ...],
    shape: tuple[int, ...],
    dims: Sequence[str],
    attrs: Mapping[str, str],
) -> tuple[Sequence[str], NDArray[Any], Mapping[str, str]]:
    """Return a column as an array; where nothing was observed NaN, empty, False or no counts."""
    whole = len(values) == int(np.prod(shape))
    if values.ndim == 2:
        counts = np.zeros((*shape, values.shape[1]), dtype=values.dtype)
        counts[place] = values
        return (*dims, "exponent"), counts, attrs
    if values.dtype.kind in "iu" and not whole:
        values = values.astype(np.float64)
    fill = {"f": np.nan, "b": False, "O": ""}.get(values.dtype.kind, 0)
    array = np.full(shape, fill, dtype=values.dtype)
    array[place] = values
    return dims, _plain(array), attrs


def _plain(values: NDArray[Any]) -> NDArray[Any]:
    """Return text as NumPy's own kind of string, which every backend of xarray can write."""
    return values.astype(str) if values.dtype.kind == "O" else values
