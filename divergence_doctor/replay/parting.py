"""At which layer do two executions of the same step part?

A layer's output is compared with what the watched replay recorded of it. Fetching a tensor keeps it
from being fused away, so the step runs anew for every layer that is asked, with that one output
fetched; few are asked, by bisection over the order of execution.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.feeding import tensors
from divergence_doctor.stats import summarize

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from divergence_doctor.replay.feeding import Fed
    from divergence_doctor.replay.train_function import Tap, TrainFunction
    from divergence_doctor.trace import TraceBuilder

#: Seconds that looking for the layer may take; a fetched layer costs what grappler (or XLA) takes
#: for the step, and a bisection asks as many as the number of layers has binary digits.
_PATIENCE: Final = 10.0


@dataclass(frozen=True, slots=True)
class Parting:
    """Where two executions part.

    Attributes:
        layer: path of the first layer whose output differs; empty when none does, or none is known.
        layer_class: its class.
        phase: forward, or where they part behind the last layer: loss, or backward or update as
            ``backward``; empty when it is not known.
        reference_nonfinite: NaN and Inf that the layer put out in the reference; -1 if not known.
        nonfinite: the same as trained.
    """

    layer: str = ""
    layer_class: str = ""
    phase: str = ""
    reference_nonfinite: int = -1
    nonfinite: int = -1


@dataclass(frozen=True, slots=True)
class Meeting:
    """What the search needs to know of the two executions.

    Attributes:
        function: the step as it was trained, traced.
        start: puts the model back to before the first step.
        batches: the fed batches.
        builder: the trace with the reference's layers.
        step: the step in which they part.
        tolerance: relative difference of two norms that is none; inf to compare finiteness only.
    """

    function: TrainFunction
    start: Callable[[], None]
    batches: Sequence[Fed]
    builder: TraceBuilder
    step: int
    tolerance: float

    @property
    def reference(self) -> dict[str, Any]:
        """The reference's row of this step."""
        return self.builder.rows("steps")[self.step]

    def data(self, step: int) -> Any:
        """Return the batch of one step."""
        return tensors(self.batches[step % len(self.batches)])


def part(meeting: Meeting, kind: str, *, raised: bool) -> Parting:
    """Return where two executions part that are known to disagree.

    Args:
        meeting: the two.
        kind: in what they disagree: raised, loss, state or value.
        raised: the step raised as it was trained: no layer of it can be asked.
    """
    row = meeting.reference
    if row["raised"]:
        return Parting(row["raised_layer"], phase=row["raised_phase"])
    places = [] if raised else _places(meeting)
    if not places:
        return Parting()
    search = _Search(meeting, places)
    found = search.first()
    if found is None:
        # The model's output agrees: what comes behind it does not.
        return Parting(phase="loss" if kind == "loss" else "backward")
    return found


def _places(meeting: Meeting) -> list[tuple[dict[str, Any], Tap]]:
    """Return the layers' outputs that both executions know, in the order of execution."""
    taps = {(tap.layer, tap.call, tap.role): tap for tap in meeting.function.taps}
    return [
        (row, taps[row["layer"], row["call"], row["role"]])
        for row in meeting.builder.rows("activations")
        if row["step"] == meeting.step and (row["layer"], row["call"], row["role"]) in taps
    ]


@final
class _Search:
    """A bisection; what was asked once is kept."""

    def __init__(self, meeting: Meeting, places: list[tuple[dict[str, Any], Tap]]) -> None:
        self._meeting = meeting
        self._places = places
        self._known: dict[int, Parting | None] = {}
        self._deadline = time.perf_counter() + _PATIENCE

    def first(self) -> Parting | None:
        """Return a layer that differs while the one before it agrees; None where none differs."""
        bad = (i for i, (row, _) in enumerate(self._places) if _nonfinite(row))
        suspect = next(bad, -1)
        if suspect >= 0 and (found := self.differs(suspect)) is not None:
            # All before it are finite in the reference, which is the sicker of the two here.
            return found
        low, high = suspect, len(self._places) - 1
        if self.differs(high) is None:
            return None
        while high - low > 1:
            if time.perf_counter() > self._deadline:
                return Parting(phase="forward")
            middle = (low + high) // 2
            low, high = (low, middle) if self.differs(middle) is not None else (middle, high)
        return self.differs(high)

    def differs(self, index: int) -> Parting | None:
        """Return what differs in one layer's output when it alone is fetched, or None."""
        if index not in self._known:
            self._known[index] = self._ask(*self._places[index])
        return self._known[index]

    def _ask(self, row: dict[str, Any], tap: Tap) -> Parting | None:
        meeting = self._meeting
        meeting.start()
        for earlier in range(meeting.step):
            meeting.function.run(meeting.data(earlier))
        _, output = meeting.function.fetch(meeting.data(meeting.step), tap)
        if output is None:
            return None
        seen = summarize(seams.view(output))
        same = all(row[column] == seen[column] for column in ("nan", "posinf", "neginf"))
        apart = abs(row["l2"] - seen["l2"])
        if same and apart <= meeting.tolerance * max(row["l2"], seen["l2"], 1e-300):
            return None
        return Parting(
            row["layer"], row["layer_class"], "forward", _nonfinite(row), _nonfinite(seen)
        )


def _nonfinite(row: dict[str, Any]) -> int:
    return int(row["nan"] + row["posinf"] + row["neginf"])
