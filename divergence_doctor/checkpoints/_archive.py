"""Is a ``.keras`` archive sound enough to be given to Keras? Read as zip and JSON, nothing more.

The bounds are those of the package's threat model: a member may be large, but not much larger than
what is stored, and a config may be long, but not deep.
"""

from __future__ import annotations

import json
import struct
import zipfile
import zlib
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor._clean import clean
from divergence_doctor.errors import CheckpointError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

CONFIG: Final = "config.json"
METADATA: Final = "metadata.json"
WEIGHTS: Final = "model.weights.h5"

MAX_MEMBERS: Final = 10_000
MAX_MEMBER: Final = 8 << 30
#: Keras stores its members uncompressed; this leaves room for an archive packed again.
MAX_EXPANSION: Final = 100
EXPANSION_FLOOR: Final = 64 << 20
MAX_CONFIG: Final = 64 << 20
MAX_DEPTH: Final = 200
_CHUNK: Final = 1 << 20


@final
@dataclass(frozen=True, eq=False)
class Archive:
    """What the archive holds besides the weights themselves.

    Attributes:
        config: the model's config.
        keras_version: version of Keras that wrote it; empty when unknown.
        weights_bytes: size of the weights file, unpacked.
    """

    config: dict[str, Any]
    keras_version: str
    weights_bytes: int


def holds_model(path: Path) -> bool:
    """Say whether a file is a zip archive that is meant to hold a Keras model."""
    try:
        with path.open("rb") as stream:
            if not stream.read(2).startswith(b"PK"):
                return False
        with zipfile.ZipFile(path) as archive:
            return bool({CONFIG, WEIGHTS, METADATA} & set(archive.namelist()))
    except (OSError, zipfile.BadZipFile, ValueError):
        # A damaged archive that is named like a model is for the preflight to refuse.
        return path.suffix == ".keras" and path.is_file()


def read_archive(path: Path) -> Archive:
    """Check an archive and read its config.

    Raises:
        CheckpointError: it is no zip archive, or no Keras model.
        RefusedError: it is damaged, or declares more than it may.
    """
    with _damage(path), path.open("rb") as stream:
        if stream.read(2) != b"PK":
            raise CheckpointError(
                "not-a-checkpoint",
                f"{clean(path.name)} is no .keras archive",
                why="a .keras archive is a zip archive, and this is none",
                fix="save the model again: model.save('model.keras')",
            )
        with zipfile.ZipFile(stream) as archive:
            members = _members(path, archive)
            for member in members.values():
                _check_sum(archive, member)
            config = _json(path, CONFIG, archive.read(CONFIG))
            metadata = _json(path, METADATA, archive.read(METADATA)) if METADATA in members else {}
            return Archive(
                config=config,
                keras_version=clean(str(metadata.get("keras_version", ""))),
                weights_bytes=members[WEIGHTS].file_size,
            )


@contextmanager
def _damage(path: Path) -> Iterator[None]:
    try:
        yield
    except (
        zipfile.BadZipFile,
        zlib.error,
        EOFError,
        OSError,
        NotImplementedError,
        RuntimeError,
        UnicodeDecodeError,
        struct.error,
    ) as error:
        raise damaged(path, error) from error


def damaged(path: Path, error: BaseException) -> RefusedError | CheckpointError:
    """Return the error that says that a checkpoint is cut short or corrupt (or unreadable)."""
    if isinstance(error, PermissionError):
        return CheckpointError(
            "not-readable",
            f"{clean(path.name)} cannot be read",
            why="the file's permissions forbid it",
            fix=f"chmod u+r {clean(str(path))}",
        )
    return RefusedError(
        "damaged-checkpoint",
        f"{clean(path.name)} is damaged",
        why=clean(str(error).strip().split("\n")[0]) or type(error).__name__,
        fix="copy the file again, or use an earlier checkpoint; model.save is not atomic, so a run"
        " that was killed while saving leaves such a file",
    )


def _members(path: Path, archive: zipfile.ZipFile) -> dict[str, zipfile.ZipInfo]:
    members = archive.infolist()
    if len(members) > MAX_MEMBERS:
        raise _bomb(path, f"it holds {len(members):,} members; {MAX_MEMBERS:,} are allowed")
    found = {member.filename: member for member in members}
    if len(found) < len(members):
        raise _bomb(path, "two of its members have the same name")
    missing = [name for name in (CONFIG, WEIGHTS) if name not in found]
    if missing:
        raise CheckpointError(
            "not-a-checkpoint",
            f"{clean(path.name)} holds no {' and no '.join(missing)}",
            why="a .keras archive holds metadata.json, config.json and model.weights.h5",
            fix="save the model again: model.save('model.keras')",
        )
    if found[CONFIG].file_size > MAX_CONFIG:
        raise _bomb(path, f"its config takes {found[CONFIG].file_size:,} bytes")
    unpacked = sum(member.file_size for member in members)
    stored = sum(member.compress_size for member in members)
    if any(member.file_size > MAX_MEMBER for member in members):
        raise _bomb(path, "one of its members takes more than 8 GiB")
    if unpacked > EXPANSION_FLOOR and unpacked > MAX_EXPANSION * stored:
        raise _bomb(path, f"it unpacks to {unpacked:,} bytes from {stored:,}")
    return found


def _check_sum(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> None:
    with archive.open(member) as stream:
        while stream.read(_CHUNK):
            pass


def _bomb(path: Path, why: str) -> RefusedError:
    return RefusedError(
        "checkpoint-bomb",
        f"{clean(path.name)} is not loaded",
        why=why,
        fix="save the model again: model.save('model.keras')",
    )


def _json(path: Path, member: str, text: bytes) -> dict[str, Any]:
    try:
        value = json.loads(text)
    except RecursionError as error:
        raise _bomb(path, f"{member} is nested too deeply") from error
    except ValueError as error:
        raise RefusedError(
            "damaged-checkpoint",
            f"{member} of {clean(path.name)} is no JSON",
            why=clean(str(error)),
            fix="save the model again: model.save('model.keras')",
        ) from error
    if not isinstance(value, dict):
        raise RefusedError(
            "damaged-checkpoint",
            f"{member} of {clean(path.name)} is no JSON object",
            why=f"it is a {type(value).__name__}",
            fix="save the model again: model.save('model.keras')",
        )
    if depth(value) > MAX_DEPTH:
        raise _bomb(path, f"{member} is nested deeper than {MAX_DEPTH} levels")
    return value


def depth(value: Any) -> int:
    """Return how deep containers are nested, stopping beyond ``MAX_DEPTH``."""
    level, current = 0, [value]
    while current and level <= MAX_DEPTH:
        inner = [
            child
            for item in current
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        level, current = level + 1, inner
    return level
