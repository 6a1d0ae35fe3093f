"""How is a ``tf.train.Checkpoint`` opened? Into the model that ``--model`` makes.

Nothing in such a file says which of its objects is the model: it hangs at the root or under the
name that the training script gave it. So each name is tried, and what counts is whether every
weight of the model was filled.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._checkpoint import Checkpoint, Opened, OpenOptions
from divergence_doctor.checkpoints._compile import build_optimizer, settle
from divergence_doctor.checkpoints._loading import Fidelity, Restored, loading
from divergence_doctor.checkpoints._user_code import call_factory
from divergence_doctor.errors import CheckpointError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

_STATE: Final = re.compile(r'^model_checkpoint_path:\s*"(?P<name>[^"]+)"', re.MULTILINE)
_MAX_STATE: Final = 1 << 20
_BOOKKEEPING: Final = frozenset({"save_counter", "_CHECKPOINTABLE_OBJECT_GRAPH", "signatures"})
#: Put into a weight before reading; what still holds it afterwards was not in the file.
_MARK: Final = 0.123456789


@final
class TfCheckpoint(Checkpoint):
    """``tf.train.Checkpoint``, ``CheckpointManager``, or the variables of a SavedModel."""

    name: ClassVar[str] = "tf.train.Checkpoint"
    order: ClassVar[int] = 40
    needs_model: ClassVar[bool] = True

    @classmethod
    def can_open(cls, path: Path) -> bool:
        """Say whether the path is the prefix of a checkpoint, one of its files, or its folder."""
        return find_prefix(path) is not None

    @classmethod
    def preflight(cls, path: Path, options: OpenOptions) -> None:  # noqa: ARG003 - the interface's
        """Check that the data are there beside the index; see the base class."""
        prefix = _prefix(path)
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
        prefix = _prefix(path)
        names = _stored(prefix)
        fidelity = Fidelity()
        model = call_factory(options.model or "")
        if not model.built:
            raise CheckpointError(
                "model-not-built",
                f"the model of --model {clean(options.model or '')} has no weights yet",
                why="it has not seen the shape of its input",
                fix="begin it with keras.Input(...), or call it once in the factory",
            )
        build_optimizer(model)
        fidelity.optimizer_state = _restore(prefix, model, names, fidelity)
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
            },
        )


def find_prefix(path: Path) -> Path | None:
    """Return the prefix of the checkpoint that a path means, or None.

    Args:
        path: a prefix; one of the files behind it; a folder, whose latest is taken (its
            ``checkpoint`` file may name no file outside of it); or a SavedModel.
    """
    if path.is_dir():
        variables = path / "variables" / "variables"
        return variables if _has_index(variables) else _latest(path)
    plain = path.with_name(re.sub(r"\.(index|data-\d+-of-\d+)$", "", path.name))
    return plain if _has_index(plain) else None


def _has_index(prefix: Path) -> bool:
    return prefix.with_name(f"{prefix.name}.index").is_file()


def _latest(folder: Path) -> Path | None:
    state = folder / "checkpoint"
    if state.is_file() and state.stat().st_size <= _MAX_STATE:
        match = _STATE.search(state.read_text(encoding="utf-8", errors="replace"))
        if match:
            named = folder / re.split(r"[\\/]", match.group("name"))[-1]
            if _has_index(named):
                return named
    found = sorted(folder.glob("*.index"), key=lambda index: (index.stat().st_mtime, index.name))
    return found[-1].with_suffix("") if found else None


def _prefix(path: Path) -> Path:
    prefix = find_prefix(path)
    if prefix is None:
        raise CheckpointError(
            "not-a-checkpoint",
            f"{clean(str(path))} is no tf.train.Checkpoint",
            why="there is no .index file for it",
            fix="give the prefix that was saved, e.g. ckpt/run-12",
        )
    return prefix


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
    """Return the names and shapes of what the checkpoint holds."""
    import tensorflow as tf

    try:
        return {name: list(shape) for name, shape in tf.train.list_variables(str(prefix))}
    except (tf.errors.OpError, ValueError, RuntimeError) as error:
        raise _damaged(prefix, error) from error


def _damaged(prefix: Path, error: BaseException) -> RefusedError:
    return RefusedError(
        "damaged-checkpoint",
        f"{clean(prefix.name)} is damaged",
        why=clean(str(error).strip().split("\n")[0]) or type(error).__name__,
        fix="copy the files again, or use an earlier checkpoint",
    )


def _restore(prefix: Path, model: Any, names: dict[str, list[int]], fidelity: Fidelity) -> Restored:
    fresh = [variable.numpy().copy() for variable in _optimizer_variables(model)]
    best: list[str] | None = None
    for tried in _candidates(model, names):
        _mark(model)
        missing = _read(prefix, tried, model)
        if missing is not None and not missing:
            return _settle_optimizer(model, fresh, fidelity)
        if missing is not None and (best is None or len(missing) < len(best)):
            best = missing
    held = [name for name in names if name.partition("/")[0] not in _BOOKKEEPING]
    wanted = best if best is not None else [variable.path for variable in model.weights]
    raise CheckpointError(
        "model-mismatch",
        f"{clean(prefix.name)} does not fill the model: {len(wanted)} of its weights are not in it"
        f" (e.g. {clean(wanted[0], 80) if wanted else 'none'})",
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


def _read(prefix: Path, tried: dict[str, Any], model: Any) -> list[str] | None:
    """Read the checkpoint as tried; return which weights it left alone, None where it fails."""
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
        return None
    return [variable.path for variable in model.weights if _marked(variable)]


def _mark(model: Any) -> None:
    for variable in (*model.weights, *_optimizer_variables(model)):
        if "int" not in str(variable.dtype) and str(variable.dtype) != "bool":
            variable.assign(_marker(variable))


def _marked(variable: Any) -> bool:
    return bool(variable.shape != (0,) and np.all(variable.numpy() == _marker(variable)))


def _marker(variable: Any) -> Any:
    return np.full(tuple(variable.shape), _MARK, dtype=variable.numpy().dtype)


def _optimizer_variables(model: Any) -> list[Any]:
    optimizer = getattr(model, "optimizer", None)
    return list(optimizer.variables) if optimizer is not None else []


def _settle_optimizer(model: Any, fresh: list[Any], fidelity: Fidelity) -> Restored:
    """Put fresh values where the checkpoint held none, and say how much it held."""
    variables = _optimizer_variables(model)
    floats = [variable for variable in variables if "int" not in str(variable.dtype)]
    left = [variable.path for variable in floats if _marked(variable)]
    for variable, value in zip(variables, fresh, strict=True):
        if variable.path in left:
            variable.assign(value)
    if not left:
        return "restored" if variables else "missing"
    fidelity.note(
        f"{len(floats) - len(left)} of {len(floats)} optimizer variables are in the checkpoint;"
        " the others start fresh"
    )
    return "missing" if len(left) == len(floats) else "partial"
