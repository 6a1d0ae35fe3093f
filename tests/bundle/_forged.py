"""A stranger's bundle: anything in it, and every hash right, for whoever forges it makes them."""

from __future__ import annotations

import hashlib
import json
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

TAIL = 64 + len(' "sha256": ""\n}\n')


def sealed(head: bytes) -> bytes:
    """Return a manifest of these bytes (which end after its last comma and line feed)."""
    return head + b' "sha256": "' + hashlib.sha256(head).hexdigest().encode() + b'"\n}\n'


def manifest_of(path: Path) -> dict[str, Any]:
    """Return what the manifest says, without its seal."""
    members = json.loads((path / "manifest.json").read_bytes())
    del members["sha256"]
    return members


def put_manifest(path: Path, members: dict[str, Any]) -> None:
    """Write the manifest, sealed."""
    text = json.dumps(members, indent=1).encode()
    (path / "manifest.json").write_bytes(sealed(text.removesuffix(b"\n}") + b",\n"))


def put(path: Path, name: str, content: bytes) -> None:
    """Write a file of the bundle, and list it as it now is."""
    (path / name).parent.mkdir(exist_ok=True)
    (path / name).write_bytes(content)
    members = manifest_of(path)
    members["files"] = [entry for entry in members["files"] if entry["name"] != name]
    members["files"].append(
        {"name": name, "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
    )
    put_manifest(path, members)


def put_json(path: Path, name: str, value: Any) -> None:
    """Write a JSON file of the bundle, NaN tokens and all, and list it."""
    put(path, name, json.dumps(value).encode())
