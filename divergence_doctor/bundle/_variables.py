"""How is the model's state read again? One variable at a time, and only as it was written."""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.bundle._arrays import PIECE, Header, read_header
from divergence_doctor.bundle._dtypes import from_stored, storable, stored_as
from divergence_doctor.bundle._folder import opened
from divergence_doctor.bundle._manifest import STATE_FILE
from divergence_doctor.bundle._opening import damage
from divergence_doctor.errors import LimitError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from divergence_doctor.bundle._draft import Entry

_LONGEST: Final = 64 << 10


@final
@dataclass(frozen=True, slots=True, eq=False)
class StoredVariable:
    """One variable of the model's state, on the disk.

    Attributes:
        role: ``weight``, ``seed``, ``metric``, ``optimizer``, ``loss-scale`` or ``other``.
        path: ``variable.path`` of Keras, as it was: to be escaped where it is shown.
        name: ``variable.name``, likewise.
        shape: its shape.
        dtype: its true dtype.
        file: where it lies in the bundle.
    """

    role: str
    path: str
    name: str
    shape: tuple[int, ...]
    dtype: str
    file: str
    _bundle: Path = field(repr=False)
    _entry: Entry = field(repr=False)

    @property
    def nbytes(self) -> int:
        """Bytes that :meth:`load` takes."""
        return self._entry.size

    def load(self) -> NDArray[Any]:
        """Return the value, in its true dtype (of ml_dtypes where NumPy has none such).

        Raises:
            RefusedError: the file is not as it was written.
            LimitError: it does not fit into memory.
        """
        with damage(self._bundle, self.file), opened(self._bundle, self.file) as (stream, size):
            return from_stored(self._load(stream, size), self.dtype)

    def check(self) -> None:
        """Compare what the file's header declares with what the bundle says; load nothing.

        Raises:
            RefusedError: they differ.
        """
        with damage(self._bundle, self.file), opened(self._bundle, self.file) as (stream, size):
            self._header(stream, size)

    def _header(self, stream: IO[bytes], size: int) -> Header:
        if size != self._entry.size:
            raise ValueError(f"it holds {size:,} bytes instead of {self._entry.size:,}")
        header = read_header(stream, size)
        if header.dtype != np.dtype(stored_as(self.dtype)) or header.shape != self.shape:
            raise ValueError("its dtype or shape is not the one that state.json gives")
        return header

    def _load(self, stream: IO[bytes], size: int) -> NDArray[Any]:
        header = self._header(stream, size)
        if size > _memory():
            raise _too_large(self._bundle, self.file, size)
        try:
            buffer = np.empty(header.nbytes, np.uint8)
        except MemoryError:
            raise _too_large(self._bundle, self.file, size) from None
        stream.seek(0)
        seen = hashlib.sha256(stream.read(header.offset))
        view = buffer.data
        for start in range(0, header.nbytes, PIECE):
            piece = view[start : start + PIECE]
            if stream.readinto(piece) != len(piece):  # type: ignore[attr-defined]
                raise ValueError("it ended early")
            seen.update(piece)
        if seen.hexdigest() != self._entry.sha256:
            raise ValueError("its bytes are not those that were written")
        flat = buffer.view(header.dtype)
        return flat.reshape(header.shape, order="F" if header.fortran else "C")


def stored_variables(
    path: Path, listed: Any, files: Mapping[str, Entry]
) -> tuple[tuple[StoredVariable, ...], tuple[str, ...]]:
    """Return the variables that are there, and the paths of those that are not."""
    if not isinstance(listed, list):
        raise ValueError("variables is no list")  # noqa: TRY004 - of the file
    told = [_told(item) for item in listed]
    names = [one["file"] for one in told]
    if len(set(names)) < len(names):
        raise ValueError("two of its variables lie in the same file")
    there = tuple(_variable(path, one, files[one["file"]]) for one in told if one["file"] in files)
    return there, tuple(clean(one["path"]) for one in told if one["file"] not in files)


def _told(item: Any) -> dict[str, Any]:
    """Return one entry of ``state.json``, checked."""
    if not isinstance(item, dict):
        raise ValueError("one of its variables is no object")  # noqa: TRY004 - of the file
    for key in ("file", "role", "path", "name", "dtype"):
        text = item.get(key)
        if not isinstance(text, str) or len(text) > _LONGEST:
            raise ValueError(f"one of its variables lacks its {key}")
    if STATE_FILE.fullmatch(item["file"]) is None:
        raise ValueError(f"one of its variables lies in {item['file']!r:.120}")
    if not storable(item["dtype"]):
        raise ValueError(f"the variable in {item['file']} has the dtype {item['dtype']!r:.40}")
    return item


def _variable(path: Path, told: Mapping[str, Any], entry: Entry) -> StoredVariable:
    shape = told.get("shape")
    if shape is None:
        with opened(path, entry.name) as (stream, size):
            shape = list(read_header(stream, size).shape)
    if not isinstance(shape, list) or not all(
        isinstance(length, int) and not isinstance(length, bool) and 0 <= length < 1 << 62
        for length in shape
    ):
        raise ValueError(f"the variable in {entry.name} has the shape {shape!r:.60}")
    return StoredVariable(
        role=told["role"],
        path=told["path"],
        name=told["name"],
        shape=tuple(shape),
        dtype=told["dtype"],
        file=entry.name,
        _bundle=path,
        _entry=entry,
    )


def _memory() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return 1 << 62


def _too_large(path: Path, file: str, size: int) -> LimitError:
    return LimitError(
        "out-of-memory",
        f"{clean(file)} of {clean(path.name)} does not fit into memory",
        why=f"it takes {size:,} bytes",
        fix="open the bundle on a machine with more memory",
    )
