"""``doctor env``: what a ticket needs to know of this machine, as a block to paste."""

from __future__ import annotations

import os
import platform
from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

_PACKAGES: Final = (
    "divergence_doctor",
    "tensorflow",
    "keras",
    "numpy",
    "h5py",
    "matplotlib",
    "typer",
)
#: Only these are shown: an environment holds passwords, too.
_FLAGS: Final = (
    "CUDA_VISIBLE_DEVICES",
    "KERAS_BACKEND",
    "MKL_NUM_THREADS",
    "NVIDIA_TF32_OVERRIDE",
    "OMP_NUM_THREADS",
    "ONEDNN_MAX_CPU_ISA",
    "TF_CPP_MIN_LOG_LEVEL",
    "TF_CUDNN_DETERMINISTIC",
    "TF_DETERMINISTIC_OPS",
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_FORCE_GPU_ALLOW_GROWTH",
    "TF_GPU_ALLOCATOR",
    "TF_NUM_INTEROP_THREADS",
    "TF_NUM_INTRAOP_THREADS",
    "TF_USE_LEGACY_KERAS",
    "TF_XLA_FLAGS",
    "XLA_FLAGS",
)
_LABEL: Final = 28


def env() -> None:
    """Print an environment block to paste into a ticket."""
    from divergence_doctor.cli._screen import say

    lines = [f"{name}:".ljust(_LABEL) + value for name, value in _facts()]
    say("\n".join(["```text", *lines, "```"]) + "\n")


def _facts() -> Iterator[tuple[str, str]]:
    yield "python", f"{platform.python_version()} ({platform.python_implementation()})"
    yield "platform", f"{platform.platform()}"
    for package in _PACKAGES:
        yield package, _version(package)
    for flag in _FLAGS:
        if flag in os.environ:
            yield flag, _value(os.environ[flag])
    yield "cpu", f"{_processor()}, {_usable()} of {os.cpu_count()} cores usable"
    yield "memory", _memory()


def _version(package: str) -> str:
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version(package)
    except PackageNotFoundError:
        return "not installed"


def _value(text: str) -> str:
    """Return a flag's value on one line, the home folder (and the user's name) left out."""
    from divergence_doctor._clean import clean

    home = os.environ.get("HOME", "")
    return clean(text.replace(home, "~") if len(home) > 1 else text, 400)


def _processor() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    for line in lines:
        name, _, value = line.partition(":")
        if name.strip() == "model name":
            return value.strip()
    return platform.processor() or platform.machine()


def _usable() -> int:
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def _memory() -> str:
    try:
        total = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return "unknown"
    return f"{total / 2**30:.1f} GiB"
