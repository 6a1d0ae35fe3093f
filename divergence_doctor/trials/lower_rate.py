"""How much lower must the learning rate be for the steps to live?"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.replay._seams import scaled_rate
from divergence_doctor.replay.state import innermost, optimizers_of
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from divergence_doctor.replay.bench import Bench, Rerun


#: A loss that ends this much above where it began has risen; less may be the masks of Dropout.
_RISEN: Final = 1.1
#: So many losses, each above the last, are no accident of masks: one order in 5! by chance.
_STEADY: Final = 5


@final
class LowerRate(Trial):
    """Divides the learning rate: ``{"factors": [10, 100]}``, the first that survives counts.

    It survives where the loss does not end above where it began: see :func:`_rises`.
    """

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
            if rerun.finite and not _rises(rerun.losses, len(bench.batches)):
                return Outcome.of(f"learning rate divided by {factor:g}", rerun)
            still = ", still rising" if rerun.finite else ""
            tried.append(f"/{factor:g}: {rerun.why}{still}")
        changed = f"learning rate divided by up to {factor:g}" if tried else "learning rate"
        if rerun is None:
            return Outcome.not_run(changed, "no factor was given")
        return Outcome(changed, "still-fails", "; ".join(tried), rerun)


def _rises(losses: Sequence[float], batches: int) -> bool:
    """Say whether the loss of the last batch stands above what it was when it was first fed.

    A rate that is merely too high gives a falling loss once it is low enough. What rises at any
    rate, only later, does not fail because of the rate.
    """
    last = len(losses) - 1
    if last < batches:
        return False
    same = losses[last % batches :: batches]
    every_time = len(same) >= _STEADY and all(b > a for a, b in pairwise(same))
    return every_time or same[-1] > same[0] + (_RISEN - 1) * abs(same[0])
