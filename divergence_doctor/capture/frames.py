"""Which frames of a traceback are the user's? All but those of the recorder itself."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from types import TracebackType

_OURS: Final = str(Path(__file__).parents[1]) + "/"


def without_ours(found: TracebackType | None) -> TracebackType | None:
    """Return a traceback without the frames of this package."""
    import types

    kept = []
    while found is not None:
        if not found.tb_frame.f_code.co_filename.startswith(_OURS):
            kept.append(found)
        found = found.tb_next
    chain: TracebackType | None = None
    for one in reversed(kept):
        chain = types.TracebackType(chain, one.tb_frame, one.tb_lasti, one.tb_lineno)
    return chain


def clean_chain(error: BaseException) -> None:
    """Take this package's frames out of the tracebacks of an error and of what led to it."""
    seen: set[int] = set()
    stack: list[BaseException | None] = [error]
    while stack:
        one = stack.pop()
        if one is None or id(one) in seen:
            continue
        seen.add(id(one))
        one.__traceback__ = without_ours(one.__traceback__)
        stack += [one.__cause__, one.__context__]
        if isinstance(one, BaseExceptionGroup):
            stack += one.exceptions
