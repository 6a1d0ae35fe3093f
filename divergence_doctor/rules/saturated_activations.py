"""Do sigmoids, tanh or softmax put out their ends, where they have no slope?"""

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
from divergence_doctor.trace.schema import EXPONENT_MIN
from divergence_doctor.trace.synthetic import training_trace

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from divergence_doctor.trace import Trace

_FLAT: Final = frozenset({"sigmoid", "hard_sigmoid", "tanh", "hard_tanh", "softmax"})
#: Losses that look behind the last layer's sigmoid or softmax at its logits.
_BY_LOGITS: Final = frozenset(
    {"BinaryCrossentropy", "CategoricalCrossentropy", "SparseCategoricalCrossentropy"}
)
#: Bins of ``exponents`` for magnitudes below 2**-9.
_NEAR_ZERO: Final = -9 - EXPONENT_MIN


@dataclass(frozen=True, slots=True)
class _Flat:
    layer: Layer
    at_ends: int
    values: int

    @property
    def share(self) -> float:
        return self.at_ends / self.values

    @property
    def what(self) -> str:
        return "rows" if self.layer.activation == "softmax" else "values"


@final
class SaturatedActivations(Rule):
    """A sigmoid, tanh or softmax puts out its ends nearly everywhere.

    A symptom. A sigmoid at 0 or 1, a tanh at -1 or 1, a softmax that puts all into one entry.

    Why it diverges: it does not, it stands still. The slope at the ends is next to 0, so almost
    nothing of the gradient passes. What drives activations there (inputs that are not standardised,
    weights too large, one step too long) may well diverge on its own.

    Evidence: `activations/near_one` (and `zero` and the bins of `exponents` below 2**-9, for a
    sigmoid) of layers by `layers/activation`, as they were last measured. 2**-9 from an end the
    slope of a sigmoid is 0.8 % of its steepest and that of tanh 0.4 %. Told where at least 90 % of
    32 or more values (rows, for a softmax) lie there: then the layer passes on about a tenth of the
    gradient. A last layer under Keras' cross-entropies is left out: they look at its logits, and a
    sure answer is what training is for.

    Fix: standardise the inputs (`keras.layers.Normalization()`), put
    `keras.layers.BatchNormalization()` or `keras.layers.LayerNormalization()` before the
    activation, `kernel_initializer="glorot_uniform"`; divide attention scores by the root of the
    key size.

    Mistaken for: convergence, as the loss stands still; vanishing gradients, of which it is one
    reason.

    Seen in: https://proceedings.mlr.press/v9/glorot10a.html (how sigmoids and tanh saturate, layer
    by layer), https://cs231n.github.io/neural-networks-1/.
    """

    id = "saturated-activations"
    code = "DD802"
    symptom = True
    needs = frozenset({"activations/near_one", "layers/activation"})

    #: Share of values at the ends from which a layer is told of.
    SHARE: ClassVar[float] = 0.9
    #: Values (rows of a softmax) that there must be.
    VALUES: ClassVar[int] = 32
    #: The figures leave no doubt; whether it does harm is another question.
    SEEN: ClassVar[float] = 0.8

    def examine(self, trace: Trace) -> Finding | None:
        """Return the saturated layers, the worst first, or None."""
        logits = _judged_by_logits(trace)
        seen = [
            _count(layer)
            for layer in layers(trace, "near_one", _FLAT)
            if not (logits and (layer.last or layer.name in logits))
        ]
        flat = [one for one in seen if one.values >= self.VALUES and one.share >= self.SHARE]
        if not flat:
            return None
        flat.sort(key=lambda one: -one.share)
        worst = flat[0].layer
        parts = [
            f"{one.share:.0%} of the {one.what} of {one.layer.name!r} ({one.layer.activation})"
            for one in flat
        ]
        return Finding(
            cause=self.id,
            summary=f"{plural(len(flat), 'layer')} of {len(seen)} with a sigmoid, tanh or softmax "
            f"{'stands' if len(flat) == 1 else 'stand'} at the ends, where there is no slope: "
            f"{listed(parts)}.",
            confidence=self.SEEN,
            stage="forward",
            site=Site(step=worst.step, layer=worst.name),
            evidence=tuple(
                Evidence(
                    f"{one.what} of {one.layer.name} at the ends of {one.layer.activation}, of "
                    f"{one.values:,}",
                    one.at_ends,
                    "/activations/near_one",
                )
                for one in flat[:MOST_SHOWN]
            ),
            remedies=(
                (
                    "Normalise what the activation is fed: `keras.layers.Normalization()` for the "
                    "inputs, `keras.layers.LayerNormalization()` between the layers."
                ),
                (
                    "Use a function without an end: "
                    '`keras.layers.Dense(64, activation="leaky_relu")`; for attention divide the '
                    "scores by the root of the key size."
                ),
            ),
            effect_of=THROWS_UNITS,
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return tanh at -1 and 1, and a sigmoid at 0 and 1."""
        signs = np.where(np.arange(64).reshape(8, 8) % 2, 1.0, -1.0)
        return (
            Example("tanh at -1 and 1", lambda: _trace(signs, "tanh")),
            Example("a sigmoid at 0 and 1", lambda: _trace((signs + 1) / 2, "sigmoid")),
            Example("a sigmoid at 1e-6", lambda: _trace(np.full((8, 8), 1e-6), "sigmoid")),
            Example("a softmax of one-hot rows", lambda: _trace(np.eye(40), "softmax")),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return values in between, and a sure answer under a cross-entropy."""
        between = np.linspace(-0.9, 0.9, 64).reshape(8, 8)
        return (
            Example("tanh between its ends", lambda: _trace(between, "tanh")),
            Example("tanh near 0, where it is steepest", lambda: _trace(between * 1e-6, "tanh")),
            Example(
                "a sigmoid between its ends", lambda: _trace(np.abs(between) + 0.05, "sigmoid")
            ),
            Example(
                "sure answers of the last layer, judged by a cross-entropy",
                lambda: training_trace(
                    outputs={"dense_1": np.eye(40)},
                    activation="softmax",
                    loss_name="CategoricalCrossentropy",
                ),
            ),
        )


def _count(layer: Layer) -> _Flat:
    rows = layer.rows
    ends = int(rows["near_one"].sum())
    values = int(rows["size"].sum())
    if layer.activation == "softmax":
        sizes = [max(units(str(shape)), 1) for shape in rows["shape"]]
        places = sum(int(n) // size for n, size in zip(rows["size"], sizes, strict=True))
        return _Flat(layer, ends, places)
    if layer.activation in {"sigmoid", "hard_sigmoid"}:
        ends += int(rows["zero"].sum()) + int(rows["exponents"][:, :_NEAR_ZERO].sum())
    return _Flat(layer, ends, values)


def _judged_by_logits(trace: Trace) -> frozenset[str]:
    """Return the names of the outputs whose loss looks at their logits."""
    return frozenset(
        str(row["output"])
        for row in trace.table("targets").rows()
        if row["builtin"] and row["loss"] in _BY_LOGITS
    )


def _trace(output: NDArray[np.float64], activation: str) -> Trace:
    return training_trace(outputs={"dense_1": output}, activation=activation)
