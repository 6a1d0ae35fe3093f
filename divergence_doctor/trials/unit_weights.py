"""Does the step live when every sample counts the same?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.replay.bench import Bench


@final
class UnitWeights(Trial):
    """Sets sample weights to one: ``{"names": ["sample_weight"]}``."""

    name: ClassVar[str] = "unit-weights"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps with all weights at one."""
        names = {str(name) for name in parameters.get("names", ("sample_weight",))}
        batches = bench.edited(lambda n, a: np.ones_like(a) if n in names else a)
        return Outcome.of(f"{', '.join(sorted(names))} set to 1", bench.run(batches=batches))
