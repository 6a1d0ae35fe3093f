"""What is otherwise here than where the bundle was recorded, so that bits may differ?"""

from __future__ import annotations

import os
from importlib import metadata
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._seams import op_determinism

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

_PACKAGES: Final = {"tensorflow": "TensorFlow", "keras": "Keras", "numpy": "NumPy"}
_FLAGS: Final = {
    "op_determinism": "op determinism",
    "tf32": "TF32",
}

#: Flags that change no number.
_HARMLESS: Final = frozenset(
    {"TF_CPP_MIN_LOG_LEVEL", "KERAS_BACKEND", "KERAS_HOME", "TF_FORCE_GPU_ALLOW_GROWTH",
     "TF_CPP_MAX_VLOG_LEVEL", "CUDA_VISIBLE_DEVICES", "TF_CONFIG", "TF_CPP_VMODULE"}
)  # fmt: skip


def differences(manifest: Mapping[str, Any]) -> tuple[str, ...]:
    """Return what may change bits, as parts of a sentence; imports TensorFlow.

    Args:
        manifest: the bundle's; what it does not say is not compared.
    """
    return (
        *_versions(_mapping(manifest.get("versions"))),
        *_devices(manifest.get("devices")),
        *_flags(_mapping(manifest.get("execution"))),
        *_environment(_mapping(manifest.get("environment"))),
    )


def _mapping(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else {}


def _versions(recorded: Mapping[str, Any]) -> Iterator[str]:
    for package, name in _PACKAGES.items():
        there = recorded.get(package)
        if there is None:
            continue
        try:
            here = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
        if str(there) != here:
            yield f"{name} {clean(str(there), 40)} there and {here} here"


def _devices(recorded: Any) -> Iterator[str]:
    import tensorflow as tf

    if not isinstance(recorded, list) or not recorded:
        return
    there = {_kind(str(device)) for device in recorded} & {"CPU", "GPU", "TPU"}
    here = {device.device_type for device in tf.config.list_logical_devices()}
    if there and there != here:
        yield f"{' and '.join(sorted(there))} there and {' and '.join(sorted(here))} here"


def _kind(device: str) -> str:
    return next((kind for kind in ("GPU", "TPU", "CPU") if kind in device.upper()), "")


def _flags(recorded: Mapping[str, Any]) -> Iterator[str]:
    import tensorflow as tf

    here = {
        "op_determinism": op_determinism(),
        "tf32": tf.config.experimental.tensor_float_32_execution_enabled(),
    }
    for flag, name in _FLAGS.items():
        there = recorded.get(flag)
        if isinstance(there, bool) and there != here[flag]:
            yield f"{name} {'on' if there else 'off'} there and {'off' if there else 'on'} here"


def _environment(recorded: Mapping[str, Any]) -> Iterator[str]:
    for name, there in recorded.items():
        here = os.environ.get(str(name))
        if there is not None and here != str(there) and str(name) not in _HARMLESS:
            yield f"{clean(str(name), 40)}={clean(str(there), 80)} there and not here"
