"""What is a trial? The same steps with one thing changed, and what that says.

``breadth`` tells how much a trial changes: 1 changes the point (a value, a sample, one op), 2 a
family of things (the scale of the inputs), 3 mends nearly everything (a lower rate, clipping). What
a narrow trial mends is proven better than what only a broad one mends.
"""

from __future__ import annotations

import json
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Final

from divergence_doctor import _plugins
from divergence_doctor._clean import clean
from divergence_doctor.errors import DoctorError

#: Characters of the reason why a trial could not run: Keras' messages hold whole tensors.
_REASON: Final = 240

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from divergence_doctor.replay.bench import Bench, Rerun
    from divergence_doctor.rules import Proof
    from divergence_doctor.trace import TraceBuilder


@dataclass(frozen=True, slots=True)
class Attempt:
    """One setting that was tried on the way to the mildest one that mends the step.

    Attributes:
        setting: what was set: ``divisor`` of the learning rate, or ``global_clipnorm``.
        value: its value.
        outcome: ``finite``, ``still-rises`` or ``still-fails``.
        detail: what was seen.
    """

    setting: str
    value: float
    outcome: str
    detail: str


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a trial.

    Attributes:
        changed: what was changed, in words.
        outcome: ``finite``, ``still-fails`` or ``not-run``.
        detail: what was seen, or why it was not run.
        rerun: the run behind it; None when it was not run.
        breadth: how much it changed, where that is more than what its trial changes at least.
        attempts: the settings that were tried on the way.
        rows: further rows for the trace, as (table, row).
    """

    changed: str
    outcome: str
    detail: str
    rerun: Rerun | None = None
    breadth: int = 0
    attempts: tuple[Attempt, ...] = ()
    rows: tuple[tuple[str, Mapping[str, Any]], ...] = ()

    @classmethod
    def of(cls, changed: str, rerun: Rerun, attempts: Iterable[Attempt] = ()) -> Outcome:
        """Return the outcome that a rerun stands for."""
        outcome = "finite" if rerun.finite else "still-fails"
        return cls(changed, outcome, rerun.why, rerun, attempts=tuple(attempts))

    def wider(self, breadth: int) -> Outcome:
        """Return the same outcome of a change that was broader than its trial is at the least."""
        return replace(self, breadth=breadth)

    @classmethod
    def not_run(cls, changed: str, why: str) -> Outcome:
        """Return the outcome of a trial that could not be run, and why."""
        return cls(changed, "not-run", why)


class Trial(ABC):
    """One intervention. Its name is its file's name with dashes."""

    name: ClassVar[str]
    breadth: ClassVar[int]
    #: How often it runs the steps, more or less: what it costs.
    runs: ClassVar[float] = 1.0

    @abstractmethod
    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Change one thing on the bench, run the steps again, and say what came of it."""


@cache
def all_trials() -> Mapping[str, Trial]:
    """Return one instance of every trial, by name."""
    kinds: tuple[type[Any], ...] = _plugins.load("divergence_doctor.trials", Trial)
    return {kind.name: kind() for kind in kinds}


def prove(
    wanted: Iterable[tuple[str, Proof]],
    bench: Bench,
    builder: TraceBuilder,
    *,
    budget: float,
    progress: Callable[[str], None] = lambda _name: None,
    control: Outcome | None = None,
) -> Outcome:
    """Run the wanted trials, the control first, and write every outcome into the trace.

    Args:
        wanted: pairs of cause and proof, most promising first.
        bench: the failing step.
        builder: the trace.
        budget: seconds after which no further trial is started.
        progress: told the name of each trial before it runs.
        control: what the control came to, where it has run already.

    Returns:
        What the control came to.
    """
    start = time.perf_counter()
    bench.until = start + budget
    done: dict[tuple[str, str], Outcome] = {}
    first = control or _control(bench, builder, progress)
    if control is None and budget > 0:
        progress("same-step")
        again = all_trials()["same-step"]
        _record(builder, again, "", "{}", again.run(bench, {}))
    for cause, proof in wanted:
        parameters = json.dumps(dict(proof.parameters), sort_keys=True)
        trial = all_trials().get(proof.trial)
        if trial is None:
            continue
        key = (proof.trial, parameters)
        if key not in done:
            done[key] = _attempt(
                trial, bench, proof.parameters, first, left=budget - (time.perf_counter() - start),
                progress=progress,
            )  # fmt: skip
            _record_attempts(builder, trial, parameters, done[key])
        _record(builder, trial, cause, parameters, done[key])
    return first


def _control(bench: Bench, builder: TraceBuilder, progress: Callable[[str], None]) -> Outcome:
    trial = all_trials()["control"]
    progress("control")
    outcome = trial.run(bench, {})
    _record(builder, trial, "", "{}", outcome)
    return outcome


def _attempt(
    trial: Trial,
    bench: Bench,
    parameters: Mapping[str, Any],
    control: Outcome,
    *,
    left: float,
    progress: Callable[[str], None],
) -> Outcome:
    if control.outcome != "still-fails":
        return Outcome.not_run(
            trial.name, "the untouched steps did not fail again, so no trial can tell"
        )
    if left <= 0:
        return Outcome.not_run(trial.name, "the time for trials (--budget) was used up")
    progress(trial.name)
    try:
        return trial.run(bench, parameters)
    except DoctorError as error:
        return Outcome.not_run(trial.name, clean(f"{error.message}: {error.why}", _REASON))


def _record_attempts(
    builder: TraceBuilder, trial: Trial, parameters: str, outcome: Outcome
) -> None:
    for attempt in outcome.attempts:
        builder.add(
            "attempts",
            trial=trial.name,
            parameters=parameters,
            setting=attempt.setting,
            value=attempt.value,
            outcome=attempt.outcome,
            detail=attempt.detail,
        )


def _record(
    builder: TraceBuilder, trial: Trial, cause: str, parameters: str, outcome: Outcome
) -> None:
    rerun = outcome.rerun
    losses = rerun.losses if rerun is not None else ()
    builder.add(
        "trials",
        name=trial.name,
        cause=cause,
        parameters=parameters,
        changed=outcome.changed,
        breadth=max(trial.breadth, outcome.breadth),
        outcome=outcome.outcome,
        detail=outcome.detail,
        steps=rerun.steps if rerun is not None else 0,
        loss_first=losses[0] if losses else float("nan"),
        loss_last=losses[-1] if losses else float("nan"),
        seconds=rerun.seconds if rerun is not None else 0.0,
    )
    for table, row in outcome.rows:
        builder.add(table, **row)
