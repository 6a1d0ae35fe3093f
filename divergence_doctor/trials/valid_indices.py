"""Does the step live once every index can be looked up?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.replay.bench import Bench


@final
class ValidIndices(Trial):
    """Clips indices into the table: ``{"array": "x", "high": 99}``."""

    name: ClassVar[str] = "valid-indices"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps with every index in range."""
        array, high = str(parameters["array"]), int(parameters["high"])
        batches = bench.edited(
            lambda n, a: np.clip(a, 0, high).astype(a.dtype) if n == array else a
        )
        return Outcome.of(
            f"indices in {array} clipped into [0, {high}]", bench.run(batches=batches)
        )
