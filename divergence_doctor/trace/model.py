"""What can be asked of a trace? Its tables, its context and its outcome, without TensorFlow."""

from __future__ import annotations

from html import escape
from typing import TYPE_CHECKING, Any, final

from divergence_doctor._clean import clean
from divergence_doctor.trace.schema import TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from divergence_doctor.trace.table import Table


@final
class Trace:
    """Everything that was recorded of the replayed steps.

    Args:
        tables: tables by name; those that are missing count as empty.
        context: JSON values: versions, device, optimizer, fidelity, outcome, timings.
    """

    def __init__(self, tables: Mapping[str, Table], context: Mapping[str, Any]) -> None:
        self._tables = dict(tables)
        self.context = dict(context)

    @classmethod
    def open(cls, path: str | Path) -> Trace:
        """Open a ``trace.h5``; columns are read when first asked for.

        Args:
            path: the file.

        Raises:
            NotFoundError: there is no such file.
            RefusedError: the file is no trace, is damaged, or holds links.
            UsageError: a newer version of the doctor wrote it.
        """
        from divergence_doctor.trace.hdf5 import read

        return read(path)

    def save(self, path: str | Path) -> None:
        """Write the trace as ``trace.h5``: whole under its name, or not at all."""
        from divergence_doctor.trace.hdf5 import write

        write(self, path)

    def table(self, name: str) -> Table:
        """Return a table by its name in the schema; an absent one is empty.

        Raises:
            KeyError: the schema knows no such table.
        """
        if name not in self._tables:
            from divergence_doctor.trace.builder import TraceBuilder

            self._tables[name] = TraceBuilder().build().table(name) if name in TABLES else _no(name)
        return self._tables[name]

    def has(self, need: str) -> bool:
        """Say whether the trace can answer for ``table`` or ``table/column``."""
        name, _, column = need.partition("/")
        table = self.table(name)
        return len(table) > 0 and (not column or column in table)

    @property
    def outcome(self) -> str:
        """``diverged``, ``healthy`` or ``inconclusive``."""
        return str(self.context.get("outcome", "inconclusive"))

    @property
    def failing_step(self) -> int | None:
        """The replayed step at which the first non-finite value appeared, or None."""
        step = self.context.get("failing_step")
        return None if step is None else int(step)

    def _frame(self, name: str) -> Any:
        """Return a table as a DataFrame where pandas is there, as a :class:`Table` otherwise."""
        table = self.table(name)
        try:
            return table.to_dataframe()
        except ImportError:
            return table

    @property
    def steps(self) -> Any:
        """One row per replayed step: loss, norms, what stayed finite."""
        return self._frame("steps")

    @property
    def activations(self) -> Any:
        """One row per tensor that a layer put out, with its statistics."""
        return self._frame("activations")

    @property
    def gradients(self) -> Any:
        """One row per gradient: of a layer's output or of a variable."""
        return self._frame("gradients")

    @property
    def weights(self) -> Any:
        """One row per variable and moment."""
        return self._frame("weights")

    @property
    def updates(self) -> Any:
        """One row per trainable variable and step: what the step added, and the ratio."""
        return self._frame("updates")

    @property
    def samples(self) -> Any:
        """One row per array of one sample of the batch."""
        return self._frame("samples")

    @property
    def events(self) -> Any:
        """One row per op whose output or derivative was not finite."""
        return self._frame("events")

    @property
    def trials(self) -> Any:
        """One row per intervention."""
        return self._frame("trials")

    def summary(self) -> dict[str, Any]:
        """Return the few figures that a reader wants first (plain values)."""
        steps = self.table("steps")
        return {
            "outcome": self.outcome,
            "because": str(self.context.get("outcome_because", "")),
            "steps": len(steps),
            "failing step": self.failing_step,
            "first loss": float(steps["loss"][0]) if len(steps) else None,
            "last loss": float(steps["loss"][-1]) if len(steps) else None,
            "layers": len(self.table("layers")),
            "non-finite events": len(self.table("events")),
        }

    def __repr__(self) -> str:
        facts = ", ".join(f"{key}: {value}" for key, value in self.summary().items() if value != "")
        return f"<Trace {facts}>"

    def _repr_html_(self) -> str:
        shown = ((key, clean(str(value), 4_000)) for key, value in self.summary().items())
        facts = "".join(
            f"<tr><th style='text-align:left'>{escape(key)}</th><td>{escape(value)}</td></tr>"
            for key, value in shown
        )
        tables = "".join(
            f"<tr><td><code>{escape(name)}</code></td><td style='text-align:right'>"
            f"{len(self.table(name))}</td><td>{escape(spec.row)}</td></tr>"
            for name, spec in TABLES.items()
            if len(self.table(name))
        )
        return (
            f"<div><b>divergence_doctor trace</b><table>{facts}</table>"
            f"<table><tr><th>table</th><th>rows</th><th>one row is</th></tr>{tables}</table></div>"
        )


def _no(name: str) -> Table:
    known = ", ".join(TABLES)
    raise KeyError(f"a trace has no table {name!r}; it has {known}")
