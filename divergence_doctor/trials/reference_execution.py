"""Does the step live in another execution: without XLA, without fused kernels, op by op?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.replay.train_function import (
    AS_TRAINED,
    REFERENCE,
    WITHOUT_JIT,
    WITHOUT_REMAPPER,
    Way,
)
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.replay.bench import Bench, Rerun

_WORDS: Final[Mapping[Way, str]] = {
    REFERENCE: "run eagerly, op by op (run_eagerly=True)",
    AS_TRAINED: "run as it was trained instead of op by op",
    WITHOUT_JIT: "run as a graph without XLA (jit_compile=False)",
    WITHOUT_REMAPPER: "run as a graph without XLA and without fused kernels (remapper off)",
}


@final
class ReferenceExecution(Trial):
    """Runs the same steps in another execution: ``{"executions": ["without-jit", "reference"]}``.

    The first in which they live counts. Nothing of the model or the batch is changed; that another
    execution lives says where the failure is made, not that the numbers are sound.
    """

    name: ClassVar[str] = "reference-execution"
    breadth: ClassVar[int] = 3
    runs: ClassVar[float] = 2.0

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps in one execution after the other."""
        tried: list[str] = []
        rerun: Rerun | None = None
        for way in parameters.get("executions", (REFERENCE,)):
            rerun = bench.run(execution=way)
            if rerun.finite:
                return Outcome.of(_WORDS[way], rerun)
            tried.append(f"{way}: {rerun.why}")
        if rerun is None:
            return Outcome.not_run("the execution", "no other execution was given")
        return Outcome("the execution", "still-fails", "; ".join(tried), rerun)
