"""What is whole in a folder that is no whole bundle? Each file is judged by its own.

By its hash where the manifest is there and sealed, and else by what its format says of its end: a
header that gives the size, a check sum, a closing bracket.
"""

from __future__ import annotations

import hashlib
import os
from dataclasses import dataclass, field
from typing import IO, TYPE_CHECKING, Any, Final, final

from divergence_doctor._clean import clean
from divergence_doctor.bundle._arrays import PIECE, check_npz, read_header
from divergence_doctor.bundle._dtypes import PLAIN
from divergence_doctor.bundle._folder import NotPlainError, opened, read, walk
from divergence_doctor.bundle._json import decode
from divergence_doctor.bundle._manifest import (
    BATCH_FILE,
    CONTEXT,
    HISTORY,
    MANIFEST,
    MAX_FILES,
    MAX_JSON,
    MAX_REASON,
    MODEL,
    REASON,
    STATE,
    STATE_FILE,
)
from divergence_doctor.bundle._opening import read_manifest
from divergence_doctor.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from divergence_doctor.bundle._draft import Entry

_SMALL: Final = (REASON, CONTEXT, HISTORY, MODEL, STATE)


@final
@dataclass(frozen=True, slots=True)
class Remains:
    """What is left in a folder.

    Attributes:
        folder: the folder.
        manifest: what the manifest, or else ``context.json``, says of the run.
        whole: names of the files that are whole, in the order in which they are to be written.
        lost: those that are not, and why.
    """

    folder: Path
    manifest: Mapping[str, Any]
    whole: tuple[str, ...]
    lost: dict[str, str] = field(default_factory=dict)

    @classmethod
    def of(cls, folder: Path) -> Remains:
        manifest, files = _manifest(folder)
        there = {entry.name for entry in walk(folder, MAX_FILES) if entry.kind != "folder"}
        known = {name for name in there if _known(name)} | set(files)
        lost = {}
        for name in sorted(known, key=_rank):
            why = _broken(folder, name, files.get(name))
            if why is not None:
                lost[name] = why
        whole = tuple(sorted(known - set(lost), key=_rank))
        if not manifest and CONTEXT in whole:
            manifest = decode(read(folder, CONTEXT, MAX_JSON))
        return cls(folder, manifest, whole, lost)


def _manifest(folder: Path) -> tuple[dict[str, Any], dict[str, Entry]]:
    """Return what a sealed manifest says; nothing where there is none."""
    if not os.path.lexists(folder / MANIFEST):
        return {}, {}
    try:
        return read_manifest(folder)
    except RefusedError:
        return {}, {}


def _known(name: str) -> bool:
    return name in _SMALL or bool(BATCH_FILE.fullmatch(name) or STATE_FILE.fullmatch(name))


def _rank(name: str) -> tuple[int, str]:
    """Return the place of a file in the order of writing."""
    if name in _SMALL:
        return (_SMALL.index(name), name)
    return (len(_SMALL) + bool(STATE_FILE.fullmatch(name)), name)


def _broken(folder: Path, name: str, entry: Entry | None) -> str | None:
    """Return what is wrong with a file; None when it is whole."""
    try:
        with opened(folder, name) as (stream, size):
            if entry is not None:
                return _differs(stream, size, entry)
            _check_form(stream, size, name)
    except (NotPlainError, ValueError) as error:
        return clean(str(error), 200)
    except OSError as error:
        return clean(error.strerror or str(error))
    return None


def _differs(stream: IO[bytes], size: int, entry: Entry) -> str | None:
    if size != entry.size:
        return f"it holds {size:,} bytes instead of {entry.size:,}"
    seen = hashlib.sha256()
    while piece := stream.read(PIECE):
        seen.update(piece)
    return None if seen.hexdigest() == entry.sha256 else "its bytes are not those that were written"


def _check_form(stream: IO[bytes], size: int, name: str) -> None:
    """Check that a file without a hash is whole.

    Raises:
        ValueError: it is not.
    """
    if STATE_FILE.fullmatch(name):
        dtype = read_header(stream, size).dtype
        if dtype.name not in PLAIN or not dtype.isnative:
            raise ValueError(f"its dtype {dtype!s:.60} is none that a state has")
    elif BATCH_FILE.fullmatch(name):
        check_npz(stream, size)
    else:
        limit = MAX_REASON if name == REASON else MAX_JSON
        if size > limit:
            raise ValueError(f"it takes {size:,} bytes; {limit:,} are allowed")
        decode(stream.read(size))
