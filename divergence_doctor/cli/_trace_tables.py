"""What does a trace hold, for a reader at a terminal? Steps, layers, first bad op, trials."""

from __future__ import annotations

import math
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.cli import _layer_bars, _spark
from divergence_doctor.cli._suggest import suggestion
from divergence_doctor.errors import UsageError
from divergence_doctor.reporters._text import NONE, measured, number

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

    from divergence_doctor.cli._screen import Screen
    from divergence_doctor.reporters._parts import Document, LayerRow
    from divergence_doctor.trace import Table, Trace

_MARK: Final = "▶"
_FAILING: Final = "bold red"
_STYLES: Final = {"diverged": "bold red", "healthy": "bold green", "inconclusive": "bold yellow"}
#: What the layers can be sorted by: text rising, figures falling.
IN_ORDER: Final = "order"
SORTS: Final[dict[str, Callable[[LayerRow], Any] | None]] = {
    IN_ORDER: None,
    "layer": lambda row: row.layer,
    "class": lambda row: row.layer_class,
    "forward": lambda row: row.forward_absmax,
    "gradient": lambda row: row.gradient_absmax,
    "weight": lambda row: row.weight_absmax,
    "ratio": lambda row: row.update_ratio,
    "nonfinite": lambda row: row.forward_nonfinite + row.gradient_nonfinite,
    "parameters": lambda row: row.parameters,
}
_TRIAL_STYLES: Final = {"finite": "green", "still-fails": "red", "not-run": "dim"}


def step_tables(
    trace: Trace,
    screen: Screen,
    *,
    step: int | None,
    sort: str = IN_ORDER,
    pattern: str | None = None,
) -> None:
    """Put the tables of a trace on the screen.

    Args:
        trace: the trace.
        screen: takes the tables.
        step: the step of the layers and gradients; the failing one by default, else the last.
        sort: what the layers are sorted by, a key of ``SORTS``.
        pattern: only the layers whose path this matches (``*``, ``?``, ``[...]``), and their
            gradients; everything by default.

    Raises:
        UsageError: the trace holds no such step, no such layer, or there is nothing to sort by.
    """
    from divergence_doctor.diagnosis import diagnose
    from divergence_doctor.reporters import document

    _check_step(trace, step)
    _check_sort(sort)
    told = document(trace, diagnose(trace))
    shown = told.layers_step if step is None else step
    only = None if pattern is None else frozenset(matching(trace, pattern))
    if only is None:
        screen.text(told.headline, _STYLES[told.outcome])
        screen.text(told.summary)
        _steps(screen, told)
    _layers(trace, screen, told, shown, sort=sort, only=only)
    _gradients(trace, screen, shown, sort=sort, only=only)
    if only is not None:
        return
    if told.where is not None and step in (None, told.where.step):
        _first_bad_op(screen, told)
    _trials(screen, told)


def layer_tables(trace: Trace, screen: Screen, *, name: str, step: int | None) -> None:
    """Put every tensor of one layer on the screen.

    Args:
        trace: the trace.
        screen: takes the table.
        name: path of the layer, or the end of it.
        step: only this step; all of them by default.

    Raises:
        UsageError: the trace holds no such layer, or no such step.
    """
    _check_step(trace, step)
    layer = _find_layer(trace, name)
    screen.text(layer, "bold")
    for row in trace.table("layers").select(layer=layer).rows():
        for label in ("layer_class", "activation", "dtype", "parameters", "config"):
            if row[label] not in ("", -1):
                screen.text(f"{label.replace('layer_', '')}: {row[label]}")
    screen.heading("Tensors, in the order in which they were seen")
    every = list(_tensors_of(trace, layer, step))
    low, high = _spark.range_of(np.asarray([row["exponents"] for _, row in every]))
    bars = _layer_bars.heading(low, high)
    screen.table(
        ("step", "what", "tensor", bars, "min", "max", "mean", "std", "l2", "NaN/Inf"),
        [
            _tensor(
                what, row, _spark.of_magnitudes(row["exponents"], low, high, plain=screen.plain)
            )
            for what, row in every
        ],
        left=("what", "tensor", bars),
        spare=("l2", "mean", "tensor", bars, "std", "min"),
    )


# ---------------------------------------------------------------------- the parts


def _steps(screen: Screen, told: Document) -> None:
    screen.heading("Steps")
    screen.table(
        ("", "step", "loss", "rate", "scale", "|gradient|", "|update|", "|weights|", "then"),
        [
            (
                _MARK if row.failing else "",
                str(row.step),
                number(row.loss),
                measured(row.learning_rate),
                measured(row.loss_scale),
                measured(row.gradient_norm),
                measured(row.update_norm),
                measured(row.weight_norm),
                row.state,
            )
            for row in told.steps
        ],
        left=("then",),
        styles=[_FAILING if row.failing else "" for row in told.steps],
        spare=("scale", "|weights|", "|update|", "|gradient|", "rate"),
    )


def _layers(
    trace: Trace,
    screen: Screen,
    told: Document,
    step: int,
    *,
    sort: str,
    only: frozenset[str] | None,
) -> None:
    from divergence_doctor.cli._layer_bars import LayerBars
    from divergence_doctor.reporters import _tables

    blamed = next((row.layer for row in told.layers if row.blamed), None)
    rows = told.layers if step == told.layers_step else _tables.layers(trace, blamed, step)
    # The tables are cleaned, and so is what they are compared with: a trace that was opened.
    rows = tuple(row for row in rows if only is None or row.layer in only)
    by = SORTS[sort]
    if by is not None:
        rows = tuple(sorted(rows, key=lambda row: _falling(by(row))))
    bars = LayerBars(trace, step, [row.layer for row in rows], plain=screen.plain)
    how = "in the order of execution" if by is None else f"by {sort}"
    screen.heading(f"Layers at step {step}, {how}")
    columns = (
        "", "layer", "class", *bars.headings,
        "|forward|", "NaN/Inf", "|gradient|", "NaN/Inf", "|weight|", "ratio",
    )  # fmt: skip
    screen.table(
        columns,
        [
            (
                _MARK if row.blamed else "",
                row.layer,
                row.layer_class,
                *bars.of(row.layer),
                measured(row.forward_absmax),
                _count(row.forward_nonfinite),
                measured(row.gradient_absmax),
                _count(row.gradient_nonfinite),
                measured(row.weight_absmax),
                measured(row.update_ratio),
            )
            for row in rows
        ],
        left=("layer", "class", *bars.headings),
        styles=[_layer_style(row) for row in rows],
        # What the steps did tells the most: the last to go.
        spare=(
            "class",
            *bars.headings[1:],
            "ratio",
            "|weight|",
            *bars.headings[:1],
            "|gradient|",
            "NaN/Inf",
        ),
    )
    screen.text("|…| is the largest magnitude, ratio |update| / |weights| in L2.", "dim")
    if bars.meaning:
        screen.text(bars.meaning, "dim")


def _falling(value: Any) -> tuple[bool, Any]:
    """Return what sorts text rising, figures falling, and what was not measured last."""
    if isinstance(value, str):
        return not value, value
    return math.isnan(value), 0.0 if math.isnan(value) else -float(value)


def _layer_style(row: LayerRow) -> str:
    if row.blamed:
        return _FAILING
    return "red" if row.forward_nonfinite or row.gradient_nonfinite else ""


def _gradients(
    trace: Trace, screen: Screen, step: int, *, sort: str, only: frozenset[str] | None
) -> None:
    table = trace.table("gradients").select(step=step)
    table = table.where(table["variable"] != "")
    if only is not None:
        table = table.where(np.isin(table["layer"].astype(str), sorted(only)))
    if not len(table):
        return
    updates = trace.table("updates").select(step=step)
    ratios = dict(zip(updates["variable"], updates["ratio"], strict=True))
    rows = list(table.rows())
    if sort in ("gradient", "nonfinite", "ratio"):
        rows.sort(key=lambda row: _falling(_gradient_by(sort, row, ratios)))
    screen.heading(f"Gradients of the variables at step {step}")
    screen.table(
        ("variable", "shape", "|gradient|", "l2", "NaN/Inf", "zero", "ratio"),
        [
            (
                row["variable"],
                row["shape"],
                measured(row["absmax"]),
                measured(row["l2"]),
                _count(_nonfinite(row)),
                _share(row["zero"], row["size"]),
                measured(float(ratios.get(row["variable"], math.nan))),
            )
            for row in rows
        ],
        left=("variable", "shape"),
        styles=["red" if _nonfinite(row) else "" for row in rows],
        spare=("zero", "shape", "ratio"),
    )


def _gradient_by(sort: str, row: dict[str, Any], ratios: dict[str, Any]) -> float:
    if sort == "gradient":
        return float(row["absmax"])
    return _nonfinite(row) if sort == "nonfinite" else float(ratios.get(row["variable"], math.nan))


def _first_bad_op(screen: Screen, told: Document) -> None:
    where = told.where
    if where is None:
        return
    screen.heading("First bad op")
    screen.text(where.sentence.replace("`", ""))
    if where.message:
        screen.text(where.message, "dim")
    if where.operands:
        screen.table(
            (
                "",
                "came from",
                "shape",
                "dtype",
                "at the bad element",
                "min",
                "max",
                "NaN/Inf",
                "zero",
            ),
            [
                (
                    f"{operand.role} {operand.position}",
                    operand.origin,
                    operand.shape,
                    operand.dtype,
                    measured(operand.value),
                    measured(operand.low),
                    measured(operand.high),
                    _count(operand.nonfinite),
                    _share(operand.zero, operand.size),
                )
                for operand in where.operands
            ],
            left=("came from",),
            spare=("dtype", "zero", "shape", "max", "min"),
        )
    if where.stack:
        screen.text(where.stack, "dim")


def _trials(screen: Screen, told: Document) -> None:
    if not told.proof:
        return
    screen.heading("Trials: the same steps with one thing changed")
    screen.table(
        ("trial", "changed", "then", "seen"),
        [(trial.name, trial.changed, trial.then, trial.detail) for trial in told.proof],
        left=("trial", "changed", "then", "seen"),
        styles=[_TRIAL_STYLES.get(trial.outcome, "") for trial in told.proof],
        spare=("trial",),
    )
    screen.text(told.proof_sentence)


# ---------------------------------------------------------------------- one layer


def _known(trace: Trace) -> list[str]:
    known = [str(layer) for layer in trace.table("layers")["layer"] if layer]
    known += [str(layer) for layer in trace.table("activations")["layer"] if layer]
    return list(dict.fromkeys(known))


def is_pattern(name: str) -> bool:
    """Say whether a name is meant to match several layers."""
    return any(mark in name for mark in "*?[")


def matching(trace: Trace, pattern: str) -> list[str]:
    """Return the layers whose path a pattern matches, whole or from a slash on.

    Raises:
        UsageError: none does.
    """
    known = _known(trace)
    found = [
        layer
        for layer in known
        if fnmatchcase(layer, pattern) or fnmatchcase(layer, f"*/{pattern}") or layer == pattern
    ]
    if found:
        return found
    raise UsageError(
        "unknown-layer",
        f"no layer matches {clean(pattern)!r}",
        why=f"the trace holds {len(known)} layers, and none of their paths does",
        fix="`doctor inspect` lists the layers; * stands for any characters, ? for one",
    )


def _check_sort(sort: str) -> None:
    if sort not in SORTS:
        raise UsageError(
            "unknown-column",
            f"the layers cannot be sorted by {clean(sort)!r}",
            why=f"they can by {', '.join(SORTS)}",
            fix=suggestion(sort, SORTS, f"--sort {next(iter(SORTS))} is the default"),
        )


def _find_layer(trace: Trace, name: str) -> str:
    known = _known(trace)
    if name in known:
        return name
    ending = [layer for layer in known if layer.endswith(f"/{name}")]
    if len(ending) == 1:
        return ending[0]
    raise UsageError(
        "unknown-layer",
        f"the trace has no layer {clean(name)!r}",
        why=f"{len(ending)} layers end so: {', '.join(clean(layer) for layer in ending[:5])}"
        if ending
        else f"it holds {len(known)} layers, and none is called so",
        fix=suggestion(
            name, [clean(layer) for layer in known], "`doctor inspect` lists the layers"
        ),
    )


def _check_step(trace: Trace, step: int | None) -> None:
    known = [int(one) for one in trace.table("steps")["step"]]
    if step is None or step in known:
        return
    raise UsageError(
        "unknown-step",
        f"the trace has no step {step}",
        why=f"it holds steps {known[0]} to {known[-1]}" if known else "it holds no steps",
        fix=f"give --step {known[-1]}, for example" if known else "replay with --steps N",
    )


def _tensors_of(trace: Trace, layer: str, step: int | None) -> Iterator[tuple[str, dict[str, Any]]]:
    """Yield what is known of each tensor of a layer, step by step, with what it is."""
    steps = [int(one) for one in trace.table("steps")["step"]]
    for now in steps if step is None else [step]:
        for what, table, name in (
            ("value of {}", "weights", "variable"),
            ("{}", "activations", "role"),
            ("gradient of {}", "gradients", "variable"),
            ("update of {}", "updates", "variable"),
        ):
            for row in _first_values(trace.table(table).select(step=now, layer=layer)):
                yield what.format(_called(layer, row, name)), row


def _first_values(table: Table) -> Iterable[dict[str, Any]]:
    """Return the rows, of weights only those before the step."""
    return (table.select(when="before") if "when" in table else table).rows()


def _called(layer: str, row: dict[str, Any], column: str) -> str:
    name = str(row[column]).removeprefix(f"{layer}/") or "output"
    return f"{name} (call {row['call']})" if row.get("call", 0) > 0 else name


def _tensor(what: str, row: dict[str, Any], bars: str) -> tuple[str, ...]:
    figures = (measured(row[column]) for column in ("min", "max", "mean", "std", "l2"))
    return (
        str(row["step"]),
        what,
        f"{row['dtype']} {row['shape']}",
        bars,
        *figures,
        _count(_nonfinite(row)),
    )


# ---------------------------------------------------------------------- figures


def _nonfinite(row: dict[str, Any]) -> int:
    return sum(max(int(row[column]), 0) for column in ("nan", "posinf", "neginf"))


def _count(count: int) -> str:
    return f"{count:,}" if count > 0 else NONE


def _share(count: int, size: int) -> str:
    return f"{count / size:.0%}" if count > 0 and size > 0 else NONE
