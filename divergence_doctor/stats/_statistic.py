"""What is a statistic? Fed a tensor in cache-sized chunks, it answers with columns of one row."""

from __future__ import annotations

from abc import ABC, abstractmethod
from functools import cache
from typing import TYPE_CHECKING, Any

from divergence_doctor import _plugins

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.stats._chunk import Chunk, NumberFormat


class Statistic(ABC):
    """One statistic, or a family that shares its work, of one tensor.

    Args:
        form: how the tensor's dtype is laid out.
    """

    def __init__(self, form: NumberFormat) -> None:
        self.form = form

    @abstractmethod
    def add(self, chunk: Chunk) -> None:
        """Take in the next chunk. Its memory is used again: keep figures, never the arrays."""

    @abstractmethod
    def columns(self) -> Mapping[str, Any]:
        """Return the columns of everything added so far, as plain Python values or arrays."""


@cache
def all_statistics() -> tuple[type[Statistic], ...]:
    """Return every statistic of the open folder."""
    return _plugins.load("divergence_doctor.stats", Statistic)  # type: ignore[type-abstract]
