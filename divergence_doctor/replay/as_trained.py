"""Is the run as it was trained worth its time here, and what does it say of the outcome?"""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.errors import DoctorError
from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.execution import Comparison, describe_mode, failure_of
from divergence_doctor.replay.outcome import of_both

if TYPE_CHECKING:
    from collections.abc import Callable

    from divergence_doctor.replay.execution import Step
    from divergence_doctor.replay.train_function import TrainFunction
    from divergence_doctor.trace import TraceBuilder

REFERENCE: Final = "eager, functions run eagerly"
#: Seconds that tracing may take unasked where the reference failed: it adds to what is known.
CHEAP: Final = 0.6
#: The same where nothing else is left that could say why the run died: the reference is healthy, or
#: nothing explains how it failed.
WORTH: Final = 20.0


def run_as_trained(
    comparison: Comparison,
    builder: TraceBuilder,
    *,
    asked: bool | None,
    affordable: float | None = None,
    progress: Callable[[str], None] = lambda _detail: None,
) -> TrainFunction | None:
    """Run the steps as they were trained where that is worth it, and put into the trace what came.

    Adds the table ``executions``, ``fidelity.execution``, and what both executions together say of
    the outcome.

    Args:
        comparison: the steps, ready to be run.
        builder: the trace, with the reference's verdict in it.
        asked: True runs them whatever it costs, False does not; None where it is affordable.
        affordable: seconds that it may take then; by default as the reference's verdict says.
        progress: told what is being done.

    Returns:
        The step as it was trained, for trials; None where it was not run.
    """
    if affordable is None:
        affordable = _affordable(builder)
    why_not = _why_not(comparison, affordable, asked=asked)
    mode = comparison.function.mode
    if why_not:
        _tell(builder, f"{describe_mode(mode)}; {why_not}")
        return None
    start = time.perf_counter()
    try:
        steps = comparison.run(progress)
    except DoctorError as error:
        _tell(builder, f"{describe_mode(mode)}; could not be run: {error.message} ({error.why})")
        return None
    _judge(builder, steps, mode)
    seconds = time.perf_counter() - start
    _tell(builder, f"{describe_mode(mode)}; {_course(builder, comparison, steps, seconds)}")
    return comparison.function


def _affordable(builder: TraceBuilder) -> float:
    if builder.context["outcome"] != "diverged":
        return WORTH
    # How a runaway looks is a matter of rounding, and gradients cannot be seen as trained: another
    # execution says nothing new of such a failure.
    return 0.0 if _while_finite(builder) else CHEAP


def _while_finite(builder: TraceBuilder) -> bool:
    """Say whether loss and state are finite in the end: if it failed, it did so all the same."""
    last = builder.rows("steps")[-1]
    return bool(last["loss_finite"] and last["state_finite"])


def _why_not(comparison: Comparison, affordable: float, *, asked: bool | None) -> str:
    if comparison.function.mode == "eager":
        return "the same as the reference"
    if asked is not None:
        return "" if asked else "not run, as --no-as-trained says"
    if comparison.expected_seconds <= affordable:
        return ""
    if not affordable:
        return "not run: the reference fails while loss and state are finite (--as-trained runs it)"
    seconds = comparison.expected_seconds
    return f"not run: tracing it would take some {seconds:.2g} s (--as-trained runs it)"


def _judge(builder: TraceBuilder, steps: list[Step], mode: str) -> None:
    both = of_both(
        builder.context,
        failure_of(steps),
        mode=describe_mode(mode),
        finite=_while_finite(builder),
    )
    builder.describe(**both)


def _course(
    builder: TraceBuilder, comparison: Comparison, steps: list[Step], seconds: float
) -> str:
    """Say what was run, under which switches, how long it took, and whether it agrees."""
    rows = [row for row in builder.rows("executions") if row["execution"] == "as-trained"]
    differs = next((row for row in rows if row["differs"]), None)
    end = (
        f"the same as the reference up to rounding (a relative {rows[0]['tolerance']:.1g})"
        if differs is None
        else f"not the same as the reference in step {differs['step']}"
    )
    if differs is None and not comparison.comparable:
        end = "as finite as the reference; the two draw other random numbers"
    onednn = "on" if seams.onednn_on() else "off"
    count = f"{len(steps)} step" + "s" * (len(steps) > 1)
    return f"oneDNN {onednn}, remapper on: ran {count} in {seconds:.2f} s, {end}"


def _tell(builder: TraceBuilder, text: str) -> None:
    fidelity: dict[str, Any] = dict(builder.context.get("fidelity") or {})
    fidelity["execution"] = {"reference": REFERENCE, "as_trained": text}
    builder.describe(fidelity=fidelity)
