"""Was the optimizer's state broken as it was loaded: slots that are NaN, negative or impossible?"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.rules import _batch, _defects
from divergence_doctor.rules._producer import figure, measured, primary_of
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule, Site
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from collections.abc import Iterable

    from divergence_doctor.rules._producer import Producer
    from divergence_doctor.trace import Trace
    from divergence_doctor.trace.table import Table

#: Variables of an optimizer that are no slots: their values are `bad-hyperparameter`'s matter.
_NUMBERS: Final = ("/learning_rate", "/dynamic_scale")
#: Optimizers with both means of Adam (Kingma & Ba 2015), the second one uncorrected in its slot.
_BOTH_MEANS: Final = frozenset({"Adam", "AdamW", "Nadam", "Lamb"})
#: Optimizers that correct the bias of means which began at zero by the iteration counter.
_CORRECTED: Final = frozenset({*_BOTH_MEANS, "Adamax"})


@final
@dataclass(frozen=True, slots=True)
class _Fault:
    """What is wrong with the state.

    Attributes:
        kind: ``nonfinite``, ``negative``, ``counter``, ``beyond``, ``momentum`` or ``lost``.
        names: the slots.
        sentence: what is wrong, with the figures.
        evidence: the figures.
        remedy: what to change.
    """

    kind: str
    names: tuple[str, ...]
    sentence: str
    evidence: tuple[Evidence, ...]
    remedy: str


@final
class CorruptOptimizerState(Rule):
    """The optimizer's slots hold values, as they were loaded, that no training leaves there.

    Recognised before the first replayed step: NaN or Inf in a slot; a second moment, an
    accumulator or a norm below zero; an iteration counter below zero; an Adam whose first moment is
    larger than its second allows; a momentum far beyond what the gradients of this step add up to;
    slots of zeros at a counter of many steps.

    Why it diverges: the update divides by the root of the second moment, which is NaN for a value
    below zero and, where it was lost while the first moment was kept, an epsilon: the step is as
    long as the moment divided by 1e-7. With all slots lost and the counter kept the bias of means
    that start from zero is not corrected: steps of (1 - b1) / sqrt(1 - b2) = 3.2 times the rate.
    The loss and the gradients of that step are fine; the weights after it are not. One NaN in a
    slot makes its weight NaN, whatever the gradient is.

    Evidence: `slots/nan`, `slots/posinf`, `slots/neginf` and `slots/negative` of step 0, `when =
    before`; there is no threshold. `defects` says where in the slot. For Adam m^2 <= C v holds for
    each element, with C = (1 - b1)^2 / ((1 - b2) (1 - b1^2 / b2)), 53 for 0.9 and 0.999 (Cauchy and
    Schwarz on the two sums), so the largest m^2 beyond 4 times C times the largest v cannot be; 4
    is left to rounding. A momentum of SGD is at most rate / (1 - momentum) times the largest
    gradient since the start; 1e4 times that of this step is beyond what a gradient varies by. The
    pattern tells the origin: one cell is a flipped bit or faulty memory; everything at once is a
    checkpoint from after the divergence; weights that are sound with slots that are not are a step
    whose update was never taken, or a file put together from two.

    Fix: load the weights alone, and begin with fresh slots: `model.load_weights(path)` into a model
    that was compiled anew, with a warm-up of some hundred steps. Save weights, slots and
    `optimizer.iterations` together: `model.save("step.keras")`.

    Mistaken for: a learning rate that is too high (a lower one only delays it), a bad batch (every
    batch fails), a division by zero in the optimizer.

    Seen in: tensorflow/tensorflow#74879 (a second moment below zero), keras-team/keras#13027 and
    tensorflow/tensorflow#52368 (slots or counter lost on the way through a checkpoint).
    """

    id = "corrupt-optimizer-state"
    code = "DD303"
    needs = frozenset({"slots"})
    explains = _batch.DOWNSTREAM

    #: The first bad op read one of these slots.
    READ: ClassVar[float] = 0.97
    #: The first bad value came out of the update, by way of another variable.
    UPDATE: ClassVar[float] = 0.85
    #: Steps were taken with it before the forward pass broke, or the loss ran away.
    DRIVEN: ClassVar[float] = 0.6
    #: The weights were broken as well, or nothing was updated before the step broke.
    ELSEWHERE: ClassVar[float] = 0.4
    #: Slots of zeros at a counter that says otherwise make steps three times as long: only a trial
    #: can tell whether that was too long.
    SUSPECTED: ClassVar[float] = 0.45
    #: It reached neither loss nor state.
    HARMLESS: ClassVar[float] = 0.3
    #: Left to rounding, of half precision too, above the bound of Cauchy and Schwarz.
    ROUNDING: ClassVar[float] = 4.0
    #: A momentum so many times beyond what this step's gradient would add up to.
    MOMENTUM: ClassVar[float] = 1e4

    def examine(self, trace: Trace) -> Finding | None:
        """Return what is wrong with the optimizer's state as loaded, or None."""
        slots = trace.table("slots").select(step=0, when="before")
        slots = slots.where(
            _defects.as_mask(not str(name).endswith(_NUMBERS) for name in slots["variable"])
        )
        faults = tuple(self._faults(trace, slots))
        if not faults:
            return None
        first, producer = faults[0], primary_of(trace)
        remedy, good = _defects.last_good(trace)
        names = tuple(dict.fromkeys(name for fault in faults for name in fault.names))
        return Finding(
            cause=self.id,
            summary=f"{first.sentence}{_after(trace, producer)}.",
            confidence=self._confidence(trace, first, names, producer),
            stage="checkpoint",
            site=Site(
                step=producer.step if producer is not None else 0,
                layer=producer.site.layer if producer is not None else None,
                op=producer.site.op if producer is not None else None,
                source=producer.site.source if producer is not None else None,
                variable=names[0] if names else None,
            ),
            evidence=(
                *(item for fault in faults for item in fault.evidence),
                *_defects.described(_defects.of(trace, "slots")),
                *((good,) if good is not None else ()),
            ),
            remedies=(
                *((remedy,) if remedy is not None else ()),
                *dict.fromkeys(fault.remedy for fault in faults),
            ),
            proofs=(Proof("fresh-slots", {"names": list(names[:1])}),),
        )

    def _faults(self, trace: Trace, slots: Table) -> Iterable[_Fault]:
        yield from _nonfinite(trace, slots)
        yield from _negative(slots)
        yield from _counter(trace)
        if trace.outcome == "diverged":
            yield from self._beyond(trace, slots)
            yield from self._momentum(trace, slots)
            yield from _lost(trace, slots)

    def _confidence(
        self, trace: Trace, first: _Fault, names: tuple[str, ...], producer: Producer | None
    ) -> float:
        if trace.outcome == "healthy":
            return self.HARMLESS
        weights = trace.table("weights").select(step=0, when="before")
        if np.any(_defects.nonfinite(weights) > 0):
            return self.ELSEWHERE
        if first.kind == "lost":
            return self.SUSPECTED
        event = _batch.primary(trace)
        came = event is not None and event["origin_name"] in names
        if producer is None:
            return self.READ if came else self.DRIVEN
        if producer.phase in {"update", "clipping"}:
            read = any(operand.origin_name in names for operand in producer.all("input"))
            sure = read or came or first.kind in {"negative", "nonfinite", "counter"}
            return self.READ if sure else self.UPDATE
        return self.DRIVEN if producer.step > 0 else self.ELSEWHERE

    def _beyond(self, trace: Trace, slots: Table) -> Iterable[_Fault]:
        """Yield an Adam whose first moment cannot belong to its second."""
        bound = _cauchy_schwarz(trace)
        by_name = {str(row["variable"]): row for row in slots.rows()}
        worst: tuple[float, dict[str, Any], dict[str, Any]] | None = None
        for name, first in by_name.items():
            second = by_name.get(name.removesuffix("_momentum") + "_velocity")
            if second is None or first["optimizer"] not in _BOTH_MEANS:
                continue
            if _bad(first) or _bad(second) or not first["absmax"] > 0:
                continue
            # In logarithms: the square of a large moment is out of range.
            excess = 2 * math.log10(first["absmax"]) - math.log10(
                max(bound * second["absmax"], 1e-300)
            )
            if excess > math.log10(self.ROUNDING) and (worst is None or excess > worst[0]):
                worst = excess, first, second
        if worst is not None:
            excess, first, second = worst
            lost = "is all zeros" if second["absmax"] == 0 else f"ends at {second['absmax']:.3g}"
            yield _Fault(
                "beyond",
                (first["variable"], second["variable"]),
                (
                    f"{first['variable']} goes up to {first['absmax']:.3g} as loaded while "
                    f"{second['variable']} {lost}, which no run of gradients leaves behind"
                ),
                (
                    measured("largest first moment", first["absmax"], "/slots/absmax"),
                    measured("largest second moment of the same weight", second["absmax"],
                             "/slots/absmax"),
                    measured("largest m^2 / v that can be", bound, "/hyperparameters"),
                ),
                _LOST,
            )  # fmt: skip

    def _momentum(self, trace: Trace, slots: Table) -> Iterable[_Fault]:
        """Yield a momentum of SGD beyond what gradients like this step's add up to."""
        numbers = {
            row["name"]: row["value"]
            for row in trace.table("hyperparameters").select(step=0, optimizer=0).rows()
        }
        rate, decay = numbers.get("learning_rate", math.nan), numbers.get("momentum", math.nan)
        if not (rate > 0 and 0 < decay < 1):
            return
        gradients = trace.table("gradients").select(step=0, call=-1)
        largest = max((float(size) for size in gradients["absmax"]), default=math.nan)
        if not (math.isfinite(largest) and largest > 0):
            return
        most = rate * largest / (1 - decay)
        owned = slots.where(_defects.as_mask(name == "SGD" for name in slots["optimizer"]))
        sizes = [(row["absmax"], row) for row in owned.rows() if not _bad(row)]
        size, row = max(sizes, key=lambda pair: pair[0], default=(0.0, None))
        if row is not None and size > self.MOMENTUM * most:
            yield _Fault(
                "momentum",
                (row["variable"],),
                (
                    f"{row['variable']} goes up to {size:.3g} as loaded, {size / most:.3g} times "
                    "what gradients like those of this step add up to"
                ),
                (
                    measured("largest momentum as loaded", size, "/slots/absmax"),
                    measured("largest gradient of the step", largest, "/gradients/absmax"),
                    measured("momentum that such gradients add up to", most, "/hyperparameters"),
                ),
                _FRESH,
            )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return one example for each way to be impossible."""
        return (
            Example("a second moment with one element below zero", _below_zero),
            Example("a NaN in a momentum", _not_a_number),
            Example("a first moment whose second was lost", _half),
            Example("a momentum of 1e8 beside gradients of 0.1", _flung),
            Example("an iteration counter of -1", _uncounted),
            Example("slots of zeros at the 4,000th step", _emptied),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return sound slots, and slots that the replayed step itself broke."""
        return (
            Example("a healthy run", training_trace),
            Example("momenta below zero, as they may be", _signed),
            Example("a custom optimizer whose velocity is a signed mean", _custom),
            Example("fresh slots and a rate of NaN", _fresh_slots),
            Example("moments that belong together", _together),
            Example("a learning rate of NaN among the optimizer's variables", _rate),
        )


_FRESH: Final = (
    "Begin with fresh slots: compile the model anew, `model.load_weights(path)`, and let the rate "
    "rise over some hundred steps (`keras.optimizers.schedules.CosineDecay(..., warmup_steps=500, "
    "warmup_target=rate)`)."
)
_LOST: Final = (
    "Save and restore the optimizer whole, slots and `optimizer.iterations`: `model.save(...)`, or "
    "`tf.train.Checkpoint(model=model, optimizer=optimizer)`; and build the optimizer, "
    "`optimizer.build(model.trainable_variables)`, before it is restored."
)


def _bad(row: dict[str, Any]) -> bool:
    return bool(row["nan"] + row["posinf"] + row["neginf"])


def _nonfinite(trace: Trace, slots: Table) -> Iterable[_Fault]:
    bad = slots.where(_defects.nonfinite(slots) > 0)
    if not len(bad):
        return
    row = bad.row(0)
    more = f", the first of {len(bad)} such slots of {len(slots)}" if len(bad) > 1 else ""
    weights = trace.table("weights").select(step=0, when="before")
    spoilt = int(np.count_nonzero(_defects.nonfinite(weights) > 0))
    also = (
        f"; {spoilt} of the weights are not finite either: the checkpoint was saved after the "
        "divergence"
        if spoilt
        else "; the weights are sound: their update was never taken, or the slots are another's"
    )
    where = _defects.of(trace, "slots")
    first = next(iter(where.rows()), None)
    count = row["nan"] + row["posinf"] + row["neginf"]
    alone = f": {_defects.place(first)}" if first is not None and len(where) == 1 else ""
    also = also.replace(";", f", {_defects.meaning(first)};", 1) if first and alone else also
    yield _Fault(
        "nonfinite",
        tuple(str(name) for name in bad["variable"]),
        (
            f"{row['variable']} holds {count} NaN or Inf among {row['size']:,} values as loaded"
            f"{more}{alone}{also}"
        ),
        (Evidence("slots with NaN or Inf as loaded", len(bad), "/slots/nan"),),
        _FRESH,
    )


def _negative(slots: Table) -> Iterable[_Fault]:
    signed = (
        not _defects.may_be_negative("slots", str(name), str(kind)) and negative > 0
        for name, kind, negative in zip(
            slots["variable"], slots["optimizer"], slots["negative"], strict=True
        )
    )
    below = slots.where(_defects.as_mask(signed))
    if not len(below):
        return
    row = below.row(0)
    more = f", the first of {len(below)} such slots" if len(below) > 1 else ""
    yield _Fault(
        "negative",
        tuple(str(name) for name in below["variable"]),
        (
            f"{row['variable']} holds {row['negative']} of {row['size']:,} values below zero as "
            f"loaded (down to {row['min']:.3g}){more}, which no mean of squares can be"
        ),
        (
            Evidence("elements below zero", row["negative"], "/slots/negative"),
            measured("the least of them", row["min"], "/slots/min"),
        ),
        _FRESH,
    )


def _counter(trace: Trace) -> Iterable[_Fault]:
    rows = trace.table("hyperparameters").select(step=0, name="iterations")
    for row in rows.rows():
        if row["value"] < 0:
            yield _Fault(
                "counter",
                (),
                (
                    f"The iteration counter of {row['optimizer_class']} stands at "
                    f"{row['value']:.0f} as loaded, for which there is no bias correction"
                ),
                (measured("iterations as loaded", row["value"], "/hyperparameters/value"),),
                _LOST,
            )


def _lost(trace: Trace, slots: Table) -> Iterable[_Fault]:
    """Yield slots that start from zero at a counter that says that they do not."""
    rows = trace.table("hyperparameters").select(step=0, name="iterations")
    for row in rows.rows():
        own = slots.where(_defects.as_mask(k == row["optimizer_class"] for k in slots["optimizer"]))
        empty = len(own) and not np.any(own["absmax"] != 0)
        if row["optimizer_class"] in _CORRECTED and row["value"] > 0 and empty:
            yield _Fault(
                "lost",
                tuple(str(name) for name in own["variable"]),
                (
                    f"All {len(own)} slots of {row['optimizer_class']} are zeros as loaded while "
                    f"its iteration counter stands at {row['value']:.0f}: their bias stays"
                ),
                (
                    measured("iterations as loaded", row["value"], "/hyperparameters/value"),
                    Evidence("slots that are not all zeros", 0, "/slots/zero"),
                ),
                _LOST,
            )


def _cauchy_schwarz(trace: Trace) -> float:
    """Return the largest m^2 / v that Adam's two means can have; for Keras' betas where unknown."""
    numbers = {
        row["name"]: row["value"]
        for row in trace.table("hyperparameters").select(step=0, optimizer=0).rows()
    }
    first, second = numbers.get("beta_1", 0.9), numbers.get("beta_2", 0.999)
    if not (0 <= first < 1 and 0 < second < 1 and first**2 < second):
        return math.inf
    return float((1 - first) ** 2 / ((1 - second) * (1 - first**2 / second)))


def _after(trace: Trace, producer: Producer | None) -> str:
    if trace.outcome == "healthy":
        return ", and reached neither loss nor state"
    if producer is None or producer.phase not in {"update", "clipping"}:
        return ""
    inputs = [value for one in producer.all("input")[:1] if math.isfinite(value := one.value)]
    given = f" of {figure(inputs[0])}" if inputs else ""
    return f"; the first bad value of the step came out of {producer.op_type}{given} in the update"


def _lost_run(slots: dict[str, Any], *events: SyntheticEvent, **fields: Any) -> Trace:
    return training_trace(
        slots=slots,
        events=events,
        **{"losses": (0.7,), "outcome": "diverged", "optimizer": "Adam", **fields},
    )


def _root(value: float) -> SyntheticEvent:
    return SyntheticEvent(
        "Sqrt", phase="update", reaches="state", inputs=([value],), input_values=(value,)
    )


def _below_zero() -> Trace:
    return _lost_run({"adam/dense_kernel_velocity": [1e-8, -0.5, 2e-8]}, _root(-0.5))


def _not_a_number() -> Trace:
    return _lost_run({"sgd/dense_kernel_momentum": [0.1, math.nan]}, optimizer="SGD")


def _half() -> Trace:
    slots = {"adam/dense_kernel_momentum": [0.3, -0.2], "adam/dense_kernel_velocity": [0.0, 0.0]}
    return _lost_run(slots, losses=(1.0, 1e9))


def _flung() -> Trace:
    return _lost_run(
        {"sgd/dense_kernel_momentum": [1e8, 2.0]},
        losses=(1.0, math.inf),
        optimizer="SGD",
        hyperparameters={"momentum": 0.9},
    )


def _uncounted() -> Trace:
    return _lost_run({"adam/dense_kernel_velocity": [1e-8]}, hyperparameters={"iterations": -1.0})


def _emptied() -> Trace:
    slots = {"adam/dense_kernel_momentum": [0.0], "adam/dense_kernel_velocity": [0.0]}
    return _lost_run(slots, losses=(1.0, 1e4), hyperparameters={"iterations": 4e3})


def _signed() -> Trace:
    return _lost_run({"adam/dense_kernel_momentum": [-1e-3], "adam/dense_kernel_velocity": [1e-5]})


def _custom() -> Trace:
    return _lost_run({"mine/dense_kernel_velocity": [-0.5]}, optimizer="Mine")


def _fresh_slots() -> Trace:
    slots = {"adam/dense_kernel_momentum": [0.0], "adam/dense_kernel_velocity": [0.0]}
    return _lost_run(slots, hyperparameters={"learning_rate": math.nan, "iterations": 0.0})


def _together() -> Trace:
    slots = {
        "adam/dense_kernel_momentum": [7e-3, -0.1],
        "adam/dense_kernel_velocity": [1e-6, 2e-4],
    }
    return _lost_run(slots, losses=(1.0, math.nan))


def _rate() -> Trace:
    return _lost_run({"adam/learning_rate": math.nan})
