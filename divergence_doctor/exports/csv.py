"""How does a trace open in a spreadsheet? As one CSV file per table, which GitHub takes as well."""

from __future__ import annotations

import csv
import io
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor._clean import clean
from divergence_doctor.exports._export import Export
from divergence_doctor.trace.schema import TABLES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.trace import Table, Trace

#: A spreadsheet runs a cell that begins with one of these as a formula.
_FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
#: Characters of a cell; a spreadsheet takes 32,767.
_LONGEST: Final = 4_000


@final
class Csv(Export):
    """One ``<table>.csv`` for every table that has rows."""

    name: ClassVar[str] = "csv"
    title: ClassVar[str] = "a CSV file for each table: layers, activations, gradients, ..."

    def render(self, trace: Trace) -> Mapping[str, bytes]:
        """Return the files: UTF-8, CRLF between rows (RFC 4180), the columns of the schema.

        Numbers are written so that they are read back to the bit, with ``nan`` and ``inf``; text
        that a spreadsheet would take for a formula begins with an apostrophe. The histograms of
        exponents, 279 numbers a row, are left to ``trace.h5``.
        """
        tables = ((name, trace.table(name)) for name in TABLES)
        return {f"{name}.csv": _file(table) for name, table in tables if len(table)}


def _file(table: Table) -> bytes:
    columns = [name for name in table.columns if table[name].ndim == 1]
    text = io.StringIO(newline="")
    writer = csv.writer(text)
    writer.writerow(columns)
    writer.writerows(
        map(_cell, row) for row in zip(*(table[name].tolist() for name in columns), strict=True)
    )
    return text.getvalue().encode()


def _cell(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    text = clean(value, _LONGEST)
    return f"'{text}" if text.startswith(_FORMULA) else text
