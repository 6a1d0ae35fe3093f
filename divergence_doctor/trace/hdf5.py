"""How does a trace lie on disk? One columnar HDF5 file, as FORMAT.md specifies.

Only here is h5py used. Writing: the file is made in memory, goes to the disk beside the final one
and takes its name when it is whole. Reading: a trace may come from a stranger, so links, external
storage, unusual filters and sizes that the file cannot hold are refused before any data is read.
Columns are read when first asked for; the file is not held open in between. A column that is first
asked for when the file was replaced meanwhile, moved or deleted is refused.
"""

from __future__ import annotations

import json
import math
import os
import secrets
import zlib
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.errors import NotFoundError, OutputError, RefusedError, UsageError
from divergence_doctor.trace._context import misshapen
from divergence_doctor.trace._text_size import text_size
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
#: Filters by their HDF5 numbers: deflate, shuffle, fletcher32.
_FILTERS: Final = frozenset({1, 2, 3})
#: Declared bytes above this must be backed by stored bytes: the histograms of a healthy model are
#: mostly zeros and shrink a hundredfold, nothing honest shrinks a thousandfold.
_FLOOR: Final = 64 << 20
_EXPANSION: Final = 1_000
_OBJECTS: Final = 100_000
_ROWS: Final = 50_000_000
#: No trace is larger than this, however well it packs.
_DECLARED: Final = 4 << 30
_CONTEXT_BYTES: Final = 16 << 20
_OUTCOMES: Final = ("diverged", "healthy", "inconclusive")
#: Columns whose text keeps its lines.
_MULTILINE: Final = frozenset({"stack", "message", "raised", "raised_stack"})
#: Longest text kept of a cell. JSON that were cut could not be read any more.
_TEXT: Final = 4_000
_JSON: Final = frozenset({"config", "parameters", "samples", "values"})
_JSON_TEXT: Final = 1 << 20
#: Bytes of text read at once, were every cell as long as the file: cells may share their text.
_TEXT_AT_ONCE: Final = 256 << 20
#: Characters of text kept of one column.
_TEXT_IN_ALL: Final = 256 << 20
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
    target = Path(path)
    try:
        _write_whole(target, _image(trace))
    except OSError as error:
        raise OutputError(
            "cannot-write-trace",
            f"{clean(str(target))} cannot be written",
            why=clean(error.strerror or str(error)),
            fix="choose with --out a folder that may be written to, on a disk that has space",
        ) from error


def _image(trace: Trace) -> bytes:
    """Return the bytes of the file. Made in memory: h5py does not recover from a full disk."""
    import h5py

    with h5py.File("trace.h5", "w", driver="core", backing_store=False) as file:
        _write_root(file, trace)
        for spec in TABLES.values():
            _write_table(file, spec, trace.table(spec.name))
        file.flush()
        image: bytes = file.id.get_file_image()
    return image


def _write_whole(target: Path, content: bytes) -> None:
    beside = target.parent / f".{target.name[:60]}.{secrets.token_hex(8)}"
    try:
        with beside.open("xb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        beside.replace(target)
        _sync_folder(target.parent)
    finally:
        with suppress(OSError):
            beside.unlink()


def _sync_folder(folder: Path) -> None:
    """Make a file's new name survive a power cut, where the system lets a folder be flushed."""
    with suppress(OSError):
        handle = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


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
        # What fletcher32 sums up has to lie in the chunk; text lies beside it.
        options["fletcher32"] = column.kind != "str"
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


def _kind_of(values: Any) -> Any:
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

    Args:
        path: the file.

    Raises:
        NotFoundError: there is no such file.
        RefusedError: it is no trace, is damaged, or holds what a trace never holds.
        UsageError: a newer version of the doctor wrote it.
    """
    source = Path(path).absolute()
    if not _is_file(source):
        raise NotFoundError(
            "trace-not-found",
            f"there is no trace {clean(str(path))}",
            why="it is a folder" if os.path.isdir(source) else "no file has this path",  # noqa: PTH112 - never raises
            fix="give a trace.h5 that `doctor replay` wrote",
        )
    trace: Trace = _guarded(source, lambda: _read(source))
    return trace


def _is_file(path: Path) -> bool:
    # Unlike Path.is_file, this says False to a path that is too long or may not be looked at.
    return os.path.isfile(path)  # noqa: PTH113


def _read(source: Path) -> Trace:
    before = _identity(source)
    with _opened(source) as file:
        _check_root(file, source)
        _check_objects(file, source)
        context = _read_context(file, source)
        tables = {
            name: _table(source, before, spec, file[name])
            for name, spec in TABLES.items()
            if name in file
        }
    return Trace(tables, context)


def _opened(source: Path) -> h5py.File:
    import h5py

    # Nobody writes to a trace in place, and locks fail on some network and read-only disks.
    return h5py.File(source, "r", locking=False)


def _identity(source: Path) -> tuple[int, ...]:
    """Return what tells a file from another one under the same name."""
    found = source.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns


def _check_root(file: h5py.File, source: Path) -> None:
    kind = file.attrs.get("encoding-type")
    if not isinstance(kind, str) or kind != ENCODING_TYPE:
        raise _refused(source, "it is an HDF5 file, but no trace of the doctor")
    version = int(file.attrs.get("encoding-version", 0))
    if version < 1:
        raise _refused(source, "it does not say in which version of the format it is")
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
            if count > _OBJECTS or depth > 2:
                raise _refused(source, "it holds more objects than a trace has")
            if not isinstance(group.get(name, getlink=True), h5py.HardLink):
                raise _refused(source, f"{clean(name)} is a link to somewhere else")
            item = group[name]
            if isinstance(item, h5py.Group):
                stack.append((item, depth + 1))
            else:
                declared += _check_dataset(item, source)
    if declared > min(max(_FLOOR, _EXPANSION * stored), _DECLARED):
        raise _refused(source, f"it declares {declared:,} bytes, and holds {stored:,}")


def _check_dataset(dataset: h5py.Dataset, source: Path) -> int:
    import h5py

    if not isinstance(dataset, h5py.Dataset):
        raise _refused(source, "it holds something that is neither table nor column")
    name = clean(str(dataset.name))
    if dataset.external or dataset.is_virtual:
        raise _refused(source, f"{name} keeps its data in another file")
    made = dataset.id.get_create_plist()
    if any(made.get_filter(i)[0] not in _FILTERS for i in range(made.get_nfilters())):
        raise _refused(source, f"{name} is packed with an unusual filter")
    if dataset.ndim > 2 or (dataset.ndim and dataset.shape[0] > _ROWS):
        raise _refused(source, f"{name} has the shape {dataset.shape}")
    declared = int(dataset.size or 0) * int(dataset.id.get_type().get_size())
    stored = int(dataset.id.get_storage_size())
    if declared > max(_FLOOR, _EXPANSION * stored):
        raise _refused(source, f"{name} declares {declared:,} bytes, and holds {stored:,}")
    return declared


def _read_context(file: h5py.File, source: Path) -> dict[str, Any]:
    if "context" not in file:
        return {"outcome": "inconclusive"}
    raw = file["context"][()]
    if not isinstance(raw, bytes) or len(raw) > _CONTEXT_BYTES:
        raise _refused(source, "its context is no text, or too long")
    try:
        context = _cleaned(json.loads(raw, parse_constant=lambda _: None))
    except (ValueError, RecursionError) as error:
        raise _refused(source, "its context is no JSON") from error
    if not isinstance(context, dict):
        raise _refused(source, "its context is no JSON object")
    if context.get("outcome", "inconclusive") not in _OUTCOMES:
        raise _refused(source, "its context names an outcome that there is not")
    step = context.get("failing_step")
    if step is not None and (not isinstance(step, int) or step < 0):
        raise _refused(source, "its context names a failing step that is no step")
    if wrong := misshapen(context):
        raise _refused(source, f"its context holds {wrong}")
    return context


def _cleaned(value: Any) -> Any:
    if isinstance(value, str):
        return clean(value, _TEXT)
    if isinstance(value, list):
        return [_cleaned(item) for item in value]
    if isinstance(value, dict):
        return {clean(str(key)): _cleaned(item) for key, item in value.items()}
    return value


def _table(source: Path, before: tuple[int, ...], spec: TableSpec, group: h5py.Group) -> Table:
    import h5py

    if not isinstance(group, h5py.Group):
        raise _refused(source, f"{spec.name} is no table")
    stored = {name: item for name, item in group.items() if isinstance(item, h5py.Dataset)}
    if any(dataset.ndim == 0 for dataset in stored.values()):
        raise _refused(source, f"{spec.name} holds a column without rows")
    lengths = {dataset.shape[0] for dataset in stored.values()}
    if len(lengths) > 1:
        raise _refused(source, f"the columns of {spec.name} differ in length")
    length = lengths.pop() if lengths else 0
    columns: dict[str, Callable[[], NDArray[Any]]] = {}
    for column in (*spec.all_columns(), *_further(spec, stored)):
        if column.name in stored:
            _check_kind(stored[column.name], column, source)
            columns[column.name] = _loader(source, before, spec.name, column)
        else:
            columns[column.name] = partial(_missing, column, length)
    return Table(spec.name, length, columns)


def _further(spec: TableSpec, stored: dict[str, h5py.Dataset]) -> list[Column]:
    """Return the columns that the schema does not know, as far as their names are ordinary."""
    known = {"row", *(column.name for column in spec.all_columns())}
    return [
        Column(name, "bool" if _is_bool(dataset) else _kind_of(dataset), "")
        for name, dataset in stored.items()
        if name not in known and name.isidentifier() and name.isascii() and dataset.ndim == 1
    ]


def _is_bool(dataset: h5py.Dataset) -> bool:
    marked = dataset.attrs.get("dtype")
    return dataset.dtype.kind in "bi" and isinstance(marked, str) and marked == "bool"


def _check_kind(dataset: h5py.Dataset, column: Column, source: Path) -> None:
    name = clean(str(dataset.name))
    if column.kind == "histogram":
        if dataset.ndim != 2 or dataset.shape[1] != EXPONENT_BINS or dataset.dtype.kind not in "iu":
            raise _refused(source, f"{name} is no histogram of {EXPONENT_BINS} bins")
    elif dataset.ndim != 1 or _is_text(dataset) != (column.kind == "str"):
        raise _refused(source, f"{name} is no column of kind {column.kind}")


def _is_text(dataset: h5py.Dataset) -> bool:
    import h5py

    if dataset.dtype.kind in "biuf":
        return False
    if h5py.check_string_dtype(dataset.dtype) is None:
        raise TypeError(f"a column of dtype {dataset.dtype}")
    return True


def _loader(
    source: Path, before: tuple[int, ...], table: str, column: Column
) -> Callable[[], NDArray[Any]]:
    return lambda: _guarded(source, lambda: _load(source, before, table, column))


def _load(source: Path, before: tuple[int, ...], table: str, column: Column) -> NDArray[Any]:
    if not _is_file(source) or _identity(source) != before:
        raise RefusedError(
            "trace-changed",
            f"{clean(str(source))} is not the file any more that was opened",
            why=f"column {column.name} of {table} was not read before it was replaced or moved",
            fix="open the trace again",
        )
    with _opened(source) as file:
        dataset = file[table][column.name]
        return (
            _texts(dataset, column, source) if column.kind == "str" else _numbers(dataset, column)
        )


def _numbers(dataset: h5py.Dataset, column: Column) -> NDArray[Any]:
    dtype = {"int": np.int64, "float": np.float64, "bool": np.bool_, "histogram": np.uint32}
    with np.errstate(all="ignore"):
        return np.asarray(dataset[()]).astype(dtype[column.kind])


def _texts(dataset: h5py.Dataset, column: Column, source: Path) -> NDArray[Any]:
    """Read text, a few rows at a time where a small file holds a long text and names it often."""
    length = dataset.shape[0]
    size = text_size(dataset, source)
    few = max(_TEXT_AT_ONCE // source.stat().st_size, 1)
    at_once = max(length, 1) if size is not None and size <= _TEXT_AT_ONCE else few
    seen: dict[Any, str] = {}
    kept = 0
    array = np.empty(length, dtype=object)
    for start in range(0, length, at_once):
        for index, value in enumerate(dataset[start : start + at_once], start):
            if value not in seen:
                seen[value] = _legible(_decoded(value), column.name)
                kept += len(seen[value])
                if kept > _TEXT_IN_ALL:
                    raise _refused(source, f"{column.name} holds more text than a trace has")
            array[index] = seen[value]
    return array


def _legible(text: str, column: str) -> str:
    limit = _JSON_TEXT if column in _JSON else _TEXT
    return clean(text, limit, multiline=column in _MULTILINE)


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
            UnicodeError, OverflowError, IndexError, zlib.error) as error:  # fmt: skip
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
