"""What does a bundle hold? Opened from its manifest, read when asked for, believed when checked."""

from __future__ import annotations

import hashlib
import os
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final, NamedTuple, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.bundle._arrays import PIECE, read_header
from divergence_doctor.bundle._dtypes import from_stored, storable, stored_as
from divergence_doctor.bundle._folder import NotPlainError, opened, read
from divergence_doctor.bundle._json import decode, number
from divergence_doctor.bundle._manifest import (
    BATCH_FILE,
    HISTORY,
    MANIFEST,
    MAX_JSON,
    MAX_REASON,
    MODEL,
    REASON,
    STATE,
    STATE_FILE,
    NewerError,
    unseal,
)
from divergence_doctor.bundle._names import PARTIAL
from divergence_doctor.errors import CheckpointError, LimitError, NotFoundError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from divergence_doctor.bundle._draft import Entry

_LONGEST: Final = 64 << 10
#: What a mended copy of a bundle takes.
_FIX: Final = "copy it again from where it was written, or save what is whole: doctor salvage"


class StoredBatch(NamedTuple):
    """The batch of one step.

    Attributes:
        step: its number among all steps that the recorder saw.
        path: the ``.npz``, for :func:`divergence_doctor.batches.read_batches`.
        structure: how nested structures were flattened; ``None`` where the names say it.
        before_snapshot: it lies before the state, and is not to be replayed from it.
    """

    step: int
    path: Path
    structure: Any
    before_snapshot: bool


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
        with _damage(self._bundle, self.file), opened(self._bundle, self.file) as (stream, size):
            return from_stored(self._load(stream, size), self.dtype)

    def _load(self, stream: IO[bytes], size: int) -> NDArray[Any]:
        if size != self._entry.size:
            raise ValueError(f"it holds {size:,} bytes instead of {self._entry.size:,}")
        header = read_header(stream, size)
        if header.dtype != np.dtype(stored_as(self.dtype)) or header.shape != self.shape:
            raise ValueError("its dtype or shape is not the one that state.json gives")
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


@final
@dataclass(frozen=True, slots=True, eq=False)
class Bundle:
    """A crash bundle, opened.

    Attributes:
        path: the folder.
        manifest: ``manifest.json``.
        files: its files by name, with their sizes and hashes.
        reason: ``reason.json``. Numbers that are not finite are the strings ``"NaN"``,
            ``"Infinity"`` and ``"-Infinity"``, which ``float`` reads.
        history: the last steps' columns; of equal length, numbers (NaN and Inf as such) or
            ``None``. Empty where it was left out.
        batches: the recorded steps, oldest first.
        model: ``model.json``; ``None`` where it was left out.
        variables: the state from before ``manifest["snapshot_step"]``, in the order of the model.
        absent: paths of the variables whose values were left out: with any of them gone, the
            state is not that from before the step.
        generators: random state that is in no variable.
    """

    path: Path
    manifest: Mapping[str, Any]
    files: Mapping[str, Entry]
    reason: Mapping[str, Any]
    history: Mapping[str, tuple[Any, ...]]
    batches: tuple[StoredBatch, ...]
    model: Mapping[str, Any] | None
    variables: tuple[StoredVariable, ...]
    absent: tuple[str, ...]
    generators: Mapping[str, Any]


def is_bundle(path: Path) -> bool:
    """Say whether a path is a folder that is meant to be a bundle; its contents are not read."""
    return path.is_dir() and (path / MANIFEST).is_file() and (path / REASON).is_file()


def open_bundle(path: Path) -> Bundle:
    """Open a bundle: what is JSON in it is read and checked, arrays are left where they are.

    Args:
        path: the folder.

    Raises:
        NotFoundError: there is no such folder.
        CheckpointError: it is no bundle, or one of a later version.
        RefusedError: it is damaged, or holds what could harm its reader.
    """
    manifest, files = read_manifest(path)
    for entry in files.values():
        with _damage(path, entry.name), opened(path, entry.name) as (_, size):
            if size != entry.size:
                raise ValueError(f"it holds {size:,} bytes instead of {entry.size:,}")
    texts: dict[str, bytes] = {
        name: _checked(path, files[name], MAX_REASON if name == REASON else MAX_JSON)
        for name in (REASON, HISTORY, MODEL, STATE)
        if name in files
    }
    return assemble(path, manifest, files, texts)


def assemble(
    path: Path,
    manifest: Mapping[str, Any],
    files: Mapping[str, Entry],
    texts: Mapping[str, bytes],
) -> Bundle:
    """Make a bundle of its manifest and the texts of its JSON files.

    Raises:
        RefusedError: one of them makes no sense.
    """
    parsed: dict[str, dict[str, Any]] = {}
    for name, text in texts.items():
        with _damage(path, name):
            parsed[name] = decode(text)
    with _damage(path, HISTORY):
        history = _history(parsed.get(HISTORY, {}))
    with _damage(path, MANIFEST):
        batches = _batches(path, manifest.get("batches", []), files)
    with _damage(path, STATE):
        state = parsed.get(STATE, {})
        variables, absent = _variables(path, state.get("variables", []), files)
        generators = state.get("generators", {})
        if not isinstance(generators, dict):
            raise ValueError("generators is no object")  # noqa: TRY004 - of the file, not the caller
    return Bundle(
        path=path,
        manifest=_legible(manifest),
        files=files,
        reason=_legible(parsed.get(REASON, {})),
        history=history,
        batches=batches,
        model=parsed.get(MODEL),
        variables=variables,
        absent=absent,
        generators=generators,
    )


def read_manifest(path: Path) -> tuple[dict[str, Any], dict[str, Entry]]:
    """Return what a bundle's manifest says, and the files that it lists.

    Raises:
        NotFoundError: there is no such folder.
        CheckpointError: it is no bundle, or one of a later version.
        RefusedError: the manifest is damaged.
    """
    check_folder(path)
    if not os.path.lexists(path / MANIFEST):
        raise _no_manifest(path)
    try:
        with _damage(path, MANIFEST):
            return unseal(read(path, MANIFEST, MAX_JSON))
    except NewerError as error:
        raise CheckpointError(
            "newer-bundle",
            f"{clean(path.name)} is a bundle of version {error}",
            why="this divergence_doctor reads version 1",
            fix="pip install -U divergence_doctor",
        ) from None


def check_folder(path: Path) -> None:
    """Check that a path is a folder.

    Raises:
        NotFoundError: it is not.
    """
    if not path.exists():
        raise NotFoundError(
            "bundle-not-found",
            f"there is no bundle {clean(str(path))}",
            why="no folder has this path",
            fix="give a folder crash-... that the flight recorder left",
        )
    if not path.is_dir():
        raise CheckpointError(
            "not-a-bundle",
            f"{clean(str(path))} is not a crash bundle",
            why="a crash bundle is a folder, and this is a file",
            fix="give a folder crash-... that the flight recorder left",
        )


def _no_manifest(path: Path) -> CheckpointError | RefusedError:
    if os.path.lexists(path / REASON):
        return RefusedError(
            "unfinished-bundle",
            f"{clean(path.name)} was not finished",
            why=f"it has no {MANIFEST}, which is written last"
            + ("" if path.name.endswith(PARTIAL) else ", or has lost it"),
            fix=f"save what is whole in it: doctor salvage {clean(str(path))}",
        )
    held = sorted(path.glob("crash-*"))
    return CheckpointError(
        "not-a-bundle",
        f"{clean(str(path))} is not a crash bundle",
        why=f"it holds no {MANIFEST}"
        + (f", but bundles, such as {clean(held[-1].name)}" if held else ""),
        fix="give a folder crash-... that the flight recorder left",
    )


@contextmanager
def _damage(path: Path, name: str) -> Iterator[None]:
    """Turn what is wrong with a file into the error that says so."""
    try:
        yield
    except PermissionError as error:
        raise CheckpointError(
            "not-readable",
            f"{clean(name)} of {clean(path.name)} cannot be read",
            why="the file's permissions forbid it",
            fix=f"chmod -R u+rX {clean(str(path))}",
        ) from error
    except (NotPlainError, ValueError, OSError) as error:
        raise RefusedError(
            "damaged-bundle",
            f"{clean(name)} of {clean(path.name)} is damaged",
            why=clean(str(error), 200) or type(error).__name__,
            fix=_FIX,
        ) from error


def _checked(path: Path, entry: Entry, limit: int) -> bytes:
    with _damage(path, entry.name):
        text = read(path, entry.name, limit)
        if hashlib.sha256(text).hexdigest() != entry.sha256:
            raise ValueError("its bytes are not those that were written")
        return text


def _history(columns: Mapping[str, Any]) -> dict[str, tuple[Any, ...]]:
    found = {}
    for name, column in columns.items():
        if not isinstance(column, list):
            raise ValueError(f"column {name!r:.60} is no list")  # noqa: TRY004 - of the file
        found[clean(name)] = tuple(
            item if item is None or isinstance(item, int) else number(item) for item in column
        )
    if len({len(column) for column in found.values()}) > 1:
        raise ValueError("its columns are not of equal length")
    return found


def _batches(path: Path, listed: Any, files: Mapping[str, Entry]) -> tuple[StoredBatch, ...]:
    if not isinstance(listed, list):
        raise ValueError("batches is no list")  # noqa: TRY004 - of the file
    found = []
    for item in listed:
        if not isinstance(item, dict):
            raise ValueError("one of its batches is no object")  # noqa: TRY004 - of the file
        step, file = item.get("step"), item.get("file")
        if not isinstance(step, int) or isinstance(step, bool) or not 0 <= step < 1 << 62:
            raise ValueError(f"one of its batches has the step {step!r:.40}")
        if not isinstance(file, str) or BATCH_FILE.fullmatch(file) is None or file not in files:
            raise ValueError(f"the batch of step {step} has no file")
        before = item.get("before_snapshot") is True
        found.append(StoredBatch(step, path / file, item.get("structure"), before))
    if len({batch.step for batch in found}) < len(found):
        raise ValueError("two of its batches are of the same step")
    return tuple(sorted(found, key=lambda batch: batch.step))


def _variables(
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


def _legible(value: Any) -> Any:
    """Return JSON from a stranger with its texts fit to be shown; texts keep their lines."""
    if isinstance(value, str):
        return clean(value, _LONGEST, multiline=True)
    if isinstance(value, dict):
        return {clean(key): _legible(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_legible(item) for item in value]
    return value


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
