"""What does a model's config ask for, and may it have it? An allow-list over its JSON.

Keras' safe mode names what is forbidden; here it is named what is needed to rebuild a model. What
the config holds besides are the user's own classes and functions, which come from imported code.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal, final

from divergence_doctor._clean import clean
from divergence_doctor.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: What stands directly in ``keras`` and in ``keras.models``; the rest there are functions that
#: read and write files.
_MODELS: Final = frozenset({"Sequential", "Model", "Functional"})
_TOP: Final = _MODELS | {"DTypePolicy", "FloatDTypePolicy", "SeedGenerator", "KerasTensor"}
_COMPILE: Final = frozenset({"MetricsList", "CompileLoss", "CompileMetrics"})
_CLASSES: Final = frozenset(
    {
        "activations",
        "constraints",
        "distillation",
        "dtype_policies",
        "initializers",
        "layers",
        "losses",
        "metrics",
        "ops",
        "optimizers",
        "quantizers",
        "random",
        "regularizers",
    }
)
_FUNCTIONS: Final = _CLASSES - {"layers", "optimizers", "dtype_policies", "distillation"}
_NOT_FOR_MODELS: Final = frozenset({"deserialize", "serialize", "get", "custom_gradient"})
#: They run code, or a graph, that comes with the file.
_UNSAFE_LAYERS: Final = frozenset({"TFSMLayer", "TorchModuleWrapper", "JaxLayer", "FlaxLayer"})

#: Elements that a config may imply for each byte of stored weights: 8-bit weights hold 1, packed
#: 4-bit weights 2; the rest is room for layers that are shared or not yet built.
_ELEMENTS_PER_BYTE: Final = 16
_ELEMENTS_FLOOR: Final = 1 << 24


@final
@dataclass(frozen=True, slots=True)
class Reference:
    """A class or function that the config names and that is not Keras' own by its module.

    Attributes:
        kind: ``class`` or ``function``.
        key: the name under which Keras looks it up, e.g. ``pkg>Name``.
        module: the module that the config names; None where it names none.
        path: keys and indices that lead to it.
        where: name of the layer or part that asks for it.
    """

    kind: Literal["class", "function"]
    key: str
    module: str | None
    path: tuple[str | int, ...]
    where: str

    @property
    def name(self) -> str:
        """The bare name, without the package it is registered in."""
        return self.key.rpartition(">")[2]


def references(config: Any) -> tuple[Reference, ...]:
    """Return what the config names besides Keras' own objects, each once, in its order."""
    found: dict[tuple[str, str], Reference] = {}
    for path, entry, where in _entries(config):
        reference = _reference(path, entry, where)
        if reference is not None:
            found.setdefault((reference.kind, reference.key), reference)
    return tuple(found.values())


def check_config(file: Path, config: Any, *, trust: bool) -> None:
    """Refuse a config that names what no model needs, or code of its own.

    Args:
        file: the checkpoint, for the message.
        config: the JSON.
        trust: let pass what can run code on loading.

    Raises:
        RefusedError: slug ``unsafe-lambda``, ``unsafe-layer`` or ``unsafe-config``.
    """
    for _, entry, where in _entries(config):
        class_name, module = str(entry["class_name"]), entry.get("module")
        if class_name == "__lambda__" and not trust:
            raise _unsafe(
                file,
                "unsafe-lambda",
                f"{clean(file.name)} holds a Python lambda ({where})",
                "the code of a lambda is stored in the file and runs when the model is loaded",
            )
        if not _is_keras(module):
            continue
        name = str(entry["config"]) if class_name == "function" else class_name
        if class_name != "function" and name in _UNSAFE_LAYERS:
            if trust:
                continue
            raise _unsafe(
                file,
                "unsafe-layer",
                f"{clean(file.name)} holds a {name} ({where})",
                "such a layer runs code or a graph that comes with the file",
            )
        if not _allowed(str(module), name, function=class_name == "function"):
            raise RefusedError(
                "unsafe-config",
                f"{clean(file.name)} asks for {clean(f'{module}.{name}')} ({where})",
                why="a model is made of layers, losses, metrics, optimizers and the like; this is"
                " none of them",
                fix="save the model again from code that you know",
            )


def check_sizes(file: Path, config: Any, weights_bytes: int) -> None:
    """Refuse a config whose layers would take far more memory than the stored weights.

    Args:
        file: the checkpoint, for the message.
        config: the JSON.
        weights_bytes: size of the weights file, unpacked.

    Raises:
        RefusedError: slug ``config-bomb``.
    """
    implied = [(_elements(entry), where) for _, entry, where in _entries(config)]
    total = sum(elements for elements, _ in implied)
    if total > max(_ELEMENTS_FLOOR, _ELEMENTS_PER_BYTE * weights_bytes):
        elements, where = max(implied)
        raise RefusedError(
            "config-bomb",
            f"the layers of {clean(file.name)} would take {total:,} weights"
            f" ({elements:,} of them in {where})",
            why=f"the file holds {weights_bytes:,} bytes of weights",
            fix="save the model again: model.save('model.keras')",
        )


def trained_policy(config: Any) -> str | None:
    """Return the dtype policy that was the global one when the model was built, as far as it shows.

    Args:
        config: the JSON. A Sequential or subclassed model says its policy itself; of a Functional
            model that of most of its layers is taken.
    """
    if not isinstance(config, dict):
        return None
    own = _policy(config)
    if own is not None:
        return own
    votes = Counter(
        policy
        for _, entry, _ in _entries(config)
        if entry["class_name"] != "InputLayer" and (policy := _policy(entry)) is not None
    )
    return votes.most_common(1)[0][0] if votes else None


def _policy(entry: dict[str, Any]) -> str | None:
    inner = entry.get("config")
    dtype = inner.get("dtype") if isinstance(inner, dict) else None
    if isinstance(dtype, dict) and isinstance(dtype.get("config"), dict):
        name = dtype["config"].get("name")
        return name if isinstance(name, str) and dtype.get("class_name") == "DTypePolicy" else None
    return None


def _entries(config: Any) -> Iterator[tuple[tuple[str | int, ...], dict[str, Any], str]]:
    """Yield every object that Keras would build: its path, its entry, and what it belongs to."""
    stack: list[tuple[tuple[str | int, ...], Any, str]] = [((), config, "model")]
    while stack:
        path, value, where = stack.pop()
        if isinstance(value, dict):
            where = _where(path, value, where)
            if isinstance(value.get("class_name"), str):
                yield path, {"config": None, **value}, where
            children: list[tuple[str | int, Any]] = list(value.items())
        elif isinstance(value, list):
            children = list(enumerate(value))
        else:
            continue
        stack.extend(((*path, key), child, where) for key, child in reversed(children))


def _where(path: tuple[str | int, ...], value: dict[str, Any], where: str) -> str:
    inner = value.get("config")
    name = inner.get("name") if isinstance(inner, dict) else None
    if isinstance(name, str) and "class_name" in value:
        return f"{clean(str(value['class_name']), 40)} {clean(name, 60)!r}"
    part = path[-1] if path else ""
    return str(part) if part in ("optimizer", "loss", "metrics", "weighted_metrics") else where


def _reference(path: tuple[str | int, ...], entry: dict[str, Any], where: str) -> Reference | None:
    class_name, module = str(entry["class_name"]), entry.get("module")
    if class_name.startswith("__") or _is_keras(module):
        return None
    named = None if module is None else str(module)
    if class_name == "function":
        return Reference("function", str(entry["config"]), named, path, where)
    key = entry.get("registered_name")
    return Reference("class", str(key) if key else class_name, named, path, where)


def _is_keras(module: Any) -> bool:
    return isinstance(module, str) and (module == "keras" or module.startswith("keras."))


def _allowed(module: str, name: str, *, function: bool) -> bool:
    parts = [part for part in module.split(".")[1:] if part != "src"]
    if not name.isidentifier() or name in _NOT_FOR_MODELS:
        return False
    if not parts:
        return name in _TOP and not function
    if parts[0] == "models":
        return name in _MODELS and not function
    if parts[:2] == ["trainers", "compile_utils"]:
        return name in _COMPILE and not function
    if function:
        return parts[0] in _FUNCTIONS
    return parts[0] in _CLASSES and name[:1].isupper()


def _elements(entry: dict[str, Any]) -> int:
    """Return about how many weights a Dense-like layer or Embedding of Keras' own would take."""
    inner = entry.get("config")
    if not isinstance(inner, dict) or not _is_keras(entry.get("module")):
        return 0
    if entry["class_name"] == "Embedding":
        return _count(inner, "input_dim") * _count(inner, "output_dim")
    width = max(_count(inner, "units"), _count(inner, "filters"))
    build = entry.get("build_config")
    shape = build.get("input_shape") if isinstance(build, dict) else None
    last = shape[-1] if isinstance(shape, list) and shape else 1
    return width * (last if isinstance(last, int) and last > 0 else 1)


def _count(inner: dict[str, Any], key: str) -> int:
    value = inner.get(key)
    if isinstance(value, float) and math.isfinite(value):
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) and value > 0 else 0


def _unsafe(file: Path, slug: str, message: str, why: str) -> RefusedError:
    return RefusedError(
        slug,
        message,
        why=why,
        fix=f"if you trust where {clean(file.name)} comes from, add --trust; a named function in"
        " --custom-objects needs no trust",
    )
