"""Is a folder a crash bundle, as far as its manifest goes? And if not, what to tell the user."""

from __future__ import annotations

import os
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from divergence_doctor._clean import argument, clean
from divergence_doctor.bundle._folder import NotPlainError, read
from divergence_doctor.bundle._manifest import MANIFEST, MAX_JSON, REASON, NewerError, unseal
from divergence_doctor.bundle._names import PARTIAL
from divergence_doctor.errors import CheckpointError, NotFoundError, RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from divergence_doctor.bundle._draft import Entry


def is_bundle(path: Path) -> bool:
    """Say whether a path is a folder that is meant to be a bundle; its contents are not read."""
    return path.is_dir() and (path / MANIFEST).is_file() and (path / REASON).is_file()


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
        with damage(path, MANIFEST):
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


@contextmanager
def damage(path: Path, name: str) -> Iterator[None]:
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
            fix=f"copy it again, or save what is whole: doctor salvage {argument(path)}",
        ) from error


def _no_manifest(path: Path) -> CheckpointError | RefusedError:
    if os.path.lexists(path / REASON):
        return RefusedError(
            "unfinished-bundle",
            f"{clean(path.name)} was not finished",
            why=f"it has no {MANIFEST}, which is written last"
            + ("" if path.name.endswith(PARTIAL) else ", or has lost it"),
            fix=f"save what is whole in it: doctor salvage {argument(path)}",
        )
    held = sorted(path.glob("crash-*"))
    return CheckpointError(
        "not-a-bundle",
        f"{clean(str(path))} is not a crash bundle",
        why=f"it holds no {MANIFEST}"
        + (f", but bundles, such as {clean(held[-1].name)}" if held else ""),
        fix="give a folder crash-... that the flight recorder left",
    )
