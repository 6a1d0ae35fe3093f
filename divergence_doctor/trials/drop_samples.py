"""Does the step live without the suspected samples?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.replay.bench import Bench


@final
class DropSamples(Trial):
    """Takes rows out of every array of the failing step's batch: ``{"samples": [3, 17]}``."""

    name: ClassVar[str] = "drop-samples"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps without the samples."""
        samples = sorted({int(sample) for sample in parameters["samples"]})
        shown = ", ".join(str(sample) for sample in samples[:8]) + (
            ", …" if len(samples) > 8 else ""
        )
        of = f" of batch {bench.subsets.number}" if len(bench.batches) > 1 else ""
        changed = f"sample{'s' * (len(samples) > 1)} {shown}{of} left out"
        kept = [row for row in range(bench.subsets.batch.samples) if row not in set(samples)]
        if not kept:
            return Outcome.not_run(changed, "no sample would be left")
        return Outcome.of(changed, bench.subsets.run(kept))
