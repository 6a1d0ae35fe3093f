"""What would a trace of such a run look like? Small traces for rules, figures, tests and notebooks.

Nothing is replayed: the figures are written out or computed plainly in float64. A rule's examples
say in a line what they show::

    training_trace(losses=(2.3, 9.0e3, math.nan), learning_rate=1.0, update_ratio=5.0)
"""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np

from divergence_doctor.trace.builder import TraceBuilder
from divergence_doctor.trace.schema import EXPONENT_BINS, EXPONENT_MAX, EXPONENT_MIN

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from numpy.typing import ArrayLike, NDArray

    from divergence_doctor.trace.model import Trace


def tensor(values: ArrayLike) -> dict[str, Any]:
    """Return the statistics of an array, computed the slow and obvious way in float64.

    Args:
        values: numbers of any shape; float arrays keep their dtype's idea of subnormal.

    Returns:
        The columns of ``schema.STATISTICS`` for one row, with ``dtype`` and ``shape``.
    """
    array = np.asarray(values)
    kind = array.dtype
    tiny = float(np.finfo(kind).tiny) if np.issubdtype(kind, np.floating) else 0.0
    wide = array.astype(np.float64).ravel()
    finite = wide[np.isfinite(wide)]
    magnitudes = np.abs(finite)
    nonzero = magnitudes[magnitudes > 0]
    exponents = np.zeros(EXPONENT_BINS, dtype=np.uint32)
    for magnitude in nonzero:
        exponent = math.frexp(float(magnitude))[1] - 1
        exponents[min(max(exponent, EXPONENT_MIN), EXPONENT_MAX) - EXPONENT_MIN] += 1
    some = finite.size > 0
    return {
        "size": wide.size,
        "nan": int(np.isnan(wide).sum()),
        "posinf": int(np.isposinf(wide).sum()),
        "neginf": int(np.isneginf(wide).sum()),
        "zero": int((finite == 0).sum()),
        "subnormal": int((nonzero < tiny).sum()),
        "negative": int((finite < 0).sum()),
        "min": float(finite.min()) if some else math.nan,
        "max": float(finite.max()) if some else math.nan,
        "mean": float(finite.mean()) if some else math.nan,
        "std": float(finite.std()) if some else math.nan,
        "l2": float(np.sqrt(np.sum(finite**2))) if some else 0.0,
        "absmax": float(magnitudes.max()) if some else math.nan,
        "exponents": exponents,
        "dtype": str(kind),
        "shape": "x".join(str(size) for size in array.shape),
    }


@dataclass(frozen=True)
class SyntheticEvent:
    """One non-finite event; ``inputs`` and ``outputs`` become operands with these values.

    ``input_values`` are the inputs' values at the bad element, ``input_makers`` the ops that made
    them, ``input_variables`` the variables that they are (empty for what an op made), and
    ``input_arrays`` the arrays of the batch (empty for what is none).
    """

    op_type: str
    phase: str = "loss"
    layer: str = ""
    source: str = ""
    derivative: bool = False
    produced: bool = True
    origin: str = "op"
    origin_name: str = ""
    reaches: str = "loss"
    primary: bool = True
    samples: Sequence[int] = ()
    inputs: Sequence[ArrayLike] = ()
    input_values: Sequence[float] = ()
    input_makers: Sequence[str] = ()
    input_variables: Sequence[str] = ()
    input_arrays: Sequence[str] = ()
    outputs: Sequence[ArrayLike] = ()
    step: int | None = None
    layer_class: str = ""
    divides: bool = False
    element: str = "0"
    #: Rows of table ``chain``, nearest first.
    chain: Sequence[Mapping[str, Any]] = ()


@dataclass(frozen=True)
class SyntheticRun:
    """What :func:`training_trace` takes; every field has a healthy default.

    Attributes:
        losses: loss of each replayed step; the run diverged at the first non-finite one.
        layers: layers in the order of execution.
        activation_absmax: largest activation of each layer (or one for all).
        gradient_l2: L2 norm of the gradient of each layer's kernel (or one for all).
        weight_l2: L2 norm of each kernel before the step.
        update_ratio: L2 of the update over L2 of the weight, per step (or one for all).
        x, y, sample_weight: arrays of the batch.
        loss_name: Keras class name of the loss.
        weights: extra variables by path, with their values before the step.
        raised: message of an exception that ended the last step.
        divisions: rows of table ``divisions``.
        executions: rows of table ``executions``.
        configs: configs of layers by path.
        float32: rows of table ``float32``, about the first event unless they say otherwise.
        slots: variables of the optimizer by path, with their values before the first step.
        hyperparameters: numbers of the optimizer by name, one for each step (or one for all).
        schedule: class of the learning rate schedule.
        defects: rows of table ``defects``.
        outputs: what a layer put out in every step, of shape (batch, ..., units), by layer.
        rows: further rows of tables, by table.
    """

    losses: Sequence[float] = (1.0, 0.9)
    layers: Sequence[str] = ("dense", "dense_1")
    layer_class: str = "Dense"
    activation_absmax: float | Sequence[float] = 1.0
    gradient_l2: float | Sequence[float] = 0.1
    weight_l2: float = 1.0
    update_ratio: float | Sequence[float] = 1e-3
    learning_rate: float = 1e-3
    optimizer: str = "Adam"
    dtype: str = "float32"
    x: ArrayLike | None = None
    y: ArrayLike | None = None
    sample_weight: ArrayLike | None = None
    loss_name: str = "MeanSquaredError"
    from_logits: bool = False
    classes: int = 1
    activation: str = "linear"
    weights: Mapping[str, ArrayLike] = field(default_factory=dict)
    events: Sequence[SyntheticEvent] = ()
    raised: str = ""
    raised_type: str = ""
    raised_op: str = ""
    raised_layer: str = ""
    outcome: str | None = None
    trials: Sequence[Mapping[str, Any]] = ()
    divisions: Sequence[Mapping[str, Any]] = ()
    executions: Sequence[Mapping[str, Any]] = ()
    configs: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    float32: Sequence[Mapping[str, Any]] = ()
    slots: Mapping[str, ArrayLike] = field(default_factory=dict)
    hyperparameters: Mapping[str, float | Sequence[float]] = field(default_factory=dict)
    schedule: str = ""
    defects: Sequence[Mapping[str, Any]] = ()
    outputs: Mapping[str, ArrayLike] = field(default_factory=dict)
    rows: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    context: Mapping[str, Any] = field(default_factory=dict)


def training_trace(**fields: Any) -> Trace:
    """Return the trace of a made-up run; see :class:`SyntheticRun` for the fields."""
    run = SyntheticRun(**fields)
    builder = TraceBuilder()
    _steps(builder, run)
    _layers(builder, run)
    _batch(builder, run)
    _weights(builder, run)
    _optimizer(builder, run)
    for defect in run.defects:
        builder.add("defects", **{"owner": "weights", **defect})
    for order, event in enumerate(run.events):
        _event(builder, run, order, event)
    for division in run.divisions:
        builder.add("divisions", **division)
    for number, execution in enumerate(run.executions):
        builder.add("executions", **{"step": number, "execution": "as-trained", **execution})
    for row in run.float32:
        builder.add("float32", **_beside(run, row))
    for table, rows in run.rows.items():
        for row in rows:
            builder.add(table, **row)
    for trial in run.trials:
        builder.add("trials", **{"breadth": 1, "parameters": "{}", **trial})
    diverged = run.outcome or ("diverged" if _failing(run) is not None else "healthy")
    builder.describe(
        outcome=diverged,
        failing_step=_failing(run) if diverged == "diverged" else None,
        outcome_because="made up",
        optimizer={"class": run.optimizer, "config": {"learning_rate": run.learning_rate}},
        **run.context,
    )
    return builder.build()


def _weights(builder: TraceBuilder, run: SyntheticRun) -> None:
    for name, values in run.weights.items():
        builder.add(
            "weights",
            step=0,
            when="before",
            variable=name,
            layer=name.rpartition("/")[0],
            trainable=True,
            **tensor(values),
        )


def _beside(run: SyntheticRun, row: Mapping[str, Any]) -> dict[str, Any]:
    """Return one row of ``float32``, the figures that it leaves out taken from those it has."""
    value, wide = row["value"], row["float32"]
    finite, wide_finite = math.isfinite(value), math.isfinite(wide)
    return {
        "step": len(run.losses) - 1,
        "op": 0,
        "link": -1,
        "position": 0,
        "origin": "op",
        "dtype": run.dtype,
        "absmax": abs(value) if finite else math.nan,
        "float32_absmax": abs(wide) if wide_finite else math.nan,
        "nonfinite": int(not finite),
        "float32_nonfinite": int(not wide_finite),
        "step_finite": True,
        **row,
    }


def _failing(run: SyntheticRun) -> int | None:
    if run.raised or run.events:
        return len(run.losses) - 1
    bad = [step for step, loss in enumerate(run.losses) if not math.isfinite(loss)]
    return bad[0] if bad else (len(run.losses) - 1 if run.outcome == "diverged" else None)


def _per(value: float | Sequence[float], index: int) -> float:
    return (
        float(value) if isinstance(value, int | float) else float(value[min(index, len(value) - 1)])
    )


def _steps(builder: TraceBuilder, run: SyntheticRun) -> None:
    norm = math.sqrt(sum(_per(run.gradient_l2, i) ** 2 for i in range(len(run.layers))))
    for step, loss in enumerate(run.losses):
        last = step == len(run.losses) - 1
        builder.add(
            "steps",
            step=step,
            batch=0,
            loss=loss,
            learning_rate=run.learning_rate,
            gradient_norm=norm,
            update_norm=_per(run.update_ratio, step) * run.weight_l2 * math.sqrt(len(run.layers)),
            weight_norm=run.weight_l2 * math.sqrt(len(run.layers)),
            loss_finite=math.isfinite(loss),
            gradients_finite=math.isfinite(loss) and not (last and run.events),
            state_finite=math.isfinite(loss) and not (last and run.events),
            raised=run.raised if last else "",
            raised_type=run.raised_type if last else "",
            raised_op=run.raised_op if last else "",
            raised_layer=run.raised_layer if last else "",
            raised_phase="forward" if last and run.raised else "",
        )
        builder.add("losses", step=step, order=0, name="loss", value=loss)


def _optimizer(builder: TraceBuilder, run: SyntheticRun) -> None:
    for order, (name, values) in enumerate(run.slots.items()):
        builder.add(
            "slots",
            step=0,
            order=order,
            when="before",
            variable=name,
            optimizer=run.optimizer,
            **tensor(np.asarray(values, dtype="float32")),
        )
    numbers: dict[str, float | Sequence[float]] = {
        "learning_rate": run.learning_rate,
        **run.hyperparameters,
    }
    for step in range(len(run.losses)):
        for name, value in numbers.items():
            if step == 0 or not isinstance(value, int | float):
                builder.add(
                    "hyperparameters",
                    step=step,
                    optimizer=0,
                    optimizer_class=run.optimizer,
                    name=name,
                    value=_per(value, step),
                    schedule=run.schedule,
                )


def _layers(builder: TraceBuilder, run: SyntheticRun) -> None:
    generator = np.random.default_rng(0)
    count = len(run.layers)
    for order, layer in enumerate(run.layers):
        activation = run.activation if order == count - 1 else "relu"
        builder.add(
            "layers",
            order=order,
            layer=layer,
            layer_class=run.layer_class,
            activation=activation,
            dtype=run.dtype,
            parameters=64,
            config=json.dumps(run.configs.get(layer, {})),
        )
        shape = generator.normal(size=(8, 8))
        for step in range(len(run.losses)):
            common = {"step": step, "order": order, "layer": layer, "layer_class": run.layer_class}
            output = np.asarray(
                run.outputs.get(
                    layer,
                    _scaled(shape, absmax=_per(run.activation_absmax, order), dtype=run.dtype),
                )
            )
            seen = {**tensor(output), **_units(output)}
            builder.add("activations", **common, call=0, role="output", **seen)
            back = _scaled(shape, l2=_per(run.gradient_l2, order))
            builder.add("gradients", **common, call=0, variable="", **tensor(back))
            name = f"{layer}/kernel"
            builder.add("gradients", **common, call=-1, variable=name, **tensor(back))
            kernel = _scaled(shape, l2=run.weight_l2)
            builder.add(
                "weights", **common, when="before", variable=name, trainable=True, **tensor(kernel)
            )
            ratio = _per(run.update_ratio, step)
            builder.add(
                "updates",
                step=step,
                order=order,
                variable=name,
                layer=layer,
                ratio=ratio,
                after_nonfinite=0,
                **tensor(_scaled(shape, l2=ratio * run.weight_l2)),
            )


def _units(output: NDArray[Any]) -> dict[str, int]:
    """Return how many units are 0 throughout, and how many values lie near 1 or -1."""
    units = output.reshape(-1, output.shape[-1])
    rectified, bounded = bool((output >= 0).all()), bool((np.abs(output) <= 1).all())
    return {
        "dead_units": int((units == 0).all(axis=0).sum()) if rectified else -1,
        "near_one": int((np.abs(output) >= 1 - 2.0**-9).sum()) if bounded else -1,
    }


def _scaled(
    values: NDArray[Any],
    *,
    absmax: float | None = None,
    l2: float | None = None,
    dtype: str = "float32",
) -> NDArray[Any]:
    if absmax is not None and math.isfinite(absmax):
        return np.asarray(values * (absmax / np.abs(values).max()), dtype=dtype)
    if l2 is not None and math.isfinite(l2):
        return np.asarray(values * (l2 / np.linalg.norm(values)))
    return np.full(values.shape, np.nan)


def _batch(builder: TraceBuilder, run: SyntheticRun) -> None:
    x = np.random.default_rng(1).normal(size=(8, 4)) if run.x is None else np.asarray(run.x)
    y = np.linspace(0.0, 1.0, len(x))[:, None] if run.y is None else np.asarray(run.y)
    arrays = {"x": x, "y": y}
    if run.sample_weight is not None:
        arrays["sample_weight"] = np.asarray(run.sample_weight)
    for name, array in arrays.items():
        wide = array.astype(np.float64)
        finite = np.where(np.isfinite(wide), wide, np.nan)
        whole = finite[np.isfinite(finite)]
        rows = finite.reshape(len(array), -1)
        builder.add(
            "batch",
            batch=0,
            name=name,
            role=name,
            integral=bool(np.all(whole == np.round(whole))),
            feature_std_max=float(np.nanmax(np.nanstd(rows, axis=0))) if whole.size else math.nan,
            **tensor(array),
        )
        in_a_row = name == "y" and array.ndim == 2 and array.shape[1] > 1
        for sample, row in enumerate(wide.reshape(len(array), -1)):
            labels = row[: np.flatnonzero(row)[-1] + 1] if row.any() else row[:0]
            alike = sum(a == b != 0 for a, b in itertools.pairwise(row.tolist()))
            good = row[np.isfinite(row)]
            builder.add(
                "samples",
                batch=0,
                sample=sample,
                name=name,
                role=name,
                nonfinite=int(np.sum(~np.isfinite(row))),
                zero=int(np.sum(row == 0)),
                size=row.size,
                min=float(good.min()) if good.size else math.nan,
                max=float(good.max()) if good.size else math.nan,
                second_min=min(good[good > good.min(initial=math.inf)], default=math.nan),
                second_max=max(good[good < good.max(initial=-math.inf)], default=math.nan),
                integral=bool(np.all(good == np.round(good))),
                repeats=alike if in_a_row else -1,
                inner_zeros=int((labels == 0).sum()) if in_a_row else -1,
            )
        for index in np.argwhere(~np.isfinite(wide)):
            builder.add(
                "cells",
                batch=0,
                name=name,
                sample=int(index[0]),
                index=",".join(str(i) for i in index),
                value=float(wide[tuple(index)]),
            )
    builder.add(
        "targets",
        output="output",
        array="y",
        loss=run.loss_name,
        builtin=True,
        from_logits=run.from_logits,
        classes=run.classes,
        ignore_class=-1,
        activation=run.activation,
        config="{}",
    )


def _event(builder: TraceBuilder, run: SyntheticRun, order: int, event: SyntheticEvent) -> None:
    step = (len(run.losses) - 1) if event.step is None else event.step
    outputs = [np.asarray(value, dtype=np.float64) for value in event.outputs] or [
        np.array([np.nan])
    ]
    builder.add(
        "events",
        step=step,
        op=order,
        op_type=event.op_type,
        phase=event.phase,
        derivative=event.derivative,
        layer=event.layer,
        layer_class=event.layer_class,
        call=0 if event.layer else -1,
        source=event.source,
        nan=sum(int(np.isnan(value).sum()) for value in outputs),
        posinf=sum(int(np.isposinf(value).sum()) for value in outputs),
        neginf=sum(int(np.isneginf(value).sum()) for value in outputs),
        produced=event.produced,
        origin=event.origin,
        origin_name=event.origin_name or event.op_type,
        reaches=event.reaches,
        primary=event.primary,
        divides=event.divides,
        element=event.element,
        samples=json.dumps(list(event.samples)),
    )
    for number, link in enumerate(event.chain):
        followed = {"what": "op", "phase": "forward", "followed": True}
        builder.add("chain", **{"step": step, "op": order, "link": number, **followed, **link})
    for position, value in enumerate(event.inputs):
        at = event.input_values[position] if position < len(event.input_values) else math.nan
        makers, variables = event.input_makers, event.input_variables
        variable = variables[position] if position < len(variables) else ""
        array = event.input_arrays[position] if position < len(event.input_arrays) else ""
        made_by = makers[position] if position < len(makers) else ""
        builder.add(
            "operands",
            step=step,
            op=order,
            position=position,
            role="input",
            origin="variable" if variable else "batch" if array else "op",
            origin_name=variable or array or made_by,
            value=at,
            **tensor(np.asarray(value, dtype=run.dtype)),
        )
    for position, value in enumerate(outputs):
        builder.add(
            "operands",
            step=step,
            op=order,
            position=position,
            role="output",
            origin="op",
            value=float(value.ravel()[0]),
            **tensor(value),
        )
