"""Does the step live in float32, where it was computed in float16 or bfloat16?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor.trials._precision import in_wider
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.replay.bench import Bench


@final
class Float32(Trial):
    """Computes all the steps in float32, loss scaling off; takes no parameters.

    The point of failure stays as it is: what divides by a true 0, or grows past float32, fails
    again.
    """

    name: ClassVar[str] = "float32"
    breadth: ClassVar[int] = 2

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:  # noqa: ARG002
        """Run the steps with nothing narrower than float32 in them."""
        return in_wider(bench, "float32")
