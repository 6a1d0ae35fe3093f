"""Which of the bad results of a step mattered, and which of those came first?

An op with a non-finite output is an event. It matters where its badness reaches the loss, a
gradient or the state; the primary one is the first producer among those, in execution order.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterable

    from numpy.typing import NDArray

    from divergence_doctor.replay.ops import Event, Op, Taint


@final
@dataclass(slots=True)
class Consequences:
    """What the events of one step led to.

    Attributes:
        ops: the ops of the step so far; the stream appends to it.
        events: the events so far, in the order of execution.
        taints: why a tensor is bad, by the tensor's identity.
        bad_writes: bad tensors that were written to a variable.
    """

    ops: list[Op] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    taints: dict[int, Taint] = field(default_factory=dict)
    bad_writes: list[int] = field(default_factory=list)

    def reach(self, keys: Iterable[int], sink: str) -> None:
        """Mark every event that led to these tensors, by their identities, as mattering."""
        stack = [
            self.taints[key].event
            for key in keys
            if key in self.taints and self.taints[key].event >= 0
        ]
        seen: set[int] = set()
        while stack:
            number = stack.pop()
            if number in seen:
                continue
            seen.add(number)
            event = self.events[number]
            event.reaches = event.reaches or sink
            stack.extend(taint.event for taint in self._fed_by(event) if taint.event >= 0)

    def reach_everything(self, sink: str) -> None:
        """Mark every event as mattering: the step ended on a check that one of them tripped."""
        for event in self.events:
            event.reaches = event.reaches or sink

    def settle(self) -> Event | None:
        """Choose the primary event: the first producer, in the order of execution, that mattered.

        A deliberate infinite constant (a mask) did not fail; the op that could not bear it did.
        Where the loss itself went bad, what came after it did not make it so.
        """
        self.reach(self.bad_writes, "state")
        mattered = [event for event in self.events if event.reaches]
        mattered = self._led_to_loss() or mattered
        roots = [
            event
            for event in mattered
            if event.produced
            or (event.origin in {"batch", "variable"} and not self._has_parent(event))
        ]
        chosen = min(roots or mattered, key=lambda event: event.op, default=None)
        if chosen is not None:
            chosen.primary = True
            shown = self._shown_by(chosen)
            chosen.rows = self._rows_that_mattered(shown) if shown is not None else None
        return chosen

    def name_term(self, terms: Iterable[tuple[str, int]]) -> None:
        """Tell the primary event which term of the loss died of it: the first that it led to."""
        for name, key in terms:
            stack = [self.taints[key].event] if key in self.taints else []
            seen: set[int] = set()
            while stack:
                number = stack.pop()
                if number < 0 or number in seen:
                    continue
                seen.add(number)
                event = self.events[number]
                if event.primary:
                    event.term = name
                    return
                stack.extend(taint.event for taint in self._fed_by(event))

    def _fed_by(self, event: Event) -> list[Taint]:
        """Return where an event's bad values came from: a NaN from its NaN inputs, if it has any.

        The infinity of a mask that is added to a score of NaN is not what made the sum NaN.
        """
        taints = [self.taints[key] for key in event.bad_inputs if key in self.taints]
        nan = [taint for taint in taints if taint.nan]
        return nan if event.counts[0] and nan else taints

    def _has_parent(self, event: Event) -> bool:
        return any(self.taints[key].event >= 0 for key in event.bad_inputs if key in self.taints)

    def _led_to_loss(self) -> list[Event]:
        """Return the events that made a loss bad, also by way of an update before that loss."""
        stack = [number for number, event in enumerate(self.events) if event.reaches == "loss"]
        found: set[int] = set()
        while stack:
            number = stack.pop()
            if number not in found:
                found.add(number)
                fed = [taint.event for taint in self._fed_by(self.events[number])]
                stack += [one for one in fed if one >= 0]
        return [self.events[number] for number in sorted(found)]

    def _shown_by(self, chosen: Event) -> Event | None:
        """Return the event that tells an event's samples: itself, or one that it led to.

        An op that sees one sample at a time (in the body of a `tf.map_fn`) has no axis for them;
        the tensor that its results are stacked into has one.
        """
        if chosen.rows is not None or self.ops[chosen.op].derivative_of >= 0:
            return chosen
        start = self.events.index(chosen)
        led_to = {start}
        for number, event in enumerate(self.events[start + 1 :], start + 1):
            if self.ops[event.op].phase not in {"forward", "loss"}:
                return None
            if any(taint.event in led_to for taint in self._fed_by(event)):
                led_to.add(number)
                if event.rows is not None:
                    return event
        return None

    def _rows_that_mattered(self, chosen: Event) -> NDArray[np.bool_] | None:
        """Return those bad samples of an event that are bad all the way to where it mattered.

        What selects among the samples on the way (`tf.where`, a maximum) lets only some through.
        An op without an axis of samples, or one that moves them about, lets through what came.
        """
        children: dict[int, list[int]] = {}
        for number, event in enumerate(self.events):
            if event.reaches == chosen.reaches:
                for taint in self._fed_by(event):
                    children.setdefault(taint.event, []).append(number)
        through: dict[int, NDArray[np.bool_] | None] = {}
        for number in range(len(self.events) - 1, -1, -1):
            event = self.events[number]
            rows = event.rows
            if rows is not None and event.reaches == chosen.reaches:
                own = [through.get(child) for child in children.get(number, ())]
                if own and all(kept is not None and not (kept & ~rows).any() for kept in own):
                    rows = np.logical_or.reduce([kept for kept in own if kept is not None])
            through[number] = rows
            if event is chosen:
                return rows if rows is None or rows.any() else event.rows
        return chosen.rows
