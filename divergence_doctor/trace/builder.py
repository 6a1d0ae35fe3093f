"""How does a trace come to be? Row by row, in the order of execution, and journalled as it goes.

The journal is what survives a child process that is killed: one JSON object per line, flushed,
either ``{"table": ..., "row": {...}}``, ``{"context": {...}}`` or ``{"progress": {...}}``. Python's
JSON with its NaN and Infinity tokens is fine here: only this module reads it back.
"""

from __future__ import annotations

import json
from typing import IO, TYPE_CHECKING, Any, final

import numpy as np

from divergence_doctor.trace.model import Trace
from divergence_doctor.trace.schema import EXPONENT_BINS, TABLES, Column
from divergence_doctor.trace.table import Table

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

_DTYPES: dict[str, type] = {"int": np.int64, "float": np.float64, "bool": np.bool_, "str": object}
_MISSING: dict[str, Any] = {"int": -1, "float": np.nan, "bool": False, "str": ""}


@final
class TraceBuilder:
    """Collects rows and context; :meth:`build` gives the trace.

    Args:
        journal: text stream that every row is appended to as it comes, or None.
    """

    def __init__(self, journal: IO[str] | None = None) -> None:
        self._rows: dict[str, list[dict[str, Any]]] = {name: [] for name in TABLES}
        self._journal = journal
        self.context: dict[str, Any] = {}

    def add(self, table: str, /, **row: Any) -> None:
        """Append one row. Columns that are left out hold -1, NaN, False or the empty string.

        Raises:
            KeyError: there is no such table.
        """
        self._rows[table].append(row)
        if self._journal is not None:
            self._write({"table": table, "row": {key: _plain(value) for key, value in row.items()}})

    def describe(self, **context: Any) -> None:
        """Merge JSON values into the trace's context (versions, optimizer, fidelity, ...)."""
        self.context.update(context)
        if self._journal is not None:
            self._write({"context": context})

    def rows(self, table: str) -> list[dict[str, Any]]:
        """Return the rows of a table so far; callers may amend what they added themselves."""
        return self._rows[table]

    def build(self) -> Trace:
        """Return the trace as collected so far."""
        return Trace(
            {name: _table(name, rows) for name, rows in self._rows.items()},
            json.loads(json.dumps(self.context)),
        )

    @classmethod
    def from_journal(cls, path: Path) -> TraceBuilder:
        """Return a builder with what a journal holds; a torn last line is passed over."""
        builder = cls()
        with path.open(encoding="utf-8") as lines:
            for line in lines:
                try:
                    entry = json.loads(line)
                except ValueError:
                    continue
                if "table" in entry and entry["table"] in TABLES:
                    builder.add(entry["table"], **entry["row"])
                elif "context" in entry:
                    builder.describe(**entry["context"])
        return builder

    def _write(self, entry: Mapping[str, Any]) -> None:
        if self._journal is not None:
            self._journal.write(json.dumps(entry) + "\n")
            self._journal.flush()


def _plain(value: Any) -> Any:
    """Return a value as JSON can hold it; a histogram as its non-zero bins."""
    if isinstance(value, np.ndarray):
        bins = np.flatnonzero(value)
        return {"bins": bins.tolist(), "counts": value[bins].tolist()}
    return value.item() if isinstance(value, np.generic) else value


def _table(name: str, rows: list[dict[str, Any]]) -> Table:
    spec = TABLES[name].all_columns()
    known = {column.name for column in spec}
    extra = [
        Column(key, _kind(row[key]), "")
        for key, row in {key: row for row in reversed(rows) for key in row}.items()
        if key not in known
    ]
    return Table.from_arrays(name, {c.name: _column(c, rows) for c in (*spec, *extra)})


def _kind(value: Any) -> Any:
    if isinstance(value, bool | np.bool_):
        return "bool"
    if isinstance(value, int | np.integer):
        return "int"
    return "float" if isinstance(value, float | np.floating) else "str"


def _column(column: Column, rows: list[dict[str, Any]]) -> NDArray[Any]:
    if column.kind == "histogram":
        bins = np.zeros((len(rows), EXPONENT_BINS), dtype=np.uint32)
        for index, row in enumerate(rows):
            value = row.get(column.name)
            if isinstance(value, dict):
                bins[index, value["bins"]] = value["counts"]
            elif value is not None:
                bins[index] = value
        return bins
    missing = _MISSING[column.kind]
    values = [row.get(column.name, missing) for row in rows]
    if column.kind == "str":
        array = np.empty(len(rows), dtype=object)
        array[:] = [str(value) for value in values]
        return array
    return np.asarray([missing if value is None else value for value in values]).astype(
        _DTYPES[column.kind]
    )
