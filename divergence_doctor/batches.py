"""What did the user feed to the failing step? Arrays out of ``.npz`` files, never unpickled.

A batch comes from a stranger's ticket, so nothing in it is believed before it is measured: the
directory of the zip archive and the header of every array are read and checked before a byte of
data is given memory. ``DTYPES`` is what a model can be fed with; everything else is refused.
"""

from __future__ import annotations

import hashlib
import math
import os
import re
import stat
import struct
import tempfile
import warnings
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO
from itertools import pairwise
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor import _rows
from divergence_doctor._clean import clean
from divergence_doctor.errors import (
    BatchError,
    LimitError,
    NotFoundError,
    OutputError,
    RefusedError,
)
from divergence_doctor.stats import summarize

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from numpy.typing import NDArray

    from divergence_doctor.trace import TraceBuilder

MAX_BYTES: Final = 4 << 30
#: A member may declare this many times what is stored; deflate itself reaches 1,032.
MAX_EXPANSION: Final = 100
#: Below this a high ratio is harmless: a batch of zeros compresses well.
EXPANSION_FLOOR: Final = 64 << 20
MAX_MEMBERS: Final = 1024
MAX_HEADER: Final = 64 << 10
MAX_TEXT_ITEM: Final = 64 << 10
MAX_CELLS: Final = 1000
MAX_SAMPLES: Final = 4096

_CHUNK: Final = 1 << 20
_DTYPE_KINDS: Final = frozenset("biufcSU")
_WIDEST: Final = {"f": 8, "c": 16}
_POSITIONS: Final = {"arr_0": "x", "arr_1": "y", "arr_2": "sample_weight"}
_ROLE: Final = re.compile(r"(x|y|sample_weight)(?:/.+|_\d+)?")
_DAMAGE: Final = (
    zipfile.BadZipFile,
    zlib.error,
    EOFError,
    OSError,
    ValueError,
    SyntaxError,
    MemoryError,
    RecursionError,
    NotImplementedError,
    RuntimeError,
    struct.error,
)


@final
@dataclass(frozen=True, eq=False)
class Batch:
    """The arrays of one step.

    Attributes:
        arrays: arrays by canonical name (``x``, ``x/NAME``, ``x_0``, ``y``, ``sample_weight``, ...;
            names that stand alone as they are), in the order of the file, in native byte order.
        source: path of the file, as given.
        sha256: hash of the file, in hexadecimal.
        structure: how the flight recorder found the arrays nested, where their names do not say
            it: ``{"dict": {...}}``, ``{"list": [...]}``, ``{"tuple": [...]}``, ``{"array": NAME}``,
            ``{"ragged": NAME}``, ``{"sparse": NAME}`` and None; else None.
    """

    arrays: Mapping[str, NDArray[Any]]
    source: str
    sha256: str
    structure: Any = None

    def role(self, name: str) -> str:
        """Return ``x``, ``y`` or ``sample_weight``; empty for a name that stands alone."""
        match = _ROLE.fullmatch(name)
        return match.group(1) if match else ""

    @property
    def samples(self) -> int:
        """Length of the first axis of the inputs (of the first array where no name says input)."""
        named = [name for name in self.arrays if self.role(name) == "x"]
        first = next(iter(named or self.arrays))
        return _rows.count(first, self.arrays[first], self.arrays)

    @property
    def ragged(self) -> tuple[str, ...]:
        """Names of the ragged arrays, which lie in ``NAME/values`` and ``NAME/row_splits``."""
        return _rows.ragged(self.arrays)


def read_batches(paths: Sequence[Path], *, max_bytes: int = MAX_BYTES) -> tuple[Batch, ...]:
    """Read ``.npz`` files, and folders of them, as a sequence of steps.

    Args:
        paths: files, or folders whose ``*.npz`` are read in natural order (``b2`` before ``b10``).
        max_bytes: bound on the declared size of all arrays together.

    Returns:
        One batch per file.

    Raises:
        NotFoundError: a path does not exist.
        BatchError: a file is no ``.npz``, or holds what no model can be fed with.
        RefusedError: a file is damaged, holds pickled objects, or declares more than it may.
        LimitError: the arrays do not fit into memory.
    """
    files = [file for path in paths for file in _files(Path(path))]
    batches: list[Batch] = []
    left = max_bytes
    for file in files:
        batch = _read(file, left=left, max_bytes=max_bytes)
        left -= sum(array.nbytes for array in batch.arrays.values())
        batches.append(batch)
    return tuple(batches)


def describe(
    batch: Batch, index: int, builder: TraceBuilder, *, roles: Mapping[str, str] | None = None
) -> None:
    """Add the rows of one batch to the tables ``batch``, ``cells`` and ``samples``.

    Args:
        batch: the batch.
        index: its place in the given sequence.
        builder: the trace in the making.
        roles: role of each array, where the model has settled names that stand alone.
    """
    splits_told = {f"{name}{_rows.SPLITS}" for name in batch.ragged}
    for name, array in batch.arrays.items():
        if name in splits_told:
            # They say how the values are cut, and are no data themselves.
            continue
        role = (roles or {}).get(name) or batch.role(name)
        splits = _rows.splits_of(name, batch.arrays)
        if splits is not None and _rows.fault(array, splits):
            splits = None
        key = {"batch": index, "name": name}
        numbers = _numbers(array)
        if numbers is None:
            builder.add("batch", **key, role=role, **_opaque(array))
            continue
        per_sample = _PerSample.of(numbers) if splits is None else _PerSample.cut(numbers, splits)
        builder.add(
            "batch",
            **key,
            role=role,
            integral=bool(per_sample.integral.all()),
            feature_std_max=_feature_std_max(numbers),
            **summarize(numbers),
            dtype=str(array.dtype),
            shape=_shape(array),
        )
        told = _in_a_row(numbers) if role == "y" and splits is None else {}
        for row in per_sample.rows():
            more = {column: int(counts[row["sample"]]) for column, counts in told.items()}
            builder.add("samples", **key, role=role, **row, **more)
        for cell in _cells(numbers):
            if splits is not None:
                cell["sample"] = int(np.searchsorted(splits, cell["sample"], side="right")) - 1
            builder.add("cells", **key, **cell)


def write_batch(path: Path, batch: Batch, samples: Sequence[int]) -> None:
    """Write some samples of a batch as an uncompressed ``.npz``: whole, or not at all.

    Args:
        path: the file; replaced when it exists.
        batch: the batch.
        samples: indices along the first axis, in the order they are to be written. Arrays that
            have no such axis are written as they are.

    Raises:
        OutputError: the file cannot be written.
    """
    picked = _rows.pick(batch.arrays, samples, batch.samples)
    try:
        with _replacing(path) as stream, zipfile.ZipFile(stream, "w") as archive:
            for name, sliced in picked.items():
                # A fixed date: the same samples give the same bytes, and the same hash.
                member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
                with archive.open(member, "w", force_zip64=True) as target:
                    np.lib.format.write_array(target, sliced, allow_pickle=False)
    except OSError as error:
        raise OutputError(
            "cannot-write",
            f"{clean(str(path))} cannot be written",
            why=clean(error.strerror or str(error)),
            fix="choose another folder with --out, or make room on the disk",
        ) from error


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as stream:
            yield stream
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise


def _natural(path: Path) -> list[tuple[int, str]]:
    return [
        (int(part), "") if part.isdecimal() else (-1, part)
        for part in re.split(r"(\d+)", path.name)
        if part
    ]


def _files(path: Path) -> list[Path]:
    if not path.exists():
        raise NotFoundError(
            "batch-not-found",
            f"there is no batch {clean(str(path))}",
            why="no file or folder has this path",
            fix="give an .npz file, or a folder of them",
        )
    if not path.is_dir():
        return [path]
    found = sorted((entry for entry in path.glob("*.npz") if entry.is_file()), key=_natural)
    if not found:
        raise BatchError(
            "no-batch",
            f"the folder {clean(str(path))} holds no batch",
            why="none of its files ends in .npz",
            fix="save each step with np.savez(folder / 'step_0.npz', x=..., y=...)",
        )
    return found


@dataclass(frozen=True)
class _Declared:
    """What the header of one member says, before any of its data is read."""

    name: str
    member: zipfile.ZipInfo
    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def count(self) -> int:
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        return self.count * self.dtype.itemsize


def _read(path: Path, *, left: int, max_bytes: int) -> Batch:
    try:
        with path.open("rb") as stream:
            _check_magic(path, stream)
            sha256 = hashlib.file_digest(stream, "sha256").hexdigest()
            stream.seek(0)
            arrays = _read_archive(path, stream, left=left, max_bytes=max_bytes)
    except _DAMAGE as error:
        raise _damaged(path, error) from error
    return Batch(arrays=arrays, source=str(path), sha256=sha256)


def _check_magic(path: Path, stream: IO[bytes]) -> None:
    if not stat.S_ISREG(os.fstat(stream.fileno()).st_mode):
        raise _not_a_batch(path, "it is no regular file")
    start = stream.read(8)
    stream.seek(0)
    if start.startswith(b"PK"):
        return
    if re.match(rb"\x80[\x02-\x05]", start):
        raise _pickled(path, "the file is a pickle; pickles can run code")
    if start.startswith(b"\x93NUMPY"):
        raise _not_a_batch(path, "it is a single .npy array, which does not say what it is")
    raise _not_a_batch(path, "it is empty" if not start else "it is no zip archive of arrays")


def _read_archive(
    path: Path, stream: IO[bytes], *, left: int, max_bytes: int
) -> dict[str, NDArray[Any]]:
    with zipfile.ZipFile(stream) as archive:
        members = _members(path, archive)
        _check_sizes(path, members, left=left, max_bytes=max_bytes)
        declared = [_declared(path, archive, member) for member in members]
        _check_names(path, declared)
        if sum(entry.nbytes for entry in declared) > left:
            raise _too_large(path, sum(entry.nbytes for entry in declared), max_bytes)
        return {entry.name: _load(path, archive, entry) for entry in declared}


def _members(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    members = [member for member in archive.infolist() if not member.is_dir()]
    if not members:
        raise _not_a_batch(path, "the archive holds no arrays")
    if len(members) > MAX_MEMBERS:
        raise RefusedError(
            "batch-too-large",
            f"{_name(path)} holds {len(members):,} members",
            why=f"a batch may hold {MAX_MEMBERS:,} arrays",
            fix="save only the arrays that the step is fed with",
        )
    names = [member.filename for member in members]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        raise RefusedError(
            "damaged-batch",
            f"{_name(path)} holds the member {clean(doubled[0])!r} more than once",
            why="which of the two the step was fed with cannot be told",
            fix="save the batch again with np.savez",
        )
    for member in members:
        _check_member(path, member)
    return members


def _check_member(path: Path, member: zipfile.ZipInfo) -> None:
    if not member.filename.endswith(".npy"):
        keras = member.filename in ("config.json", "model.weights.h5", "metadata.json")
        raise _not_a_batch(
            path,
            "it is a Keras archive; the checkpoint goes before the batch"
            if keras
            else f"its member {clean(member.filename)!r} is no array",
        )
    if member.flag_bits & 1:
        raise _not_a_batch(path, f"its member {clean(member.filename)!r} is encrypted")
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise _not_a_batch(
            path, f"its member {clean(member.filename)!r} is compressed in a way NumPy never uses"
        )


def _check_sizes(path: Path, members: list[zipfile.ZipInfo], *, left: int, max_bytes: int) -> None:
    unpacked = sum(member.file_size for member in members)
    stored = sum(member.compress_size for member in members)
    # np.savez puts a header of at least 64 bytes before the data of each array.
    if unpacked > left + MAX_HEADER * len(members):
        raise _too_large(path, unpacked, max_bytes)
    if unpacked > EXPANSION_FLOOR and unpacked > MAX_EXPANSION * stored:
        raise RefusedError(
            "batch-bomb",
            f"{_name(path)} unpacks to {_size(unpacked)} from {_size(stored)}",
            why=f"that is more than {MAX_EXPANSION} times what is stored",
            fix="save it without compression: np.savez instead of np.savez_compressed",
        )


def _declared(path: Path, archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> _Declared:
    raw = member.filename.removesuffix(".npy")
    name = clean(raw)
    with archive.open(member) as stream, warnings.catch_warnings():
        # NumPy warns of headers that Python 2 wrote; they are read all the same.
        warnings.simplefilter("ignore", UserWarning)
        shape, fortran, dtype, offset = _header(path, name, stream)
    _check_dtype(path, name, dtype)
    entry = _Declared(
        name=_POSITIONS.get(name, name),
        member=member,
        shape=shape,
        fortran=fortran,
        dtype=dtype,
        offset=offset,
    )
    if min(shape, default=0) < 0 or entry.nbytes > member.file_size - offset:
        raise RefusedError(
            "damaged-batch",
            f"array {name!r} of {_name(path)} says that it holds {_size(max(entry.nbytes, 0))}",
            why=f"only {_size(member.file_size - offset)} of data follow its header",
            fix="save the batch again; the file was cut short or tampered with",
        )
    return entry


def _header(
    path: Path, name: str, stream: IO[bytes]
) -> tuple[tuple[int, ...], bool, np.dtype[Any], int]:
    version = np.lib.format.read_magic(stream)
    width, kind = (2, "<H") if version == (1, 0) else (4, "<I")
    length_bytes = stream.read(width)
    length = struct.unpack(kind, length_bytes)[0]
    # NumPy reads the header in full before it looks at its length.
    if length > MAX_HEADER:
        raise RefusedError(
            "damaged-batch",
            f"array {name!r} of {_name(path)} has a header of {_size(length)}",
            why=f"no array needs more than {_size(MAX_HEADER)}",
            fix="save the batch again with np.savez",
        )
    header = BytesIO(length_bytes + stream.read(length))
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    try:
        shape, fortran, dtype = read(header)
    except Exception as error:
        # A Python literal: the tokenizer, ast and NumPy each raise errors of their own.
        raise ValueError(f"the header of array {name!r} makes no sense") from error
    return shape, fortran, dtype, 8 + width + length


def _check_dtype(path: Path, name: str, dtype: np.dtype[Any]) -> None:
    if dtype.hasobject:
        raise _pickled(path, f"array {name!r} has dtype {dtype.name}; pickles can run code")
    if dtype.kind in "SU":
        if dtype.itemsize > MAX_TEXT_ITEM:
            raise RefusedError(
                "batch-too-large",
                f"array {name!r} of {_name(path)} holds texts of {_size(dtype.itemsize)} each",
                why=f"a text may take {_size(MAX_TEXT_ITEM)}",
                fix="cut the texts, or save the tokens instead",
            )
        return
    widest = _WIDEST.get(dtype.kind, 8)
    if dtype.kind in _DTYPE_KINDS and dtype.itemsize <= widest:
        return
    bfloat16 = dtype == np.dtype("V2")
    raise BatchError(
        "unsupported-dtype",
        f"array {name!r} of {_name(path)} has dtype {clean(str(dtype))}",
        why="NumPy stores bfloat16 as two opaque bytes"
        if bfloat16
        else "a model is fed with booleans, integers, floats up to 64 bits, complex or text",
        fix=f"save it as {name}=np.asarray({name}).astype('float32')",
    )


def _check_names(path: Path, declared: list[_Declared]) -> None:
    names = [entry.name for entry in declared]
    doubled = sorted({name for name in names if names.count(name) > 1})
    if doubled:
        members = ", ".join(
            repr(clean(entry.member.filename)) for entry in declared if entry.name == doubled[0]
        )
        raise BatchError(
            "ambiguous-names",
            f"{_name(path)} holds {doubled[0]!r} more than once: {members}",
            why="arr_0, arr_1 and arr_2 are read as x, y and sample_weight",
            fix="name every array: np.savez(file, x=..., y=...)",
        )


def _load(path: Path, archive: zipfile.ZipFile, entry: _Declared) -> NDArray[Any]:
    try:
        buffer = bytearray(entry.nbytes)
    except MemoryError:
        raise LimitError(
            "out-of-memory",
            f"array {entry.name!r} of {_name(path)} does not fit into memory",
            why=f"it takes {_size(entry.nbytes)}",
            fix="save fewer samples: np.savez('batch.npz', x=x[:64], y=y[:64])",
        ) from None
    view = memoryview(buffer)
    done = 0
    with archive.open(entry.member) as stream:
        stream.read(entry.offset)
        while done < entry.nbytes:
            piece = stream.read(min(_CHUNK, entry.nbytes - done))
            if not piece:
                raise EOFError(f"array {entry.name!r} ends after {done:,} bytes")
            view[done : done + len(piece)] = piece
            done += len(piece)
        # The check sum is compared at the end of the member only.
        while stream.read(_CHUNK):
            pass
    flat = np.frombuffer(buffer, dtype=entry.dtype, count=entry.count)
    shaped = flat.reshape(entry.shape, order="F" if entry.fortran else "C")
    return np.ascontiguousarray(shaped, dtype=entry.dtype.newbyteorder("=")).reshape(entry.shape)


def _not_a_batch(path: Path, why: str) -> BatchError:
    return BatchError(
        "not-a-batch",
        f"{_name(path)} is not a batch",
        why=why,
        fix="save it with np.savez('batch.npz', x=..., y=...)",
    )


def _pickled(path: Path, why: str) -> RefusedError:
    return RefusedError(
        "not-a-batch",
        f"{_name(path)} holds pickled objects",
        why=why,
        fix="save it with np.savez(..., x=..., y=...), every array with a numeric or text dtype",
    )


def _too_large(path: Path, size: int, limit: int) -> RefusedError:
    return RefusedError(
        "batch-too-large",
        f"the arrays of {_name(path)} take {_size(size)}",
        why=f"all batches together may take {_size(limit)}",
        fix="save fewer samples: np.savez('batch.npz', x=x[:64], y=y[:64])",
    )


def _damaged(path: Path, error: BaseException) -> RefusedError | BatchError:
    if isinstance(error, PermissionError):
        return BatchError(
            "not-readable",
            f"{_name(path)} cannot be read",
            why="the file's permissions forbid it",
            fix=f"chmod u+r {clean(str(path))}",
        )
    return RefusedError(
        "damaged-batch",
        f"{_name(path)} is damaged",
        why=clean(str(error)) or type(error).__name__,
        fix="copy or save the file again; its archive is cut short or corrupt",
    )


def _name(path: Path) -> str:
    return clean(path.name or str(path))


def _size(count: int) -> str:
    for unit, shift in (("GiB", 30), ("MiB", 20), ("KiB", 10)):
        if count >= 1 << shift:
            return f"{count / (1 << shift):,.4g} {unit}"
    return f"{count:,} bytes"


def _numbers(array: NDArray[Any]) -> NDArray[Any] | None:
    """Return what statistics are taken of: magnitudes of complex numbers; None for text."""
    if array.dtype.kind in "SU":
        return None
    if array.dtype.kind == "c":
        return np.asarray(np.abs(array))
    return array.view(np.uint8) if array.dtype == np.bool_ else array


def _opaque(array: NDArray[Any]) -> dict[str, Any]:
    counts = dict.fromkeys(("nan", "posinf", "neginf", "zero", "subnormal", "negative"), 0)
    return {**counts, "size": array.size, "dtype": array.dtype.name, "shape": _shape(array)}


def _shape(array: NDArray[Any]) -> str:
    return "x".join(str(size) for size in array.shape)


def _by_sample(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array as (samples, elements of one sample); a scalar is one sample."""
    return (
        array.reshape(len(array), math.prod(array.shape[1:])) if array.ndim else array[None, None]
    )


@final
@dataclass(frozen=True, eq=False)
class _PerSample:
    """What is told of every sample of one array, one entry per sample.

    Attributes:
        nonfinite: NaN and Inf.
        zero: zeros.
        low: smallest finite value; NaN when there is none.
        high: largest finite value; NaN when there is none.
        second_low: smallest finite value above ``low``; NaN when there is none.
        second_high: largest finite value below ``high``; NaN when there is none.
        integral: every finite value is a whole number.
        size: elements in one sample, or in each.
    """

    nonfinite: NDArray[np.int64]
    zero: NDArray[np.int64]
    low: NDArray[np.float64]
    high: NDArray[np.float64]
    second_low: NDArray[np.float64]
    second_high: NDArray[np.float64]
    integral: NDArray[np.bool_]
    size: int | NDArray[np.int64]

    @classmethod
    def cut(cls, values: NDArray[Any], splits: NDArray[Any]) -> _PerSample:
        """Look at the samples of a ragged array."""
        runs = [values[start:end].reshape(1, -1) for start, end in pairwise(splits.tolist())]
        each = [cls.of(run) for run in runs] or [cls.of(values.reshape(0, 1))]
        return cls(
            nonfinite=np.concatenate([one.nonfinite for one in each]),
            zero=np.concatenate([one.zero for one in each]),
            low=np.concatenate([one.low for one in each]),
            high=np.concatenate([one.high for one in each]),
            second_low=np.concatenate([one.second_low for one in each]),
            second_high=np.concatenate([one.second_high for one in each]),
            integral=np.concatenate([one.integral for one in each]),
            size=np.asarray([run.size for run in runs], dtype=np.int64),
        )

    @classmethod
    def of(cls, array: NDArray[Any]) -> _PerSample:
        """Look at all samples, so many at a time that the copies in float64 stay small."""
        rows = _by_sample(array)
        count, size = rows.shape
        if not size:
            nothing, none = np.zeros(count, dtype=np.int64), np.full(count, np.nan)
            whole = np.ones(count, dtype=np.bool_)
            return cls(nothing, nothing, none, none, none, none, whole, 0)
        parts = [
            cls._part(rows[start : start + max(1, _CHUNK // size)])
            for start in range(0, count, max(1, _CHUNK // size))
        ] or [cls._part(rows)]
        nonfinite, zero, low, high, second_low, second_high, integral = (
            np.concatenate(column) for column in zip(*parts, strict=True)
        )
        return cls(nonfinite, zero, low, high, second_low, second_high, integral, size)

    @staticmethod
    def _part(rows: NDArray[Any]) -> tuple[NDArray[Any], ...]:
        wide = rows.astype(np.float64)
        finite = np.isfinite(wide)
        nonfinite = np.count_nonzero(~finite, axis=1)
        low = np.min(wide, axis=1, where=finite, initial=np.inf)
        high = np.max(wide, axis=1, where=finite, initial=-np.inf)
        above, below = finite & (wide > low[:, None]), finite & (wide < high[:, None])
        second_low = np.min(wide, axis=1, where=above, initial=np.inf)
        second_high = np.max(wide, axis=1, where=below, initial=-np.inf)
        return (
            nonfinite,
            np.count_nonzero(wide == 0, axis=1),
            *(
                # What was found nowhere is still as it began.
                np.where(np.isinf(found), np.nan, found)
                for found in (low, high, second_low, second_high)
            ),
            np.all((wide == np.rint(wide)) | ~finite, axis=1),
        )

    def rows(self) -> Iterator[dict[str, Any]]:
        """Yield the columns of the table ``samples``, at most ``MAX_SAMPLES`` rows."""
        for sample in self._told():
            yield {
                "sample": int(sample),
                "nonfinite": int(self.nonfinite[sample]),
                "zero": int(self.zero[sample]),
                "size": int(self.size if isinstance(self.size, int) else self.size[sample]),
                "min": float(self.low[sample]),
                "max": float(self.high[sample]),
                "second_min": float(self.second_low[sample]),
                "second_max": float(self.second_high[sample]),
                "integral": bool(self.integral[sample]),
            }

    def _told(self) -> NDArray[np.intp]:
        """Return which samples are told: all, or the notable ones and then the first ones."""
        count = len(self.nonfinite)
        if count <= MAX_SAMPLES:
            return np.arange(count)
        share = MAX_SAMPLES // 8
        notable = np.concatenate(
            [
                np.flatnonzero(self.nonfinite)[: 4 * share],
                np.argsort(self.low)[:share],
                np.argsort(-self.high)[:share],
                np.flatnonzero(~self.integral)[:share],
                np.arange(count),
            ]
        )
        _, first = np.unique(notable, return_index=True)
        return np.sort(notable[np.sort(first)[:MAX_SAMPLES]])


def _in_a_row(labels: NDArray[Any]) -> dict[str, NDArray[np.int64]]:
    """Return, per sample, what decides whether a row of labels (samples, length) can be spelt.

    ``repeats`` counts equal neighbours other than 0, ``inner_zeros`` zeros before the last other
    value. Empty for labels of another shape.
    """
    if labels.ndim != 2 or labels.shape[1] < 2:
        return {}
    set_ = labels != 0
    following = np.logical_or.accumulate(set_[:, ::-1], axis=1)[:, ::-1]
    alike = (labels[:, 1:] == labels[:, :-1]) & set_[:, 1:]
    return {
        "repeats": np.count_nonzero(alike, axis=1),
        "inner_zeros": np.count_nonzero(following & ~set_, axis=1),
    }


def _feature_std_max(array: NDArray[Any]) -> float:
    """Return the largest standard deviation of one feature over the samples (finite values)."""
    rows = _by_sample(array)
    width = max(1, _CHUNK // max(1, len(rows)))
    largest = [
        _std_max(rows[:, start : start + width].astype(np.float64))
        for start in range(0, rows.shape[1], width)
    ]
    known = [value for value in largest if not math.isnan(value)]
    return max(known) if known else math.nan


def _std_max(columns: NDArray[np.float64]) -> float:
    finite = np.isfinite(columns)
    counts = np.count_nonzero(finite, axis=0)
    if not counts.any():
        return math.nan
    scale = float(np.max(np.abs(columns), where=finite, initial=0.0))
    if scale == 0:
        return 0.0
    # Scaled to at most 1, so that no square overflows.
    values = np.where(finite, columns, 0.0) / scale
    divisor = np.maximum(counts, 1)
    mean = values.sum(axis=0) / divisor
    deviation = np.where(finite, values - mean, 0.0)
    return float(np.sqrt(np.max((deviation**2).sum(axis=0) / divisor))) * scale


def _cells(array: NDArray[Any]) -> Iterator[dict[str, Any]]:
    """Yield the first ``MAX_CELLS`` cells that are NaN or Inf."""
    if array.dtype.kind != "f":
        return
    flat = array.reshape(-1)
    left = MAX_CELLS
    for start in range(0, flat.size, _CHUNK):
        bad = np.flatnonzero(~np.isfinite(flat[start : start + _CHUNK]))[:left] + start
        for position in bad.tolist():
            index = np.unravel_index(position, array.shape)
            yield {
                "sample": int(index[0]) if index else 0,
                "index": ",".join(str(int(part)) for part in index),
                "value": float(flat[position]),
            }
        left -= len(bad)
        if left <= 0:
            return
