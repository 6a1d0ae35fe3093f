"""How does what an interrupted dump, or a damaged bundle, still holds become a bundle again?"""

from __future__ import annotations

import secrets
from functools import partial
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.bundle._arrays import PIECE, Sink, read_header
from divergence_doctor.bundle._draft import Draft
from divergence_doctor.bundle._dtypes import storable, stored_as
from divergence_doctor.bundle._filesystem import REAL, FileSystem, sync_folder
from divergence_doctor.bundle._folder import opened, read
from divergence_doctor.bundle._json import decode, encode
from divergence_doctor.bundle._manifest import (
    BATCH_FILE,
    MANIFEST,
    MAX_JSON,
    REASON,
    STATE,
    STATE_FILE,
    STATE_SCHEMA,
    seal,
)
from divergence_doctor.bundle._names import PARTIAL
from divergence_doctor.bundle._opening import check_folder
from divergence_doctor.bundle._read import open_bundle
from divergence_doctor.bundle._reason import encode_reason
from divergence_doctor.bundle._remains import Remains
from divergence_doctor.bundle._sweep import remove
from divergence_doctor.errors import CheckpointError, OutputError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

#: Characters of the bundle's name that its temporary neighbour carries.
_KEPT_OF_NAME: Final = 40


def salvage(broken: Path, out: Path, *, fs: FileSystem = REAL) -> Path:
    """Save what is whole of an interrupted dump, or of a damaged bundle, as a bundle.

    Args:
        broken: the folder; nothing in it is changed, and nothing outside it is read.
        out: the bundle to make; its parent must exist.
        fs: the file system that it is written to.

    Returns:
        ``out``. Its manifest says ``"salvaged": true``, and under ``dropped`` what is missing.

    Raises:
        NotFoundError: there is no such folder.
        CheckpointError: it is no crash bundle, nor the beginning of one.
        RefusedError: nothing in it is whole.
        OutputError: ``out`` exists, or cannot be written.
    """
    check_folder(broken)
    _check_free(out)
    found = Remains.of(broken)
    if not found.whole:
        raise _nothing(broken, found)
    folder = out.parent / f".{out.name[:_KEPT_OF_NAME]}-{secrets.token_hex(6)}{PARTIAL}"
    try:
        fs.mkdir(folder)
        try:
            _fill(Draft(fs, folder), found)
            # A stranger's JSON may be whole and make no sense.
            open_bundle(folder)
            fs.rename(folder, out)
            sync_folder(fs, out.absolute().parent)
        finally:
            remove(fs, folder)
    except OSError as error:
        raise OutputError(
            "cannot-write",
            f"{clean(str(out))} cannot be written",
            why=clean(error.strerror or str(error)).lower(),
            fix="choose another folder with --out, or make room on the disk",
        ) from error
    return out


def _check_free(out: Path) -> None:
    if out.is_symlink() or out.exists():
        raise OutputError(
            "output-exists",
            f"{clean(str(out))} exists already",
            why="an existing output is not overwritten",
            fix="give another folder with --out",
        )


def _nothing(broken: Path, found: Remains) -> CheckpointError | RefusedError:
    if not found.lost:
        return CheckpointError(
            "not-a-bundle",
            f"{clean(str(broken))} is not a crash bundle",
            why="it holds none of the files that one is made of",
            fix="give a folder crash-..., or .crash-....partial, that the flight recorder left",
        )
    name, why = next(iter(found.lost.items()))
    return RefusedError(
        "nothing-to-salvage",
        f"nothing in {clean(broken.name)} is whole",
        why=f"{clean(name)}: {why}",
        fix="look for an earlier bundle beside it",
    )


def _fill(draft: Draft, found: Remains) -> None:
    """Copy what is whole, and write the manifest.

    Raises:
        OSError: it cannot be written.
    """
    variables, strays = _variables(found)
    lost = {**found.lost, **strays}
    if REASON not in found.whole:
        told = {"trigger": "unknown", "message": "reason.json was lost; what is here was salvaged"}
        text = encode_reason(told)
        draft.add(REASON, partial(_put, text))
    for name in found.whole:
        if name not in (strays.keys() | {STATE}):
            draft.add(name, partial(_copy, found.folder, name))
    if variables:
        draft.add(STATE, partial(_put, encode(variables)))
    manifest = seal(_members(found, draft, lost), draft.files.values())
    draft.add(MANIFEST, partial(_put, manifest), listed=False)
    draft.sync()


def _put(text: bytes, sink: Sink) -> None:
    sink.write(text)


def _copy(folder: Path, name: str, sink: Sink) -> None:
    with opened(folder, name) as (stream, _):
        while piece := stream.read(PIECE):
            sink.write(piece)


def _members(found: Remains, draft: Draft, lost: Mapping[str, str]) -> dict[str, Any]:
    given = found.manifest
    former = given.get("dropped")
    batches = given.get("batches")
    return {
        **given,
        "salvaged": True,
        "batches": _batches(batches if isinstance(batches, list) else [], draft),
        "dropped": [
            *(former if isinstance(former, list) else []),
            *({"what": "damaged", "files": [name], "why": why} for name, why in lost.items()),
        ],
    }


def _batches(listed: list[Any], draft: Draft) -> list[dict[str, Any]]:
    """Return what is told of the batches that are there; of one that nothing tells of, its step."""
    told = {
        item["file"]: item
        for item in listed
        if isinstance(item, dict) and isinstance(item.get("file"), str)
    }
    files = sorted(name for name in draft.files if BATCH_FILE.fullmatch(name))
    return [
        told.get(file, {"step": int(file[len("batches/") : -len(".npz")]), "file": file})
        for file in files
    ]


def _variables(found: Remains) -> tuple[dict[str, Any], dict[str, str]]:
    """Return what ``state.json`` is to say, and which arrays do not fit what it says.

    Where it was lost, the arrays are told by the names of their files.
    """
    arrays = [name for name in found.whole if STATE_FILE.fullmatch(name)]
    if STATE in found.whole:
        state = decode(read(found.folder, STATE, MAX_JSON))
        listed = state.get("variables")
        told = {
            item.get("file"): item
            for item in (listed if isinstance(listed, list) else [])
            if isinstance(item, dict) and isinstance(item.get("file"), str)
        }
        strays = {name: "state.json tells of no such array" for name in arrays if name not in told}
        for name in arrays:
            if name in told and not _fits(found.folder, name, told[name]):
                strays[name] = "its dtype or shape is not the one that state.json gives"
        return state, strays
    if not arrays:
        return {}, {}
    made = [_unnamed(found.folder, name) for name in arrays]
    return {"schema": STATE_SCHEMA, "variables": made, "generators": {}}, {}


def _fits(folder: Path, name: str, told: Mapping[str, Any]) -> bool:
    with opened(folder, name) as (stream, size):
        header = read_header(stream, size)
    dtype, shape = told.get("dtype"), told.get("shape")
    return (
        isinstance(dtype, str)
        and storable(dtype)
        and header.dtype == np.dtype(stored_as(dtype))
        and shape in (None, list(header.shape))
    )


def _unnamed(folder: Path, name: str) -> dict[str, Any]:
    with opened(folder, name) as (stream, size):
        header = read_header(stream, size)
    dtype = header.dtype.name
    place = name.removesuffix(".npy")
    return {
        "file": name,
        "role": "other",
        "path": place,
        "name": place,
        "shape": list(header.shape),
        "dtype": dtype,
        "stored": dtype,
    }
