"""Does the step live in float64, so that what failed was rounding?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor.trials._precision import in_wider
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.replay.bench import Bench


@final
class Float64(Trial):
    """Computes all the steps in float64, loss scaling off; takes no parameters.

    It mends what cancels in float32: `1 - p + 1e-10` where p is nearly 1, a variance taken as
    E[x^2] - E[x]^2. It also mends an overflow that float64 only puts off.
    """

    name: ClassVar[str] = "float64"
    breadth: ClassVar[int] = 2
    runs: ClassVar[float] = 2.0

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:  # noqa: ARG002
        """Run the steps with nothing narrower than float64 in them."""
        return in_wider(bench, "float64")
