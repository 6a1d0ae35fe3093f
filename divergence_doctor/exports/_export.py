"""What is an export? A trace as the files of another tool: rendered purely, written here."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from divergence_doctor import _plugins
from divergence_doctor._clean import clean
from divergence_doctor.errors import OutputError
from divergence_doctor.output import guarded
from divergence_doctor.reporters._write import write_whole

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from divergence_doctor.trace import Trace


class Export(ABC):
    """One tool's format. A concrete export can be made without arguments."""

    #: What ``doctor export`` calls it.
    name: ClassVar[str]
    #: What it writes, in one line.
    title: ClassVar[str]

    @abstractmethod
    def render(self, trace: Trace) -> Mapping[str, bytes]:
        """Return the files by name. Pure: the same trace, the same bytes.

        Raises:
            MissingPackageError: a package that it needs is not installed.
        """


@cache
def all_exports() -> dict[str, Export]:
    """Return one instance of every export, by name."""
    kinds: tuple[type[Any], ...] = _plugins.load("divergence_doctor.exports", Export)
    return {export.name: export for export in sorted((k() for k in kinds), key=lambda e: e.name)}


def write_export(export: Export, trace: Trace, folder: Path, *, force: bool = False) -> list[Path]:
    """Write the files of an export into a folder, each whole or not at all.

    Args:
        export: which one.
        trace: of what.
        folder: made when it is not there; what else it holds stays as it is.
        force: replace files of the same names.

    Raises:
        OutputError: a file of the same name is there, or cannot be written.
    """
    files = export.render(trace)
    paths = [folder / name for name in files]
    for path in paths:
        if not force and guarded(path, path.exists):
            raise OutputError(
                "output-exists",
                f"{clean(str(path))} exists already",
                why="an existing output is not overwritten",
                fix="give another folder, or --force to replace the file",
            )
    guarded(folder, lambda: folder.mkdir(parents=True, exist_ok=True))
    for path, content in zip(paths, files.values(), strict=True):
        write_whole(path, content)
    return paths
