"""Will inference normalise by other statistics than training does?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor.rules._producer import figure, measured
from divergence_doctor.rules._rule import Example, Finding, Rule, Site
from divergence_doctor.rules._symptoms import MOST_SHOWN, listed, plural
from divergence_doctor.trace.synthetic import training_trace

if TYPE_CHECKING:
    from divergence_doctor.trace import Trace


@final
class StaleNormalizationStatistics(Rule):
    """Moving mean and variance of a normalisation are far from the mean and variance of the batch.

    A symptom. Training normalises by the batch and is fine; `evaluate` and `predict` normalise by
    the moving statistics and see other, often exploding, activations.

    Why it diverges: training does not; inference does. The moving statistics are stale: too few
    steps for their momentum, a momentum next to 1, a checkpoint of other data, layers that were
    frozen late, or one layer shared by inputs of different scale.

    Evidence: `normalizations`, in the first replayed step: mean and variance of the batch follow
    from how far the step moved the moving ones. Told where over half of the channels the batch's
    mean lies at least 3 moving standard deviations off (by chance that happens to one value in 370,
    and to a mean of several hardly ever), or its standard deviation is at least 4 times the moving
    one or at most a quarter (that of 8 samples strays by a factor of 2); or where one channel is
    off by 100, which is enough for inference to explode. A layer that has taken no step yet is left
    out: its mean of 0 and variance of 1 are where every training starts.

    Fix: `keras.layers.BatchNormalization(momentum=0.9)` where the run is short; let some batches
    pass with `training=True` before evaluating; a layer of its own for each input where one is
    shared; `keras.layers.LayerNormalization()` keeps no statistics.

    Mistaken for: overfitting (training loss falls, validation loss is huge), a broken
    `model.save`.

    Seen in: keras-team/keras#7265, keras-team/keras#10666 and tensorflow/tensorflow#36446 (training
    and validation loss on the same data are worlds apart).
    """

    id = "stale-normalization-statistics"
    code = "DD804"
    symptom = True
    needs = frozenset({"normalizations"})

    #: Moving standard deviations between the means, in the middle of the channels.
    SHIFT: ClassVar[float] = 3.0
    #: Ratio of the standard deviations, either way, in the middle of the channels.
    RATIO: ClassVar[float] = 4.0
    #: The same for the worst channel alone.
    WORST: ClassVar[float] = 100.0
    #: Measured on one batch, which may be an odd one.
    SEEN: ClassVar[float] = 0.75

    def examine(self, trace: Trace) -> Finding | None:
        """Return the layers whose moving statistics are stale, the worst first, or None."""
        first: dict[str, dict[str, Any]] = {}
        for row in trace.table("normalizations").rows():
            first.setdefault(row["layer"], row)
        far = [row for row in first.values() if not row["fresh"] and self._far(row)]
        if not far:
            return None
        far.sort(key=lambda row: -_off(row))
        parts = [_told(row) for row in far]
        return Finding(
            cause=self.id,
            summary=f"{plural(len(far), 'layer')} of {len(first)} that "
            f"{'normalises' if len(far) == 1 else 'normalise'} by the batch will see something "
            f"else in inference: {listed(parts)}.",
            confidence=self.SEEN,
            stage="forward",
            site=Site(step=far[0]["step"], layer=far[0]["layer"]),
            evidence=tuple(
                measured(f"{what} of {row['layer']}", row[column], f"/normalizations/{column}")
                for row in far[: MOST_SHOWN // 2]
                for what, column in (
                    ("moving standard deviations between the means", "shift_median"),
                    ("standard deviation of the batch over the moving one", "growth_median"),
                )
            ),
            remedies=(
                (
                    "Let the moving statistics follow sooner, and train on: "
                    f"`keras.layers.BatchNormalization(momentum={_sooner(far[0])})`."
                ),
                (
                    "Before evaluating let some batches pass in training mode: "
                    "`for x, _ in data: model(x, training=True)`."
                ),
                "Normalise without moving statistics: `keras.layers.LayerNormalization()`.",
            ),
            effect_of=frozenset(
                {"corrupt-weights", "exploding-activation", "high-learning-rate", "unscaled-input"}
            ),
        )

    def _far(self, row: dict[str, Any]) -> bool:
        middle = row["growth_median"]
        return bool(
            row["shift_median"] >= self.SHIFT
            or not 1 / self.RATIO < middle < self.RATIO
            or max(row["shift_max"], row["growth_max"]) >= self.WORST
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return means far off, deviations far off, and one channel that explodes."""
        return (
            Example("a mean 8 standard deviations off", lambda: _trace(shift_median=8.0)),
            Example(
                "a batch of ten times the spread",
                lambda: _trace(growth_median=10.0, growth_max=12.0),
            ),
            Example("one channel 400 times too wide", lambda: _trace(growth_max=400.0)),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return statistics that fit, a fresh layer, and a model without normalisation."""
        return (
            Example("statistics that fit", _trace),
            Example("a fresh layer", lambda: _trace(fresh=True, shift_median=8.0)),
            Example("no layer normalises by the batch", training_trace),
        )


def _off(row: dict[str, Any]) -> float:
    """Return by how much inference is off, as a factor or in standard deviations."""
    middle = max(row["growth_median"], 1e-30)
    return float(max(row["shift_median"], row["shift_max"] / 30, middle, 1 / middle))


def _told(row: dict[str, Any]) -> str:
    """Return what is off in one layer: means, spread, or one channel where the middle is fine."""
    own = StaleNormalizationStatistics
    middle, largest = row["growth_median"], row["growth_max"]
    said = []
    if row["shift_median"] >= own.SHIFT or row["shift_max"] >= own.WORST:
        said.append(
            f"the batch's means lie {figure(row['shift_median'])} moving standard deviations off "
            f"(at most {figure(row['shift_max'])})"
        )
    if not 1 / own.RATIO < middle < own.RATIO or largest >= own.WORST:
        said.append(
            f"its standard deviations are {figure(middle)} times the moving ones "
            f"(at most {figure(largest)})"
        )
    return f"in {row['layer']!r} {' and '.join(said)}"


def _sooner(row: dict[str, Any]) -> float:
    """Return a momentum that forgets at least ten times as fast; below 0.5 it is all noise."""
    return float(round(max(1 - 10 * (1 - row["momentum"]), 0.5), 3))


def _trace(**fields: Any) -> Trace:
    row = {
        "step": 0,
        "layer": "batch_normalization",
        "layer_class": "BatchNormalization",
        "channels": 8,
        "calls": 1,
        "momentum": 0.99,
        "fresh": False,
        "shift_median": 0.2,
        "shift_max": 0.6,
        "growth_median": 1.1,
        "growth_min": 0.8,
        "growth_max": 1.5,
    }
    return training_trace(rows={"normalizations": [row | fields]})
