"""Is a number of the optimizer one that no step can be taken by: a rate of NaN, an epsilon of 0?"""

from __future__ import annotations

import json
import math
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.rules import _batch
from divergence_doctor.rules._producer import bad_output, figure, measured, primary_of
from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule, Site
from divergence_doctor.rules._runaway import ORDINARY
from divergence_doctor.rules._singular import DIVISIONS
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from divergence_doctor.rules._producer import Producer
    from divergence_doctor.trace import Trace

#: Decays: a running mean of weight b and 1 - b is one for 0 <= b < 1 only.
_DECAYS: Final = ("beta_1", "beta_2", "rho", "momentum", "adam_beta_1", "adam_beta_2")
_EPSILONS: Final = ("epsilon", "epsilon_1", "epsilon_2")
_ROOTS: Final = frozenset({"Sqrt", "Rsqrt", "Pow"})
_UPDATE: Final = frozenset({"update", "clipping"})
#: Half of float32's smallest subnormal number: what is smaller is 0 when the update reads it.
_ZERO_IN_FLOAT32: Final = 7.1e-46
#: Numbers that an optimizer keeps as variables, by the end of their paths.
_VARIABLES: Final = {"learning_rate": "learning_rate", "loss_scale": "dynamic_scale"}
#: Optimizers whose step is proportional to the gradient, that of a penalty included.
_PROPORTIONAL: Final = frozenset({"SGD"})


@final
@dataclass(frozen=True, slots=True)
class _Suspect:
    """One number that cannot be, and what it does.

    Attributes:
        name: argument of the optimizer (``l2``: strength of a layer's regulariser).
        optimizer: which optimizer of the model.
        kind: class of the optimizer.
        value: the number.
        step: replayed step from which on it was so.
        does: what it does, to end a sentence.
        confidence: how well it fits what was seen, before any trial.
        fix: what to change.
        proof: the trial.
        default: what Keras has by default; NaN when unknown.
    """

    name: str
    optimizer: int
    kind: str
    value: float
    step: int
    does: str
    confidence: float
    fix: str
    proof: Proof
    default: float = math.nan


@final
class BadHyperparameter(Rule):
    """A number that the optimizer steps by is one that no step can be taken by.

    Recognised in the numbers of every optimizer as each replayed step began: a learning rate (or
    what its schedule gives) that is NaN, infinite or negative; an epsilon of 0, or so small that it
    is 0 in float32; a decay (`beta_1`, `beta_2`, `rho`, `momentum`) outside [0, 1); a weight decay,
    or an L2 penalty under plain SGD, that overshoots zero; a loss scale that is 0, not finite or
    beyond any that is in use; a centred RMSprop whose variance rounds to below zero.

    Why it diverges: a rate of NaN makes every weight NaN in one step, at a finite loss and finite
    gradients, so the loss of the next step is blamed. A negative one climbs. An epsilon of 0 leaves
    0/0 for every weight whose gradient is 0 (a dead unit, a token that is not in the batch). A
    running mean with b = 1 has a bias correction of 1 - b**t = 0 to divide by, and with b > 1 a
    second moment below zero to take the root of. Decay multiplies a weight by 1 - rate * decay in
    each step, which grows without end once rate * decay is above 2. A centred RMSprop takes the
    root of E[g^2] - E[g]^2, which rounds to below zero where the gradient hardly changes.

    Evidence: `hyperparameters/value` by step, against the ranges above; they are theory, not
    tuned: 2 is where |1 - x| passes 1, and for an L2 penalty under SGD with momentum m the bound is
    2 (1 + m) / rate (Polyak 1964); both count at rates of up to ten times Keras' default only,
    beyond which the rate itself is suspect. A loss scale is from 2**24 on, the cap of NVIDIA Apex.
    `events` says whether the first bad value came from the update, and `operands/value` what was
    divided by or rooted. A radicand counts as rounding up to 1e-4 of `velocity`: a thousand times
    the resolution of float32.

    Fix: the argument's default: `keras.optimizers.Adam(epsilon=1e-7, beta_1=0.9)`; in a schedule
    `tf.maximum(1.0 - step / total, 0.0)` and `step / max(warmup_steps, 1)`;
    `keras.optimizers.RMSprop(centered=False)` or `epsilon=1e-3`.

    Mistaken for: bad data (loss and gradients were fine until then), a learning rate that is too
    high (a lower rate of NaN is NaN), a checkpoint that is broken (every checkpoint fails at the
    same step of the schedule). Clipping at 0 or below is none of this: Keras leaves it out.

    Seen in: tensorflow/tensorflow#13271 (polynomial decay past its end, warm-up of 0 steps),
    apache/mxnet#6235 (centred RMSprop).
    """

    id = "bad-hyperparameter"
    code = "DD302"
    needs = frozenset({"hyperparameters"})
    explains = frozenset(
        {
            *("division-by-zero", "invalid-domain", "log-of-zero", "exp-overflow"),
            *("high-learning-rate", "exploding-gradient", "exploding-activation"),
        }
    )

    #: The first bad value came out of an op of the update that this number goes into.
    SEEN: ClassVar[float] = 0.95
    #: It came out of another op of the update.
    UPDATE: ClassVar[float] = 0.75
    #: Steps were taken by it before anything failed in the forward pass, or the loss ran away.
    DRIVEN: ClassVar[float] = 0.6
    #: Nothing was updated before it failed: told, not blamed.
    ELSEWHERE: ClassVar[float] = 0.3
    #: |1 - rate * decay| is above 1 beyond this.
    OVERSHOOT: ClassVar[float] = 2.0
    #: The largest loss scale in use: the cap of NVIDIA Apex. Keras begins at 2**15.
    LARGEST_SCALE: ClassVar[float] = 2.0**24
    #: E[g^2] - E[g]^2 below zero by this part of E[g^2] is rounding; by more it is no variance.
    ROUNDING: ClassVar[float] = 1e-4

    def examine(self, trace: Trace) -> Finding | None:
        """Return the numbers that no step can be taken by, the likeliest first, or None."""
        if trace.outcome != "diverged":
            return None
        producer = primary_of(trace)
        suspects = [*self._of_optimizers(trace, producer), *self._of_penalties(trace, producer)]
        read = _variable_read(trace)
        suspects = [
            replace(one, confidence=self.SEEN) if _VARIABLES.get(one.name, "\0") == read else one
            for one in suspects
        ]
        if not suspects:
            return None
        mended = _mended(trace)
        suspects.sort(key=lambda one: (_key(one.proof) not in mended, -one.confidence))
        first = suspects[0]
        step = producer.step if producer is not None else trace.failing_step or 0
        return Finding(
            cause=self.id,
            summary=_sentence(first, producer, suspects),
            confidence=first.confidence,
            stage="update",
            site=producer.site if producer is not None else Site(step=step),
            evidence=(
                *(item for one in suspects for item in _evidence(one)),
                *((bad_output(producer),) if producer is not None else ()),
            ),
            remedies=tuple(dict.fromkeys(one.fix for one in suspects)),
            proofs=tuple(one.proof for one in sorted(suspects, key=_sureness)),
        )

    def _of_optimizers(self, trace: Trace, producer: Producer | None) -> Iterable[_Suspect]:
        numbers = trace.table("hyperparameters")
        failing = trace.failing_step or 0
        for index in sorted(set(numbers["optimizer"].tolist())):
            known: dict[str, float] = {}
            told: set[str] = set()
            held = numbers.select(optimizer=index, step=0, name="learning_rate")
            rate = next(iter(held.rows()), None)
            for row in numbers.select(optimizer=index).rows():
                if row["step"] > failing:
                    continue
                known[row["name"]] = row["value"]
                if row["name"] in told:
                    continue
                one = self._suspected(row, known, producer)
                if one is not None and one.name == "weight_decay" and not _ordinary(rate):
                    continue
                if one is not None:
                    told.add(row["name"])
                    yield one
            if known.get("centered"):
                yield from self._centred(trace, index, producer)

    def _suspected(
        self, row: dict[str, Any], known: Mapping[str, float], producer: Producer | None
    ) -> _Suspect | None:
        """Return what is wrong with one number, or None."""
        name, value = row["name"], row["value"]
        does, fits = "", True
        if name == "learning_rate" and not (math.isfinite(value) and value >= 0):
            does = "climbs" if value < 0 else "makes every weight that it updates NaN or Inf"
            fits = not math.isfinite(value)
        elif name in _EPSILONS and not value > _ZERO_IN_FLOAT32:
            does = "leaves 0/0 for every weight whose gradient is 0"
            fits = producer is not None and producer.op_type in DIVISIONS
        elif name in _DECAYS and not 0 <= value < 1:
            does = _of_decay(name, value)
        elif name == "weight_decay" and self._overshoots(value, known):
            factor = 1 - value * known["learning_rate"]
            does = f"multiplies every weight by {figure(factor)} in each step"
        elif name in {"loss_scale_factor", "loss_scale"}:
            does = self._of_scale(name, value)
            fits = producer is not None and producer.phase in {"loss", "backward", "update"}
        elif name == "initial_accumulator_value" and not value >= 0:
            does = "starts the sum of squares below zero, whose root is NaN"
            fits = producer is not None and producer.op_type in _ROOTS
        if not does:
            return None
        return _Suspect(
            name=name,
            optimizer=row["optimizer"],
            kind=row["optimizer_class"],
            value=value,
            step=row["step"],
            does=does,
            confidence=self._sure(name, producer, row["step"], fits=fits),
            fix=_fix(name, row),
            proof=Proof("fresh-hyperparameter", {"name": name, "optimizer": row["optimizer"]}),
            default=row["default"],
        )

    def _overshoots(self, decay: float, known: Mapping[str, float]) -> bool:
        """Say whether a decay makes weights grow at this rate, if the rate is one."""
        rate = known.get("learning_rate", 0.0)
        return math.isfinite(rate) and rate > 0 and not 0 <= decay * rate <= self.OVERSHOOT

    def _of_scale(self, name: str, value: float) -> str:
        """Return what a loss scale does that is none; a large dynamic one is still being sought."""
        if not math.isfinite(value) or value == 0:
            return "leaves no gradient: 0/0, or Inf/Inf, when it is divided out again"
        if name == "loss_scale_factor" and abs(value) > self.LARGEST_SCALE:
            return "throws the scaled loss, or its gradients, out of range"
        return ""

    def _sure(self, name: str, producer: Producer | None, since: int, *, fits: bool) -> float:
        """Return how well the number fits the place of the first bad value."""
        if producer is None:
            return self.DRIVEN
        scaled = name in {"loss_scale_factor", "loss_scale"}
        if producer.phase in _UPDATE or (scaled and producer.loss_finite):
            return self.SEEN if fits else self.UPDATE
        if scaled and producer.phase in {"loss", "backward"}:
            return self.UPDATE
        return self.DRIVEN if producer.step > since else self.ELSEWHERE

    def _centred(self, trace: Trace, index: int, producer: Producer | None) -> Iterable[_Suspect]:
        """Yield a centred RMSprop that took the root of a variance below zero by rounding."""
        if producer is None or producer.phase != "update" or producer.op_type not in _ROOTS:
            return
        radicand = producer.input(0)
        if radicand is None or not radicand.smallest() < 0:
            return
        slots = trace.table("slots").select(step=producer.step, when="before")
        squares = [
            float(size)
            for name, size in zip(slots["variable"], slots["absmax"], strict=True)
            if str(name).endswith("_velocity")
        ]
        if any(low < 0 for low in _lows(trace, producer.step)):
            return
        largest = max((size for size in squares if math.isfinite(size)), default=math.nan)
        if -radicand.smallest() > self.ROUNDING * largest:
            return
        yield _Suspect(
            name="centered",
            optimizer=index,
            kind="RMSprop",
            value=1.0,
            step=0,
            does=(
                f"takes the root of E[g^2] - E[g]^2 = {figure(radicand.smallest())}, which is "
                f"rounding beside an E[g^2] of up to {figure(largest)}, and its epsilon is less"
            ),
            confidence=self.SEEN,
            fix=(
                "Leave the centring out, `keras.optimizers.RMSprop(centered=False)`, or give it "
                "an epsilon that outweighs the rounding of E[g^2]: "
                f"`epsilon={figure(max(1e-3, 10 * -radicand.smallest()))}`."
            ),
            proof=Proof("fresh-hyperparameter", {"name": "centered", "optimizer": index}),
        )

    def _of_penalties(self, trace: Trace, producer: Producer | None) -> Iterable[_Suspect]:
        """Yield an L2 penalty so strong that a step of plain SGD overshoots zero by it."""
        numbers = trace.table("hyperparameters").select(step=0, optimizer=0)
        held = {row["name"]: row for row in numbers.rows()}
        rate = held.get("learning_rate")
        if rate is None or rate["optimizer_class"] not in _PROPORTIONAL or not _ordinary(rate):
            return
        momentum = held["momentum"]["value"] if "momentum" in held else 0.0
        most = self.OVERSHOOT * (1 + momentum)
        strong = {
            row["layer"]: strength
            for row in trace.table("layers").rows()
            if (strength := _strength(row["config"])) * 2 * rate["value"] > most
        }
        if not strong:
            return
        layer, strength = max(strong.items(), key=lambda item: item[1])
        weights = trace.table("weights").select(step=0, when="before")
        terms = [
            f"regularizer/{path}"
            for path, owner in zip(weights["variable"], weights["layer"], strict=True)
            if owner in strong and str(path).endswith("kernel")
        ]
        yield _Suspect(
            name="l2",
            optimizer=0,
            kind=f"the penalty on {layer!r}",
            value=strength,
            step=0,
            does=(
                f"takes {figure(2 * strength * rate['value'])} of every weight off it in each step "
                f"at a rate of {figure(rate['value'])}, which overshoots zero"
            ),
            confidence=self._sure("l2", producer, 0, fits=False),
            fix=(
                "Weaken the penalty: `kernel_regularizer=keras.regularizers.L2(1e-4)`; "
                f"at this rate it must stay below {figure(most / 2 / rate['value'])}."
            ),
            proof=Proof("drop-regulariser", {"terms": terms}),
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return one example for each kind of number."""
        return (
            Example("a schedule past its end: a fraction of a negative number", _past_end),
            Example("an epsilon of 0, and a weight without a gradient", _no_epsilon),
            Example("a centred RMSprop whose variance rounds to below zero", _rounded),
            Example("a rate below zero, which climbs", _climbing),
            Example("a beta_2 above 1, whose bias correction has no root", _decay),
            Example("a weight decay of 5,000 at a rate of 1e-3", _decayed),
            Example("a penalty that overshoots zero at this rate", _penalised),
            Example("a fixed loss scale of 1e38", _scaled),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return numbers that are fine, and odd ones that do no harm."""
        return (
            Example("a healthy run", training_trace),
            Example("a healthy run with an epsilon of 0", lambda: _run({"epsilon": 0.0})),
            Example("a division in the update with an epsilon that is there", _with_epsilon),
            Example("a schedule that has come to its end, at a rate of 0", _at_end),
            Example("a second moment that was below zero as it was loaded", _corrupt),
            Example("a weight decay that halves the weights", lambda: _lost({"weight_decay": 500})),
            Example(
                "clipping at 0, which Keras leaves out",
                lambda: _lost({"clipnorm": 0.0, "global_clipnorm": -1.0}),
            ),
            Example(
                "a loss scale of 2**15, as Keras begins",
                lambda: _lost({"loss_scale": 2.0**15, "loss_scale_factor": 1024.0}),
            ),
        )


def _variable_read(trace: Trace) -> str:
    """Return the own name of the variable that the first bad value was read from; else empty."""
    event = _batch.primary(trace)
    came = event is not None and event["origin"] == "variable"
    return str(event["origin_name"]).rpartition("/")[2] if event is not None and came else ""


def _ordinary(rate: Mapping[str, Any] | None) -> bool:
    """Say whether a rate is one that people use: what overshoots at any other is the rate's doing.

    Unknown defaults count as ordinary.
    """
    return rate is None or not rate["value"] > ORDINARY * rate["default"] * (1 + 1e-6)


def _key(proof: Proof) -> tuple[str, str]:
    return proof.trial, json.dumps(dict(proof.parameters), sort_keys=True)


def _mended(trace: Trace) -> frozenset[tuple[str, str]]:
    """Return the trials that made the failure go away: they say which of several numbers it was."""
    rows = trace.table("trials").select(outcome="finite")
    return frozenset((str(row["name"]), str(row["parameters"])) for row in rows.rows())


def _sureness(one: _Suspect) -> float:
    return -one.confidence


def _lows(trace: Trace, step: int) -> list[float]:
    slots = trace.table("slots").select(step=step, when="before")
    pairs = zip(slots["variable"], slots["min"], strict=True)
    return [float(low) for name, low in pairs if str(name).endswith("_velocity")]


def _strength(config: str) -> float:
    """Return the strength of a layer's L2 penalty on its kernel; 0 without one."""
    try:
        penalty = (json.loads(config or "{}") or {}).get("kernel_regularizer") or {}
        return float((penalty.get("config") or {}).get("l2") or 0.0)
    except (ValueError, TypeError, AttributeError):
        return 0.0


def _of_decay(name: str, value: float) -> str:
    if name == "momentum":
        return "lets the steps add up without end"
    if value < 0:
        return "makes no mean of the gradients: their signs alternate"
    if value == 1 and name.endswith("beta_1"):
        return "leaves a bias correction of 0 to divide by"
    if value == 1:
        return "keeps the mean of squares at the 0 where it began"
    return "makes the mean of squares, or the correction of its bias, negative"


def _sentence(first: _Suspect, producer: Producer | None, suspects: list[_Suspect]) -> str:
    if first.name == "centered":
        which = "RMSprop with centered=True"
    elif first.name == "l2":
        which = f"{first.kind[0].upper()}{first.kind[1:]}, an L2 of {figure(first.value)},"
    else:
        number = figure(first.value) if math.isfinite(first.value) else str(first.value)
        since = f" from step {first.step} on" if first.step else ""
        which = f"The {first.name} of {first.kind} is {number.replace('nan', 'NaN')}{since}, which"
    made = ""
    if producer is not None and producer.phase in _UPDATE:
        into = ", ".join(
            figure(operand.value)
            for operand in producer.all("input")[:2]
            if math.isfinite(operand.value)
        )
        of = f" of {into}" if into and first.name != "centered" else ""
        made = f"; the first bad value came out of {producer.op_type}{of} in the update"
        made += f" at {producer.source}" if producer.source else ""
    others = [one.name for one in suspects if one is not first]
    more = f"; {', '.join(others)} cannot be either" if others else ""
    return f"{which} {first.does}{made}{more}."


def _evidence(one: _Suspect) -> Iterable[Evidence]:
    where = "/layers/config" if one.name == "l2" else "/hyperparameters/value"
    if one.name == "centered":
        yield Evidence("RMSprop is centred", value=True, where=where)
        return
    number = "" if math.isfinite(one.value) else f" ({one.value})"
    yield measured(f"{one.name} of {one.kind} in step {one.step}{number}", one.value, where)
    if math.isfinite(one.default):
        yield measured(f"Keras' default of {one.name}", one.default, "/hyperparameters/default")


def _fix(name: str, row: dict[str, Any]) -> str:
    default = row["default"]
    kind = row["optimizer_class"]
    if name == "learning_rate" and row["schedule"]:
        return (
            f"Keep {row['schedule']} within its range: `tf.maximum(1.0 - step / total, 0.0)` past "
            "its end, `step / max(warmup_steps, 1)` for a warm-up that may be empty."
        )
    if name == "learning_rate":
        rate = figure(default) if math.isfinite(default) else "1e-3"
        return f"Give {kind} a positive rate: `keras.optimizers.{kind}(learning_rate={rate})`."
    if name == "loss_scale":
        return (
            "Start the search for a loss scale anew: "
            "`keras.optimizers.LossScaleOptimizer(inner, initial_scale=2.0**15)`."
        )
    if name == "loss_scale_factor":
        return (
            "Leave the fixed scale out, or have one searched: `loss_scale_factor=None` and "
            "`keras.optimizers.LossScaleOptimizer(inner)`."
        )
    if name == "weight_decay":
        return f"Use a decay of the usual size: `keras.optimizers.{kind}(weight_decay=4e-3)`."
    usual = figure(default) if math.isfinite(default) else "its default"
    return f"Take the default: `keras.optimizers.{kind}({name}={usual})`."


def _run(numbers: Mapping[str, Any], **fields: Any) -> Trace:
    return training_trace(hyperparameters=numbers, **fields)


def _lost(numbers: Mapping[str, Any], *events: SyntheticEvent, **fields: Any) -> Trace:
    return _run(numbers, **{"losses": (0.7,), "outcome": "diverged", "events": events, **fields})


def _in_update(op_type: str, *inputs: float) -> SyntheticEvent:
    return SyntheticEvent(
        op_type, phase="update", reaches="state", inputs=inputs, input_values=inputs
    )


def _past_end() -> Trace:
    event = SyntheticEvent(
        "Pow", phase="update", reaches="state", source="train.py:30",
        inputs=(-0.1, 0.9), input_values=(-0.1, 0.9),
    )  # fmt: skip
    rates = {"learning_rate": (0.0126, 0.0, math.nan)}
    return _lost(rates, event, losses=(1.4, 1.4, 1.4), schedule="PolyDecay", optimizer="SGD")


def _no_epsilon() -> Trace:
    return _lost({"epsilon": 0.0}, _in_update("RealDiv", 0.0, 0.0))


def _rounded() -> Trace:
    slots = {"rms_sprop/critic_kernel_velocity": [1.1e7, 4.0e7]}
    return _lost(
        {"centered": 1.0, "epsilon": 1e-7}, _in_update("Sqrt", -4.0), slots=slots,
        optimizer="RMSprop",
    )  # fmt: skip


def _climbing() -> Trace:
    return _lost({"learning_rate": -1.0}, losses=(1.0, 40.0, 3e3), learning_rate=-1.0)


def _decay() -> Trace:
    return _lost({"beta_2": 1.001}, _in_update("Sqrt", -0.001))


def _decayed() -> Trace:
    return _lost({"weight_decay": 5e3, "learning_rate": 1e-3}, losses=(1.0, 90.0, 8e3))


def _penalised() -> Trace:
    from divergence_doctor.trace import Trace as WholeTrace
    from divergence_doctor.trace import TraceBuilder

    trace = _lost({"learning_rate": 0.01, "momentum": 0.0}, losses=(1.0, 1e4), optimizer="SGD")
    builder = TraceBuilder()
    config = json.dumps({"kernel_regularizer": {"class_name": "L2", "config": {"l2": 1e4}}})
    builder.add("layers", order=0, layer="dense", layer_class="Dense", config=config)
    tables = {name: trace.table(name) for name in ("steps", "hyperparameters", "weights")}
    tables["layers"] = builder.build().table("layers")
    return WholeTrace(tables, trace.context)


def _scaled() -> Trace:
    event = SyntheticEvent(
        "Mul", phase="loss", inputs=(12.0, 1e38), input_values=(12.0, 1e38), outputs=(math.inf,)
    )
    return _lost({"loss_scale_factor": 1e38}, event, losses=(12.0,))


def _with_epsilon() -> Trace:
    return _lost({"epsilon": 1e-7, "beta_1": 0.9}, _in_update("RealDiv", 1e38, 1e-7))


def _at_end() -> Trace:
    return _lost({"learning_rate": (0.1, 0.0)}, losses=(1.0, math.nan), schedule="PolyDecay")


def _corrupt() -> Trace:
    slots = {"rms_sprop/critic_kernel_velocity": [-0.5, 4.0]}
    return _lost({"centered": 1.0}, _in_update("Sqrt", -0.5), slots=slots, optimizer="RMSprop")
