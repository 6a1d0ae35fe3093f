"""What makes a folder a bundle? A manifest that lists every file, and closes with its own hash.

The seal is the manifest's last member, on the last line but one; it is the SHA-256 of every byte
before that line. So no bit of the manifest can change unseen, and it is still plain JSON.
"""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.bundle._draft import Entry
from divergence_doctor.bundle._json import decode, encode

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

MANIFEST: Final = "manifest.json"
REASON: Final = "reason.json"
CONTEXT: Final = "context.json"
HISTORY: Final = "history.json"
MODEL: Final = "model.json"
STATE: Final = "state.json"

SCHEMA: Final = "divergence-doctor/bundle/1"
REASON_SCHEMA: Final = "divergence-doctor/reason/1"
CONTEXT_SCHEMA: Final = "divergence-doctor/context/1"
STATE_SCHEMA: Final = "divergence-doctor/state/1"

MAX_FILES: Final = 100_000
MAX_REASON: Final = 64 << 10
MAX_JSON: Final = 64 << 20

#: What a bundle's arrays are called.
BATCH_FILE: Final = re.compile(r"batches/\d{8,12}\.npz", re.ASCII)
STATE_FILE: Final = re.compile(r"state/\d{5,9}\.npy", re.ASCII)

_TAIL: Final = re.compile(rb' "sha256": "([0-9a-f]{64})"\n\}\n')
_TAIL_LENGTH: Final = len(' "sha256": ""\n}\n') + 64
#: Plain names, at most one folder deep: nothing that leads out of the bundle or hides in it.
_PART: Final = r"[A-Za-z0-9_][A-Za-z0-9_.-]{0,99}"
_FILE: Final = re.compile(rf"(?:{_PART}/)?{_PART}", re.ASCII)
_SHA256: Final = re.compile(r"[0-9a-f]{64}", re.ASCII)
_VERSION: Final = re.compile(r"divergence-doctor/bundle/([1-9]\d{0,5})", re.ASCII)


def seal(members: Mapping[str, Any], files: Iterable[Entry]) -> bytes:
    """Return the bytes of a manifest.

    Args:
        members: what it says, without ``schema``, ``complete``, ``files`` and ``sha256``.
        files: all files of the bundle but the manifest.
    """
    own = ("schema", "complete", "files", "sha256")
    text = encode(
        {
            "schema": SCHEMA,
            "complete": True,
            **{key: value for key, value in members.items() if key not in own},
            "files": [entry.told() for entry in files],
        }
    )
    head = text.removesuffix(b"\n}\n") + b",\n"
    return head + b' "sha256": "' + hashlib.sha256(head).hexdigest().encode() + b'"\n}\n'


def unseal(text: bytes) -> tuple[dict[str, Any], dict[str, Entry]]:
    """Return what a manifest says, and the files that it lists by name.

    Raises:
        ValueError: it was changed, or is none; says why in a few words.
        NewerError: it is of a later version.
    """
    tail = _TAIL.fullmatch(text[-_TAIL_LENGTH:])
    if tail is None:
        raise ValueError("its seal is missing; it was cut short or changed")
    head = text[:-_TAIL_LENGTH]
    if hashlib.sha256(head).hexdigest().encode() != tail[1]:
        raise ValueError("its seal is broken; it was changed after it was written")
    members = decode(text)
    version = _VERSION.fullmatch(str(members.get("schema")))
    if version is None:
        raise ValueError("it is not a bundle's manifest")
    if int(version[1]) > 1:
        raise NewerError(version[1])
    if members.get("complete") is not True:
        raise ValueError("it does not say that the bundle is complete")
    return members, _files(members.get("files"))


class NewerError(Exception):
    """The bundle is of a version that only a later release reads."""


def _files(listed: Any) -> dict[str, Entry]:
    if not isinstance(listed, list) or len(listed) > MAX_FILES:
        raise ValueError(f"it lists no files, or more than {MAX_FILES:,}")
    found = [_entry(item) for item in listed]
    files = {entry.name: entry for entry in found}
    if len(files) < len(found):
        raise ValueError("it lists a file twice")
    folders = {name.partition("/")[0] for name in files if "/" in name}
    if folders & set(files):
        raise ValueError("it lists a file that is a folder, too")
    if REASON not in files:
        raise ValueError(f"it lists no {REASON}")
    return files


def _entry(item: Any) -> Entry:
    if not isinstance(item, dict):
        raise ValueError("it lists what is no file")  # noqa: TRY004 - what is wrong is the file
    name, size, sha256 = (item.get(key) for key in ("name", "bytes", "sha256"))
    if not isinstance(name, str) or _FILE.fullmatch(name) is None or name == MANIFEST:
        raise ValueError(f"it lists a file of the name {name!r:.120}")
    if not isinstance(size, int) or isinstance(size, bool) or not 0 <= size < 1 << 62:
        raise ValueError(f"it gives {name} a size of {size!r:.40}")
    if not isinstance(sha256, str) or _SHA256.fullmatch(sha256) is None:
        raise ValueError(f"it gives {name} no hash")
    return Entry(name, size, sha256)
