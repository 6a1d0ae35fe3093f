"""Do gradients shrink on their way back until nothing is left for the first layers?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, ClassVar, Final, final

from divergence_doctor.rules._growth import Growth, gradient_decay
from divergence_doctor.rules._producer import figure, measured
from divergence_doctor.rules._rule import Evidence, Example, Finding, Rule, Site
from divergence_doctor.trace.synthetic import training_trace

if TYPE_CHECKING:
    from divergence_doctor.trace import Trace

#: Smallest normal number of a dtype: below it a gradient loses its digits, then itself.
_SMALLEST: Final = {
    "float16": 2.0**-14,
    "bfloat16": 2.0**-126,
    "float32": 2.0**-126,
    "float64": 2.0**-1022,
}


@final
class VanishingGradients(Rule):
    """Gradients shrink geometrically on their way back, until the first layers get next to nothing.

    A symptom. What comes back to the layers shrinks from layer to layer, or from time step to time
    step, by a factor that stays about the same.

    Why it diverges: it does not; the layers near the input (or what happened long ago in a
    sequence) are hardly trained. In half precision such gradients are lost below 6e-8. The weights
    that shrink the gradient are often too small for the signal as well.

    Evidence: `gradients/l2` of what came back to each layer's output in the first step (or to each
    `call` of a cell): a decay by 2**23 or more, over at least 3 links of 1.5 on average (1.03
    through time), none of which holds more than 60 % of the decades. 2**-23 is float32's
    resolution: beside the gradients at the end, those at the start are rounding errors. Or a decay
    by 1e3 that uses up half of the decades between the gradient at the loss and the smallest normal
    number of its dtype, which only half precision comes near to.

    Fix: residual connections (`keras.layers.Add()`) or `keras.layers.LayerNormalization()`
    between the layers; `kernel_initializer="he_normal"` with ReLU, `"glorot_uniform"` with tanh, no
    sigmoids in hidden layers; for sequences `keras.layers.LSTM` or `keras.layers.GRU`.

    Mistaken for: convergence, as the first layers stand still; a learning rate that is too low.

    Seen in: https://proceedings.mlr.press/v9/glorot10a.html, and for sequences
    https://proceedings.mlr.press/v28/pascanu13.html.
    """

    id = "vanishing-gradients"
    code = "DD803"
    symptom = True
    needs = frozenset({"gradients/l2"})

    #: float32's resolution, as a factor.
    TOTAL: ClassVar[float] = 2.0**23
    #: Share of the decades down to the dtype's smallest normal number.
    HEADROOM: ClassVar[float] = 0.5
    #: The decay is measured; how much the first layers matter is not known.
    SEEN: ClassVar[float] = 0.8

    def examine(self, trace: Trace) -> Finding | None:
        """Return the decay of the gradients in the first step, or None."""
        decay = gradient_decay(trace, 0)
        if decay is None:
            return None
        used = _headroom_used(trace, decay)
        if decay.total < self.TOTAL and used < self.HEADROOM:
            return None
        through = "time step" if decay.along == "time" else "layer"
        where = decay.names[0]
        return Finding(
            cause=self.id,
            summary=f"On the way back the gradients shrink {figure(decay.total)} times over "
            f"{decay.links} {through}s ({decay.per_link:.3g}x per {through}), from an L2 of "
            f"{figure(decay.values[-1])} at {decay.names[-1]!r} to {figure(decay.values[0])} at "
            f"{where!r}.",
            confidence=self.SEEN,
            stage="backward",
            site=Site(step=decay.step, layer=where),
            evidence=(
                measured("L2 of the gradient where it is largest", decay.values[-1], _L2),
                measured("L2 of the gradient at the end of the decay", decay.values[0], _L2),
                measured(f"mean factor per {through}", decay.per_link, _L2),
                measured("share of the decades down to the smallest normal number", used, _L2),
                Evidence("links of the decay", decay.links, "/gradients"),
            ),
            remedies=_THROUGH_TIME if decay.along == "time" else _THROUGH_DEPTH,
            effect_of=frozenset({"corrupt-weights", "unscaled-input"}),
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return a stack of sigmoids, and a shorter decay in float16."""
        return (
            Example("14 layers that each leave a quarter", lambda: _stack(14, 0.25)),
            Example(
                "5 layers that each leave a sixth, in float16",
                lambda: _stack(6, 1 / 6, largest=0.5, dtype="float16"),
            ),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return gradients that stay, grow, shrink a little, and one jump."""
        jump = (1e-9, 1e-9, 1e-9, 1.0, 1.0, 1.0)
        return (
            Example("a healthy run", training_trace),
            Example("a shallow stack of sigmoids", lambda: _stack(6, 0.25)),
            Example("gradients that grow on the way back", lambda: _stack(14, 4.0)),
            Example(
                "one layer that makes all of the difference",
                lambda: training_trace(layers=_named(6), gradient_l2=jump),
            ),
        )


_L2: Final = "/gradients/l2"
_THROUGH_DEPTH: Final = (
    (
        "Let the gradient past the layers: residual connections, `keras.layers.Add()([x, "
        "block(x)])`, or `keras.layers.LayerNormalization()` between them."
    ),
    (
        'Initialise for the activation: `kernel_initializer="he_normal"` with ReLU, '
        '`"glorot_uniform"` with tanh; no sigmoids in hidden layers.'
    ),
)
_THROUGH_TIME: Final = (
    (
        "Use `keras.layers.LSTM` or `keras.layers.GRU`, whose state passes the gradient on; in a "
        'plain RNN `recurrent_initializer="orthogonal"`.'
    ),
    "Cut or subsample the sequences: what lies that far back is not learnt from.",
)


def _headroom_used(trace: Trace, decay: Growth) -> float:
    """Return the share of the decades down to the smallest normal number that the decay takes."""
    rows = trace.table("gradients").select(step=decay.step, variable="", layer=decay.names[0])
    dtype = str(rows["dtype"][0]) if len(rows) else ""
    smallest = _SMALLEST.get(dtype, _SMALLEST["float32"])
    there = math.log10(decay.values[-1]) - math.log10(smallest)
    return math.log10(decay.total) / there if there > 0 else 1.0


def _named(count: int) -> tuple[str, ...]:
    return tuple(f"dense_{number}" for number in range(count))


def _stack(count: int, left: float, *, largest: float = 1.0, dtype: str = "float32") -> Trace:
    sizes = tuple(largest * left ** (count - 1 - number) for number in range(count))
    trace = training_trace(layers=_named(count), gradient_l2=sizes)
    trace.table("gradients")["dtype"][:] = dtype
    return trace
