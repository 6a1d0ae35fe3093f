"""Does the same step give the same answer twice?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.replay.bench import RUNAWAY
from divergence_doctor.replay.unseeded import unseeded
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from divergence_doctor.replay.bench import Bench, Rerun


#: How the table of trials calls it.
_CHANGED: Final = "nothing, once more"
#: Runs of the first step alone, at most: what fails at every third call shows in three.
_MOST: Final = 6


@final
class SameStep(Trial):
    """The untouched step again, compared bit by bit: the same start, the same seeds.

    The watched replay and the control are two runs already. Two more of the first step alone, one
    right after the other, show what alternates from call to call. Where these differ while the
    control failed, the first step is run a few times more, until it fails in one run and lives in
    another. So it is where all of them broke at once and something that no seed holds went into the
    step: a NaN says nothing of the numbers it was made from. Where the control lived, a run with
    the failing step watched tells an unsteady step from a watch that changes it. The outcome is
    ``finite`` where the step failed in one plain run and lived in another: no trial can tell
    anything then.
    """

    name: ClassVar[str] = "same-step"
    breadth: ClassVar[int] = 0

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the first step again, and compare all runs of it."""
        del parameters
        control = bench.control
        if control is None:
            return Outcome.not_run(_CHANGED, "the control did not run")
        # Where the control failed at its first step, one run more stands right behind it.
        again = [bench.run(steps=1) for _ in range(2 if len(control.losses) > 1 else 1)]
        drawn = unseeded(bench) if _mute(control, again) else []
        while _undecided(control, again, drawn) and len(again) < _MOST and bench.in_time:
            again.append(bench.run(steps=1))
        plain = [_steps_of(control), *map(_steps_of, again)]
        runs = [(True, list(bench.watched), False), (False, plain[0], control.finite)]
        runs += [
            (False, steps, rerun.finite) for steps, rerun in zip(plain[1:], again, strict=True)
        ]
        if control.finite:
            watched = bench.run(watched=True, steps=len(control.losses))
            runs.append((True, _steps_of(watched), watched.finite))
        detail = _difference(plain)
        rows = [
            ("repeats", {"run": run, "watched": watched, "step": step, "loss": loss,
                         "failed": failed, "lived": lived})
            for run, (watched, steps, lived) in enumerate(runs)
            for step, (loss, failed) in enumerate(steps)
        ]  # fmt: skip
        if detail or control.finite:
            rows += [("unseeded", row) for row in drawn or unseeded(bench)]
        unsteady = control.finite or not _alike(plain)
        said = detail or f"{len(plain)} runs agree bit for bit as far as they go"
        return Outcome(
            _CHANGED, "finite" if unsteady else "still-fails", said, again[-1], rows=tuple(rows)
        )


def _undecided(control: Rerun, again: Sequence[Rerun], drawn: Sequence[Mapping[str, Any]]) -> bool:
    """Say whether the step gives other answers, and whether it always fails is not yet known."""
    plain = [_steps_of(control), *map(_steps_of, again)]
    return not control.finite and _alike(plain) and bool(drawn or _difference(plain))


def _mute(control: Rerun, again: Sequence[Rerun]) -> bool:
    """Say whether the first step broke in every run, so that its losses say nothing."""
    first = [rerun.losses[0] for rerun in (control, *again) if rerun.losses]
    return not control.finite and not any(math.isfinite(loss) for loss in first)


def _alike(runs: Sequence[Sequence[tuple[float, bool]]]) -> bool:
    """Say whether the first step failed in every run, or in none."""
    return len({steps[0][1] for steps in runs if steps}) <= 1


def _steps_of(rerun: Rerun) -> list[tuple[float, bool]]:
    """Return loss of each step and whether it failed; running away is no failure of a step."""
    steps = [(loss, False) for loss in rerun.losses]
    kind = rerun.fault.kind if rerun.fault is not None else rerun.why
    passing = (RUNAWAY, "finite, but", "skips", "the loss is below zero")
    if not rerun.finite and steps and not kind.startswith(passing):
        steps[-1] = (steps[-1][0], True)
    return steps


def _difference(runs: Sequence[Sequence[tuple[float, bool]]]) -> str:
    """Return in words the first step at which two plain runs differ; empty where none does."""
    first, *others = runs
    for other in others:
        for step, ((loss, failed), (again, fails)) in enumerate(zip(first, other, strict=False)):
            same = loss == again or (math.isnan(loss) and math.isnan(again))
            if not same or failed != fails:
                return (
                    f"step {step} gave a loss of {_said(loss, failed=failed)} in one run and of "
                    f"{_said(again, failed=fails)} in another"
                )
    return ""


def _said(loss: float, *, failed: bool) -> str:
    return f"{loss:.9g}" + (" (failed)" if failed and math.isfinite(loss) else "")
