"""How much lower must the learning rate be for the steps to live?"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor.replay._seams import scaled_rate
from divergence_doctor.replay.state import innermost, optimizers_of
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from divergence_doctor.replay.bench import Bench, Rerun


@final
class LowerRate(Trial):
    """Divides the learning rate: ``{"factors": [10, 100]}``, the first that survives counts."""

    name: ClassVar[str] = "lower-rate"
    breadth: ClassVar[int] = 3

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run all the steps at rate / k, for one k after the other."""
        tried: list[str] = []
        rerun: Rerun | None = None
        for factor in parameters.get("factors", (10, 100, 1000)):

            @contextmanager
            def lowered(factor: float = float(factor)) -> Iterator[None]:
                with ExitStack() as stack:
                    for optimizer in optimizers_of(bench.model):
                        stack.enter_context(scaled_rate(innermost(optimizer), 1.0 / factor))
                    yield

            rerun = bench.run(prepare=lowered, steps=max(bench.asked, bench.failing_step + 1))
            if rerun.finite:
                return Outcome.of(f"learning rate divided by {factor:g}", rerun)
            tried.append(f"/{factor:g}: {rerun.why}")
        changed = f"learning rate divided by up to {factor:g}" if tried else "learning rate"
        if rerun is None:
            return Outcome.not_run(changed, "no factor was given")
        return Outcome(changed, "still-fails", "; ".join(tried), rerun)
