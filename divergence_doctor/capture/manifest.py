"""What must a bundle say so that the step runs again elsewhere as it did here?

Everything that a ``.keras`` file drops: dtype policy, resolved jit, loss scaling, strategy, flags,
versions, and where the user's own code lies. Nothing of the environment but flags that bear on
numbers.
"""

from __future__ import annotations

import hashlib
import json
import os
import platform
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.checkpoints._seams import op_determinism

if TYPE_CHECKING:
    from collections.abc import Sequence

_FLAGS: Final = ("KERAS_BACKEND", "XLA_FLAGS", "CUDA_VISIBLE_DEVICES", "OMP_NUM_THREADS")
_FLAG_PREFIXES: Final = (
    "TF_CPP_", "TF_CUDNN_", "TF_DETERMINISTIC_", "TF_DISABLE_", "TF_ENABLE_", "TF_FORCE_GPU_",
    "TF_GPU_", "TF_NUM_", "TF_ONEDNN_", "TF_XLA_",
)  # fmt: skip
#: Whose classes need no import line of the user's.
_LIBRARIES: Final = frozenset({"keras", "tensorflow", "tf_keras", "builtins", "divergence_doctor"})


def execution(model: Any) -> dict[str, Any]:
    """Return how the step runs: eager, as a graph, compiled by XLA, on how many replicas."""
    import tensorflow as tf

    strategy = getattr(model, "distribute_strategy", None)
    own = None if strategy is None or not _is_set(model) else strategy
    return {
        "run_eagerly": bool(getattr(model, "run_eagerly", False)),
        "functions_run_eagerly": bool(tf.config.functions_run_eagerly()),
        "jit_compile": _tried(lambda: model.get_compile_config().get("jit_compile")),
        "jit_resolved": _tried(lambda: bool(model.jit_compile)),
        "op_determinism": _tried(op_determinism),
        "tf32": bool(tf.config.experimental.tensor_float_32_execution_enabled()),
        "onednn": os.environ.get("TF_ENABLE_ONEDNN_OPTS"),
        "strategy": None if own is None else type(own).__name__,
        "replicas": 1 if own is None else int(own.num_replicas_in_sync),
    }


def numerics(model: Any) -> dict[str, Any]:
    """Return the dtype policies, and whether ``compile`` was to scale the loss."""
    import keras

    policy = getattr(model, "dtype_policy", None)
    return {
        "dtype_policy": getattr(policy, "name", None) or str(keras.config.dtype_policy().name),
        "global_dtype_policy": str(keras.config.dtype_policy().name),
        "floatx": str(keras.config.floatx()),
        "auto_scale_loss": _scales_loss(model),
    }


def _scales_loss(model: Any) -> bool | None:
    """Return ``auto_scale_loss``, which Keras does not keep; None where it would change nothing."""
    optimizer = getattr(model, "optimizer", None)
    if hasattr(optimizer, "initial_scale"):
        return True
    policy = getattr(getattr(model, "dtype_policy", None), "name", "")
    return False if policy == "mixed_float16" and optimizer is not None else None


def machine() -> dict[str, Any]:
    """Return versions, devices and the flags that bear on numbers."""
    import keras
    import numpy as np
    import tensorflow as tf

    return {
        "versions": {
            "divergence_doctor": sys.modules["divergence_doctor"].__version__,
            "python": platform.python_version(),
            "tensorflow": str(tf.__version__),
            "keras": str(keras.__version__),
            "numpy": str(np.__version__),
            "platform": platform.platform(),
        },
        "devices": [f"{d.device_type}: {d.name}" for d in tf.config.list_physical_devices()],
        "environment": {
            name: value
            for name, value in sorted(os.environ.items())
            if name in _FLAGS or name.startswith(_FLAG_PREFIXES)
        },
    }


def worker() -> str:
    """Return which worker of a cluster this is, for the name of the bundle; 0 where it is none."""
    try:
        task = json.loads(os.environ.get("TF_CONFIG", "{}")).get("task", {})
        kind, index = str(task.get("type", "worker")), int(task.get("index", 0))
    except (ValueError, TypeError, AttributeError):
        return "0"
    return str(index) if kind == "worker" or not kind.isalnum() else f"{kind}{index}"


def user_code(models: Sequence[Any], others: Sequence[Any]) -> dict[str, Any]:
    """Return where the user's own code lies, and the argument that brings its classes back.

    Args:
        models: the models; their layers are looked at too.
        others: losses, optimizers, metrics.
    """
    main = getattr(sys.modules.get("__main__"), "__file__", None)
    path = Path(main).absolute() if main else None
    modules = sorted(_modules(models, others))
    arguments = []
    for name in modules:
        source = str(path) if name == "__main__" else _importable(name)
        if source and source != "None":
            arguments.append(f"--custom-objects {_quoted(source)}")
    return {
        "main": None if path is None else str(path),
        "sha256": None if path is None else _hash(path),
        "modules": modules,
        "argument": " ".join(arguments) or None,
    }


def commit(folder: Path) -> Any:
    """Return the commit that a folder's git repository is at, read from its files, or None."""
    root = next((p for p in (folder, *folder.parents) if (p / ".git").exists()), None)
    return None if root is None else _tried(lambda: _head(root / ".git"))


def model_config(
    models: Sequence[Any], optimizers: Sequence[Any], loss: Any
) -> tuple[dict[str, Any] | None, str]:
    """Return ``model.json`` of a bundle, and why there is none.

    Args:
        models: the first is the one that is kept.
        optimizers: for a model that is not compiled.
        loss: likewise.
    """
    import keras

    if not models:
        return None, "no model was named to the recorder"
    model = models[0]
    try:
        config = keras.saving.serialize_keras_object(model)
        compiled = model.get_compile_config() if getattr(model, "compiled", False) else None
        if not compiled and (optimizers or loss is not None):
            compiled = _compile_config(optimizers, loss)
        json.dumps([config, compiled])
    except Exception as error:  # noqa: BLE001 - the user's get_config may raise anything
        return None, f"{type(model).__name__} cannot be serialised: {type(error).__name__}: {error}"
    return {"config": config, "compile": compiled}, ""


def _compile_config(optimizers: Sequence[Any], loss: Any) -> dict[str, Any]:
    import keras

    serialize = keras.saving.serialize_keras_object
    return {
        "optimizer": serialize(optimizers[0]) if optimizers else None,
        "loss": None if loss is None else serialize(loss),
        "loss_weights": None,
        "metrics": None,
        "weighted_metrics": None,
        "run_eagerly": False,
        "steps_per_execution": 1,
        "jit_compile": False,
    }


def _is_set(model: Any) -> bool:
    return getattr(model, "_distribute_strategy", None) is not None


def _modules(models: Sequence[Any], others: Sequence[Any]) -> set[str]:
    found: set[str] = set()
    stack = [*others]
    for model in models:
        stack += [model, *model._flatten_layers(), getattr(model, "optimizer", None)]  # noqa: SLF001 - Keras has no public walk through nested layers
        stack += list(model.metrics) if getattr(model, "compiled", False) else []
        stack += _losses(getattr(model, "loss", None))
    for item in stack:
        if item is None or isinstance(item, str):
            continue
        home = getattr(item, "__module__", None) if callable(item) else None
        name = (
            home if isinstance(home, str) and hasattr(item, "__name__") else type(item).__module__
        )
        if name.partition(".")[0] not in _LIBRARIES:
            found.add(name)
    return found


def _losses(loss: Any) -> list[Any]:
    if isinstance(loss, dict):
        return list(loss.values())
    return list(loss) if isinstance(loss, list | tuple) else [loss]


def _importable(name: str) -> str:
    """Return what ``--custom-objects`` takes for a module: its file, or its name in a package."""
    module = sys.modules.get(name)
    file = getattr(module, "__file__", None)
    return str(Path(file).absolute()) if file and "." not in name else name


def _quoted(text: str) -> str:
    import shlex

    return shlex.quote(text)


def _hash(path: Path) -> Any:
    return _tried(lambda: hashlib.sha256(path.read_bytes()).hexdigest())


def _head(git: Path) -> str | None:
    if git.is_file():
        # A worktree: the file names the folder that holds its HEAD.
        git = (git.parent / git.read_text(encoding="utf-8").partition(":")[2].strip()).resolve()
    head = (git / "HEAD").read_text(encoding="utf-8").strip()
    if not head.startswith("ref:"):
        return head
    name = head.partition(":")[2].strip()
    common = git / "commondir"
    shared = (git / common.read_text(encoding="utf-8").strip()) if common.is_file() else git
    for folder in (git, shared):
        if (folder / name).is_file():
            return (folder / name).read_text(encoding="utf-8").strip()
    packed = (shared / "packed-refs").read_text(encoding="utf-8")
    return next(
        (line.split()[0] for line in packed.splitlines() if line.endswith(f" {name}")), None
    )


def _tried(ask: Any) -> Any:
    """Return what is asked for; None where this version of a library does not know it."""
    try:
        return ask()
    except Exception:  # noqa: BLE001 - one unknown fact must not lose the bundle
        return None
