"""Do the steps live when the global norm of the gradients is clipped, and at which norm?"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor.checkpoints import innermost, optimizers_of
from divergence_doctor.replay._seams import patched
from divergence_doctor.trials._trial import Attempt, Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from divergence_doctor.replay.bench import Bench, Rerun


@final
class ClipGradients(Trial):
    """Clips by global norm: ``{"norms": [5.0, 1.0]}``, the largest that survives counts.

    It is searched for by bisection: what survives at one norm is taken to survive below it.
    """

    name: ClassVar[str] = "clip-gradients"
    breadth: ClassVar[int] = 3
    runs: ClassVar[float] = 3.0

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run all the steps with ``global_clipnorm`` set."""
        norms = sorted({float(norm) for norm in parameters.get("norms", (5.0, 1.0))})
        tried: list[Attempt] = []
        best: tuple[float, Rerun] | None = None
        rerun: Rerun | None = None
        low, high = 0, len(norms)
        while low < high:
            middle = (low + high) // 2
            rerun = bench.run(
                prepare=partial(_clipped, bench, norms[middle]),
                steps=max(bench.asked, bench.failing_step + 1),
            )
            outcome = "finite" if rerun.finite else "still-fails"
            tried.append(Attempt("global_clipnorm", norms[middle], outcome, rerun.why))
            if rerun.finite:
                low, best = middle + 1, (norms[middle], rerun)
            else:
                high = middle
        if rerun is None:
            return Outcome.not_run("gradient norm clipped", "no norm was given")
        if best is not None:
            return Outcome.of(f"global gradient norm clipped to {best[0]:g}", best[1], tried)
        said = "; ".join(f"{attempt.value:g}: {attempt.detail}" for attempt in tried)
        return Outcome(
            "global gradient norm clipped", "still-fails", said, rerun, attempts=tuple(tried)
        )


@contextmanager
def _clipped(bench: Bench, norm: float) -> Iterator[None]:
    with ExitStack() as stack:
        for optimizer in optimizers_of(bench.model):
            inner = innermost(optimizer)
            for name, value in (("clipnorm", None), ("clipvalue", None), ("global_clipnorm", norm)):
                stack.enter_context(patched(inner, name, partial(_instead, value)))
        yield


def _instead(value: float | None, _old: Any) -> float | None:
    return value
