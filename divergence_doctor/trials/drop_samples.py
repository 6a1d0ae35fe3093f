"""Does the step live without the suspected samples?"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from divergence_doctor import _rows
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.batches import Batch
    from divergence_doctor.replay.bench import Bench


@final
class DropSamples(Trial):
    """Takes rows out of every array of the batch: ``{"samples": [3, 17]}``."""

    name: ClassVar[str] = "drop-samples"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps without the samples."""
        samples = sorted({int(sample) for sample in parameters["samples"]})
        shown = ", ".join(str(sample) for sample in samples[:8]) + (
            ", …" if len(samples) > 8 else ""
        )
        changed = f"sample{'s' * (len(samples) > 1)} {shown} left out"
        if any(len(samples) >= batch.samples for batch in bench.batches):
            return Outcome.not_run(changed, "no sample would be left")
        batches = tuple(without(batch, samples) for batch in bench.batches)
        return Outcome.of(changed, bench.run(batches=batches))


def without(batch: Batch, samples: list[int]) -> Batch:
    """Return the batch without some rows."""
    keep = np.setdiff1d(np.arange(batch.samples), samples)
    return only(batch, keep.tolist())


def only(batch: Batch, samples: list[int]) -> Batch:
    """Return the batch with nothing but some rows."""
    return replace(batch, arrays=_rows.pick(batch.arrays, samples, batch.samples))
