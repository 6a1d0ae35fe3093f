"""How large is what a layer puts out, step by step and within one step? As bars for a table."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final, final

import numpy as np

from divergence_doctor.cli import _spark
from divergence_doctor.trace.schema import EXPONENT_MIN

if TYPE_CHECKING:
    from collections.abc import Sequence

    from divergence_doctor.trace import Table, Trace

#: Steps that are shown; of a longer replay the last.
_STEPS: Final = 24


@final
class LayerBars:
    """The bars of some layers, and the headings that say what they span.

    Args:
        trace: the trace.
        step: the step whose magnitudes are shown.
        layers: paths of the layers; what they put out sets the range of the magnitudes.
        plain: with ASCII characters only.
    """

    def __init__(self, trace: Trace, step: int, layers: Sequence[str], *, plain: bool) -> None:
        self._plain = plain
        outputs = trace.table("activations")
        outputs = outputs.where(np.isin(outputs["layer"].astype(str), list(layers)))
        steps = sorted({int(one) for one in trace.table("steps")["step"]})[-_STEPS:]
        self._over_steps = _largest(outputs, steps) if len(steps) > 1 else {}
        self._counts = _histograms(outputs.select(step=step))
        every = np.asarray(list(self._counts.values()))
        self._low, self._high = _spark.range_of(every)
        over = [f"steps {steps[0]}-{steps[-1]}"] if self._over_steps else []
        spread = [heading(self._low, self._high)] if self._high >= self._low else []
        #: One for the steps where there are several, one for the magnitudes where there are any.
        self.headings: Final = (*over, *spread)
        self.meaning: Final = _meaning(steps=bool(over), magnitudes=bool(spread))

    def of(self, layer: str) -> tuple[str, ...]:
        """Return the bars of a layer, one for each heading; empty where nothing was seen."""
        values, counts = self._over_steps.get(layer), self._counts.get(layer)
        steps = "" if values is None else _spark.over_steps(values, plain=self._plain)
        spread = (
            ""
            if counts is None
            else _spark.of_magnitudes(counts, self._low, self._high, plain=self._plain)
        )
        cells = [steps] if self._over_steps else []
        return (*cells, spread)[: len(self.headings)]


def heading(low: int, high: int) -> str:
    """Return what a histogram of magnitudes between two bins is headed with, e.g. 2^-20..2^4."""
    return "magnitudes" if high < low else f"2^{low + EXPONENT_MIN}..2^{high + EXPONENT_MIN + 1}"


def _largest(outputs: Table, steps: Sequence[int]) -> dict[str, list[float | None]]:
    """Return the largest magnitude of each layer in each step; NaN where it was not finite."""
    place = {step: index for index, step in enumerate(steps)}
    found: dict[str, list[float | None]] = {}
    bad = outputs["nan"].clip(0) + outputs["posinf"].clip(0) + outputs["neginf"].clip(0)
    columns = (outputs["layer"], outputs["step"], outputs["absmax"], bad)
    for layer, step, absmax, nonfinite in zip(*(one.tolist() for one in columns), strict=True):
        if step not in place:
            continue
        values = found.setdefault(layer, [None] * len(steps))
        before = values[place[step]]
        now = math.nan if nonfinite else absmax
        values[place[step]] = now if before is None or not now <= before else before
    return found


def _histograms(outputs: Table) -> dict[str, np.ndarray]:
    found: dict[str, np.ndarray] = {}
    for layer, counts in zip(outputs["layer"].tolist(), outputs["exponents"], strict=True):
        found[layer] = found[layer] + counts if layer in found else counts.astype(np.uint64)
    return found


def _meaning(*, steps: bool, magnitudes: bool) -> str:
    """Return the line that says how the bars are read."""
    told = []
    if steps:
        told.append(f"steps: |forward| in powers of two, {_spark.NOT_FINITE} not finite")
    if magnitudes:
        told.append("2^a..2^b: share of the values, each bar a quarter of the next higher one")
    return "; ".join(told) + "." if told else ""
