"""What do the trials that compute the step in a wider dtype have in common?"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from divergence_doctor.replay.loss_scale import fixed
from divergence_doctor.replay.precision import computed_in
from divergence_doctor.trials._trial import Outcome

if TYPE_CHECKING:
    from collections.abc import Iterator

    from divergence_doctor.replay.bench import Bench


def in_wider(bench: Bench, dtype: str) -> Outcome:
    """Return what came of all the steps in ``dtype``, without a loss scale.

    All of them, for a run that is on its way to infinity gets further in a dtype that reaches
    further. A step that raises in the wider dtype alone met a dtype that the code fixes itself:
    that says nothing of the failure.
    """
    changed = f"every layer, variable and cast in {dtype}, the loss unscaled"

    @contextmanager
    def prepared() -> Iterator[None]:
        with ExitStack() as stack:
            # The scale is off first: it is set in the variable that is there now.
            stack.enter_context(fixed(bench.model, 1.0))
            stack.enter_context(computed_in(bench.model, dtype))
            yield

    rerun = bench.run(prepare=prepared, steps=max(bench.asked, bench.failing_step + 1))
    raised = rerun.fault is not None and rerun.fault.raised
    own = bench.untouched.fault if bench.untouched is not None else None
    if raised and not (own is not None and own.raised):
        return Outcome.not_run(changed, f"the code fixes a narrower dtype itself: {rerun.why}")
    return Outcome.of(changed, rerun)
