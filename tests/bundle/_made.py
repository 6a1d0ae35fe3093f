"""Contents to write, with NumPy alone: what a small model leaves behind, optimizer and all."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING

import numpy as np

from divergence_doctor.bundle import Contents, Recorded, Variable

if TYPE_CHECKING:
    from pathlib import Path

START = datetime(2026, 3, 1, 12, 0, 0, tzinfo=UTC)
HOST = "node-7"


def at(seconds: float) -> datetime:
    """Return a time so many seconds after the first one."""
    return START + timedelta(seconds=seconds)


def variables(*, layers: int = 4, units: int = 8) -> list[Variable]:
    """Return kernels, a seed, a metric and Adam's slots; every other one given as a function."""
    generator = np.random.default_rng(0)
    found = []
    for index in range(layers):
        kernel = generator.normal(size=(units, units)).astype(np.float32)
        found.append(_variable("weight", f"dense_{index}/kernel", kernel, lazy=index % 2 == 1))
        for slot in ("momentum", "velocity"):
            array = generator.normal(size=(units, units)).astype(np.float32)
            path = f"adam/dense_{index}_kernel_{slot}"
            found.append(_variable("optimizer", path, array, lazy=index % 2 == 0))
    found.append(_variable("seed", "dropout/seed_generator_state", np.array([7, 9], np.uint32)))
    found.append(_variable("metric", "loss/total", np.float32(1.5).reshape(())))
    return found


def _variable(role: str, path: str, array: np.ndarray, *, lazy: bool = False) -> Variable:
    return Variable(
        role=role,
        path=path,
        name=path.rpartition("/")[2],
        array=(lambda: array) if lazy else array,
        dtype=array.dtype.name,
        shape=array.shape if lazy else None,
    )


def contents(*, layers: int = 4, units: int = 8, samples: int = 4, steps: int = 2) -> Contents:
    """Return what is to be written of a run that died at step 41."""
    first = 42 - steps
    return Contents(
        reason={
            "trigger": "non-finite-loss",
            "message": "the loss of step 41 is nan",
            "traceback": None,
            "step": 41,
            "epoch": 3,
            "loss": float("nan"),
            "learning_rate": np.float32(0.5),
        },
        manifest={"step": 41, "snapshot_step": first, "versions": {"numpy": np.__version__}},
        history={"step": [39, 40, 41], "loss": [1.0, float("inf"), float("nan")]},
        batches=[
            Recorded(
                step=step,
                arrays={
                    "x": np.full((samples, 3), step, np.float32),
                    "y": np.arange(samples, dtype=np.int64),
                },
            )
            for step in range(first, 42)
        ],
        model={"config": {"class_name": "Functional"}, "compile": {"optimizer": "adam"}},
        variables=variables(layers=layers, units=units),
        generators={"python": [3, [1, 2, 3], None], "numpy": None, "tf_global_seed": 5},
    )


def tiny() -> Contents:
    """Return the least that still has one of every kind of file."""
    return Contents(
        reason={"trigger": "requested", "message": "m", "step": 0},
        manifest={"step": 0},
        history={"step": [0], "loss": [1.0]},
        batches=[Recorded(step=0, arrays={"x": np.ones(1, np.float32)})],
        model={"config": None},
        variables=[_variable("weight", "w", np.ones(2, np.float32))],
    )


def finals(root: Path) -> list[Path]:
    """Return the bundles in a folder."""
    return sorted(path for path in root.iterdir() if path.name.startswith("crash-"))


def partials(root: Path) -> list[Path]:
    """Return the unfinished ones in a folder."""
    return sorted(path for path in root.iterdir() if path.name.endswith(".partial"))


def digest(folder: Path) -> str:
    """Return a hash of every name and byte in a folder."""
    seen = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        seen.update(path.relative_to(folder).as_posix().encode())
        if path.is_file():
            seen.update(path.read_bytes())
    return seen.hexdigest()
