"""Is a bundle as it was written? Every file, every byte, and nothing besides."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import IO, TYPE_CHECKING, Any, Final, final

from divergence_doctor._clean import clean
from divergence_doctor.bundle._arrays import PIECE, check_npz, read_header
from divergence_doctor.bundle._folder import NotPlainError, opened, walk
from divergence_doctor.bundle._manifest import MANIFEST, MAX_FILES
from divergence_doctor.bundle._opening import read_manifest
from divergence_doctor.bundle._read import open_bundle
from divergence_doctor.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from divergence_doctor.bundle._draft import Entry

#: Longest list of problems: one for each file, and then some.
_MOST: Final = 1_000


@final
@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a bundle.

    Attributes:
        file: its name in the bundle, fit to be shown.
        what: ``missing``, ``changed``, ``size``, ``unknown``, ``link``, ``not-a-file``,
            ``malformed``, ``unreadable`` or ``too-many``.
        says: one sentence.
    """

    file: str
    what: str
    says: str


def verify(path: Path) -> tuple[Problem, ...]:
    """Compare a bundle with its manifest.

    Args:
        path: the folder. Nothing outside it is read, and nothing in it is changed.

    Returns:
        What is wrong, at most 1,000 things; nothing when the bundle is whole.

    Raises:
        NotFoundError: there is no such folder.
        CheckpointError: it is no bundle, or one of a later version.
        RefusedError: it was never finished, or has lost its manifest.
    """
    try:
        _, files = read_manifest(path)
    except RefusedError as error:
        if error.slug == "unfinished-bundle":
            raise
        return (Problem(MANIFEST, "changed", f"{error.why}"),)
    found = _strangers(path, files)
    for entry in files.values():
        problem = _file(path, entry)
        if problem is not None:
            found.append(problem)
    if not found:
        found.extend(_contents(path, files))
    return tuple(found[:_MOST])


def _strangers(path: Path, files: Mapping[str, Entry]) -> list[Problem]:
    """Return what lies in the folder and is not listed."""
    folders = {name.partition("/")[0] for name in files if "/" in name}
    known = {*files, MANIFEST}
    most = MAX_FILES + 100
    entries = walk(path, most)
    if len(entries) >= most:
        return [Problem(clean(path.name), "too-many", f"it holds more than {MAX_FILES:,} files")]
    found = []
    for entry in entries:
        name = clean(entry.name)
        if entry.kind == "link":
            found.append(Problem(name, "link", "it is a link; a bundle holds none"))
        elif entry.kind == "other":
            found.append(Problem(name, "not-a-file", "it is a pipe, a socket or a device"))
        elif entry.name not in (folders if entry.kind == "folder" else known):
            found.append(Problem(name, "unknown", "the manifest does not list it"))
    return found


def _file(path: Path, entry: Entry) -> Problem | None:
    try:
        with opened(path, entry.name) as (stream, size):
            if size != entry.size:
                says = f"it holds {size:,} bytes instead of {entry.size:,}"
                return Problem(entry.name, "size", says)
            if _hash(stream) != entry.sha256:
                says = "its bytes are not those that were written (SHA-256)"
                return Problem(entry.name, "changed", says)
            return _malformed(stream, entry)
    except NotPlainError as error:
        return Problem(entry.name, "missing", str(error))
    except OSError as error:
        return Problem(entry.name, "unreadable", clean(error.strerror or str(error)))


def _hash(stream: IO[bytes]) -> str:
    seen = hashlib.sha256()
    while piece := stream.read(PIECE):
        seen.update(piece)
    return seen.hexdigest()


def _malformed(stream: IO[bytes], entry: Entry) -> Problem | None:
    """Say what is wrong with a file whose hash is right: whoever made it made the hash."""
    check: Any = {"npy": read_header, "npz": check_npz}.get(entry.name.rpartition(".")[2])
    if check is None:
        return None
    stream.seek(0)
    try:
        check(stream, entry.size)
    except ValueError as error:
        return Problem(entry.name, "malformed", clean(str(error), 200))
    return None


def _contents(path: Path, files: Mapping[str, Entry]) -> list[Problem]:
    """Return what is wrong with a bundle each of whose files is as it was written."""
    try:
        bundle = open_bundle(path)
        for variable in bundle.variables:
            variable.check()
    except RefusedError as error:
        return [Problem(error.message.partition(" of ")[0], "malformed", error.why)]
    spoken_for = {variable.file for variable in bundle.variables}
    spoken_for |= {batch.path.relative_to(path).as_posix() for batch in bundle.batches}
    return [
        Problem(name, "unknown", "nothing says what it holds")
        for name in files
        if name.startswith(("batches/", "state/")) and name not in spoken_for
    ]
