"""How is a legacy whole-model ``.h5`` opened? As Keras does, where Keras still can."""

from __future__ import annotations

import json
import mmap
from contextlib import suppress
from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._archive import MAX_DEPTH, depth
from divergence_doctor.checkpoints._checkpoint import Checkpoint, Opened, OpenOptions
from divergence_doctor.checkpoints._comparison import compare_legacy
from divergence_doctor.checkpoints._compile import (
    build_optimizer,
    compile_arguments,
    settle,
)
from divergence_doctor.checkpoints._config import (
    Reference,
    check_config,
    check_sizes,
    references,
    trained_policy,
)
from divergence_doctor.checkpoints._custom import collect, op_classes, unknown_objects
from divergence_doctor.checkpoints._fidelity import Fidelity, Restored, tell_policy
from divergence_doctor.checkpoints._loading import (
    heed,
    loading,
    policy,
    sha256,
    suffixed,
)
from divergence_doctor.checkpoints._user_code import call_factory
from divergence_doctor.checkpoints._weights import is_hdf5, opened, survey
from divergence_doctor.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

#: Metric names that Keras resolves by the shape of the labels, when it sees them.
_LATE_METRICS = frozenset({"accuracy", "acc", "crossentropy", "ce"})


def holds_config(path: Path) -> bool:
    """Say whether an HDF5 file names an attribute ``model_config``; HDF5 itself is not opened."""
    if not is_hdf5(path):
        return False
    try:
        with (
            path.open("rb") as stream,
            mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ) as view,
        ):
            return view.find(b"model_config") >= 0
    except (OSError, ValueError):
        return False


@final
class LegacyH5(Checkpoint):
    """``model.save("model.h5")``: config, weights and optimizer in one HDF5 file."""

    name: ClassVar[str] = "legacy whole-model .h5"
    order: ClassVar[int] = 20

    @classmethod
    def can_open(cls, path: Path) -> bool:
        """Say whether the path is an HDF5 file with a model's config in it."""
        return holds_config(path)

    @classmethod
    def preflight(cls, path: Path, options: OpenOptions) -> None:
        """Nothing can be looked at before HDF5 itself opens the file; see :meth:`open`."""

    @classmethod
    def open(cls, path: Path, options: OpenOptions) -> Opened:
        """Open the file; see the base class."""
        weights = survey(path)
        config, training, version = _configs(path)
        fidelity = Fidelity()
        fidelity.note("A legacy .h5 keeps no run mode (jit_compile, steps_per_execution).")
        trained = trained_policy(config)
        with policy(trained):
            if options.model is None:
                check_config(path, [config, training], trust=options.trust)
                check_sizes(path, config, weights.stored)
                model = _load(path, config, training, options, fidelity)
            else:
                model = _fill(path, options.model, fidelity)
            with opened(path) as file:
                if "model_weights" in file:
                    compare_legacy(file["model_weights"], model, fidelity)
            fidelity.optimizer_state = _restore_optimizer(path, model, fidelity)
            tell_policy(trained, model, fidelity)
            settle(path, model, options, fidelity)
        return Opened(
            model=model,
            fidelity=fidelity.report(model),
            source={
                "file": str(path),
                "format": cls.name,
                "sha256": sha256(path),
                "keras_version": version,
                "dtype_policy": trained or "",
            },
            unseeded=tuple(fidelity.unseeded(model)),
        )


def _configs(path: Path) -> tuple[Any, dict[str, Any], str]:
    with opened(path) as file:
        texts = {
            name: _text(file.attrs[name])
            for name in ("model_config", "training_config", "keras_version")
            if name in file.attrs
        }
    try:
        config = json.loads(texts.get("model_config", "null"))
        training = json.loads(texts.get("training_config", "null"))
    except (ValueError, RecursionError) as error:
        raise _damaged(path, clean(str(error))) from error
    if not isinstance(config, dict):
        raise _damaged(path, "its model_config is no JSON object")
    if depth([config, training]) > MAX_DEPTH:
        raise _damaged(path, f"its config is nested deeper than {MAX_DEPTH} levels")
    return (
        config,
        training if isinstance(training, dict) else {},
        clean(texts.get("keras_version", "")),
    )


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)


def _damaged(path: Path, why: str) -> RefusedError:
    return RefusedError(
        "damaged-checkpoint",
        f"the config in {clean(path.name)} cannot be read",
        why=why,
        fix="save the model again: model.save('model.keras')",
    )


def _load(
    path: Path,
    config: Any,
    training: dict[str, Any],
    options: OpenOptions,
    fidelity: Fidelity,
) -> Any:
    operations = op_classes(_operation_names(config))
    names, aliases = _compiled_names(training)
    custom, unknown = collect([*references([config, training]), *names], options)
    blocking = [reference for reference in unknown if reference.key not in operations]
    if blocking:
        raise unknown_objects(path, blocking, options)
    import keras

    custom = {**aliases, **custom, **operations}
    with suffixed(path, ".h5") as file, loading(path) as said:
        model = keras.saving.load_model(
            file, custom_objects=custom, compile=bool(training), safe_mode=not options.trust
        )
    heed(said, fidelity)
    return model


def _operation_names(config: Any) -> set[str]:
    """Return which classes of the config are those behind ``keras.ops`` (``Log``, ``Add``).

    Keras does not find them in such a file, or takes the layer of the same name. Unlike a layer an
    operation is neither trainable nor not.
    """
    found: set[str] = set()
    left = [config]
    while left:
        value = left.pop()
        if isinstance(value, dict):
            inner = value.get("config")
            if "inbound_nodes" in value and isinstance(inner, dict) and "trainable" not in inner:
                found.add(str(value.get("class_name")))
            left.extend(value.values())
        elif isinstance(value, list):
            left.extend(value)
    return found - {"InputLayer"}


def _compiled_names(training: Mapping[str, Any]) -> tuple[list[Reference], dict[str, Any]]:
    """Return the losses and metrics that are named by a plain string.

    Keras 3 fails on the short names of its own losses in such a file (``mse``), so these are handed
    to it; the others are the user's.
    """
    mine: list[Reference] = []
    aliases: dict[str, Any] = {}
    for part in ("loss", "metrics", "weighted_metrics"):
        for name in _strings(training.get(part)):
            known = _named(name)
            if known is not None:
                aliases[name] = known
            elif name not in _LATE_METRICS:
                mine.append(Reference("function", name, None, (part,), part))
    return mine, aliases


def _named(name: str) -> Any:
    """Return Keras' loss or metric of this name, or None."""
    import keras

    for space in (keras.losses, keras.metrics):
        with suppress(ValueError):
            return space.get(name)
    return None


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, list) or (isinstance(value, dict) and "class_name" not in value):
        for child in value.values() if isinstance(value, dict) else value:
            yield from _strings(child)


def _fill(path: Path, factory: str, fidelity: Fidelity) -> Any:
    """Return the factory's model with the weights of the file in it."""
    model = call_factory(factory)
    with suffixed(path, ".h5") as file, loading(path) as said:
        model.load_weights(file)
    heed(said, fidelity)
    fidelity.note(f"The model comes from --model {clean(factory)}, its weights from the file.")
    return model


def _restore_optimizer(path: Path, model: Any, fidelity: Fidelity) -> Restored:
    """Assign the optimizer's variables by their paths, or in their order where all of them fit.

    Keras builds the optimizer of such a file without the weights of the layers, and so without
    their slots; only the counter of the steps comes back.
    """
    optimizer = getattr(model, "optimizer", None)
    with opened(path) as file:
        group = file.get("optimizer_weights")
        if optimizer is None:
            return "missing"
        if group is None:
            fidelity.note("The optimizer starts fresh: the file holds none of its state.")
            return "missing"
        stored = {name: group[name][()] for name in map(_text, group.attrs.get("weight_names", ()))}
    optimizer = type(optimizer).from_config(optimizer.get_config())
    model.compile(**{**compile_arguments(model), "optimizer": optimizer})
    build_optimizer(model)
    mine = list(optimizer.variables)
    if {variable.path for variable in mine} == stored.keys():
        pairs = [(variable, stored[variable.path]) for variable in mine]
    else:
        pairs = list(zip(mine, stored.values(), strict=False))
    fitting = [pair for pair in pairs if tuple(pair[0].shape) == tuple(pair[1].shape)]
    if len(fitting) == len(mine) == len(stored):
        for variable, value in fitting:
            variable.assign(value)
        return "restored"
    fidelity.note(
        f"the file holds {len(stored)} optimizer variables, and the optimizer has {len(mine)}:"
        " it starts fresh"
    )
    return "missing"
