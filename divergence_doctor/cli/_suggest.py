"""What did the user mean by a name that nothing has?"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from divergence_doctor._clean import clean
from divergence_doctor.errors import UsageError

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

T = TypeVar("T")


def suggestion(name: str, known: Iterable[str], otherwise: str) -> str:
    """Return ``did you mean a, b or c?`` for names alike; ``otherwise`` where none is."""
    from difflib import get_close_matches

    by_folded = {one.casefold(): one for one in known}
    alike = get_close_matches(name.casefold(), by_folded, n=3, cutoff=0.5)
    alike += [one for one in by_folded if name and name.casefold() in one and one not in alike]
    shown = [by_folded[one] for one in alike[:3]]
    if not shown:
        return otherwise
    return f"did you mean {' or '.join(shown)}? {otherwise}"


def known_one(name: str, known: Mapping[str, T], *, what: str, slug: str) -> T:
    """Return what has the name.

    Args:
        name: as the user gave it.
        known: what there is.
        what: what it is, as ``format to export to``.
        slug: of the error.

    Raises:
        UsageError: nothing has it.
    """
    if name in known:
        return known[name]
    raise UsageError(
        slug,
        f"there is no {what} {clean(name)!r}",
        why=f"there is {', '.join(known)}",
        fix=suggestion(name, known, f"give one of these: {', '.join(known)}"),
    )
