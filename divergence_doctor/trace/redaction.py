"""What may a stranger read of a trace? The same trace without the batch's values, or without names.

Both are pure: a trace comes in, another goes out, and whatever is made of it (verdict, reports,
figures, the file itself) knows no more than it holds. Statistics stay, for the verdict rests on
them: the range of a sample among them, which for a label of one number is that label.

Values: a single value of the batch becomes the power of two below it (0, NaN and Inf stay), the
excerpts of samples go, and so do lists of values that an exception recites.

Names: layers, variables, arrays, outputs, files, functions and classes of the user's own become
``layer_1``, ``array_1`` and so on, the same name the same placeholder wherever it stands, paths
part by part. What Keras and TensorFlow call things stays: a rule must still know a ``kernel`` from
a ``moving_variance``.
"""

from __future__ import annotations

import re
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor.trace._names import HIDDEN, Names, walked
from divergence_doctor.trace.model import Trace
from divergence_doctor.trace.schema import TABLES
from divergence_doctor.trace.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Mapping

    from numpy.typing import NDArray

#: Key of the context that says what was taken out of a trace: ``values``, ``names``.
WITHHELD: Final = "withheld"
VALUES: Final = "values"
NAMES: Final = "names"

# ---------------------------------------------------------------------- values

#: What TensorFlow recites values after, labels and those of a failed assertion: all of it goes.
_RECITED: Final = re.compile(r"(?s)(Label values:|\) = ).*")
#: Ops that hand the batch on as it is.
_HANDING_ON: Final = ("Identity", "Reshape", "Cast", "ExpandDims", "Squeeze", "Transpose", "Pack")
#: A number in prose.
_NUMBER: Final = re.compile(
    r"(?<![\w.])[-+]?(?:\d+\.?\d*(?:e[-+]?\d+)?|nan|inf)(?![\w])", re.IGNORECASE
)


def without_values(trace: Trace) -> Trace:
    """Return the trace without the values of the batch; see the module for what stays."""
    tables = {name: trace.table(name) for name in TABLES}
    tables["excerpts"] = tables["excerpts"].where(np.zeros(len(tables["excerpts"]), dtype=bool))
    everywhere = np.ones(len(tables["culprits"]), dtype=bool)
    tables["culprits"] = _with(
        tables["culprits"], value=lambda values: _rounded(values, everywhere)
    )
    links = _holds(tables["chain"], "what", "name")
    tables["chain"] = _with(
        tables["chain"],
        value=lambda values: _rounded(values, links),
        through=lambda texts: _mapped(texts, _without_numbers, links),
    )
    fed = _holds(tables["operands"], "origin", "origin_name")
    tables["operands"] = _with(tables["operands"], value=lambda values: _rounded(values, fed))
    for name, columns in _SAID.items():
        tables[name] = _with(
            tables[name], **dict.fromkeys(columns, lambda texts: _mapped(texts, _unrecited))
        )
    # That part of the batch does not come along, so it is not spoken of.
    context = {key: value for key, value in trace.context.items() if key != "minimal_batch"}
    return Trace(tables, _withholding(walked(context, _unrecited), VALUES))


#: Where an exception's or TensorFlow's own words are kept, by table.
_SAID: Final = {
    "steps": ("raised",),
    "events": ("message",),
    "executions": ("raised",),
    "trials": ("detail",),
    "subsets": ("detail",),
    "attempts": ("detail",),
}


def _holds(table: Table, kind: str, name: str) -> NDArray[np.bool_]:
    """Return which rows speak of the batch itself, or of an op that hands it on unchanged."""
    return np.asarray((table[kind] == "batch") | np.isin(table[name].astype(str), _HANDING_ON))


def _rounded(values: NDArray[Any], where: NDArray[np.bool_]) -> NDArray[Any]:
    """Return numbers with the powers of two below them in some places, of the same sign."""
    usual = where & np.isfinite(values) & (values != 0)
    mantissa, exponent = np.frexp(np.where(usual, values, 1.0))
    return np.where(usual, np.ldexp(np.copysign(0.5, mantissa), exponent), values)


def _without_numbers(text: str) -> str:
    head, colon, tail = text.partition(":")
    return head + colon + _NUMBER.sub("…", tail)


def _unrecited(text: str) -> str:
    return _RECITED.sub(r"\1 …", text)


# ---------------------------------------------------------------------- names


def redacted(trace: Trace) -> Trace:
    """Return the trace without the batch's values and without a name that the user gave."""
    bare = without_values(trace)
    names = Names(bare.table("layers")["layer"].tolist())
    methods = {
        (table, column): method
        for table, columns in _texts(bare).items()
        for column in columns
        if (method := _method(table, column)) is not None
    }
    # Whole names first, of which prose is then searched.
    for wanted in _KNOWN_FIRST:
        for (table, column), method in methods.items():
            if method == wanted:
                for text in dict.fromkeys(bare.table(table)[column].tolist()):
                    names.told(method, text)
    tables = {name: bare.table(name) for name in TABLES}
    # At once and in order: a name first met in prose gets its number by where it stands, not by
    # which column a reader happens to ask for first.
    for (table, column), method in methods.items():
        told = _teller(names, method, table, bare)(bare.table(table)[column])
        tables[table] = _with(tables[table], **{column: partial(_itself, told)})
    return Trace(tables, _withholding(_context(bare.context, names), NAMES))


#: Text that holds words of ours, of TensorFlow's, or numbers only.
_SAFE: Final = frozenset(
    {
        *("op_type", "inner_op", "phase", "dtype", "shape", "role", "when", "kind", "outcome"),
        *("evidence", "reason", "origin", "what", "index", "element", "samples", "beside"),
        *("raised_op", "raised_phase", "execution", "mode", "differs", "pattern", "axes"),
        *("indices", "owner", "cause", "setting", "reaches", "trial", "values"),
    }
)
#: What a column of text holds, by the method of :class:`Names` that tells it. Where it stands under
#: no table and no column it is prose, in which known names are replaced.
_BY_COLUMN: Final = {
    **dict.fromkeys(("layer", "raised_layer", "origin_layer", "ended_layer"), "path"),
    **dict.fromkeys(("source", "raised_source", "ended_source"), "source"),
    **dict.fromkeys(("stack", "raised_stack"), "stack"),
    **dict.fromkeys(("layer_class", "optimizer", "optimizer_class", "activation"), "kind"),
    **dict.fromkeys(("schedule", "raised_type", "loss"), "kind"),
    "variable": "variable",
    "config": "config",
    "parameters": "parameters",
}
_BY_TABLE: Final = {
    **dict.fromkeys(
        [(table, "name") for table in ("batch", "cells", "samples", "excerpts")], "array"
    ),
    **dict.fromkeys((("culprits", "array"), ("targets", "array")), "array"),
    **dict.fromkeys((("losses", "name"), ("sample_losses", "name")), "output"),
    **dict.fromkeys((("events", "term"), ("targets", "output")), "output"),
    **dict.fromkeys([(table, "variable") for table in ("slots", "defects", "executions")], "slot"),
    **dict.fromkeys([("unseeded", column) for column in ("name", "before", "after")], "hidden"),
    ("hyperparameters", "name"): "argument",
    ("trials", "name"): None,
    # Words of ours: how a training step came to be known.
    ("history", "source"): None,
    ("history", "bad_variable"): "slot",
    # These name a thing of the kind that another column of the row tells.
    ("events", "origin_name"): "of",
    ("operands", "origin_name"): "of",
    ("chain", "name"): "of",
    ("harmless", "name"): "of",
}
_KNOWN_FIRST: Final = ("path", "variable", "slot", "array", "output", "kind", "source", "stack")


def _texts(trace: Trace) -> dict[str, list[str]]:
    """Return the columns of text of every table that has rows."""
    tables = {name: trace.table(name) for name in TABLES if len(trace.table(name))}
    return {
        name: [column for column in table.columns if table[column].dtype == object]
        for name, table in tables.items()
    }


def _method(table: str, column: str) -> str | None:
    if (table, column) in _BY_TABLE:
        return _BY_TABLE[table, column]
    return None if column in _SAFE else _BY_COLUMN.get(column, "prose")


def _teller(
    names: Names, method: str, table: str, trace: Trace
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return what makes a column of text fit to be read."""
    if method != "of":
        return lambda texts: _mapped(texts, lambda text: names.told(method, text))
    rows = trace.table(table)
    kinds = rows["origin" if "origin" in rows else "what"].tolist()
    return lambda texts: _objects(
        names.told(_OF_KIND.get(kind, "prose"), text)
        for kind, text in zip(kinds, texts, strict=True)
    )


#: What a trace calls an op, an array, a variable or a constant, by the kind it writes beside it.
_OF_KIND: Final = {"batch": "array", "variable": "slot", "op": "op"}


def _context(context: Mapping[str, Any], names: Names) -> dict[str, Any]:
    """Return the context without files, names and hashes; without what reproduces the run."""
    kept = {key: value for key, value in context.items() if key not in _DROPPED}
    return {
        key: _optimizer(value, names)
        if key in {"optimizer", "optimizers"}
        else value
        if key in {"outcome", "failing_execution", WITHHELD}
        else _told(value, names)
        for key, value in kept.items()
    }


#: Keys of the context that say nothing but names.
_DROPPED: Final = frozenset({"reproduce", "model"})
#: Keys, wherever they stand, whose texts are paths; that name a machine; that tell a file for sure.
_PATHS: Final = frozenset({"path", "paths", "file", "next", "oldest", "bundle", "folder"})
_MACHINES: Final = frozenset({"host", "worker", "user"})
_HASHES: Final = frozenset({"sha256", "hash"})


def _told(value: Any, names: Names, key: str = "") -> Any:
    """Return a JSON value with each text in it told by the key that it stands under."""
    if isinstance(value, dict):
        return {
            name: _told(item, names, name) for name, item in value.items() if name not in _HASHES
        }
    if isinstance(value, list):
        return [_told(item, names, key) for item in value]
    if not isinstance(value, str):
        return value
    if key in _MACHINES:
        return HIDDEN
    return names.told("file" if key in _PATHS else "prose", value)


def _optimizer(value: Any, names: Names) -> Any:
    if isinstance(value, list):
        return [_optimizer(item, names) for item in value]
    if not isinstance(value, dict):
        return value
    return {
        key: names.told("kind", item)
        if key in {"class", "wrapper", "class_name"} and isinstance(item, str)
        else names.value(item)
        for key, item in value.items()
    }


# ---------------------------------------------------------------------- tables and JSON in general


def _withholding(context: Mapping[str, Any], what: str) -> dict[str, Any]:
    return {**context, WITHHELD: sorted({*_withheld(context), what})}


def _withheld(context: Mapping[str, Any]) -> frozenset[str]:
    told = context.get(WITHHELD)
    return frozenset(told if isinstance(told, list) else ()) & {VALUES, NAMES}


def withheld(trace: Trace) -> frozenset[str]:
    """Return what was taken out of a trace: ``values``, ``names``, both or nothing."""
    return _withheld(trace.context)


def _with(table: Table, **changes: Callable[[NDArray[Any]], NDArray[Any]]) -> Table:
    """Return a table with some columns changed, when they are first asked for."""

    def loader(column: str) -> Callable[[], NDArray[Any]]:
        change = changes.get(column)
        return (lambda: change(table[column])) if change else (lambda: table[column])

    return Table(table.name, len(table), {column: loader(column) for column in table.columns})


def _itself(told: NDArray[Any], _texts: NDArray[Any]) -> NDArray[Any]:
    return told


def _mapped(
    texts: NDArray[Any], change: Callable[[str], str], where: NDArray[np.bool_] | None = None
) -> NDArray[Any]:
    """Return text changed, the same text once; in some rows only where ``where`` says which."""
    known: dict[str, str] = {}
    rows = texts.tolist()
    for text in rows:
        if text not in known:
            known[text] = change(text)
    if where is None:
        return _objects(known[text] for text in rows)
    return _objects(known[t] if here else t for t, here in zip(rows, where, strict=True))


def _objects(texts: Iterable[str]) -> NDArray[Any]:
    values = list(texts)
    array = np.empty(len(values), dtype=object)
    array[:] = values
    return array
