"""Which samples of a batch stand out, and how are they marked?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from divergence_doctor.figures import _style
from divergence_doctor.figures._text import number

if TYPE_CHECKING:
    from collections.abc import Iterable

    from matplotlib.axes import Axes
    from numpy.typing import NDArray

    from divergence_doctor.figures._failure import Failure

#: A sample whose largest magnitude is this many times the typical one is marked. Two decimal
#: orders are far outside what standardised data shows (the largest of 10**6 normal deviates is
#: below 5 standard deviations), so that ordinary heavy tails are not accused.
FAR: Final = 100.0
_MOST_NAMED: Final = 6


def far_out(magnitudes: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which samples lie far outside the others.

    Args:
        magnitudes: largest magnitude of each sample; NaN where it has no finite value.

    Returns:
        True where the magnitude is more than 100 times the median of the samples' magnitudes
        (of the non-zero ones).
    """
    usual = magnitudes[np.isfinite(magnitudes) & (magnitudes > 0)]
    if not usual.size:
        return np.zeros(magnitudes.shape, dtype=bool)
    # Divided, not multiplied: a hundred times the median may lie beyond float64.
    return np.asarray(np.nan_to_num(magnitudes, posinf=0.0) / FAR > float(np.median(usual)))


def list_samples(samples: Iterable[int]) -> str:
    """Return samples for a sentence: the first six, and how many more."""
    every = sorted(set(samples))
    named = ", ".join(number(sample) for sample in every[:_MOST_NAMED])
    more = len(every) - _MOST_NAMED
    return f"{named} and {more:,} more" if more > 0 else named


def culprits_in_words(where: Failure) -> list[str]:
    """Return, for a caption, which samples are to blame or at least hold what fails."""
    if not where.samples:
        return []
    words = "to blame is" if where.proven else "the first producer fails in"
    return [f"{words} sample {list_samples(where.samples)}"]


def mark_culprits(axes: Axes, where: Failure, *, among: Iterable[int]) -> None:
    """Shade the samples that are to blame, or hold what fails, where they are in the picture."""
    there = set(among)
    every = [sample for sample in sorted(set(where.samples)) if sample in there]
    width = max(there, default=0) + 1
    half = max(0.5, 0.003 * width)
    spans = [(sample - half, 2 * half) for sample in every]
    if spans:
        axes.broken_barh(
            spans,
            (0.0, 1.0),
            transform=axes.get_xaxis_transform(),
            color=_style.ORANGE,
            alpha=0.35,
            linewidth=0,
            zorder=0.5,
            label=f"{'to blame:' if where.proven else 'fails in'} sample\n{_wrapped(every)}",
        )


def _wrapped(samples: list[int]) -> str:
    shown = ", ".join(str(sample) for sample in samples[:3])
    return f"{shown}, … ({len(samples):,})" if len(samples) > 3 else shown
