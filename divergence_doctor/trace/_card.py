"""How does a trace look in a notebook? Outcome, losses over the steps, and what it holds."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Final

from divergence_doctor import _html
from divergence_doctor.trace.schema import TABLES

if TYPE_CHECKING:
    from divergence_doctor.trace.model import Trace

_STEPS: Final = 12
_COLUMNS: Final = ("step", "loss", "learning_rate", "gradient_norm", "update_norm", "weight_norm")
#: Tables that are attributes of the trace.
_FRAMES: Final = frozenset(
    {"steps", "activations", "gradients", "weights", "updates", "samples", "events", "trials"}
)


def card(trace: Trace) -> str:
    """Return the trace as HTML; every text in it is escaped."""
    step = trace.failing_step
    where = "" if step is None else f", at step {step}"
    because = str(trace.context.get("outcome_because", ""))
    return _html.card(
        trace.outcome,
        f"Trace: {trace.outcome}{where}",
        _html.paragraph(because) if because else "",
        _losses(trace),
        _html.details("What it holds", _contents(trace)),
    )


def _losses(trace: Trace) -> str:
    steps = trace.table("steps")
    if not len(steps):
        return ""
    losses = [float(loss) for loss in steps["loss"]] if "loss" in steps else []
    line = _html.sparkline(losses, f"loss over {len(losses)} steps")
    columns = [name for name in _COLUMNS if name in steps]
    head = [name.replace("_", " ") for name in columns]
    rows = [
        [_number(float(row[column])) for column in columns]
        for row in map(steps.row, _shown(len(steps)))
    ]
    told = f"loss {_number(losses[0])} … {_number(losses[-1])} " if len(losses) > 1 else ""
    more = f"{len(steps):,} steps, the first and the last of them" if len(steps) > _STEPS else ""
    return (
        f"<p style='margin:.4em 0'>{told}{line}</p>"
        + _html.table(head, rows)
        + (_html.paragraph(more) if more else "")
    )


def _shown(length: int) -> list[int]:
    """Return the rows to show: the first and, with what the run died of, the last."""
    if length <= _STEPS:
        return list(range(length))
    half = _STEPS // 2
    return [*range(half), *range(length - half, length)]


def _contents(trace: Trace) -> str:
    rows = [
        (
            f"`trace.{name}`" if name in _FRAMES else f"`trace.table({name!r})`",
            f"{len(trace.table(name)):,}",
            spec.row,
        )
        for name, spec in TABLES.items()
        if len(trace.table(name))
    ]
    told = "`trace.to_xarray()` has them as labelled arrays, `trace.plot.` draws the figures."
    return _html.table(("table", "rows", "one row is"), rows, left=("table", "one row is")) + (
        _html.paragraph(told)
    )


def _number(value: float) -> str:
    if math.isfinite(value):
        return f"{value:.4g}"
    return "NaN" if math.isnan(value) else "Inf" if value > 0 else "-Inf"
