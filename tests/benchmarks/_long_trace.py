"""A trace as long as the largest that a report is promised to be quick for."""

from __future__ import annotations

import math
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor.trace import Trace
from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace
from divergence_doctor.trace.table import Table

if TYPE_CHECKING:
    from numpy.typing import NDArray

LAYERS: Final = 1_000
STEPS: Final = 20
_BY_STEP: Final = ("steps", "losses", "activations", "gradients", "weights", "updates")
_SIZED: Final = ("min", "max", "mean", "std", "l2", "absmax", "loss", "ratio")


def long_trace(*, layers: int = LAYERS, steps: int = STEPS, samples: int = 256) -> Trace:
    """Return the trace of a deep run that broke in its last step, in the log of a zero.

    One step is made up in full and repeated, its figures drifting from step to step: every tensor
    of every step has a row of its own, with its histogram, as a replay would write it.
    """
    generator = np.random.default_rng(0)
    x = generator.normal(size=(samples, 32))
    x[7, 3] = 0.0
    p = generator.uniform(0.1, 1.0, size=(samples, 1))
    p[7] = 0.0
    last = f"stage_{(layers - 1) // 20}/block_{layers - 1}/dense"
    chain = (
        {"what": "op", "name": "Sigmoid", "layer": last, "value": 0.0, "index": "7,0",
         "departed": True, **tensor(p)},
        {"what": "batch", "name": "x", "value": 0.0, "index": "7,3", **tensor(x)},
    )  # fmt: skip
    one = training_trace(
        losses=(math.nan,),
        layers=[f"stage_{i // 20}/block_{i}/dense" for i in range(layers)],
        x=x,
        gradient_l2=[10.0 ** -(i / layers) for i in range(layers)],
        events=(
            SyntheticEvent(
                "Log", layer=last, source="losses.py:41", samples=(7,), inputs=(p,),
                input_values=(0.0,), outputs=(np.log(np.maximum(p, 1e-300)),), step=steps - 1,
                chain=chain,
            ),
        ),
        trials=(
            {"name": "control", "breadth": 0, "outcome": "still-fails", "changed": "nothing"},
            {"name": "safe-op", "cause": "log-of-zero", "outcome": "finite",
             "changed": "the input of Log kept above 1e-7", "detail": f"{steps} steps"},
        ),
        context={"run": {"versions": {"tensorflow": "2.21.0"}, "device": "CPU"}},
    )  # fmt: skip
    tables = {name: _repeated(one.table(name), steps) for name in _BY_STEP}
    for name in ("layers", "batch", "samples", "cells", "targets", "events", "operands", "chain",
                 "trials", "hyperparameters"):  # fmt: skip
        tables[name] = one.table(name)
    return Trace(tables, {**one.context, "failing_step": steps - 1})


def _repeated(table: Table, steps: int) -> Table:
    arrays = {name: _column(table, name, steps) for name in table.columns}
    return Table(table.name, len(table) * steps,
                 {name: partial(_itself, array) for name, array in arrays.items()})  # fmt: skip


def _column(table: Table, name: str, steps: int) -> NDArray[Any]:
    values = table[name]
    rows = len(values)
    tiled = np.concatenate([values] * steps)
    if name == "step":
        return np.repeat(np.arange(steps, dtype=np.int64), rows)
    if name == "loss":
        return np.repeat(np.append(np.geomspace(2.0, 0.5, steps - 1), math.nan), rows)
    if name.endswith("_finite"):
        return np.repeat(np.arange(steps) < steps - 1, rows)
    return tiled * np.repeat(1.1 ** np.arange(steps), rows) if name in _SIZED else tiled


def _itself(array: NDArray[Any]) -> NDArray[Any]:
    return array
