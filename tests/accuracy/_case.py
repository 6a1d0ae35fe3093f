"""What is a case, and how is it put before the doctor?"""

from __future__ import annotations

import importlib
import json
import pkgutil
import subprocess
import sys
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from tests.accuracy import cases

if TYPE_CHECKING:
    from pathlib import Path
    from types import ModuleType

#: What is compared beside outcome and cause.
PLACES = ("stage", "layer", "op", "samples")


@dataclass(frozen=True)
class Answer:
    """What the doctor said of one case.

    Attributes:
        name: name of the case.
        expected: what is true.
        report: the content of ``report.json``; None when there is none.
        error: the last line of what the command said when it failed.
        seconds: wall time of the command.
        held_out: nobody has tuned the doctor on it (the rule stands in ``cases/__init__.py``).
    """

    name: str
    expected: dict[str, Any]
    report: dict[str, Any] | None
    error: str
    seconds: float
    held_out: bool = False

    @property
    def control(self) -> bool:
        """The case is a healthy run."""
        return bool(self.expected["outcome"] == "healthy")

    @property
    def said(self) -> dict[str, Any]:
        """The diagnosis; empty where there is none."""
        return (self.report or {}).get("diagnosis") or {}

    @property
    def outcome_right(self) -> bool:
        """The outcome is the expected one."""
        return self.report is not None and self.report["outcome"] == self.expected["outcome"]

    @property
    def cause_right(self) -> bool:
        """The cause is the expected one; for a healthy run, that there is none."""
        return self.report is not None and self.said.get("cause") == self.expected.get("cause")

    @property
    def confidence(self) -> float:
        """How sure the doctor was."""
        return float(self.said.get("confidence", 0.0))

    def right(self, place: str) -> bool | None:
        """Say whether one thing of the diagnosis is right; None where the case does not ask."""
        if place not in self.expected:
            return None
        return bool(self.said.get(place) == self.expected[place])

    @property
    def all_right(self) -> bool:
        """Everything that the case asks for is right."""
        places = all(self.right(place) is not False for place in PLACES)
        return self.outcome_right and self.cause_right and places


def names() -> list[str]:
    """Return the names of all cases."""
    return sorted(
        module.name
        for module in pkgutil.iter_modules(cases.__path__)
        if not module.name.startswith("_")
    )


def load(name: str) -> ModuleType:
    """Return one case."""
    return importlib.import_module(f"{cases.__name__}.{name}")


def write(name: str, folder: Path) -> list[str]:
    """Save a case's model and batch, and return the arguments of ``doctor replay`` for them.

    Args:
        name: name of the case.
        folder: an empty folder.
    """
    import keras

    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    case = load(name)
    model = case.model()
    alone = getattr(case, "WEIGHTS_ONLY", False)
    checkpoint = folder / ("model.weights.h5" if alone else "model.keras")
    (model.save_weights if alone else model.save)(checkpoint)
    np.savez(folder / "batch.npz", **case.batch())
    keras.config.set_dtype_policy("float32")
    code = ["--model", f"{case.__file__}:model"] if alone else ["--custom-objects", case.__file__]
    return [
        str(checkpoint), str(folder / "batch.npz"), *code, *getattr(case, "ARGUMENTS", ()),
    ]  # fmt: skip


def held_out(name: str) -> bool:
    """Say whether nobody has tuned the doctor on a case; its module says so."""
    return bool(getattr(load(name), "HELD_OUT", False))


def ask(name: str, arguments: list[str], folder: Path) -> Answer:
    """Put one case before ``doctor replay``, as a user would, and return what it said.

    Args:
        name: name of the case.
        arguments: what :func:`write` returned for it.
        folder: where the report is written; the command makes the folder itself.
    """
    start = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "divergence_doctor", "replay", *arguments, "--json",
         "--out", str(folder)],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    seconds = time.perf_counter() - start
    report = json.loads(done.stdout) if done.returncode == 0 else None
    error = "" if report is not None else "\n".join(done.stderr.strip().splitlines()[-3:])
    return Answer(name, load(name).EXPECTED, report, error, seconds, held_out(name))


def seconds_of_import() -> float:
    """Return the wall time of a Python process that imports TensorFlow and ends."""
    start = time.perf_counter()
    subprocess.run([sys.executable, "-c", "import tensorflow"], capture_output=True, check=True)
    return time.perf_counter() - start
