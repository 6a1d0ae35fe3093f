"""How much lower must the learning rate be for the steps to live?"""

from __future__ import annotations

import math
from contextlib import ExitStack, contextmanager
from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.checkpoints import innermost, optimizers_of
from divergence_doctor.replay._seams import scaled_rate
from divergence_doctor.trials._trial import Attempt, Outcome, Trial

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

    It survives where the loss does not end above where it began: see :func:`_rises`. With
    ``"halvings": 3`` the gap between it and the factor before, which did not survive, is then
    halved so often on a log scale, while there is time: a decade becomes a third of one's eighth.
    Every rate that was tried is recorded; the one that survives with the least change is the
    trial's.
    """

    name: ClassVar[str] = "lower-rate"
    breadth: ClassVar[int] = 3
    runs: ClassVar[float] = 5.0

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run all the steps at rate / k, for one k after the other."""
        search = _Search(bench)
        low = 1.0
        for factor in map(float, parameters.get("factors", (10, 100, 1000))):
            if search.survives(factor):
                _narrow(search, low, factor, int(parameters.get("halvings", 0)))
                return search.survivor()
            low = factor
        return search.failed()


def _narrow(search: _Search, dies: float, lives: float, halvings: int) -> None:
    """Halve the gap between two divisors on a log scale, while there is time."""
    for _ in range(halvings):
        if not search.in_time:
            return
        middle = math.sqrt(dies * lives)
        dies, lives = (dies, middle) if search.survives(middle) else (middle, lives)


@final
class _Search:
    """The rates that were tried so far."""

    def __init__(self, bench: Bench) -> None:
        self._bench = bench
        self._tried: list[Attempt] = []
        self._last: Rerun | None = None
        self._best: tuple[float, Rerun] | None = None

    @property
    def in_time(self) -> bool:
        """There is time left to look closer."""
        return self._bench.in_time

    def survives(self, factor: float) -> bool:
        """Run the steps at rate / factor and say whether they live without a rising loss."""
        bench = self._bench
        rerun = bench.run(
            prepare=partial(_lowered, bench, factor),
            steps=max(bench.asked, bench.failing_step + 1),
        )
        rises = rerun.finite and _rises(rerun.losses, len(bench.batches))
        survived = rerun.finite and not rises
        outcome = "finite" if survived else ("still-rises" if rises else "still-fails")
        self._tried.append(Attempt("divisor", factor, outcome, rerun.why))
        self._last = rerun
        if survived:
            self._best = (factor, rerun)
        return survived

    def survivor(self) -> Outcome:
        """Return the outcome: the smallest divisor that survived."""
        assert self._best is not None  # noqa: S101 - asked for after one survived
        factor, rerun = self._best
        return Outcome.of(
            f"learning rate divided by {float(f'{factor:.3g}'):g}", rerun, self._tried
        )

    def failed(self) -> Outcome:
        """Return the outcome where none survived."""
        if self._last is None:
            return Outcome.not_run("learning rate", "no factor was given")
        still = {"still-rises": ", still rising"}
        said = [f"/{t.value:g}: {t.detail}{still.get(t.outcome, '')}" for t in self._tried]
        changed = f"learning rate divided by up to {self._tried[-1].value:g}"
        return Outcome(
            changed, "still-fails", "; ".join(said), self._last, attempts=tuple(self._tried)
        )


@contextmanager
def _lowered(bench: Bench, factor: float) -> Iterator[None]:
    with ExitStack() as stack:
        for optimizer in optimizers_of(bench.model):
            stack.enter_context(scaled_rate(innermost(optimizer), 1.0 / factor))
        yield


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
