"""How does a row of figures fit into a cell of a table? As small bars, one character each."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

_BARS: Final = "▁▂▃▄▅▆▇█"
#: The same for a terminal that has no block elements.
_PLAIN: Final = "_-~=+*%#"
NOT_FINITE: Final = "×"  # noqa: RUF001 - a mark, not a letter
#: Not a space: cells are shown without those at their ends.
_NO_BAR: Final = "·"
_NO_BAR_PLAIN: Final = "."
#: Powers of two that the bars span at least: less than an eightfold change is no trend.
_LEAST_RANGE: Final = 3.0
#: A bar is full from the share of a quarter on, and each lower one stands for a quarter of that.
_STEP_OF_SHARE: Final = 4.0


def over_steps(values: Sequence[float | None], *, plain: bool = False) -> str:
    """Return one bar per step, in powers of two between the least and the largest value.

    Args:
        values: magnitudes; NaN or Inf where the step was not finite, None where nothing was
            measured.
        plain: with ASCII characters only.
    """
    logs = [math.log2(value) for value in values if value and math.isfinite(value)]
    low, high = (min(logs), max(logs)) if logs else (0.0, 0.0)
    span = max(high - low, _LEAST_RANGE)
    return "".join(_bar(value, low, span, plain=plain) for value in values)


def _bar(value: float | None, low: float, span: float, *, plain: bool) -> str:
    bars = _PLAIN if plain else _BARS
    if value is None:
        return _NO_BAR_PLAIN if plain else _NO_BAR
    if not math.isfinite(value):
        return "x" if plain else NOT_FINITE
    if value == 0:
        return bars[0]
    return bars[min(int((math.log2(value) - low) / span * len(bars)), len(bars) - 1)]


def of_magnitudes(
    counts: NDArray[np.uint32], low: int, high: int, *, cells: int = 16, plain: bool = False
) -> str:
    """Return a histogram of exponents as bars: a full bar for a quarter of the values and more.

    Each lower bar is a quarter as many, so that one value in 10,000 can still be seen.

    Args:
        counts: how many values each bin holds.
        low: first bin of the range that is shown.
        high: last one.
        cells: characters; bins share one where there are more of them.
        plain: with ASCII characters only.
    """
    bars = _PLAIN if plain else _BARS
    total = int(counts.sum())
    if not total or high < low:
        return ""
    edges = np.linspace(low, high + 1, min(cells, high - low + 1) + 1).round().astype(int)
    shares = [int(counts[a:b].sum()) / total for a, b in pairwise(edges)]
    none = _NO_BAR_PLAIN if plain else _NO_BAR
    return "".join(bars[_level(share, len(bars))] if share else none for share in shares)


def _level(share: float, levels: int) -> int:
    below = math.ceil(-math.log(share) / math.log(_STEP_OF_SHARE)) - 1
    return max(levels - 1 - max(below, 0), 0)


def range_of(histograms: NDArray[np.uint32]) -> tuple[int, int]:
    """Return the first and the last bin that any of the histograms uses; (0, -1) for none."""
    used = np.flatnonzero(histograms.any(axis=0)) if len(histograms) else np.array([], dtype=int)
    return (int(used[0]), int(used[-1])) if len(used) else (0, -1)
