"""What did a layer put out when it was last seen sound, and how are many of them named?

Shared by the rules about symptoms.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from divergence_doctor.trace import Trace
    from divergence_doctor.trace.table import Table

#: Layers that a sentence names; the evidence names more of them.
MOST_NAMED: Final = 4
#: Layers that stand one by one in the evidence.
MOST_SHOWN: Final = 12

#: What throws weights, or what a layer is fed, so far that its units end up where they have no
#: slope. Each of them may also have done so before the checkpoint was written.
THROWS_UNITS: Final = frozenset(
    {
        "bad-hyperparameter",
        "corrupt-optimizer-state",
        "corrupt-weights",
        "exploding-activation",
        "exploding-gradient",
        "high-learning-rate",
        "unscaled-input",
    }
)


@final
@dataclass(frozen=True, slots=True)
class Layer:
    """A layer with the rows of ``activations`` of one step.

    Attributes:
        name: path of the layer.
        activation: name of its activation function, or its class where it is one.
        step: the step.
        rows: its outputs in that step, one per call.
        last: it is the last one that was run.
    """

    name: str
    activation: str
    step: int
    rows: Table
    last: bool


def layers(trace: Trace, column: str, activations: frozenset[str]) -> Iterator[Layer]:
    """Yield the layers of some activations, each as it was last measured.

    Args:
        trace: any trace.
        column: a count of ``activations`` that is -1 where there was nothing to count: beyond the
            step that broke it, a layer says nothing of its units.
        activations: names of activation functions, or of layers that are one.
    """
    known = {
        str(row["layer"]): str(row["activation"] or row["layer_class"].lower())
        for row in trace.table("layers").rows()
    }
    outputs = trace.table("activations").select(role="output")
    outputs = outputs.where(outputs[column] >= 0)
    order = outputs["layer"][np.argsort(outputs["order"], kind="stable")]
    for name in dict.fromkeys(str(layer) for layer in order):
        if known.get(name, "") not in activations:
            continue
        own = outputs.select(layer=name)
        step = int(own["step"].max())
        last = bool(len(order)) and name == str(order[-1])
        yield Layer(name, known[name], step, own.select(step=step), last)


def units(row_shape: str) -> int:
    """Return the size of the last axis of a shape as the trace spells it; 0 for a scalar."""
    return int(row_shape.rpartition("x")[2]) if row_shape else 0


def listed(parts: Sequence[str]) -> str:
    """Return what is said of several layers, the first of them, and how many more there are."""
    shown = ", ".join(parts[:MOST_NAMED])
    return shown + (f" and {len(parts) - MOST_NAMED} more" if len(parts) > MOST_NAMED else "")


def plural(count: int, word: str) -> str:
    """Return ``1 layer`` or ``3 layers``."""
    return f"{count:,} {word}{'' if count == 1 else 's'}"
