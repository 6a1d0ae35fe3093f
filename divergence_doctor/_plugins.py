"""Which plug-ins are there? One file in an open folder is one plug-in, found by being there.

Other packages add their own through the entry-point group ``divergence_doctor.<folder>``; such an
entry point names a concrete class of the folder's abstract class.
"""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

T = TypeVar("T")


def load(package: str, kind: type[T]) -> tuple[type[T], ...]:
    """Return every concrete subclass of ``kind`` that lives in ``package``'s open folder.

    Args:
        package: dotted name of the open folder, e.g. ``"divergence_doctor.rules"``.
        kind: the abstract class that the folder's files implement.

    Returns:
        The classes, sorted by module name and then by their place in the file. Files whose name
        starts with an underscore are the folder's own machinery and hold no plug-in.

    Raises:
        TypeError: a file defines no plug-in, or an entry point is not a ``kind``.
    """
    wanted: Any = kind
    return _load(package, wanted)


@cache
def _load(package: str, kind: Any) -> tuple[type[Any], ...]:
    folder = importlib.import_module(package)
    found: list[type[Any]] = []
    names = sorted(info.name for info in pkgutil.iter_modules(folder.__path__))
    for name in names:
        if name.startswith("_"):
            continue
        module = importlib.import_module(f"{package}.{name}")
        here = [
            member
            for member in vars(module).values()
            if inspect.isclass(member)
            and issubclass(member, kind)
            and not inspect.isabstract(member)
            and member.__module__ == module.__name__
        ]
        if not here:
            raise TypeError(f"{module.__name__} defines no concrete {kind.__name__}")
        found.extend(here)
    for entry in entry_points(group=package):
        member = entry.load()
        if not (inspect.isclass(member) and issubclass(member, kind)):
            raise TypeError(f"entry point {entry.name!r} of {package} is not a {kind.__name__}")
        found.append(member)
    return tuple(found)
