"""What does a bundle hold? Opened from its manifest, read when asked for, believed when checked."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NamedTuple, final

from divergence_doctor._clean import clean
from divergence_doctor.bundle._folder import opened, read
from divergence_doctor.bundle._json import decode, number, restored
from divergence_doctor.bundle._manifest import (
    BATCH_FILE,
    HISTORY,
    MANIFEST,
    MAX_JSON,
    MAX_REASON,
    MODEL,
    REASON,
    STATE,
)
from divergence_doctor.bundle._opening import damage, read_manifest
from divergence_doctor.bundle._variables import StoredVariable, stored_variables

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from divergence_doctor.bundle._draft import Entry

_LONGEST: Final = 64 << 10


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
        with damage(path, entry.name), opened(path, entry.name) as (_, size):
            if size != entry.size:
                raise ValueError(f"it holds {size:,} bytes instead of {entry.size:,}")
    texts: dict[str, bytes] = {
        name: _checked(path, files[name], MAX_REASON if name == REASON else MAX_JSON)
        for name in (REASON, HISTORY, MODEL, STATE)
        if name in files
    }
    return _assemble(path, manifest, files, texts)


def _assemble(
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
        with damage(path, name):
            parsed[name] = decode(text)
    with damage(path, HISTORY):
        history = _history(parsed.get(HISTORY, {}))
    with damage(path, MANIFEST):
        batches = _batches(path, manifest.get("batches", []), files)
    with damage(path, MODEL):
        model = restored(parsed[MODEL]) if MODEL in parsed else None
    with damage(path, STATE):
        state = parsed.get(STATE, {})
        variables, absent = stored_variables(path, state.get("variables", []), files)
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
        model=model,
        variables=variables,
        absent=absent,
        generators=generators,
    )


def _checked(path: Path, entry: Entry, limit: int) -> bytes:
    with damage(path, entry.name):
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


def _legible(value: Any) -> Any:
    """Return JSON from a stranger with its texts fit to be shown; texts keep their lines."""
    if isinstance(value, str):
        return clean(value, _LONGEST, multiline=True)
    if isinstance(value, dict):
        return {clean(key): _legible(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_legible(item) for item in value]
    return value
