"""Did the replayed steps themselves drive the model away, and was the learning rate ordinary?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.rules._growth import activation_growth, gradient_growth

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from divergence_doctor.trace import Table, Trace

#: Default learning rates of Keras 3.15's optimizers; every other class there has 1e-3.
DEFAULT_RATES: Final = {"SGD": 0.01, "ScheduleFreeAdamW": 0.0025}
DEFAULT_RATE: Final = 1e-3
#: Up to this multiple of the default a learning rate is ordinary: one decade either way is what
#: people tune over.
ORDINARY: Final = 10.0
#: The loss has run away once it stands at this multiple of its first value ...
GROWN: Final = 10.0
#: ... while steps changed the weights by this part of their own norm. Healthy training stands near
#: 1e-3 (Karpathy, "A Recipe for Training Neural Networks").
LARGE_RATIO: Final = 0.1
#: A step as long as the weights themselves: nothing of what was learned is left.
WHOLE_RATIO: Final = 1.0
#: Steps whose updates tell how training began; later ones only show the consequences.
FIRST_STEPS: Final = 2


@final
@dataclass(frozen=True, slots=True)
class Pace:
    """How fast the replayed steps moved the model.

    Attributes:
        failing: the failing step.
        first_loss, peak_loss: first loss, and the largest finite one.
        peak_step: step of that largest loss.
        ratio: largest L2 of an update over L2 of its weight matrix in the first steps.
        variable: that weight.
        learning_rate: largest learning rate used; NaN when unknown.
        default_rate: Keras' default for this optimizer.
        optimizer: class of the optimizer.
    """

    failing: int
    first_loss: float
    peak_loss: float
    peak_step: int
    ratio: float
    variable: str
    learning_rate: float
    default_rate: float
    optimizer: str

    @property
    def growth(self) -> float:
        """How much the loss rose, as a multiple of its first value; 1 when it did not."""
        scale = max(abs(self.first_loss), 1e-12)
        return max(1.0, 1.0 + (self.peak_loss - self.first_loss) / scale)

    @property
    def excess(self) -> float:
        """The learning rate as a multiple of Keras' default; 1 when unknown."""
        known = math.isfinite(self.learning_rate) and self.learning_rate > 0
        return self.learning_rate / self.default_rate if known else 1.0

    @property
    def ordinary(self) -> bool:
        """The learning rate is one that people use with this optimizer."""
        return self.excess <= ORDINARY * (1 + 1e-6)

    @property
    def ran_away(self) -> bool:
        """Steps that were far too long, and what they did: loss up, or all lost at once."""
        if self.failing < 1:
            return False
        at_once = self.ratio >= WHOLE_RATIO and self.failing <= FIRST_STEPS
        return (self.growth >= GROWN and self.ratio >= LARGE_RATIO) or at_once


def pace(trace: Trace) -> Pace | None:
    """Return how fast the replayed steps moved the model; None when no loss was finite.

    Args:
        trace: a trace of a run that diverged.
    """
    steps = trace.table("steps")
    failing = trace.failing_step
    if failing is None or not len(steps):
        return None
    losses = steps["loss"]
    finite = np.isfinite(losses)
    if not finite.any():
        return None
    peak = int(np.nanargmax(np.where(finite, losses, np.nan)))
    ratio, variable = _ratio(trace, steps)
    optimizer, configured = _optimizer(trace)
    rates = steps["learning_rate"][np.isfinite(steps["learning_rate"])]
    return Pace(
        failing=failing,
        first_loss=float(losses[finite][0]),
        peak_loss=float(losses[peak]),
        peak_step=int(steps["step"][peak]),
        ratio=ratio,
        variable=variable,
        learning_rate=float(rates.max()) if len(rates) else configured,
        default_rate=DEFAULT_RATES.get(optimizer, DEFAULT_RATE),
        optimizer=optimizer,
    )


def _ratio(trace: Trace, steps: Table) -> tuple[float, str]:
    """Return the largest update of a weight matrix in the first steps, and whose it is.

    Vectors are left out, and so is what starts at zero, like the two-dimensional biases of an
    attention layer: they move by their whole norm in healthy training.
    """
    updates = trace.table("updates")
    held = trace.table("weights").select(step=0, when="before")
    started = set(held["variable"][held["absmax"] == 0])
    matrices = np.asarray(
        [
            "x" in str(shape) and variable not in started
            for shape, variable in zip(updates["shape"], updates["variable"], strict=True)
        ],
        dtype=bool,
    )
    kept = matrices & np.isfinite(updates["ratio"]) & (updates["step"] < FIRST_STEPS)
    rows = updates.where(kept)
    if len(rows):
        largest = int(np.argmax(rows["ratio"]))
        return float(rows["ratio"][largest]), str(rows["variable"][largest])
    with np.errstate(divide="ignore", invalid="ignore"):
        overall: NDArray[Any] = steps["update_norm"] / steps["weight_norm"]
    overall = overall[:FIRST_STEPS][np.isfinite(overall[:FIRST_STEPS])]
    return (float(overall.max()) if len(overall) else 0.0), ""


def _optimizer(trace: Trace) -> tuple[str, float]:
    """Return the optimizer's class and configured rate; inside a loss scale the inner one's."""
    description: Any = trace.context.get("optimizer") or {}
    config = description.get("config") or {} if isinstance(description, dict) else {}
    inner = config.get("inner_optimizer")
    if isinstance(inner, dict):
        name, config = str(inner.get("class_name", "")), inner.get("config") or {}
    else:
        name = str(description.get("class", "")) if isinstance(description, dict) else ""
    rate = config.get("learning_rate")
    return name, float(rate) if isinstance(rate, int | float) else math.nan


def ran_away(trace: Trace) -> bool:
    """Say whether too long steps, not the point of failure, drove the model into its overflow.

    Not when the very first step already shows a network that magnifies what passes through it and
    the rate is ordinary: then the long steps are themselves an effect.
    """
    found = pace(trace)
    return found is not None and found.ran_away and not (found.ordinary and magnifies(trace))


def magnifies(trace: Trace) -> bool:
    """Say whether activations or gradients grow geometrically in the first replayed step."""
    return activation_growth(trace, 0) is not None or gradient_growth(trace, 0) is not None
