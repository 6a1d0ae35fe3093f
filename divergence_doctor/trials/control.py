"""Does the untouched step fail again? Without that, no other trial proves anything."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.replay.bench import Bench


@final
class Control(Trial):
    """The same steps with nothing changed, in the same process as every other trial."""

    name: ClassVar[str] = "control"
    breadth: ClassVar[int] = 0

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps as they were."""
        del parameters
        bench.control = bench.run(steps=max(bench.failing_step + 1, bench.enough))
        return Outcome.of("nothing", bench.control)
