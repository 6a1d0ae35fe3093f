"""Which labels is each of Keras' losses made for? Read from their formulas (Keras 3.15).

What a loss does with a label outside its domain differs: some have no lower bound there, some are
scaled by it, some clip or cast it without a word. A loss that is not in this table is judged by its
ops.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, Literal

if TYPE_CHECKING:
    from collections.abc import Mapping

#: What the labels stand for.
#:
#: - ``any``: every finite number; ``groups``: ids of any value, compared for being equal;
#: - ``ids``: class ids from 0, below the number of classes, cast to integers;
#: - ``probability``: from 0 to 1; ``one-hot``: the same, one per class, that sum to 1;
#: - ``counts``: from 0 up; ``signs``: -1 and 1, or 0 and 1 only; ``nonzero``: divided by;
#: - ``sequence``: class ids from 1, 0 being blank and padding, a path of which fits the time axis.
Meaning = Literal[
    "any", "groups", "ids", "probability", "one-hot", "counts", "signs", "nonzero", "sequence"
]
#: What the loss does outside: it has no lower bound (or is NaN) there; it is bounded, but scaled or
#: shifted by the label; it clips, casts or ignores it.
Outside = Literal["unbounded", "scaled", "tamed"]


@dataclass(frozen=True, slots=True)
class Domain:
    """The labels that one loss is made for, and what it does with others."""

    meaning: Meaning
    outside: Outside = "tamed"


#: By the class names of ``keras.losses``. A test fails where Keras has one that is not here.
DOMAINS: Final[Mapping[str, Domain]] = {
    # -y log(p) - (1 - y) log(1 - p): the second term has the other sign for y > 1, the first for
    # y < 0, and each falls without end as the logits grow.
    "BinaryCrossentropy": Domain("probability", "unbounded"),
    "BinaryFocalCrossentropy": Domain("probability", "unbounded"),
    "CategoricalCrossentropy": Domain("one-hot", "unbounded"),
    "CategoricalFocalCrossentropy": Domain("one-hot", "unbounded"),
    "SparseCategoricalCrossentropy": Domain("ids", "unbounded"),
    # One-hot of an id out of range is 0: (1 - 0**q) / q, whose slope q 0**(q - 1) is infinite.
    "CategoricalGeneralizedCrossEntropy": Domain("ids", "unbounded"),
    # p - y log(p + 1e-7): for y < 0 lowest at p = 0.
    "Poisson": Domain("counts", "scaled"),
    "MeanSquaredLogarithmicError": Domain("counts", "tamed"),
    "KLDivergence": Domain("probability", "tamed"),
    # 1 - 2 sum(y p) / sum(y + p): a sum of negative masks may vanish below the line.
    "Dice": Domain("probability", "scaled"),
    "Tversky": Domain("probability", "scaled"),
    "Hinge": Domain("signs", "scaled"),
    "SquaredHinge": Domain("signs", "scaled"),
    # max((1 - y) p) - sum(y p) + 1: its slope grows with y.
    "CategoricalHinge": Domain("one-hot", "scaled"),
    # |y - p| / max(|y|, 1e-7)
    "MeanAbsolutePercentageError": Domain("nonzero", "scaled"),
    "CTC": Domain("sequence", "scaled"),
    "Circle": Domain("groups"),
    "CosineSimilarity": Domain("any"),
    "Huber": Domain("any"),
    "LogCosh": Domain("any"),
    "MeanAbsoluteError": Domain("any"),
    "MeanSquaredError": Domain("any"),
}


@dataclass(frozen=True, slots=True)
class Bounds:
    """Smallest and largest label of a domain (None where there is none), and whether it is whole.

    Attributes:
        low, high: the bounds.
        integral: only whole numbers count.
        nonzero: 0 does not count.
        steps: steps of the time axis that a row of labels must be spelt in.
    """

    low: float | None = None
    high: float | None = None
    integral: bool = False
    nonzero: bool = False
    steps: int | None = None

    def parameters(self) -> dict[str, Any]:
        """Return them as the trial ``valid-labels`` takes them.

        What says nothing is left out, beside the three that a trace always held.
        """
        rare = {"nonzero": self.nonzero, "steps": self.steps}
        always = {"low": self.low, "high": self.high, "integral": self.integral}
        return always | {name: value for name, value in rare.items() if value}


def domain_of(target: Mapping[str, Any] | None) -> Domain | None:
    """Return the domain of a row of ``targets``; None for a custom loss, or one not in the table.

    Args:
        target: the row, or None where an array has no loss.
    """
    if target is None or not target["builtin"]:
        return None
    return DOMAINS.get(str(target["loss"]))


def bounds(target: Mapping[str, Any] | None) -> Bounds:
    """Return the bounds that the labels of a row of ``targets`` are clipped to, to be valid."""
    domain = domain_of(target)
    if domain is None or target is None:
        return Bounds()
    last = target["classes"] - 1 if target["classes"] > 0 else None
    if domain.meaning in {"ids", "sequence"}:
        return Bounds(0, last, integral=True)
    if domain.meaning in {"probability", "one-hot"}:
        return Bounds(0, 1)
    if domain.meaning == "signs":
        return Bounds(-1, 1, integral=True)
    if domain.meaning == "counts":
        return Bounds(0)
    return Bounds(nonzero=domain.meaning == "nonzero")


def slack(config: Mapping[str, Any], classes: int) -> float:
    """Return how far outside [0, 1] label smoothing brings a label back in.

    Smoothing makes y (1 - s) + s / n of it, with n classes (2 for a binary loss).
    """
    share = config.get("label_smoothing")
    if not isinstance(share, int | float) or not 0 < share < 1:
        return 0.0
    return float(share) / max(classes, 2) / (1 - float(share))
