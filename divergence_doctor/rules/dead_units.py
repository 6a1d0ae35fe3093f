"""Do rectified units put out 0 for every sample of the batch?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Final, final

import numpy as np

from divergence_doctor.rules._rule import Evidence, Example, Finding, Rule, Site
from divergence_doctor.rules._symptoms import (
    MOST_SHOWN,
    THROWS_UNITS,
    Layer,
    layers,
    listed,
    plural,
    units,
)
from divergence_doctor.trace.synthetic import training_trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from divergence_doctor.trace import Trace

#: Functions that are 0, with a slope of 0, for all inputs below zero.
_RECTIFIERS: Final = frozenset({"relu", "relu6"})


@dataclass(frozen=True, slots=True)
class _Dead:
    layer: Layer
    dead: int
    units: int
    places: int

    @property
    def share(self) -> float:
        return self.dead / self.units


@final
class DeadUnits(Rule):
    """Units of a rectified layer are 0 for every sample of the batch.

    A symptom. A unit counts as dead here when a ReLU puts out 0 for all samples and all places
    (pixels, time steps) of the batch.

    Why it diverges: it does not, it stands still. Where a ReLU is 0 its slope is 0, so no gradient
    reaches the weights that would bring the unit back. A layer that is dead as a whole makes the
    output the same for every sample, and cuts everything before it off from the loss. It is what an
    overshooting step leaves behind, and what makes a run that was thrown away look calm.

    Evidence: `activations/dead_units` of layers whose activation is `relu` or `relu6`, as they were
    last measured. Told of a layer whose units are all dead, over at least 32 values (a unit that
    fires for half of the samples is silent in 32 by chance once in 4e9 batches); and of one with at
    least 40 % dead, the share that the course notes of CS231n give for a rate that is too high,
    where each unit had at least 32 places to fire (one that fires in a tenth of them is silent in
    all once in 30).

    Fix: `keras.layers.Dense(64, activation="leaky_relu")` keeps a slope below zero;
    `kernel_initializer="he_normal"`, standardised inputs and a lower learning rate keep units from
    dying; those that are dead come back only by starting from an earlier checkpoint.

    Mistaken for: convergence, as the loss stands still; a broken ReLU. Sparse units that are silent
    in this batch only: more samples (`doctor replay CKPT BATCH1 BATCH2`) tell.

    Seen in: keras-team/keras#7057 and keras-team/keras#3752 (a deep net stands still with ReLU and
    learns with tanh), https://cs231n.github.io/neural-networks-1/.
    """

    id = "dead-units"
    code = "DD801"
    symptom = True
    needs = frozenset({"activations/dead_units", "layers/activation"})

    #: Share of dead units from which a layer is told of (CS231n, notes on ReLU).
    SHARE: ClassVar[float] = 0.4
    #: Samples times places that a unit must have been silent in.
    PLACES: ClassVar[int] = 32
    #: Values that a layer must have put out to be called dead as a whole.
    VALUES: ClassVar[int] = 32
    #: All units of a layer are silent.
    WHOLE: ClassVar[float] = 0.95
    #: Many are; other samples may wake some of them.
    PART: ClassVar[float] = 0.7

    def examine(self, trace: Trace) -> Finding | None:
        """Return the layers with dead units, the worst first, or None."""
        seen = [_count(layer) for layer in layers(trace, "dead_units", _RECTIFIERS)]
        dead = [one for one in seen if one is not None and self._tells(one)]
        if not dead:
            return None
        dead.sort(key=lambda one: -one.share)
        worst = dead[0]
        parts = [f"{one.dead:,} of {one.units:,} in {one.layer.name!r}" for one in dead]
        return Finding(
            cause=self.id,
            summary=f"In {len(dead)} of {plural(len(seen), 'rectified layer')} units put out 0 for "
            f"the whole batch: {listed(parts)}.",
            confidence=self.WHOLE if worst.dead == worst.units else self.PART,
            stage="forward",
            site=Site(step=worst.layer.step, layer=worst.layer.name),
            evidence=tuple(
                Evidence(
                    f"units of {one.layer.name} that are 0 in all {one.places:,} places, of "
                    f"{one.units:,}",
                    one.dead,
                    "/activations/dead_units",
                )
                for one in dead[:MOST_SHOWN]
            ),
            remedies=(
                (
                    "Keep a slope below zero: "
                    '`keras.layers.Dense(64, activation="leaky_relu")`, or `"elu"`, `"gelu"`.'
                ),
                (
                    "Units that die in training are thrown there: lower the learning rate, and "
                    'initialise with `kernel_initializer="he_normal"`.'
                ),
                "Start again from a checkpoint in which they still fire; dead ones stay dead.",
            ),
            effect_of=THROWS_UNITS,
        )

    def _tells(self, one: _Dead) -> bool:
        if one.dead == one.units:
            return one.units * one.places >= self.VALUES
        return one.share >= self.SHARE and one.places >= self.PLACES

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return a layer that is dead as a whole, and one that is so for the most part."""
        part = np.abs(np.random.default_rng(0).normal(size=(64, 10)))
        part[:, :6] = 0
        return (
            Example("a layer of zeros", lambda: _trace(np.zeros((8, 8)))),
            Example("6 of 10 units are 0 for all 64 samples", lambda: _trace(part)),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return half-active units, a small batch, and zeros of other functions."""
        half = np.maximum(np.random.default_rng(0).normal(size=(64, 10)), 0)
        few = np.zeros((4, 10))
        few[:, 5:] = 1
        return (
            Example("every unit fires for half of the samples", lambda: _trace(half)),
            Example("half of the units are silent in a batch of four", lambda: _trace(few)),
            Example(
                "zeros of a linear layer",
                lambda: training_trace(outputs={"dense_1": np.zeros((64, 8))}),
            ),
        )


def _count(layer: Layer) -> _Dead | None:
    """Return the dead units of a layer; of several calls, those of the call with the fewest."""
    dead, sizes = layer.rows["dead_units"], layer.rows["size"]
    worst = int(np.argmin(dead))
    count = units(str(layer.rows["shape"][worst]))
    if not count or not sizes[worst]:
        return None
    return _Dead(layer, int(dead[worst]), count, int(sizes[worst]) // count)


def _trace(output: NDArray[np.float64]) -> Trace:
    return training_trace(outputs={"dense": output})
