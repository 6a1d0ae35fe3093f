"""In which structure does the model's own step want the batch? As ``fit`` would have handed it on.

The arrays are matched to the model's inputs and outputs, checked, and converted as Keras' array
adapter does: floats to ``keras.config.floatx()``, everything else as it is. An index out of range
or a NaN is no error here; it is what the doctor diagnoses.
"""

from __future__ import annotations

import re
import reprlib
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor._rows import SPLITS, VALUES, fault
from divergence_doctor.errors import BatchError

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import NDArray

    from divergence_doctor.batches import Batch

#: A batch is nested no deeper than this.
_DEEPEST: Final = 32
_NUMBERED: Final = re.compile(r"(?:x|y|sample_weight)[_/](\d+)")
#: Keras layers that take text.
_TEXT_LAYERS: Final = frozenset(
    {"StringLookup", "TextVectorization", "Hashing", "HashedCrossing", "FeatureSpace"}
)


@final
@dataclass(frozen=True, eq=False)
class Fed:
    """A batch in the structure that the model's step wants, still as NumPy arrays.

    Attributes:
        x, y, sample_weight: an array, a tuple or dict of arrays, or None where absent. Floats are
            of ``keras.config.floatx()``.
        roles: ``x``, ``y`` or ``sample_weight`` for each array of the batch.
        names: the structures of x, y and sample_weight with array names in place of arrays.
        samples: length of the first axis of the inputs.
        overflowed: arrays in which a finite value became Inf in the conversion to floatx.
        sparse: dense arrays that the model takes as sparse tensors.
    """

    x: Any
    y: Any
    sample_weight: Any
    roles: Mapping[str, str]
    names: tuple[Any, Any, Any]
    samples: int
    overflowed: tuple[str, ...] = ()
    sparse: tuple[str, ...] = ()

    @property
    def structure(self) -> str:
        """How x is handed to the model: ``single``, ``list`` or ``dict``."""
        if isinstance(self.x, dict):
            return "dict"
        return "list" if isinstance(self.x, list | tuple) else "single"

    def named(self, data: tuple[Any, Any, Any]) -> dict[str, Any]:
        """Return the tensors of :func:`tensors` by the names of their arrays."""
        import keras

        return {
            str(name): tensor
            for names, part in zip(self.names, data, strict=True)
            if part is not None
            for name, tensor in zip(
                keras.tree.flatten(names), keras.tree.flatten(part), strict=True
            )
            if name is not None
        }


@final
@dataclass(frozen=True, eq=False)
class Ragged:
    """An array whose samples differ in length, as the two arrays that a batch keeps it in.

    Attributes:
        values: the rows of all samples, one after the other.
        row_splits: where each sample begins, and the last one ends; one more than samples.
    """

    values: NDArray[Any]
    row_splits: NDArray[Any]

    @property
    def dtype(self) -> np.dtype[Any]:
        """Dtype of the values."""
        return self.values.dtype

    @property
    def ndim(self) -> int:
        """Axes: samples, then rows of one sample, then those of one row."""
        return self.values.ndim + 1

    @property
    def shape(self) -> tuple[int, ...]:
        """Shape with the length of the longest sample."""
        longest = int(np.diff(self.row_splits).max()) if len(self) else 0
        return (len(self), longest, *self.values.shape[1:])

    def __len__(self) -> int:
        return max(len(self.row_splits) - 1, 0)

    def astype(self, dtype: Any) -> Ragged:
        """Return it with values of another dtype."""
        return Ragged(self.values.astype(dtype), self.row_splits)


@final
@dataclass(frozen=True, eq=False)
class _Sparse:
    """A dense array for an input that is declared ``sparse=True``."""

    array: NDArray[Any]


def match(batch: Batch, model: Any, *, convert: bool = True) -> Fed:
    """Match the arrays of a batch to the inputs and outputs of a model.

    Args:
        batch: the arrays by name.
        model: a compiled ``keras.Model``.
        convert: floats to ``keras.config.floatx()``, as Keras does with arrays; what was recorded
            within ``fit`` is what the step saw.

    Raises:
        BatchError: the arrays do not fit the model; the message names array, shape and what was
            expected.
    """
    given, batch = batch, _with_ragged(batch)
    if batch.structure is not None:
        return _as_recorded(batch, given, convert=convert)
    groups = _groups(batch, model)
    _check_samples(batch)
    _check_dtypes(batch, groups, model)
    inputs, outputs = _tensors(model, "inputs"), _tensors(model, "outputs")
    x = _inputs(batch, groups["x"], model, inputs)
    y = _labels(batch, groups["y"], model, outputs)
    weight = _weights(batch, groups["sample_weight"], model, outputs)
    roles = {name: role for role, names in groups.items() for name in names}
    converted, overflowed = _fit_for(batch, convert=convert)
    sparse = _sparse(groups["x"], model, inputs)
    for name in sparse:
        if isinstance(converted[name], np.ndarray):
            converted[name] = _Sparse(converted[name])
    for name in given.ragged:
        roles[name + VALUES] = roles[name + SPLITS] = roles[name]
    return Fed(
        x=_named(x, converted),
        y=_named(y, converted),
        sample_weight=_named(weight, converted),
        roles=roles,
        names=(x, y, weight),
        samples=batch.samples,
        overflowed=overflowed,
        sparse=sparse,
    )


def _as_recorded(batch: Batch, given: Batch, *, convert: bool) -> Fed:
    """Return a batch in the structure in which the flight recorder found it."""
    converted, overflowed = _fit_for(batch, convert=convert)
    sparse: list[str] = []
    whole = _recorded(batch.structure, batch, sparse, depth=0)
    parts = whole if isinstance(whole, tuple) and len(whole) <= 3 else (whole,)
    x, y, weight = (*parts, None, None)[:3]
    for name in sparse:
        converted[name] = _Sparse(converted[name])
    roles = {name: batch.role(name) or "x" for name in given.arrays}
    return Fed(
        x=_named(x, converted),
        y=_named(y, converted),
        sample_weight=_named(weight, converted),
        roles={**roles, **{name: batch.role(name) or "x" for name in batch.arrays}},
        names=(x, y, weight),
        samples=batch.samples,
        overflowed=overflowed,
        sparse=tuple(sparse),
    )


def _recorded(told: Any, batch: Batch, sparse: list[str], *, depth: int) -> Any:
    """Return a recorded structure with names in place of arrays.

    Raises:
        BatchError: it makes no sense, or names what the batch does not hold.
    """
    if told is None:
        return None
    kind, inner = next(iter(told.items())) if isinstance(told, dict) and len(told) == 1 else ("", 0)
    if depth < _DEEPEST and kind == "dict" and isinstance(inner, dict):
        return {
            str(key): _recorded(part, batch, sparse, depth=depth + 1) for key, part in inner.items()
        }
    if depth < _DEEPEST and kind in {"list", "tuple"} and isinstance(inner, list):
        return tuple(_recorded(part, batch, sparse, depth=depth + 1) for part in inner)
    if kind in {"array", "ragged", "sparse"} and isinstance(inner, str) and inner in batch.arrays:
        if kind == "sparse":
            sparse.append(inner)
        return inner
    raise BatchError(
        "bad-structure",
        f"the recorded structure of {clean(batch.source.rpartition('/')[2])} makes no sense",
        why=f"there is no array for {clean(reprlib.repr(told), 80)}",
        fix="look for damage in the bundle: doctor verify BUNDLE",
    )


def output_names(model: Any) -> list[tuple[str, ...]]:
    """Return the names that each output goes by; none for a subclassed model."""
    found = _tensors(model, "outputs")
    return [] if found is None else [slot.names for slot in _slots(model, "outputs", found)]


def tensors(fed: Fed) -> tuple[Any, Any, Any]:
    """Return x, y and sample_weight as TensorFlow tensors in the same structures."""
    import keras

    return tuple(
        None if part is None else keras.tree.map_structure(_tensor, part)
        for part in (fed.x, fed.y, fed.sample_weight)
    )  # type: ignore[return-value]


def _tensor(array: Any) -> Any:
    """Return an array of :class:`Fed` as the tensor that Keras' adapter makes of it."""
    import tensorflow as tf

    if isinstance(array, _Sparse):
        return tf.sparse.from_dense(array.array)
    if isinstance(array, Ragged):
        return tf.RaggedTensor.from_row_splits(array.values, array.row_splits)
    return None if array is None else tf.convert_to_tensor(array)


def feed(batch: Batch, model: Any) -> tuple[Any, Any, Any]:
    """Return x, y and sample_weight as tensors, as the model's ``train_step`` wants them.

    Raises:
        BatchError: the arrays do not fit the model.
    """
    return tensors(match(batch, model))


@final
@dataclass(frozen=True)
class _Slot:
    """One input or output of a functional model: the names it goes by, and what it takes."""

    names: tuple[str, ...]
    shape: tuple[int | None, ...]
    dtype: str
    optional: bool = False
    sparse: bool = False

    def __str__(self) -> str:
        return f"{clean(self.names[0], 60)!r} of shape {_shown(self.shape)}"


def _tensors(model: Any, what: str) -> list[Any] | None:
    """Return a functional model's symbolic inputs or outputs; None for a subclassed model."""
    try:
        found = getattr(model, what)
    except (AttributeError, ValueError):
        return None
    return list(found) if isinstance(found, list | tuple) and found else None


def _struct(model: Any, what: str) -> Any:
    """Return the symbolic inputs or outputs in the structure they were given in."""
    inner = getattr(model, "_functional", None) or model
    return getattr(inner, "input" if what == "inputs" else "output")


def _slots(model: Any, what: str, found: Sequence[Any]) -> list[_Slot]:
    import keras

    paths = keras.tree.flatten_with_path(_struct(model, what))
    if len(paths) != len(found):
        paths = [((index,), tensor) for index, tensor in enumerate(found)]
    outputs = list(getattr(model, "output_names", None) or ()) if what == "outputs" else []
    slots = []
    for index, (path, tensor) in enumerate(paths):
        layer = tensor._keras_history.operation  # noqa: SLF001 - the layer behind a symbolic tensor has no public name
        names = [str(part) for part in path if isinstance(part, str)]
        names += [outputs[index]] if index < len(outputs) else []
        names += [layer.name, tensor.name]
        slots.append(
            _Slot(
                names=tuple(dict.fromkeys(names)),
                shape=tuple(tensor.shape),
                dtype=str(tensor.dtype),
                optional=bool(getattr(layer, "optional", False)),
                sparse=bool(getattr(tensor, "sparse", False)),
            )
        )
    return slots


def _groups(batch: Batch, model: Any) -> dict[str, list[str]]:
    """Return which arrays are x, y and sample_weight; names that stand alone are looked up."""
    if "class_weight" in batch.arrays and "class_weight" not in _names_of(model, "inputs"):
        raise BatchError(
            "class-weight",
            "the batch holds an array 'class_weight'",
            why="fit() makes a sample weight of each label's class weight; the step itself is fed "
            "with sample weights only",
            fix="sample_weight=np.array([class_weight[int(label)] for label in y]) in its place",
        )
    groups: dict[str, list[str]] = {"x": [], "y": [], "sample_weight": []}
    inputs = _names_of(model, "inputs")
    outputs = _names_of(model, "outputs")
    alone = []
    for name in batch.arrays:
        if name in inputs and batch.role(name) in ("", "x"):
            groups["x"].append(name)
        elif batch.role(name):
            groups[batch.role(name)].append(name)
        elif name in outputs:
            groups["y"].append(name)
        else:
            alone.append(name)
    if alone and _tensors(model, "inputs") is None and not groups["x"]:
        # A subclassed model does not say what its inputs are called.
        groups["x"], alone = alone, []
    if alone:
        raise _extra(batch, alone, inputs, outputs)
    if not groups["x"]:
        raise BatchError(
            "missing-input",
            f"the batch holds no input: its arrays are {_listed(batch.arrays)}",
            why="the step cannot run without x",
            fix="name the input x: np.savez('batch.npz', x=..., y=...)",
        )
    return groups


def _names_of(model: Any, what: str) -> list[str]:
    found = _tensors(model, what)
    return [] if found is None else [n for slot in _slots(model, what, found) for n in slot.names]


def _extra(
    batch: Batch, alone: Sequence[str], inputs: Sequence[str], outputs: Sequence[str]
) -> BatchError:
    shown = ", ".join(f"{name!r} of shape {_shown(batch.arrays[name].shape)}" for name in alone)
    return BatchError(
        "extra-array",
        f"the model has no input or output for the array {shown}",
        why=f"its inputs are {_listed(inputs)}; its outputs are {_listed(outputs)}",
        fix="name the arrays x, y and sample_weight, or as the model's inputs and outputs",
    )


def _check_samples(batch: Batch) -> None:
    sizes: dict[str, int] = {}
    for name, array in batch.arrays.items():
        if array.ndim == 0:
            raise BatchError(
                "wrong-shape",
                f"array {name!r} is a single number",
                why="the first axis of every array counts the samples",
                fix=f"give it an axis: {name}=np.asarray([...])",
            )
        sizes[name] = len(array)
    if len(set(sizes.values())) > 1:
        shown = ", ".join(f"{name!r} {size}" for name, size in sizes.items())
        raise BatchError(
            "sample-count",
            f"the arrays hold different numbers of samples: {shown}",
            why="the first axis of every array counts the samples of one step",
            fix="cut them to the same samples, or save each step in its own .npz",
        )


def _check_dtypes(batch: Batch, groups: Mapping[str, Sequence[str]], model: Any) -> None:
    for role, names in groups.items():
        for name in names:
            array = batch.arrays[name]
            text = array.dtype.kind in "SU"
            if (text and not (role == "x" and _takes_text(model))) or (
                text and role == "sample_weight"
            ):
                raise _wrong_dtype(name, array, "numbers")
            if array.dtype.kind == "c" and role == "sample_weight":
                raise _wrong_dtype(name, array, "real numbers")


def _takes_text(model: Any) -> bool:
    layers = model._flatten_layers(include_self=True, recursive=True)  # noqa: SLF001 - Keras has no public walk through nested layers
    found = _tensors(model, "inputs")
    if found is not None and any(str(tensor.dtype) == "string" for tensor in found):
        return True
    return any(kind.__name__ in _TEXT_LAYERS for layer in layers for kind in type(layer).__mro__)


def _wrong_dtype(name: str, array: NDArray[Any], expected: str) -> BatchError:
    return BatchError(
        "wrong-dtype",
        f"array {name!r} of shape {_shown(array.shape)} has dtype {array.dtype}",
        why=f"{expected} were expected",
        fix=f"save it as numbers: {name}=np.asarray({name}).astype('float32')",
    )


def _with_ragged(batch: Batch) -> Batch:
    """Return the batch with each ragged array in place of its two halves."""
    arrays: dict[str, Any] = dict(batch.arrays)
    for name in batch.ragged:
        values, splits = arrays.pop(name + VALUES), arrays.pop(name + SPLITS)
        why = fault(values, splits)
        if why or name in arrays:
            raise BatchError(
                "bad-row-splits",
                f"{name + VALUES!r} and {name + SPLITS!r} are no ragged array",
                why=why or f"there is an array {name!r} as well",
                fix="save the `values` and the `row_splits` of one tf.RaggedTensor",
            )
        arrays[name] = Ragged(values, splits)
    for name in arrays:
        if name.endswith(SPLITS) and name.removesuffix(SPLITS) not in arrays:
            raise BatchError(
                "bad-row-splits",
                f"array {name!r} comes without {name.removesuffix(SPLITS) + VALUES!r}",
                why="a ragged array lies in two arrays, NAME/values and NAME/row_splits; one with "
                "more than one ragged axis is not supported",
                fix="save both, `values` and `row_splits` of the tf.RaggedTensor",
            )
    return replace(batch, arrays=arrays)


def _sparse(names: list[str], model: Any, found: list[Any] | None) -> tuple[str, ...]:
    """Return the arrays that go to inputs declared ``sparse=True``."""
    if found is None:
        return ()
    slots = _slots(model, "inputs", found)
    return tuple(
        name
        for name, slot in zip(_assign(names, slots), slots, strict=True)
        if name is not None and slot.sparse
    )


def _inputs(batch: Batch, names: list[str], model: Any, found: list[Any] | None) -> Any:
    """Return the structure of names that is handed to the model as x."""
    if found is None:
        return _unnamed(batch, names, model)
    slots = _slots(model, "inputs", found)
    picked = _assign(names, slots)
    _check_count(batch, names, picked, slots)
    for name, slot in zip(picked, slots, strict=True):
        if name is not None:
            _check_fit(name, batch.arrays[name], slot)
    if _own_step(model) and len(slots) > 1:
        # The model's own step takes x apart as the user's data set put it together.
        return _as_named("x", names)
    struct = _struct(model, "inputs")
    return picked[0] if len(slots) == 1 and not isinstance(struct, dict) else _pack(struct, picked)


def _assign(names: Sequence[str], slots: Sequence[_Slot]) -> list[str | None]:
    """Return the array for each slot: by its name, else by its number, else the only one."""
    left = list(names)
    picked: list[str | None] = [None] * len(slots)
    for index, slot in enumerate(slots):
        for name in left:
            if name in slot.names or name.partition("/")[2] in slot.names:
                picked[index] = name
                left.remove(name)
                break
    for name in list(left):
        number = _NUMBERED.fullmatch(name)
        index = int(number.group(1)) if number else -1
        if 0 <= index < len(slots) and picked[index] is None:
            picked[index] = name
            left.remove(name)
    if len(slots) == 1 and picked[0] is None and len(left) == 1:
        picked[0] = left.pop()
    return picked


def _check_count(
    batch: Batch, names: Sequence[str], picked: Sequence[str | None], slots: Sequence[_Slot]
) -> None:
    missing = [
        slot for name, slot in zip(picked, slots, strict=True) if name is None and not slot.optional
    ]
    extra = [name for name in names if name not in picked]
    if not missing and not extra:
        return
    given = ", ".join(f"{name!r} of shape {_shown(batch.arrays[name].shape)}" for name in names)
    expected = ", ".join(str(slot) for slot in slots)
    example = ", ".join(f"'x/{clean(slot.names[0], 40)}': ..." for slot in slots)
    raise BatchError(
        "missing-input" if missing else "extra-array",
        f"the model has {len(slots)} input{'s' * (len(slots) > 1)}, and"
        f" {len(names)} array{'s' * (len(names) > 1)} came: {given}",
        why=f"expected were {expected}",
        fix=f"np.savez('batch.npz', **{{{example}}}, y=...)"
        if len(slots) > 1
        else "np.savez('batch.npz', x=..., y=...)",
    )


def _check_fit(name: str, array: NDArray[Any], slot: _Slot) -> None:
    if not _fits(array.shape, slot.shape):
        raise BatchError(
            "wrong-shape",
            f"array {name!r} has shape {_shown(array.shape)}",
            why=f"the model's input {clean(slot.names[0], 60)!r} takes {_shown(slot.shape)}",
            fix="save the batch as it entered the model, the samples along the first axis",
        )
    text, takes_text = array.dtype.kind in "SU", slot.dtype == "string"
    if text != takes_text:
        raise _wrong_dtype(name, array, "texts" if takes_text else f"{slot.dtype} numbers")
    if array.dtype.kind == "c" and not slot.dtype.startswith("complex"):
        raise _wrong_dtype(name, array, f"{slot.dtype} numbers")


def _fits(shape: tuple[int, ...], wanted: tuple[int | None, ...]) -> bool:
    """Say whether Keras would take the shape; it drops or adds a last axis of length 1."""
    if len(shape) == len(wanted) + 1 and shape[-1] == 1:
        shape = shape[:-1]
    elif len(shape) == len(wanted) - 1 and wanted[-1] == 1:
        shape = (*shape, 1)
    return len(shape) == len(wanted) and all(
        size is None or size == given for given, size in zip(shape[1:], wanted[1:], strict=True)
    )


def _unnamed(batch: Batch, names: list[str], model: Any) -> Any:
    """Return the structure of names for a subclassed model, which does not name its inputs."""
    shape = _built_on(model)
    if len(names) != 1 or shape is None or "/" in names[0]:
        return _as_named("x", names)
    array = batch.arrays[names[0]]
    if array.ndim != len(shape):
        raise BatchError(
            "wrong-shape",
            f"array {names[0]!r} has shape {_shown(array.shape)}",
            why=f"the model was built on inputs of shape {_shown((None, *shape[1:]))}",
            fix="save the batch as it entered the model, the samples along the first axis",
        )
    return names[0]


def _built_on(model: Any) -> tuple[int | None, ...] | None:
    """Return the shape that a model of one input was built on; its sizes are no promise."""
    build = getattr(model, "get_build_config", lambda: None)()
    shape = build.get("input_shape") if isinstance(build, dict) else None
    if not isinstance(shape, list | tuple) or not shape:
        return None
    return tuple(shape) if all(size is None or isinstance(size, int) for size in shape) else None


def _labels(batch: Batch, names: list[str], model: Any, found: list[Any] | None) -> Any:
    if not names:
        if _needs_labels(model):
            raise BatchError(
                "missing-labels",
                f"the batch holds no labels: its arrays are {_listed(batch.arrays)}",
                why="the model is compiled with a loss, which compares its output with y",
                fix="save the labels as y: np.savez('batch.npz', x=..., y=...)",
            )
        return None
    return _for_outputs("y", batch, names, model, found)


def _weights(batch: Batch, names: list[str], model: Any, found: list[Any] | None) -> Any:
    return _for_outputs("sample_weight", batch, names, model, found) if names else None


def _for_outputs(
    role: str, batch: Batch, names: list[str], model: Any, found: list[Any] | None
) -> Any:
    """Return the structure of names for y or sample_weight: that of the outputs, where they fit."""
    if found is None or _own_step(model):
        return _as_named(role, names)
    slots = _slots(model, "outputs", found)
    if names == [role]:
        if role == "y" and len(slots) > 1 and _losses(model) > 1:
            raise _wrong_count(role, batch, names, slots)
        return role
    picked = _assign(names, slots)
    extra = [name for name in names if name not in picked]
    missing = None in picked
    if extra or (missing and role == "y" and len(names) != _losses(model)):
        raise _wrong_count(role, batch, names, slots)
    if len(slots) == 1:
        return picked[0]
    return _as_named(role, names) if missing else _pack(_struct(model, "outputs"), picked)


def _wrong_count(
    role: str, batch: Batch, names: Sequence[str], slots: Sequence[_Slot]
) -> BatchError:
    given = ", ".join(f"{name!r} of shape {_shown(batch.arrays[name].shape)}" for name in names)
    example = ", ".join(f"'{role}/{clean(slot.names[0], 40)}': ..." for slot in slots)
    return BatchError(
        "label-count" if role == "y" else "weight-count",
        f"the model has {len(slots)} output{'s' * (len(slots) > 1)}, and"
        f" {len(names)} array{'s' * (len(names) > 1)} came: {given}",
        why=f"its outputs are {', '.join(str(slot) for slot in slots)}",
        fix=f"np.savez('batch.npz', x=..., **{{{example}}})",
    )


def _needs_labels(model: Any) -> bool:
    import keras

    own_loss = type(model).compute_loss is not keras.Model.compute_loss
    return getattr(model, "loss", None) is not None and not _own_step(model) and not own_loss


def _losses(model: Any) -> int:
    """Return how many outputs have a loss; one loss for all outputs counts for each of them."""
    loss = getattr(model, "loss", None)
    if isinstance(loss, dict | list | tuple):
        import keras

        return sum(part is not None for part in keras.tree.flatten(loss))
    return len(_tensors(model, "outputs") or [None])


def _own_step(model: Any) -> bool:
    import keras

    return type(model).train_step is not keras.Model.train_step


def _as_named(role: str, names: list[str]) -> Any:
    """Return names as the user structured them: one, numbered ones as a tuple, others as a dict."""
    if names == [role]:
        return role
    numbers = [_NUMBERED.fullmatch(name) for name in names]
    if all(numbers):
        ordered = sorted(names, key=lambda name: int(re.split(r"[_/]", name)[-1]))
        return tuple(ordered)
    return {name.partition("/")[2] or name: name for name in names}


def _pack(struct: Any, picked: Sequence[str | None]) -> Any:
    import keras

    return keras.tree.pack_sequence_as(struct, list(picked))


def _named(names: Any, arrays: Mapping[str, NDArray[Any]]) -> Any:
    """Return a structure of names with the arrays in their places."""
    if names is None or isinstance(names, str):
        return None if names is None else arrays[names]
    if isinstance(names, dict):
        return {key: _named(value, arrays) for key, value in names.items()}
    return tuple(_named(value, arrays) for value in names)


def _fit_for(batch: Batch, *, convert: bool) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the arrays, converted or as they are, and those that overflowed by it."""
    return _convert(batch) if convert else (dict(batch.arrays), ())


def _convert(batch: Batch) -> tuple[dict[str, Any], tuple[str, ...]]:
    """Return the arrays as Keras' array adapter makes them: floats of floatx, the rest as it is."""
    import keras

    floatx = np.dtype(keras.config.floatx())
    converted: dict[str, Any] = {}
    overflowed = []
    for name, array in batch.arrays.items():
        if array.dtype.kind != "f" or array.dtype == floatx:
            converted[name] = array
            continue
        # Keras casts without a word; what overflows is seen by the model as Inf.
        with np.errstate(all="ignore"):
            converted[name] = array.astype(floatx)
            before, after = (getattr(one, "values", one) for one in (array, converted[name]))
            if bool(np.any(np.isinf(after) & np.isfinite(before))):
                overflowed.append(name)
    return converted, tuple(overflowed)


def _shown(shape: Sequence[int | None]) -> str:
    return "(" + ", ".join("None" if size is None else str(size) for size in shape) + ")"


def _listed(names: Any) -> str:
    return ", ".join(repr(clean(str(name), 60)) for name in dict.fromkeys(names)) or "unnamed"
