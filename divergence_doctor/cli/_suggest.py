"""What did the user mean by a name that nothing has?"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Iterable


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
