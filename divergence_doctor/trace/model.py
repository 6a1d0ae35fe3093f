"""What can be asked of a trace? Its tables, its context and its outcome, without TensorFlow."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, final

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
        """Return a table as a DataFrame.

        Raises:
            MissingPackageError: pandas is not installed; ``table(name)`` does without.
        """
        return self.table(name).to_dataframe()

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

    def to_xarray(self) -> Any:
        """Return the trace as an ``xarray.DataTree``, its keys as dimensions with coordinates.

        ``tree["activations"]["absmax"]`` lies over step x layer, ``["exponents"]`` over step x
        layer x exponent; ``variable_gradients`` and ``updates`` over step x variable, ``weights``
        and ``slots`` over step x when x variable, ``samples`` over batch x sample x name. What a
        step did not see is NaN (empty, where it is text). A layer that puts out several tensors
        in a step has a label for each: ``rnn (call 1)``, ``lstm (time 3)``, ``split (output/1)``.

        Raises:
            MissingPackageError: xarray is not installed.
        """
        from divergence_doctor.trace.labelled import to_xarray

        return to_xarray(self)

    @property
    def plot(self) -> Any:
        """The figures of the report, one method for each: ``trace.plot.magnitude_spectrum()``."""
        # The figures stand on a floor above the trace, and are found by name as plug-ins are.
        return import_module("divergence_doctor.figures._plot").Plot(self)

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
        from divergence_doctor.trace._card import card

        return card(self)


def _no(name: str) -> Table:
    known = ", ".join(TABLES)
    raise KeyError(f"a trace has no table {name!r}; it has {known}")
