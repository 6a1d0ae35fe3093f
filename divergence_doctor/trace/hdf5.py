"""How does a trace lie on disk? One columnar HDF5 file, as FORMAT.md specifies; only here is h5py used.

Writing: everything goes into a file beside the final one, which takes its name when it is whole.
Reading: a trace may come from a stranger, so links, external storage, unusual filters and sizes that
the file cannot hold are refused before any data is read. Columns are read when first asked for; the
file is not held open in between, so it may be deleted or replaced, but a column that was not read
yet then comes from what lies there by that time.
"""

from __future__ import annotations

import json
import math
import os
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.errors import NotFoundError, OutputError, RefusedError, UsageError
from divergence_doctor.trace.model import Trace
from divergence_doctor.trace.schema import (
    ENCODING_TYPE,
    ENCODING_VERSION,
    EXPONENT_BINS,
    EXPONENT_MAX,
    EXPONENT_MIN,
    TABLES,
    Column,
    TableSpec,
)
from divergence_doctor.trace.table import Table

if TYPE_CHECKING:
    from collections.abc import Callable

    import h5py
    from numpy.typing import NDArray

_TABLE_TYPE: Final = "divergence-doctor/table"
_FILTERS: Final = frozenset({"gzip", None})
#: Declared bytes above this must be backed by stored bytes: the histograms of a healthy model are
#: mostly zeros and shrink a hundredfold, nothing honest shrinks a thousandfold.
_FLOOR: Final = 64 << 20
_EXPANSION: Final = 1_000
_OBJECTS: Final = 100_000
_ROWS: Final = 50_000_000
_CONTEXT_BYTES: Final = 16 << 20
#: Columns whose text keeps its lines.
_MULTILINE: Final = frozenset({"stack", "message", "raised", "raised_stack"})
_TEXT: Final = 4_000
#: Rows below which compression costs more than it saves.
_COMPRESS_FROM: Final = 256


# ---------------------------------------------------------------------- writing


def write(trace: Trace, path: str | Path) -> None:
    """Write a trace: whole under its name, or not at all. The same trace gives the same bytes.

    Args:
        trace: the trace.
        path: the file; replaced when it exists.

    Raises:
        OutputError: it cannot be written.
    """
    import h5py

    target = Path(path)
    beside = None
    try:
        handle, name = tempfile.mkstemp(dir=target.parent, prefix=f".{target.name[:60]}.")
        os.close(handle)
        beside = Path(name)
        with h5py.File(beside, "w") as file:
            _write_root(file, trace)
            for spec in TABLES.values():
                _write_table(file, spec, trace.table(spec.name))
        with beside.open("rb") as stream:
            os.fsync(stream.fileno())
        beside.chmod(0o644)
        beside.replace(target)
    except OSError as error:
        raise OutputError(
            "cannot-write-trace",
            f"{clean(str(target))} cannot be written",
            why=clean(error.strerror or str(error)),
            fix="choose with --out a folder that exists, may be written to, and has space on its disk",
        ) from error
    finally:
        if beside is not None:
            with suppress(OSError):
                beside.unlink()


def _write_root(file: h5py.File, trace: Trace) -> None:
    file.attrs["encoding-type"] = ENCODING_TYPE
    file.attrs["encoding-version"] = ENCODING_VERSION
    file.attrs["created-by"] = f"divergence_doctor {_version()}"
    file.attrs["outcome"] = trace.outcome
    file.create_dataset(
        "context", data=json.dumps(_strict(trace.context)), dtype=_text_type(), track_times=False
    )
    file["context"].attrs["long_name"] = "what is known of the run, as JSON"
    exponents = np.arange(EXPONENT_MIN, EXPONENT_MAX + 1, dtype=np.int16)
    scale = file.create_dataset("exponent", data=exponents, track_times=False)
    scale.make_scale("exponent")
    scale.attrs["long_name"] = "floor(log2(|x|)) of what a bin of a histogram counts"


def _write_table(file: h5py.File, spec: TableSpec, table: Table) -> None:
    group = file.create_group(spec.name)
    group.attrs["encoding-type"] = _TABLE_TYPE
    group.attrs["encoding-version"] = ENCODING_VERSION
    group.attrs["row"] = spec.row
    rows = group.create_dataset(
        "row", data=np.arange(len(table), dtype=np.int64), track_times=False
    )
    rows.make_scale("row")
    known = {column.name: column for column in spec.all_columns()}
    for name in table.columns:
        values = table[name]
        column = known.get(name) or Column(name, _kind_of(values), "")
        dataset = _write_column(group, column, values)
        dataset.dims[0].attach_scale(rows)
        if column.kind == "histogram":
            dataset.dims[1].attach_scale(file["exponent"])
        if column.meaning:
            dataset.attrs["long_name"] = column.meaning
        if column.units:
            dataset.attrs["units"] = column.units


def _write_column(group: h5py.Group, column: Column, values: NDArray[Any]) -> h5py.Dataset:
    options: dict[str, Any] = {"track_times": False}
    if len(values) >= _COMPRESS_FROM or (column.kind == "histogram" and len(values)):
        options |= {"compression": "gzip", "shuffle": True, "chunks": True}
    if column.kind == "str":
        data = np.asarray([_encodable(str(value)) for value in values], dtype=object)
        return group.create_dataset(column.name, data=data, dtype=_text_type(), **options)
    if column.kind == "bool":
        dataset = group.create_dataset(column.name, data=values.astype(np.int8), **options)
        dataset.attrs["dtype"] = "bool"
        return dataset
    kind = {"int": np.int64, "float": np.float64, "histogram": np.uint32}[column.kind]
    return group.create_dataset(column.name, data=values.astype(kind), **options)


def _encodable(text: str) -> str:
    """Return text that UTF-8 and C strings can hold: no lone surrogates, no NUL."""
    return text.encode("utf-8", "backslashreplace").decode("utf-8").replace("\0", "\\x00")


def _kind_of(values: NDArray[Any]) -> Any:
    return {"b": "bool", "i": "int", "u": "int", "f": "float"}.get(values.dtype.kind, "str")


def _text_type() -> Any:
    import h5py

    return h5py.string_dtype("utf-8")


def _strict(value: Any) -> Any:
    """Return JSON values without NaN and Infinity, which JSON does not have."""
    if isinstance(value, dict):
        return {str(key): _strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_strict(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None if math.isnan(value) else ("inf" if value > 0 else "-inf")
    return value


def _version() -> str:
    from importlib.metadata import version

    return version("divergence_doctor")


# ---------------------------------------------------------------------- reading


def read(path: str | Path) -> Trace:
    """Open a trace; columns are read when first asked for.

    Raises:
        NotFoundError: there is no such file.
        RefusedError: it is no trace, is damaged, or holds what a trace never holds.
        UsageError: a newer version of the doctor wrote it.
    """
    source = Path(path)
    if not source.is_file():
        raise NotFoundError(
            "trace-not-found",
            f"there is no trace {clean(str(source))}",
            why="it is a folder" if source.is_dir() else "no file has this path",
            fix="give a trace.h5 that `doctor replay` wrote",
        )
    return _guarded(source, lambda: _read(source))


def _read(source: Path) -> Trace:
    import h5py

    with h5py.File(source, "r") as file:
        _check_root(file, source)
        _check_objects(file, source)
        context = _read_context(file, source)
        tables = {
            name: _table(source, spec, file[name]) for name, spec in TABLES.items() if name in file
        }
    return Trace(tables, context)


def _check_root(file: h5py.File, source: Path) -> None:
    kind = file.attrs.get("encoding-type")
    if kind != ENCODING_TYPE:
        raise _refused(source, "it is an HDF5 file, but no trace of the doctor")
    version = int(file.attrs.get("encoding-version", 0))
    if version > ENCODING_VERSION:
        raise UsageError(
            "trace-too-new",
            f"{clean(str(source))} has trace version {version}",
            why=f"this doctor reads versions up to {ENCODING_VERSION}",
            fix="pip install --upgrade divergence_doctor",
        )


def _check_objects(file: h5py.File, source: Path) -> None:
    """Refuse, before any data is read, what a trace never holds."""
    import h5py

    stored = source.stat().st_size
    declared = count = 0
    stack: list[tuple[h5py.Group, int]] = [(file, 0)]
    while stack:
        group, depth = stack.pop()
        for name in group:
            count += 1
            if count > _OBJECTS or depth > 2:  # noqa: PLR2004 - root, table, column
                raise _refused(source, "it holds more objects than a trace has")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _refused(source, f"{clean(name)} is a link to somewhere else")
            item = group[name]
            if isinstance(item, h5py.Group):
                stack.append((item, depth + 1))
            else:
                declared += _check_dataset(item, source)
    if declared > max(_FLOOR, _EXPANSION * stored):
        raise _refused(source, f"it declares {declared:,} bytes, and holds {stored:,}")


def _check_dataset(dataset: h5py.Dataset, source: Path) -> int:
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise _refused(source, "it holds something that is neither table nor column")
    name = clean(str(dataset.name))
    if dataset.external or dataset.is_virtual:
        raise _refused(source, f"{name} keeps its data in another file")
    if dataset.compression not in _FILTERS:
        raise _refused(source, f"{name} is packed with an unusual filter")
    if dataset.ndim > 2 or (dataset.ndim and dataset.shape[0] > _ROWS):  # noqa: PLR2004
        raise _refused(source, f"{name} has the shape {dataset.shape}")
    return int(dataset.size or 0) * int(dataset.dtype.itemsize)


def _read_context(file: h5py.File, source: Path) -> dict[str, Any]:
    if "context" not in file or file["context"].shape != ():
        return {"outcome": clean(str(file.attrs.get("outcome", "inconclusive")))}
    raw = file["context"][()]
    if not isinstance(raw, bytes) or len(raw) > _CONTEXT_BYTES:
        raise _refused(source, "its context is no text, or too long")
    try:
        context = json.loads(raw)
    except (ValueError, RecursionError) as error:
        raise _refused(source, "its context is no JSON") from error
    if not isinstance(context, dict):
        raise _refused(source, "its context is no JSON object")
    return {clean(str(key)): _cleaned(value) for key, value in context.items()}


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value, _TEXT)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {clean(str(key)): _cleaned(item) for key, item in value.items()}
    return value


def _table(source: Path, spec: TableSpec, group: h5py.Group) -> Table:
    import h5py

    if not isinstance(group, h5py.Group):
        raise _refused(source, f"{spec.name} is no table")
    lengths = {len(group[name]) for name in group if group[name].ndim}
    if len(lengths) > 1:
        raise _refused(source, f"the columns of {spec.name} differ in length")
    length = lengths.pop() if lengths else 0
    known = {column.name: column for column in spec.all_columns()}
    names = [*known, *(name for name in group if name not in known and name != "row")]
    columns: dict[str, Callable[[], NDArray[Any]]] = {}
    for name in names:
        column = known.get(name)
        present = name in group
        columns[clean(name)] = _loader(source, spec.name, name, column, length, present=present)
    return Table(spec.name, length, columns)


def _loader(
    source: Path, table: str, name: str, column: Column | None, length: int, *, present: bool
) -> Callable[[], NDArray[Any]]:
    if not present and column is not None:
        return lambda: _missing(column, length)
    return lambda: _guarded(source, lambda: _load(source, table, name, column, length))


def _load(source: Path, table: str, name: str, column: Column | None, length: int) -> NDArray[Any]:
    import h5py

    with h5py.File(source, "r") as file:
        dataset = file[table][name]
        values = dataset[()]
        is_bool = dataset.attrs.get("dtype") == "bool"
    if len(values) != length:
        raise _refused(source, f"{table}/{name} has changed since the file was opened")
    kind = column.kind if column is not None else ("bool" if is_bool else _kind_of(values))
    return _as(kind, values, name, source)


def _as(kind: str, values: NDArray[Any], name: str, source: Path) -> NDArray[Any]:
    if kind == "str":
        multiline = name in _MULTILINE
        array = np.empty(len(values), dtype=object)
        array[:] = [clean(_decoded(value), _TEXT, multiline=multiline) for value in values]
        return array
    if kind == "histogram":
        if values.ndim != 2 or values.shape[1] != EXPONENT_BINS:  # noqa: PLR2004
            raise _refused(source, f"{clean(name)} is no histogram of {EXPONENT_BINS} bins")
        return values.astype(np.uint32)
    if values.ndim != 1 or values.dtype.kind not in "biuf":
        raise _refused(source, f"{clean(name)} is no column of numbers")
    dtype = {"int": np.int64, "float": np.float64, "bool": np.bool_}[kind]
    with np.errstate(all="ignore"):
        return values.astype(dtype)


def _decoded(value: Any) -> str:
    return value.decode("utf-8", "backslashreplace") if isinstance(value, bytes) else str(value)


def _missing(column: Column, length: int) -> NDArray[Any]:
    if column.kind == "histogram":
        return np.zeros((length, EXPONENT_BINS), dtype=np.uint32)
    fill: dict[str, tuple[Any, Any]] = {
        "int": (-1, np.int64),
        "float": (np.nan, np.float64),
        "bool": (False, np.bool_),
        "str": ("", object),
    }
    value, dtype = fill[column.kind]
    return np.full(length, value, dtype=dtype)


def _guarded(source: Path, work: Callable[[], Any]) -> Any:
    """Turn whatever a damaged HDF5 file makes h5py raise into one refusal."""
    try:
        return work()
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, AttributeError, MemoryError,
            UnicodeError, OverflowError, IndexError) as error:  # fmt: skip
        raise _refused(
            source, f"it is damaged, or no HDF5 file ({type(error).__name__})"
        ) from error


def _refused(source: Path, why: str) -> RefusedError:
    return RefusedError(
        "not-a-trace",
        f"{clean(str(source))} cannot be read as a trace",
        why=why,
        fix="give a trace.h5 that `doctor replay` wrote, or replay again",
    )
