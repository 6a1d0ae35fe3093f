"""Does it end the same way under other random numbers? The same steps again, with further seeds.

A checkpoint brings no random state back, so the masks of dropout in a replay are not those of the
step that failed. What was seen with one seed may be luck: a verdict counts as far as it holds with
others.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.errors import DoctorError
from divergence_doctor.randomness import describe_seeds
from divergence_doctor.replay.bench import Bench
from divergence_doctor.replay.engine import Engine
from divergence_doctor.replay.state import Snapshot
from divergence_doctor.trace import TraceBuilder

if TYPE_CHECKING:
    from collections.abc import Sequence

    from divergence_doctor.batches import Batch
    from divergence_doctor.replay.feeding import Fed
    from divergence_doctor.replay.opstream import OpStream

#: Seeds that are tried besides the one of the replay.
FURTHER: Final = 2
#: Between the first words of two generators' states, so that no two draw the same masks.
_APART: Final = 65_537
_WORD: Final = 2**31
#: End of the path that Keras gives to the state of every ``SeedGenerator``.
_STATE: Final = "/seed_generator_state"
#: Beginnings of the names of TensorFlow's ops that draw random numbers, and those among them that
#: only handle keys.
_DRAWING: Final = (
    "Multinomial",
    "ParameterizedTruncatedNormal",
    "Random",
    "SampleDistortedBoundingBox",
    "StatefulRandom",
    "StatefulStandardNormal",
    "StatefulTruncatedNormal",
    "StatefulUniform",
    "StatelessMultinomial",
    "StatelessParameterizedTruncatedNormal",
    "StatelessRandom",
    "StatelessSampleDistortedBoundingBox",
    "StatelessShuffle",
    "StatelessTruncatedNormal",
    "TruncatedNormal",
)
_KEYS: Final = ("StatelessRandomGet", "RandomDataset")


@final
@dataclass(frozen=True, slots=True)
class Draw:
    """A place in the step where random numbers were drawn."""

    op_type: str
    layer: str

    def __str__(self) -> str:
        return f"{self.op_type} in layer {self.layer}" if self.layer else self.op_type


def draws(stream: OpStream | None) -> tuple[Draw, ...]:
    """Return where the watched step drew random numbers, each place once, in their order."""
    found = [
        Draw(op.op_type, op.place.layer)
        for op in (stream.ops if stream is not None else ())
        if op.op_type.startswith(_DRAWING) and not op.op_type.startswith(_KEYS)
    ]
    return tuple(dict.fromkeys(found))


def is_random_state(variable: Any) -> bool:
    """Say whether a variable is the state of a Keras ``SeedGenerator``."""
    return str(variable.path).endswith(_STATE)


def reseed(states: Sequence[Any], seed: int) -> None:
    """Set the states of random generators from a seed, each to another one.

    ``reproduce.py`` does the same, so that it draws what the replay drew.

    Args:
        states: variables of the shape (2,), as a Keras ``SeedGenerator`` holds one.
        seed: the seed.
    """
    for number, state in enumerate(states):
        state.assign(np.asarray([(seed + _APART * number) % _WORD, 0], dtype=state.dtype))


@final
@dataclass(frozen=True, slots=True)
class _Ending:
    """How a replay ended, as far as two of them can be compared."""

    outcome: str
    kind: str = ""
    op_type: str = ""
    layer: str = ""
    derivative: bool = False


def _ending(builder: TraceBuilder) -> _Ending:
    """Return how the steps in a trace ended: by the first producer, else by what went bad."""
    outcome = str(builder.context.get("outcome", ""))
    if outcome != "diverged":
        return _Ending(outcome)
    last = builder.rows("steps")[-1]
    if last["raised"]:
        return _Ending(outcome, f"raised {last['raised_type']}", last["raised_op"])
    primary = next((event for event in builder.rows("events") if event["primary"]), None)
    if primary is not None:
        return _Ending(
            outcome,
            "non-finite",
            str(primary["op_type"]),
            str(primary["layer"]),
            bool(primary["derivative"]),
        )
    finite = last["loss_finite"] and last["state_finite"] and last["gradients_finite"]
    return _Ending(outcome, "finite failure" if finite else "non-finite")


@final
class OtherSeeds:
    """The replayed steps, ready to be run with other seeds.

    Args:
        model: the model, in any state.
        batches: the batches as read.
        fed: the same, matched to the model.
        snapshot: the model's state before the first step.
        states: random states that the checkpoint did not bring back.
        seed: the seed of the replay.
        steps: steps to run with each further seed.
    """

    def __init__(
        self,
        model: Any,
        batches: Sequence[Batch],
        fed: Sequence[Fed],
        snapshot: Snapshot,
        states: Sequence[Any],
        *,
        seed: int,
        steps: int,
    ) -> None:
        self._model = model
        self._batches = batches
        self._fed = fed
        self._snapshot = snapshot
        self._states = states
        self._seed = seed
        self._steps = steps
        #: The model's layers hold random generators, restored or not.
        self._held = any(map(is_random_state, model.variables))

    def settle(
        self,
        drawn: Sequence[Draw],
        builder: TraceBuilder,
        *,
        why_not: str = "",
        known: bool = False,
    ) -> None:
        """Say in ``fidelity`` what the missing random state means, and try further seeds for it.

        A healthy outcome that another seed contradicts becomes inconclusive.

        Args:
            drawn: where the replayed step drew random numbers.
            builder: the trace of the replay.
            why_not: why no further seed may be tried; empty when they may.
            known: what is drawn outside of the layers' generators is known to be as it was.
        """
        fidelity = dict(builder.context["fidelity"])
        notes = list(fidelity.get("notes", ()))
        if drawn and not self._held and not known:
            fidelity["random_state"] = "missing"
            notes.append(
                "The step draws random numbers outside of any layer's generator"
                f" ({', '.join(map(str, drawn[:3]))}): no checkpoint holds the state behind them."
            )
        if fidelity.get("random_state") == "missing" and not drawn:
            notes.append(
                "The replayed step drew no random numbers, so the missing random state changes"
                " nothing."
            )
        elif fidelity.get("random_state") == "missing":
            if not why_not:
                self.run(builder)
            notes.append(
                describe_seeds(builder.rows("seeds"))
                or f"Whether the verdict holds with other seeds was not tried: {why_not}."
            )
            _doubt(builder)
        builder.describe(fidelity={**fidelity, "notes": notes})

    def run(self, builder: TraceBuilder) -> None:
        """Run the steps with further seeds, and add one row per seed to the table ``seeds``.

        Args:
            builder: the trace of the replay, which is the first row.
        """
        first = _ending(builder)
        _record(builder, self._seed, builder, first, first, seconds=0.0)
        for seed in range(self._seed + 1, self._seed + 1 + FURTHER):
            start = time.perf_counter()
            try:
                replayed = self._replay(seed, watched=first.outcome == "diverged")
            except DoctorError as error:
                replayed = TraceBuilder()
                replayed.describe(outcome="not-run", outcome_because=error.message)
            seconds = time.perf_counter() - start
            _record(builder, seed, replayed, _ending(replayed), first, seconds=seconds)

    def _replay(self, seed: int, *, watched: bool) -> TraceBuilder:
        """Return how the steps end with a seed.

        Where the replay stayed healthy the steps run unwatched first, which is several times
        faster, and are watched where that does not end well.
        """
        scratch = TraceBuilder()
        try:
            self._snapshot.restore()
            reseed(self._states, seed)
            start = Snapshot(self._model)
            if not watched:
                rerun = self._bench(start, seed).run(steps=self._steps)
                if rerun.finite:
                    scratch.describe(outcome="healthy", outcome_because=rerun.why)
                    return scratch
                start.restore()
            Engine(self._model, self._fed, scratch).replay(steps=self._steps, seed=seed)
        finally:
            self._snapshot.restore()
        return scratch

    def _bench(self, start: Snapshot, seed: int) -> Bench:
        return Bench(
            self._model, start, self._batches, seed=seed, asked=self._steps,
            failing_step=self._steps - 1, stream=None,
        )  # fmt: skip


def _doubt(builder: TraceBuilder) -> None:
    """Leave open what a healthy replay says where the same steps diverge with another seed."""
    diverged = [row for row in builder.rows("seeds") if row["outcome"] == "diverged"]
    if builder.context["outcome"] != "diverged" and diverged:
        seed, because = diverged[0]["seed"], diverged[0]["because"]
        builder.describe(
            outcome="inconclusive",
            outcome_because=f"{builder.context['outcome_because']}; with seed {seed} the same steps"
            f" diverge ({because}): --seed {seed} replays that",
        )


def _record(
    builder: TraceBuilder,
    seed: int,
    replayed: TraceBuilder,
    ending: _Ending,
    first: _Ending,
    *,
    seconds: float,
) -> None:
    failing = replayed.context.get("failing_step")
    builder.add(
        "seeds",
        seed=seed,
        outcome=ending.outcome,
        same=ending == first,
        failing_step=-1 if failing is None else int(failing),
        op_type=ending.op_type,
        layer=ending.layer,
        because=str(replayed.context.get("outcome_because", "")),
        seconds=seconds,
    )
