"""What is a reporter? Options go to its constructor, the record goes to ``render``."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar

from divergence_doctor import _plugins

if TYPE_CHECKING:
    from divergence_doctor.reporters._parts import Document


class Reporter(ABC):
    """One format of the report. It decides how a document looks, never what it says.

    A concrete reporter can be made without arguments.
    """

    #: The format's name, e.g. ``markdown``.
    name: ClassVar[str]
    #: Name of its file in the output folder; None for a format that is only printed.
    filename: ClassVar[str | None]

    @abstractmethod
    def render(self, document: Document) -> str:
        """Return the report as text. Pure: the same document, the same text."""

    def suits(self, document: Document) -> bool:
        """Say whether there is anything to render; a format that needs more is left out."""
        del document
        return True


@cache
def all_reporters() -> tuple[Reporter, ...]:
    """Return one instance of every reporter with its default options, by name."""
    kinds: tuple[type[Any], ...] = _plugins.load("divergence_doctor.reporters", Reporter)
    return tuple(sorted((kind() for kind in kinds), key=lambda reporter: reporter.name))
