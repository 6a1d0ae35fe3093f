"""Where did it break, and what in the batch broke it? Read from the events and the samples."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.reporters._chain import chain
from divergence_doctor.reporters._excerpts import excerpts
from divergence_doctor.reporters._parts import (
    BatchArray,
    Cell,
    Offender,
    Operand,
    SampleArray,
    Told,
    Where,
    Who,
)
from divergence_doctor.reporters._text import NONE, measured, number, quoted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from divergence_doctor.diagnosis import Diagnosis
    from divergence_doctor.trace import Table, Trace

#: What a ticket can hold; the trace has all of it, and the report says how much there is.
MAX_OFFENDERS: Final = 20
MAX_CELLS: Final = 12
MAX_OPERANDS: Final = 24
MAX_TOLD: Final = 40
MAX_NAMED: Final = 3


def where(trace: Trace) -> Where | None:
    """Return the place of the first non-finite value, or of the exception that ended the step."""
    event = _primary(trace)
    if event is not None:
        return _of_event(trace, event)
    return _of_exception(trace)


def _primary(trace: Trace) -> dict[str, Any] | None:
    """Return the first producer of what reached loss, gradient or state, of the failing step."""
    events = trace.table("events")
    if not len(events) or trace.outcome == "healthy":
        return None
    primary = events.where(events["primary"])
    if trace.failing_step is not None:
        here = primary.select(step=trace.failing_step)
        primary = here if len(here) else primary
    return primary.row(0) if len(primary) else None


def _of_event(trace: Trace, event: dict[str, Any]) -> Where:
    step, op = int(event["step"]), int(event["op"])
    operands = trace.table("operands").select(step=step, op=op)
    rows = trace.table("chain").select(step=step, op=op)
    made = ", ".join(
        f"{number(int(event[column]))} {word}"
        for column, word in (("nan", "NaN"), ("posinf", "+Inf"), ("neginf", "-Inf"))
        if event[column] > 0
    )
    what = f"the derivative of {quoted(event['op_type'])}" if event["derivative"] else _op(event)
    place = f" in layer {quoted(event['layer'])}" if event["layer"] else ""
    if event["time"] >= 0:
        place += f", time step {event['time']},"
    line = f" at {quoted(event['source'])}" if event["source"] else ""
    inputs = "was given finite inputs and made" if event["produced"] else "passed on"
    sentence = (
        f"Step {step}, {event['phase'] or 'unknown'} phase: {what}{place}{line} {inputs} "
        f"{made or 'the first non-finite value'}{_origin_of(event)}."
    )
    return Where(
        sentence=sentence,
        step=step,
        phase=event["phase"],
        op=event["op_type"],
        layer=event["layer"],
        source=event["source"],
        message=event["message"],
        stack=event["stack"],
        operands=tuple(_operand(row) for row in _first(operands, MAX_OPERANDS)),
        chain=chain(rows, event),
    )


def _op(event: dict[str, Any]) -> str:
    return quoted(event["op_type"]) if event["op_type"] else "an op"


def _origin_of(event: dict[str, Any]) -> str:
    """Say where a value that was bad from the start came from."""
    if event["origin"] in {"batch", "variable"} and event["origin_name"]:
        return f"; it was already in the {event['origin']}: {quoted(event['origin_name'])}"
    return ""


def _first(table: Table, count: int) -> Iterable[dict[str, Any]]:
    return (table.row(index) for index in range(min(len(table), count)))


def _nonfinite(row: dict[str, Any]) -> int:
    return sum(max(int(row[column]), 0) for column in ("nan", "posinf", "neginf"))


def _operand(row: dict[str, Any]) -> Operand:
    origin = " ".join(part for part in (row["origin"], row["origin_name"]) if part)
    layer = f" in {row['origin_layer']}" if row["origin_layer"] else ""
    return Operand(
        role=row["role"],
        position=int(row["position"]),
        origin=origin + layer,
        dtype=row["dtype"],
        shape=row["shape"],
        value=row["value"],
        low=row["min"],
        high=row["max"],
        nonfinite=_nonfinite(row),
        zero=int(row["zero"]),
        size=int(row["size"]),
    )


def _of_exception(trace: Trace) -> Where | None:
    for row in trace.table("steps").rows():
        if row["raised"]:
            place = f" in layer {quoted(row['raised_layer'])}" if row["raised_layer"] else ""
            line = f" at {quoted(row['raised_source'])}" if row["raised_source"] else ""
            op = quoted(row["raised_op"]) if row["raised_op"] else "the step"
            kind = f" {quoted(row['raised_type'])}" if row["raised_type"] else " an exception"
            return Where(
                sentence=f"Step {row['step']}, {row['raised_phase'] or 'unknown'} phase: "
                f"{op}{place}{line} raised{kind}.",
                step=int(row["step"]),
                phase=row["raised_phase"],
                op=row["raised_op"],
                layer=row["raised_layer"],
                source=row["raised_source"],
                message=row["raised"],
            )
    return None


def told(trace: Trace) -> tuple[Told, ...]:
    """Return what was non-finite and did no harm, each place once over all steps."""
    found: dict[tuple[str, ...], list[dict[str, Any]]] = {}
    for row in trace.table("harmless").rows():
        ended = f"{row['ended_in']} in {row['ended_layer']}" if row["ended_layer"] else ""
        ended = ended or row["ended_in"]
        names = [str(row[name]) for name in ("what", "name", "layer", "phase", "source")]
        found.setdefault((*names, ended, str(row["because"])), []).append(row)
    return tuple(
        Told(
            what=key[0],
            name=key[1],
            layer=key[2],
            phase=key[3],
            source=key[4],
            steps=len({row["step"] for row in rows}),
            times=sum(row["times"] for row in rows),
            nan=sum(row["nan"] for row in rows),
            inf=sum(row["posinf"] + row["neginf"] for row in rows),
            ended=key[5],
            because=key[6],
        )
        for key, rows in list(found.items())[:MAX_TOLD]
    )


def who(trace: Trace, diagnosis: Diagnosis) -> Who | None:
    """Return what in the failing step's batch is to blame; None when the trace holds no batch."""
    index = _batch_index(trace)
    arrays = trace.table("batch").select(batch=index)
    samples = tuple(diagnosis.main.finding.samples) if diagnosis.main is not None else ()
    if not len(arrays) and not samples:
        return None
    cells = trace.table("cells").select(batch=index)
    blamed = samples[:MAX_OFFENDERS]
    elsewhere = cells.where(~np.isin(cells["sample"], samples))
    return Who(
        sentence=_who_sentence(trace, diagnosis, samples),
        offenders=tuple(_offender(trace, index, sample, cells) for sample in blamed),
        total=len(samples),
        arrays=tuple(_batch_array(row) for row in _first(arrays, MAX_OPERANDS)),
        cells=tuple(_cell(row) for row in _first(elsewhere, MAX_CELLS)),
    )


def _batch_index(trace: Trace) -> int:
    steps = trace.table("steps")
    if not len(steps):
        return 0
    failing = steps.select(step=trace.failing_step) if trace.failing_step is not None else steps
    return int((failing if len(failing) else steps)["batch"][-1])


def _who_sentence(trace: Trace, diagnosis: Diagnosis, samples: Sequence[int]) -> str:
    if diagnosis.main is None:
        return "The arrays of the batch."
    told = trace.context.get("culprits") or {}
    because = f" {_capital(clean(str(told['because'])))}." if told.get("because") else ""
    if told and len(trace.table("batch")) and _batches(trace) > 1:
        because += f" (Batch {told.get('batch', 0)} of the sequence, that of the failing step.)"
    tail = because + _minimal_sentence(trace)
    if samples:
        verb = "is" if len(samples) == 1 else "are"
        return f"Of the batch, {counted(samples)} {verb} to blame{_cells_to_blame(trace)}.{tail}"
    return "No single sample stands out: the whole batch fails." + tail


def _batches(trace: Trace) -> int:
    return len(set(trace.table("batch")["batch"].tolist()))


def _capital(text: str) -> str:
    return text[:1].upper() + text[1:]


def _cells_to_blame(trace: Trace) -> str:
    """Return the guilty cells as the end of a sentence; empty where it is no cell."""
    rows = trace.table("culprits")
    cells = rows.where(rows["array"] != "")
    if not len(cells):
        return ""
    shown = ", ".join(
        quoted(f"{row['array']}[{row['index'].replace(',', ', ')}] = {row['value']:.6g}")
        for row in _first(cells, MAX_NAMED)
    )
    more = f" and {len(cells) - MAX_NAMED} more" if len(cells) > MAX_NAMED else ""
    return f": cell{'s' * (len(cells) > 1)} {shown}{more}"


def _minimal_sentence(trace: Trace) -> str:
    minimal = trace.context.get("minimal_batch") or {}
    kept = [int(sample) for sample in minimal.get("samples") or ()]
    if not kept:
        return ""
    fails = "still fails" if len(kept) == 1 else "still fail"
    how = f"{fails} alone" if minimal.get("verified") else "is the smallest part kept"
    copy = minimal.get("copy")
    if copy is not None and copy >= 0:
        how = f"{fails} among copies of sample {copy}, for the model needs its size"
    count = int(minimal.get("replays") or 0)
    replays = f" ({number(count)} replay{'s' * (count > 1)})" if count else ""
    return f" The part of the batch in `minimal_batch.npz` ({counted(kept)}) {how}{replays}."


def counted(samples: Sequence[int], most: int = 8) -> str:
    """Return samples in words: ``sample 37``, ``samples 1, 2 and 7``."""
    names = [str(sample) for sample in samples[:most]]
    last = f"{len(samples) - most:,} more" if len(samples) > most else names.pop()
    listed = f"{', '.join(names)} and {last}" if names else last
    return f"sample{'' if len(samples) == 1 else 's'} {listed}"


def _offender(trace: Trace, batch: int, sample: int, cells: Table) -> Offender:
    rows = trace.table("samples").select(batch=batch, sample=sample)
    losses = trace.table("sample_losses").select(sample=sample)
    if trace.failing_step is not None:
        losses = losses.select(step=trace.failing_step)
    return Offender(
        sample=sample,
        arrays=tuple(
            SampleArray(
                array=row["name"],
                low=row["min"],
                high=row["max"],
                nonfinite=int(row["nonfinite"]),
                zero=int(row["zero"]),
                size=int(row["size"]),
            )
            for row in _first(rows, MAX_OPERANDS)
        ),
        cells=tuple(_cell(row) for row in _first(cells.select(sample=sample), MAX_CELLS)),
        loss=_worst(losses["value"].tolist()),
        excerpts=excerpts(trace, batch, sample),
    )


def _worst(losses: list[float]) -> float | None:
    """Return the loss term that went bad, if one did, else the largest."""
    bad = [loss for loss in losses if not math.isfinite(loss)]
    return bad[0] if bad else max(losses, default=None)


def _cell(row: dict[str, Any]) -> Cell:
    return Cell(array=row["name"], index=row["index"], value=row["value"])


def _batch_array(row: dict[str, Any]) -> BatchArray:
    return BatchArray(
        array=row["name"],
        dtype=row["dtype"],
        shape=row["shape"],
        low=row["min"],
        high=row["max"],
        mean=row["mean"],
        std=row["std"],
        nonfinite=_nonfinite(row),
    )


def values_of(operand: Operand) -> str:
    """Return an operand's figures in words: its value at the bad element, its range, its zeros."""
    parts = [] if math.isnan(operand.value) else [f"{number(operand.value)} at the bad element"]
    if not math.isnan(operand.low):
        parts.append(f"{measured(operand.low)} to {measured(operand.high)}")
    if operand.zero > 0:
        parts.append(f"{number(operand.zero)} of {number(operand.size)} zero")
    if operand.nonfinite > 0:
        parts.append(f"{number(operand.nonfinite)} of {number(operand.size)} not finite")
    return ", ".join(parts) or NONE
