"""What happened in each step, and in each layer at the failing one? A row for each."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, final

from divergence_doctor.reporters._parts import LayerRow, StepRow

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.trace import Table, Trace


def steps(trace: Trace) -> tuple[StepRow, ...]:
    """Return one row per replayed step."""
    return tuple(
        StepRow(
            step=int(row["step"]),
            loss=row["loss"],
            learning_rate=row["learning_rate"],
            loss_scale=row["loss_scale"],
            gradient_norm=row["gradient_norm"],
            update_norm=row["update_norm"],
            weight_norm=row["weight_norm"],
            state=_state(row),
            failing=trace.failing_step == row["step"],
        )
        for row in trace.table("steps").rows()
    )


def _state(row: Mapping[str, Any]) -> str:
    """Say in words what did not stay finite in a step."""
    if row["raised"]:
        return f"raised {row['raised_type'] or 'an exception'}"
    bad = [
        word
        for column, word in (
            ("loss_finite", "loss"),
            ("gradients_finite", "gradients"),
            ("state_finite", "weights or state"),
        )
        if not row[column]
    ]
    said = f"not finite: {', '.join(bad)}" if bad else "finite"
    return f"{said}; update skipped by loss scaling" if row["skipped"] else said


def layers_step(trace: Trace) -> int:
    """Return the step that the table of layers shows: the failing one, else the last."""
    if trace.failing_step is not None:
        return trace.failing_step
    replayed = trace.table("steps")
    return int(replayed["step"][-1]) if len(replayed) else 0


def layers(trace: Trace, blamed: str | None, step: int | None = None) -> tuple[LayerRow, ...]:
    """Return one row per layer, in the order of execution.

    Args:
        trace: the trace.
        blamed: path of the layer in which the first non-finite value appeared.
        step: the replayed step; that of :func:`layers_step` by default.
    """
    step = layers_step(trace) if step is None else step
    seen = trace.table("layers")
    forward = _by_layer(trace.table("activations").select(step=step))
    gradients = trace.table("gradients").select(step=step)
    back = _by_layer(gradients)
    variables = _by_layer(gradients.where(gradients["variable"] != ""))
    held = _by_layer(trace.table("weights").select(step=step, when="before"))
    ratios = _by_layer(trace.table("updates").select(step=step), extra="ratio")
    known = {
        layer: (kind, dtype, int(parameters))
        for layer, kind, dtype, parameters in zip(
            seen["layer"], seen["layer_class"], seen["dtype"], seen["parameters"], strict=True
        )
    }
    order = dict.fromkeys([*known, *(layer for layer in forward if layer)])
    return tuple(
        LayerRow(
            place,
            layer,
            *known.get(layer, ("", "", -1)),
            forward_absmax=_of(forward, layer).absmax,
            forward_std=_of(forward, layer).std,
            forward_nonfinite=_of(forward, layer).nonfinite,
            gradient_absmax=_of(back, layer).absmax,
            gradient_l2=_of(variables if layer in variables else back, layer).l2,
            gradient_nonfinite=_of(back, layer).nonfinite,
            weight_absmax=_of(held, layer).absmax,
            weight_nonfinite=_of(held, layer).nonfinite,
            update_ratio=_of(ratios, layer).extra,
            blamed=layer == blamed,
        )
        for place, layer in enumerate(order)
    )


@final
@dataclass(slots=True)
class _Summary:
    """Statistics of all tensors of one layer together."""

    absmax: float = math.nan
    std: float = math.nan
    l2: float = math.nan
    extra: float = math.nan
    nonfinite: int = 0

    def add(self, *, absmax: float, std: float, l2: float, nonfinite: int, extra: float) -> None:
        self.absmax = _larger(self.absmax, absmax)
        self.std = _larger(self.std, std)
        self.extra = _larger(self.extra, extra)
        self.nonfinite += nonfinite
        # The recorded norm is that of the finite elements: what holds others has none to show.
        if self.nonfinite:
            self.l2 = math.nan
        else:
            # hypot, not a sum of squares: norms up to 1e308 must not overflow on the way.
            self.l2 = l2 if math.isnan(self.l2) else math.hypot(self.l2, l2)


def _larger(left: float, right: float) -> float:
    return right if math.isnan(left) or right > left else left


def _of(summaries: Mapping[str, _Summary], layer: str) -> _Summary:
    return summaries.get(layer) or _Summary()


def _by_layer(table: Table, extra: str | None = None) -> dict[str, _Summary]:
    summaries: dict[str, _Summary] = {}
    bad = table["nan"].clip(0) + table["posinf"].clip(0) + table["neginf"].clip(0)
    more = table[extra] if extra is not None else table["absmax"]
    columns = (table["layer"], table["absmax"], table["std"], table["l2"], bad, more)
    for layer, absmax, std, l2, nonfinite, value in zip(*columns, strict=True):
        summaries.setdefault(layer, _Summary()).add(
            absmax=float(absmax),
            std=float(std),
            l2=float(l2),
            nonfinite=int(nonfinite),
            extra=float(value),
        )
    return summaries
