"""Who in the batch is to blame? What delta debugging has to say of it, written into the trace."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Final

import numpy as np

from divergence_doctor.replay import cells
from divergence_doctor.replay.bench import RUNAWAY
from divergence_doctor.replay.delta import Culprits, reference, search

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from divergence_doctor.replay.bench import Bench
    from divergence_doctor.replay.ops import Event
    from divergence_doctor.trace import TraceBuilder

#: Phases and origins of a first bad value that no row of the batch has brought in.
_UPDATE: Final = "update"
_VARIABLE: Final = "variable"


def blame(
    bench: Bench, builder: TraceBuilder, claimed: Sequence[int], *, seconds: float
) -> Culprits | None:
    """Search the failing step's batch for the rows and cells to blame, and record what was found.

    Adds the tables ``subsets`` and ``culprits`` and the key ``culprits`` of the context.

    Args:
        bench: the failing step, its untouched run among what it has done.
        builder: the trace so far, trials included.
        claimed: rows that the most likely cause names; may be empty.
        seconds: bound on the time for it.

    Returns:
        What was found; None where there was nothing to search for: the step does not fail again,
        or the rows of the batch have no part in how it fails.
    """
    until = time.perf_counter() + seconds
    fault = reference(bench, builder)
    event = _primary(bench)
    if fault is None or fault.kind.startswith("skips"):
        return None
    if not claimed and (fault.kind == RUNAWAY or _of_the_state(bench, event)):
        return None
    found = search(
        bench,
        fault,
        _suspects(bench, claimed, event),
        mostly=_bad_rows(event) if _most(bench, event) else (),
        seconds=seconds,
    )
    _record(found, cells.find(bench, found, builder, until=until), builder)
    return found


def _primary(bench: Bench) -> Event | None:
    events = bench.stream.events if bench.stream is not None else ()
    return next((event for event in events if event.primary), None)


def _of_the_state(bench: Bench, event: Event | None) -> bool:
    """Say whether the first bad value was in the checkpoint, or came up in the update."""
    if event is None or bench.stream is None:
        return False
    return event.origin == _VARIABLE or bench.stream.ops[event.op].phase == _UPDATE


def _bad_rows(event: Event | None) -> list[int]:
    """Return the rows that are bad where the first bad value was made; none where untold."""
    if event is None or event.rows is None:
        return []
    return [int(row) for row in np.flatnonzero(event.rows)]


def _most(bench: Bench, event: Event | None) -> bool:
    return 2 * len(_bad_rows(event)) > bench.subsets.batch.samples


def _suspects(bench: Bench, claimed: Sequence[int], event: Event | None) -> Iterator[Sequence[int]]:
    """Yield the rows that the cause names, those the watched step shows, and those with NaN."""
    yield claimed
    batch = bench.subsets.batch
    # Where most rows are bad at the first producer, it is rather the batch; a claim is tried still.
    if not _most(bench, event):
        yield _bad_rows(event)
    for array in batch.arrays.values():
        if array.dtype.kind == "f" and array.ndim and len(array) == batch.samples:
            bad = ~np.isfinite(array.reshape(len(array), array[:1].size)).all(axis=1)
            yield [int(row) for row in np.flatnonzero(bad)]


def _record(found: Culprits, guilty: Sequence[cells.Cell], builder: TraceBuilder) -> None:
    for order, run in enumerate(found.tried):
        builder.add(
            "subsets",
            batch=found.batch,
            order=order,
            samples=json.dumps(list(run.kept)),
            copy=run.copy,
            outcome=run.outcome,
            detail=run.detail,
            seconds=run.seconds,
        )
    for row in found.rows:
        builder.add(
            "culprits",
            batch=found.batch,
            sample=row,
            array="",
            index="",
            evidence="left-out" if found.copy < 0 else "copied-over",
        )
    for cell in guilty:
        builder.add(
            "culprits",
            batch=found.batch,
            sample=cell.index[0],
            array=cell.array,
            index=",".join(str(place) for place in cell.index),
            value=cell.value,
            evidence=cell.evidence,
        )
    builder.describe(
        culprits={
            "outcome": found.outcome,
            "because": found.because,
            "batch": found.batch,
            "samples": list(found.rows),
            "removed": list(found.removed),
            "minimal": list(found.minimal),
            "copy": found.copy,
            "refuted": [list(rows) for rows in found.refuted],
            "replays": found.replays,
        }
    )
