"""How did training go up to the failure? Said from what the flight recorder kept of it."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.reporters._parts import History, HistoryRow
from divergence_doctor.reporters._text import number, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from divergence_doctor.trace import Trace

#: Rows that a ticket can hold; the trace has the last thousand.
MAX_ROWS: Final = 24
#: What the recorder saw and what is no divergence: it was asked for, or told to stop.
_NO_FAILURE: Final = frozenset({"requested", "signal", "loss-spike"})


def history(trace: Trace) -> History | None:
    """Return how the recorded run went; None where the replay was not of a crash bundle."""
    told = trace.context.get("recorded")
    if not isinstance(told, dict):
        return None
    rows = _rows(trace, told)
    sentences = [*_seen(told), *_poisoned(told), *_again_in(told), *_went(rows), *_ranges(trace)]
    return History(
        sentences=tuple(sentences),
        lost=" ".join(_poisoned(told)),
        rows=tuple(rows[-MAX_ROWS:]),
        total=len(rows),
        losses=_mapping(told.get("losses")),
        told={key: value for key, value in told.items() if key != "losses"},
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _int(value: Any) -> int:
    return value if isinstance(value, int) and not isinstance(value, bool) else -1


def _seen(told: Mapping[str, Any]) -> Iterable[str]:
    what = str(told.get("message") or told.get("trigger") or "a failure").rstrip(".")
    yield f"The flight recorder saw it at training step {_int(told.get('failing'))}: {what}."


def _again_in(told: Mapping[str, Any]) -> Iterable[str]:
    """Say how the recorded steps came again, and which of them this report is about."""
    losses = _mapping(told.get("losses"))
    own = told.get("loop") == "custom"
    how = "by the model's own train_step" if own else "as they were trained"
    if told.get("rolled") and losses.get("sentence"):
        yield (
            f"From the weights of before training step {_int(told.get('snapshot'))} the recorded"
            f" batches ran again {how}: {losses['sentence']}."
        )
    watched = [step for step in told.get("watched") or () if isinstance(step, int)]
    if len(watched) == 1:
        yield f"Step 0 of this report is training step {watched[0]}."
    elif watched:
        yield (
            f"Steps 0 to {len(watched) - 1} of this report are training steps {watched[0]} to"
            f" {watched[-1]}."
        )


def _poisoned(told: Mapping[str, Any]) -> Iterable[str]:
    """Say that the weights were lost before the loss showed it, or that nothing failed."""
    first, failing = _int(told.get("first_bad")), _int(told.get("failing"))
    if not told.get("rolled"):
        return
    if first < 0:
        if not told.get("again") and told.get("trigger") not in _NO_FAILURE:
            yield "The recorded failure did not come again: the same steps stay sound here."
        return
    batch = f" by the batch {quoted(str(told['batch']))}" if told.get("batch") else ""
    why = str(told.get("why"))
    if first >= failing:
        yield f"It failed again at training step {first}{batch}: the step {why}."
        return
    what = "The weights were poisoned" if why.startswith("leaves") else "It went wrong first"
    yield (
        f"{what} at training step {first}{batch}: the step {why}. The recorder saw it"
        f" {failing - first} step{'s' * (failing - first > 1)} later."
    )


def _rows(trace: Trace, told: Mapping[str, Any]) -> list[HistoryRow]:
    by_step: dict[int, dict[str, dict[str, Any]]] = {}
    for row in trace.table("history").rows():
        by_step.setdefault(int(row["step"]), {})[str(row["source"])] = row
    marked = (
        _int(told.get("first_bad"))
        if _int(told.get("first_bad")) >= 0
        else _int(told.get("failing"))
    )
    return [_row(step, by_step[step], failing=step == marked) for step in sorted(by_step)]


def _row(step: int, sources: Mapping[str, Mapping[str, Any]], *, failing: bool) -> HistoryRow:
    recorded, rolled = sources.get("recorded"), sources.get("rolled")
    watched = sources.get("watched")
    any_row: Mapping[str, Any] = recorded or rolled or watched or {}
    return HistoryRow(
        step=step,
        epoch=int(any_row["epoch"]),
        recorded=float(recorded["loss"]) if recorded and recorded["measured"] else None,
        rolled=float(rolled["loss"]) if rolled and rolled["measured"] else None,
        again=_again(rolled),
        learning_rate=float(any_row["learning_rate"]),
        loss_scale=float(any_row["loss_scale"]),
        gradient_norm=float(watched["gradient_norm"]) if watched else math.nan,
        bad_variable=str(rolled["bad_variable"]) if rolled else "",
        failing=failing,
    )


def _again(rolled: Mapping[str, Any] | None) -> str:
    if rolled is None:
        return ""
    if not rolled["measured"]:
        return "raised" if not rolled["bad_variable"] else "no loss logged"
    ulp = int(rolled["ulp"])
    return "to the bit" if ulp == 0 else f"{ulp:,} ulp apart" if ulp > 0 else "not comparable"


def _went(rows: list[HistoryRow]) -> Iterable[str]:
    """Say how loss, rate and gradient norm went over the recorded steps."""
    known = [row for row in rows if row.recorded is not None]
    if len(known) > 1:
        first, last = known[0], known[-1]
        rates = {row.learning_rate for row in known if math.isfinite(row.learning_rate)}
        rate = ""
        if len(rates) == 1:
            rate = f", at a learning rate of {number(rates.pop())}"
        elif rates:
            rate = f", at learning rates of {number(min(rates))} to {number(max(rates))}"
        yield (
            f"The logged loss went from {number(first.recorded)} at training step {first.step} to"
            f" {number(last.recorded)} at step {last.step}{rate}."
        )
    norms = [row for row in rows if math.isfinite(row.gradient_norm)]
    if len(norms) > 1:
        first, last = norms[0], norms[-1]
        yield (
            f"The gradient norm was {number(first.gradient_norm)} at training step {first.step} and"
            f" {number(last.gradient_norm)} at step {last.step}."
        )


def _ranges(trace: Trace) -> Iterable[str]:
    """Say which layer was the first to leave the range that it had, while it was finite."""
    table = trace.table("ranges")
    rows = [row for row in table.rows() if row["left"] and not row["nonfinite"]]
    if not rows:
        return
    found = min(rows, key=lambda row: (row["step"], row["order"]))
    before = [row for row in table.rows() if row["layer"] == found["layer"]]
    start = min(before, key=lambda row: row["step"])
    yield (
        f"The first layer to leave its range was {quoted(str(found['layer']))}, at training step"
        f" {found['step']}: it put out up to {number(float(found['absmax']))}, and"
        f" {number(float(start['absmax']))} at step {start['step']}."
    )
