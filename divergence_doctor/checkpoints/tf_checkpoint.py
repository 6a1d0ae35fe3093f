"""How is a ``tf.train.Checkpoint`` opened? Into the model that ``--model`` makes.

Nothing in such a file says which of its objects is the model: it hangs at the root or under the
name that the training script gave it. So each name is tried, and what counts is whether every
weight of the model was filled.
"""

from __future__ import annotations

import hashlib
import math
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._checkpoint import Checkpoint, Opened, OpenOptions
from divergence_doctor.checkpoints._comparison import MOST_BYTES, Comparison, tell, tell_fresh
from divergence_doctor.checkpoints._compile import settle
from divergence_doctor.checkpoints._factory import made_by
from divergence_doctor.checkpoints._fidelity import Fidelity, listed, random_states, slots_of
from divergence_doctor.checkpoints._loading import loading
from divergence_doctor.checkpoints._optimizers import innermost, optimizers_of
from divergence_doctor.checkpoints._steps import choose_step
from divergence_doctor.checkpoints._user_code import meaningful_line
from divergence_doctor.errors import CheckpointError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_BOOKKEEPING: Final = frozenset({"save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH", "signatures"})
#: Put into a weight before reading; what still holds it afterwards was not in the file.
_MARK: Final = 0.123456789
_MARK_INT: Final = 123_456_789
#: End of the name under which the value of a variable lies.
_VALUE: Final = "/.ATTRIBUTES/VARIABLE_VALUE"
#: What TensorFlow raises on a damaged index besides its own errors.
_TF_ERRORS: Final = (ValueError, RuntimeError, IndexError, TypeError, UnicodeDecodeError)
#: Bytes that a data file may claim for each byte it takes on the disk.
_MAX_EXPANSION: Final = 1000
_EXPANSION_FLOOR: Final = 64 << 20


@final
class TfCheckpoint(Checkpoint):
    """``tf.train.Checkpoint``, ``CheckpointManager``, or the variables of a SavedModel."""

    name: ClassVar[str] = "tf.train.Checkpoint"
    order: ClassVar[int] = 40
    needs_model: ClassVar[bool] = True
    has_steps: ClassVar[bool] = True

    @classmethod
    def can_open(cls, path: Path) -> bool:
        """Say whether the path is the prefix of a checkpoint, one of its files, or its folder."""
        return choose_step(path, None).prefix is not None

    @classmethod
    def preflight(cls, path: Path, options: OpenOptions) -> None:
        """Check that the data are there beside the index; see the base class."""
        prefix, _ = _prefix(path, options.step)
        if not list(_shards(prefix)):
            raise RefusedError(
                "damaged-checkpoint",
                f"{clean(prefix.name)} has an index and no data",
                why=f"there is no {clean(prefix.name)}.data-* beside it",
                fix="copy all files of the checkpoint: the .index and every .data-*",
            )

    @classmethod
    def open(cls, path: Path, options: OpenOptions) -> Opened:
        """Open the checkpoint; see the base class."""
        prefix, chosen = _prefix(path, options.step)
        names = _stored(prefix)
        fidelity = Fidelity()
        if chosen:
            fidelity.note(chosen)
        scaled = any("/inner_optimizer/" in f"/{name}" for name in names)
        with made_by(options.model or "", scaled=scaled, fidelity=fidelity) as model:
            objects = _restore(prefix, model, names, fidelity)
            settle(path, model, options, fidelity)
        return Opened(
            model=model,
            fidelity=fidelity.report(model),
            source={
                "file": str(prefix),
                "format": cls.name,
                "sha256": _sha256(prefix),
                "keras_version": "",
                "dtype_policy": model.dtype_policy.name,
                "objects": objects,
            },
            unseeded=tuple(fidelity.unseeded(model)),
        )


def _prefix(path: Path, step: int | None) -> tuple[Path, str]:
    choice = choose_step(path, step)
    if choice.prefix is None:
        raise CheckpointError(
            "not-a-checkpoint",
            f"{clean(str(path))} is no tf.train.Checkpoint",
            why="there is no .index file for it",
            fix="give the prefix that was saved, e.g. ckpt/run-12",
        )
    return choice.prefix, choice.note


def _shards(prefix: Path) -> Iterator[Path]:
    return (
        file
        for file in sorted(prefix.parent.iterdir())
        if re.fullmatch(re.escape(prefix.name) + r"\.data-\d+-of-\d+", file.name)
    )


def _sha256(prefix: Path) -> str:
    """Return the hash over the index and the data, in this order."""
    digest = hashlib.sha256()
    for file in (prefix.with_name(f"{prefix.name}.index"), *_shards(prefix)):
        with file.open("rb") as stream:
            while chunk := stream.read(1 << 20):
                digest.update(chunk)
    return digest.hexdigest()


def _stored(prefix: Path) -> dict[str, list[int]]:
    """Return the names and shapes of what the checkpoint holds, from its index alone.

    Raises:
        RefusedError: the index is damaged, or declares more than the data files can hold.
    """
    import tensorflow as tf

    try:
        reader = tf.train.load_checkpoint(str(prefix))
        shapes = {name: list(map(int, shape)) for name, shape in _shapes(reader).items()}
        dtypes = reader.get_variable_to_dtype_map()
    except (*_TF_ERRORS, tf.errors.OpError) as error:
        raise _damaged(prefix, error) from error
    declared = sum(
        math.prod(shape) * max(int(getattr(dtypes[name], "size", 1) or 1), 1)
        for name, shape in shapes.items()
    )
    # The format packs nothing: what is declared must lie there, and not as a hole in a file.
    stored = sum(_taken(shard) for shard in _shards(prefix))
    if declared > stored:
        raise RefusedError(
            "damaged-checkpoint",
            f"{clean(prefix.name)} declares {declared:,} bytes of variables and stores {stored:,}",
            why="its data are cut short, or its index was made up",
            fix="copy all files of the checkpoint again, or use an earlier one",
        )
    return shapes


def _taken(shard: Path) -> int:
    """Return the bytes of a data file; of a large one with holes only what it takes on the disk."""
    status = shard.stat()
    if status.st_size <= _EXPANSION_FLOOR:
        return status.st_size
    return min(status.st_size, _MAX_EXPANSION * status.st_blocks * 512)


def _shapes(reader: Any) -> dict[str, list[int]]:
    return dict(sorted(reader.get_variable_to_shape_map().items()))


def _damaged(prefix: Path, error: BaseException) -> RefusedError:
    return RefusedError(
        "damaged-checkpoint",
        f"{clean(prefix.name)} is damaged",
        why=clean(str(error).strip().split("\n")[0]) or type(error).__name__,
        fix="copy the files again, or use an earlier checkpoint",
    )


def _restore(
    prefix: Path, model: Any, names: dict[str, list[int]], fidelity: Fidelity
) -> dict[str, str]:
    """Read the checkpoint into the model; return what hangs in it: ``{"net": "model"}``."""
    variables = _variables(model)
    fresh = [np.asarray(variable.value).copy() for variable in variables]
    best: list[str] | None = None
    said = ""
    for tried in _candidates(model, names):
        for variable in variables:
            variable.assign(_marker(variable))
        try:
            missing = _read(prefix, tried, model)
        except _MisfitError as error:
            said = said or str(error)
            continue
        if not missing:
            _settle(prefix, model, list(zip(variables, fresh, strict=True)), names, fidelity)
            return {name: _part(value, model) for name, value in tried.items()}
        if best is None or len(missing) < len(best):
            best = missing
    if best is None or (len(best) == len(model.weights) and said):
        raise CheckpointError(
            "model-mismatch",
            f"{clean(prefix.name)} does not fit the model of --model",
            why=said,
            fix="let the factory build the model and its optimizer as the training script did",
        )
    held = [name for name in names if name.partition("/")[0] not in _BOOKKEEPING]
    raise CheckpointError(
        "model-mismatch",
        f"{clean(prefix.name)} does not fill the model: {len(best)} of its weights are not in it"
        f" (e.g. {clean(best[0], 80) if best else 'none'})",
        why=f"it holds {_listed(held)}",
        fix="let the factory of --model build the model as the training script did",
    )


def _listed(names: list[str], most: int = 3) -> str:
    shown = [clean(name.split("/.ATTRIBUTES")[0], 60) for name in names[:most]]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(shown) + more if shown else "no variables"


def _candidates(model: Any, names: dict[str, list[int]]) -> Iterator[dict[str, Any]]:
    """Yield what the checkpoint's objects may be, as arguments of ``tf.train.Checkpoint``."""
    children = list(dict.fromkeys(name.partition("/")[0] for name in names))
    children = [child for child in children if child.isidentifier() and child not in _BOOKKEEPING]
    held = getattr(model, "optimizer", None)
    for child in dict.fromkeys(("model", "net", "network", *children)):
        optimizer = {
            name: held
            for name in children
            if name != child and "opt" in name.lower() and held is not None
        }
        yield {child: model, **optimizer}
    yield {"root": model}
    # What model.export() leaves: the variables as one list, random generators included.
    yield {"variables": list(model.variables)}


class _MisfitError(Exception):
    """What the checkpoint holds under these names does not fit there."""


def _read(prefix: Path, tried: dict[str, Any], model: Any) -> list[str]:
    """Read the checkpoint as tried; return which weights it left alone.

    Raises:
        RefusedError: it is damaged.
        _MisfitError: what it holds has other shapes.
    """
    import tensorflow as tf

    misfits = (tf.errors.InvalidArgumentError, tf.errors.NotFoundError)
    tried = dict(tried)
    root = tried.pop("root", None)
    try:
        with loading(prefix):
            tf.train.Checkpoint(root, **tried).read(str(prefix)).expect_partial()
    except CheckpointError as error:
        cause = error.__cause__
        # A check sum that does not hold, or data that end early; a shape that does not fit is a
        # ValueError.
        if isinstance(cause, tf.errors.OpError | IndexError) and not isinstance(cause, misfits):
            raise _damaged(prefix, cause) from error
        raise _MisfitError(clean(meaningful_line(cause or error), 240)) from error
    return [variable.path for variable in model.weights if _marked(variable)]


def _variables(model: Any) -> list[Any]:
    """Return every variable with numbers: weights, random states, and those of the optimizers."""
    held = [*model.variables, *(v for one in optimizers_of(model) for v in one.variables)]
    return [
        variable
        for variable in {id(variable): variable for variable in held}.values()
        if np.asarray(variable.value).dtype.kind in "fiuV"
    ]


def _marked(variable: Any) -> bool:
    value = np.asarray(variable.value)
    return bool(value.size and np.all(value == _marker(variable)))


def _marker(variable: Any) -> Any:
    dtype = np.asarray(variable.value).dtype
    if dtype.kind in "iu":
        mark: Any = min(_MARK_INT, int(np.iinfo(dtype).max) - 1)
    else:
        mark = _MARK
    return np.full(tuple(variable.shape), mark, dtype=dtype)


def _settle(
    prefix: Path,
    model: Any,
    variables: list[tuple[Any, Any]],
    names: dict[str, list[int]],
    fidelity: Fidelity,
) -> None:
    """Put fresh values where the checkpoint held none, and tell what it did and did not hold."""
    found = Comparison()
    states = {id(state) for state in random_states(model)}
    weights = {id(variable) for variable in model.weights}
    slots = {id(variable) for one in optimizers_of(model) for variable in one.variables}
    for variable, value in variables:
        if not _marked(variable):
            found.taken.append(variable)
            if id(variable) in states:
                fidelity.seeded.add(id(variable))
            continue
        variable.assign(value)
        if id(variable) in weights | slots:
            found.missing.append(variable)
    left = _left(prefix, [variable for variable, _ in variables], names)
    found.left = [name for name in left if names[name + _VALUE]]
    counters = [name for name in left if not names[name + _VALUE]]
    if counters:
        fidelity.note(
            f"Beside the model the checkpoint holds {listed(counters)}, which was not needed."
        )
    (tell_fresh if _never_stepped(model, found) else tell)(model, found, fidelity)


def _never_stepped(model: Any, found: Comparison) -> bool:
    """Say whether the step counter came back as 0, and no slot did."""
    held = getattr(model, "optimizer", None)
    inner = innermost(held)
    if inner is None:
        return False
    taken = {id(variable) for variable in found.taken}
    slots = slots_of(inner)
    return (
        bool(slots)
        and id(inner.iterations) in taken
        and int(np.asarray(inner.iterations)) == 0
        and not any(id(slot) in taken for slot in slots)
    )


def _part(value: Any, model: Any) -> str:
    if value is model:
        return "model"
    return "variables" if isinstance(value, list) else "optimizer"


def _left(prefix: Path, variables: list[Any], names: dict[str, list[int]]) -> list[str]:
    """Return the names in the checkpoint whose values no variable took."""
    import tensorflow as tf

    kept = [name for name in names if name.endswith(_VALUE)]
    kept = [name for name in kept if name.partition("/")[0] not in _BOOKKEEPING]
    if sum(math.prod(names[name]) for name in kept) * 4 > MOST_BYTES:
        return []
    values = {_content(np.asarray(variable.value)) for variable in variables}
    reader = tf.train.load_checkpoint(str(prefix))
    try:
        return [
            name.removesuffix(_VALUE)
            for name in kept
            if _content(np.asarray(reader.get_tensor(name))) not in values
        ]
    except (*_TF_ERRORS, tf.errors.OpError) as error:
        raise _damaged(prefix, error) from error


def _content(value: Any) -> tuple[tuple[int, ...], str, bytes]:
    return (value.shape, str(value.dtype), hashlib.sha256(value.tobytes()).digest())
