"""Does the step live on inputs (or targets) of zero mean and unit variance?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from numpy.typing import NDArray

    from divergence_doctor.replay.bench import Bench

#: Fewer rows than this give no standard deviation per feature worth dividing by.
_ROWS: Final = 8


@final
class Standardise(Trial):
    """Standardises arrays: ``{"arrays": ["x"]}``."""

    name: ClassVar[str] = "standardise"
    breadth: ClassVar[int] = 2

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps on standardised arrays."""
        names = [str(name) for name in parameters["arrays"]]
        batches = bench.edited(lambda n, a: standardised(a) if n in names else a)
        changed = f"{', '.join(names)} standardised to zero mean and unit variance"
        return Outcome.of(changed, bench.run(batches=batches, steps=bench.asked))


def standardised(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array per feature where there are rows enough (and it is no image), else as one.

    Integer arrays become float32: token ids are not for this trial.
    """
    wide = array.astype(np.float64)
    per_feature = wide.ndim == 2 and len(wide) >= _ROWS
    axis = 0 if per_feature else None
    centre = wide - wide.mean(axis=axis, keepdims=True)
    spread = centre.std(axis=axis, keepdims=True)
    scaled = centre / np.where(spread > 0, spread, 1.0)
    return np.asarray(scaled, dtype=array.dtype if array.dtype.kind == "f" else np.float32)
