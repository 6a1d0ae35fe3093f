"""How did loss, gradients and layers fare up to the failure? The table of the training's history.

What was recorded in training stands beside what the same steps came to here: run again as they were
trained, and the last few of them watched.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.replay.engine import Engine
from divergence_doctor.replay.feeding import match
from divergence_doctor.replay.rolling import LEADING, ulps
from divergence_doctor.trace import TraceBuilder

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from divergence_doctor.checkpoints import Recording
    from divergence_doctor.replay.rolling import Course, Rolling

#: A layer has left its range when it puts out this many times what it did: more than an order of
#: magnitude within eight steps is no drift of a training that goes well.
FAR: Final = 10.0


def tell_course(recording: Recording, course: Course | None, builder: TraceBuilder) -> None:
    """Add what was recorded, and what the same steps came to where they ran again."""
    for step in recording.history.get("step", ()):
        logged = recording.logged(int(step))
        builder.add(
            "history",
            step=int(step),
            epoch=recording.epoch(step),
            source="recorded",
            loss=math.nan if logged is None else logged,
            measured=logged is not None,
            **{
                column: recording.of(step, column)
                for column in ("step_loss", "learning_rate", "loss_scale")
            },
        )
    for one in course.steps if course is not None else ():
        logged = recording.logged(one.step)
        builder.add(
            "history",
            step=one.step,
            epoch=recording.epoch(one.step),
            source="rolled",
            loss=math.nan if one.loss is None else float(one.loss),
            measured=one.loss is not None,
            step_loss=one.step_loss,
            learning_rate=one.learning_rate,
            loss_scale=one.loss_scale,
            bad_variable=one.bad_variable,
            ulp=-1 if one.loss is None or logged is None else ulps(logged, one.loss),
        )


def watch_leading(
    rolling: Rolling,
    recording: Recording,
    course: Course,
    builder: TraceBuilder,
    progress: Callable[[int, str, str], None],
) -> None:
    """Watch the steps before those of the replay, for their gradients and layers alone.

    At most eight steps before the failing one are gone through; nothing else of them is kept.
    """
    end = course.watched[0]
    numbers = [
        one.step for one in recording.steps if course.watched[-1] - LEADING <= one.step < end
    ]
    if not numbers:
        return
    rolling.to(numbers[0])
    batches = {one.step: one for one in recording.steps}
    scratch = TraceBuilder()
    fed = [match(batches[step].read(), rolling.model) for step in numbers]
    engine = Engine(rolling.model, fed, scratch)
    with engine.ready():
        for place, step in enumerate(numbers):
            progress(-1, "the steps before", f"training step {step}")
            engine.step(place)
    tell_watched(numbers, recording, scratch, builder)


def tell_watched(
    numbers: Sequence[int], recording: Recording, watched: TraceBuilder, builder: TraceBuilder
) -> None:
    """Add what watched steps say of the gradients and of what each layer put out.

    Args:
        numbers: training step of each watched step.
        recording: what was recorded.
        watched: the trace of the watched steps, counted from 0.
        builder: takes the rows.
    """
    for row in list(watched.rows("steps"))[: len(numbers)]:
        step = numbers[row["step"]]
        builder.add(
            "history",
            step=step,
            epoch=recording.epoch(step),
            source="watched",
            step_loss=row["loss"],
            learning_rate=row["learning_rate"],
            loss_scale=row["loss_scale"],
            gradient_norm=math.nan if row["raised"] else row["gradient_norm"],
        )
    for row in watched.rows("activations"):
        if row["role"] == "output" and row["step"] < len(numbers):
            builder.add("ranges", **_range(numbers[row["step"]], row))


def _range(step: int, row: dict[str, Any]) -> dict[str, Any]:
    return {
        "step": step,
        "order": row["order"],
        "layer": row["layer"],
        "layer_class": row["layer_class"],
        "absmax": row["absmax"],
        "std": row["std"],
        "nonfinite": row["nan"] + row["posinf"] + row["neginf"],
        "left": False,
    }


def mark_left(builder: TraceBuilder) -> None:
    """Mark in the table ``ranges`` where a layer left the range that it had at first, for good."""
    rows = sorted(builder.rows("ranges"), key=lambda row: (row["step"], row["order"]))
    first: dict[str, dict[str, Any]] = {}
    course: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        first.setdefault(row["layer"], row)
        course.setdefault(row["layer"], []).append(row)
    for layer, steps in course.items():
        start = first[layer]["absmax"]
        for row in reversed(steps):
            row["left"] = bool(row["nonfinite"]) or row["absmax"] > FAR * start > 0
            if not row["left"]:
                break
