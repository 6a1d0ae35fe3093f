"""Which of the names in a config are the user's own, and does the imported code define them?"""

from __future__ import annotations

import importlib.util
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._guarded import ended_early
from divergence_doctor.checkpoints._user_code import import_user_code
from divergence_doctor.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence
    from pathlib import Path
    from types import ModuleType

    from divergence_doctor.checkpoints._checkpoint import OpenOptions
    from divergence_doctor.checkpoints._config import Reference

#: Where Keras looks for what a config names without a module, or in ``builtins``.
_NAMESPACES: Final = (
    "activations",
    "constraints",
    "initializers",
    "layers",
    "losses",
    "metrics",
    "models",
    "optimizers",
    "regularizers",
)
#: Classes that Keras finds by itself though no public module holds them.
_HIDDEN: Final = frozenset({"Functional"})
#: Packages that Keras imports by itself when a config names them.
_SIBLINGS: Final = frozenset({"keras_hub", "keras_cv", "keras_nlp"})
#: Where the classes behind ``keras.ops`` are. A legacy .h5 names them; Keras does not find them.
_OPS: Final = ("core", "einops", "fft", "image", "linalg", "math", "nn", "numpy")


def collect(
    references: Sequence[Reference], options: OpenOptions
) -> tuple[dict[str, Any], tuple[Reference, ...]]:
    """Import the user's code and find in it what the config names.

    Args:
        references: what the config names besides Keras' own objects.
        options: ``custom_objects`` are imported, in their order.

    Returns:
        What is to be passed to Keras as ``custom_objects``, and what nothing defines.

    Raises:
        CheckpointError: the user's code cannot be imported.
    """
    modules = [import_user_code(spec) for spec in options.custom_objects]
    import keras

    registered = keras.saving.get_custom_objects()
    found: dict[str, Any] = {}
    unknown: list[Reference] = []
    for reference in references:
        if reference.key in registered:
            continue
        defined = _defined(reference, modules)
        if defined is not None:
            found[reference.key] = defined
        elif not _builtin(reference):
            unknown.append(reference)
    return found, tuple(unknown)


def unknown_objects(
    file: Path, unknown: Iterable[Reference], options: OpenOptions
) -> CheckpointError:
    """Return the error that names every class and function that nothing defines."""
    missing = list(unknown)
    named = "; ".join(
        f"{reference.kind} {clean(reference.key, 80)!r} ({reference.where})"
        for reference in missing
    )
    count = "a custom object" if len(missing) == 1 else f"{len(missing)} custom objects"
    modules = {reference.module for reference in missing}
    only = modules.pop() if len(modules) == 1 else None
    given = ", ".join(clean(spec, 60) for spec in options.custom_objects)
    return CheckpointError(
        "unknown-custom-objects",
        f"{clean(file.name)} needs {count} that nothing defines: {named}",
        why=f"{given} does not define them" + _read_in_part(options)
        if given
        else "a checkpoint holds the names of the user's own classes and functions, not their code",
        fix=f"--custom-objects {clean(only, 80)}"
        if only and only not in ("builtins", "__main__")
        else "--custom-objects FILE_OR_MODULE, the code that defines them; it may be repeated",
    )


def _read_in_part(options: OpenOptions) -> str:
    ends = [ended_early(import_user_code(spec).__name__) for spec in options.custom_objects]
    told = ", ".join(clean(end, 120) for end in ends if end)
    return f"; it was read as far as {told}, which would have trained or saved" if told else ""


def op_classes(names: Iterable[str]) -> dict[str, Any]:
    """Return the classes behind ``keras.ops`` that a legacy config names, e.g. ``Log``."""
    from keras.src import ops

    wanted = set(names)
    return {
        name: value
        for part in _OPS
        for name, value in vars(getattr(ops, part, ops)).items()
        if name in wanted and isinstance(value, type) and issubclass(value, ops.operation.Operation)
    }


def _defined(reference: Reference, modules: Sequence[ModuleType]) -> Any:
    """Return what the imported code calls so; later modules win, as later imports do."""
    for module in reversed(modules):
        for name, value in vars(module).items():
            fits = isinstance(value, type) if reference.kind == "class" else callable(value)
            if fits and reference.name in (name, getattr(value, "__name__", name)):
                return value
    return None


def _builtin(reference: Reference) -> bool:
    import keras

    package = (reference.module or "").partition(".")[0]
    if package in _SIBLINGS:
        return importlib.util.find_spec(package) is not None
    if reference.module not in (None, "builtins"):
        return False
    return reference.key in _HIDDEN or any(
        hasattr(getattr(keras, space), reference.key) for space in _NAMESPACES
    )
