"""Where does a package come from that only some users need? From them, or a line says how."""

from __future__ import annotations

from importlib import import_module
from typing import Any

from divergence_doctor.errors import MissingPackageError


def optional(module: str, *, pip: str, to: str) -> Any:
    """Return a module that the doctor does without until somebody asks for it.

    Args:
        module: its dotted name.
        pip: what ``pip install`` is to be given, e.g. ``"pandas"``.
        to: what it is needed for, as ``to show a table as a DataFrame``.

    Raises:
        MissingPackageError: it is not installed, or cannot be imported here.
    """
    try:
        return import_module(module)
    except ImportError as error:
        raise MissingPackageError(
            "missing-package",
            f"{pip} is needed {to}",
            why=f"it is not installed here ({error})",
            fix=f"pip install {pip!r}" if "[" in pip else f"pip install {pip}",
        ) from error
