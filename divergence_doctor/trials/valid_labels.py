"""Does the step live once the labels lie in the domain of their loss?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from divergence_doctor.trials._trial import Outcome, Trial
from divergence_doctor.trials.replace_values import fill

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from divergence_doctor.replay.bench import Bench


@final
class ValidLabels(Trial):
    """Clips labels: ``{"array": "y", "low": 0, "high": 9, "integral": true}``.

    NaN becomes ``low``; where there is no such bound, NaN and Inf become the mean of the others.
    With ``"nonzero": true`` the median magnitude of the others stands in place of 0; with
    ``"steps": 8`` rows of labels are cut where that many steps do not spell more of them.
    """

    name: ClassVar[str] = "valid-labels"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps with every label in its domain."""
        array = str(parameters["array"])
        changed = _in_words(parameters)

        def change(name: str, values: NDArray[Any]) -> NDArray[Any]:
            return valid(values, parameters) if name == array else values

        batches = bench.edited(change)
        for before, after in zip(bench.batches, batches, strict=True):
            if _constant(after.arrays.get(array)) and not _constant(before.arrays.get(array)):
                # Any step lives without a task; that would prove nothing about the labels.
                return Outcome.not_run(changed, "the labels would all be the same")
        return Outcome.of(changed, bench.run(batches=batches))


def _in_words(parameters: Mapping[str, Any]) -> str:
    array, low, high = parameters["array"], parameters.get("low"), parameters.get("high")
    said = []
    if low is not None or high is not None:
        span = f"[{'-inf' if low is None else low}, {'inf' if high is None else high}]"
        said.append(f"clipped into {span}{' and rounded' if parameters.get('integral') else ''}")
    if parameters.get("nonzero"):
        said.append("of 0 replaced by their usual magnitude")
    if parameters.get("steps"):
        said.append(f"cut to what {parameters['steps']} steps can spell")
    if not said:
        return f"NaN and Inf in {array} replaced by the mean of the other labels"
    return f"labels in {array} {' and '.join(said)}"


def valid(values: NDArray[Any], parameters: Mapping[str, Any]) -> NDArray[Any]:
    """Return labels inside their domain, as the parameters of the trial give it."""
    low, high = parameters.get("low"), parameters.get("high")
    wide = values.astype(np.float64)
    wide = fill(wide if low is None else np.where(np.isnan(wide), float(low), wide))
    wide = np.round(wide) if parameters.get("integral") else wide
    if low is not None or high is not None:
        wide = np.clip(wide, low, high)
    if parameters.get("nonzero") and np.any(wide != 0):
        wide = np.where(wide == 0, np.median(np.abs(wide[wide != 0])), wide)
    if parameters.get("steps") and wide.ndim == 2:
        wide = np.stack([_spelt(row, int(parameters["steps"])) for row in wide])
    return wide.astype(values.dtype)


def _spelt(row: NDArray[Any], steps: int) -> NDArray[Any]:
    """Return a row of labels padded with 0 from where ``steps`` steps do not reach.

    Each label takes a step, and one more for the blank before it where it repeats the last.
    """
    labels = row[row != 0]
    taken = np.cumsum(1 + (np.diff(labels, prepend=0) == 0)) if len(labels) else labels
    kept = labels[taken <= steps]
    return np.concatenate([kept, np.zeros(len(row) - len(kept), row.dtype)])


def _constant(labels: NDArray[Any] | None) -> bool:
    return labels is not None and labels.size > 1 and bool((labels == labels.flat[0]).all())
