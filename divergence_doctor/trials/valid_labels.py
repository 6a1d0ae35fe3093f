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
    """

    name: ClassVar[str] = "valid-labels"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps with every label in its domain."""
        low, high = parameters.get("low"), parameters.get("high")
        integral = bool(parameters.get("integral", False))
        array = str(parameters["array"])
        span = f"[{'-inf' if low is None else low}, {'inf' if high is None else high}]"
        changed = f"labels in {array} clipped into {span}{' and rounded' if integral else ''}"
        if low is None and high is None:
            changed = f"NaN and Inf in {array} replaced by the mean of the other labels"

        def change(name: str, values: NDArray[Any]) -> NDArray[Any]:
            if name != array:
                return values
            wide = values.astype(np.float64)
            wide = fill(wide if low is None else np.where(np.isnan(wide), float(low), wide))
            wide = np.round(wide) if integral else wide
            if low is not None or high is not None:
                wide = np.clip(wide, low, high)
            return wide.astype(values.dtype)

        batches = bench.edited(change)
        for before, after in zip(bench.batches, batches, strict=True):
            if _constant(after.arrays.get(array)) and not _constant(before.arrays.get(array)):
                # Any step lives without a task; that would prove nothing about the labels.
                return Outcome.not_run(changed, "the labels would all be the same")
        return Outcome.of(changed, bench.run(batches=batches))


def _constant(labels: NDArray[Any] | None) -> bool:
    return labels is not None and labels.size > 1 and bool((labels == labels.flat[0]).all())
