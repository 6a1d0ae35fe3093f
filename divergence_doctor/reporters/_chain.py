"""How does the chain of origin read? As a sentence from its source to the failure, and as links."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.reporters._parts import Chain, Link
from divergence_doctor.reporters._text import number, quoted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from divergence_doctor.trace import Table

#: Links that the sentence names at most; a longer one is not read.
_NAMED: Final = 6
#: From this many links between two that it names the sentence says how many.
_FAR: Final = 8
#: Links of a long chain that a report shows: those nearest the failure, those about the departure
#: and those nearest the source.
_NEAREST, _AROUND, _LAST = 10, 2, 6
#: Ops that hand a number on, with the number unchanged, are not worth a clause.
_PASSING: Final = frozenset(
    {
        *("Identity", "Reshape", "Squeeze", "ExpandDims", "StridedSlice", "Slice", "Cast", "Pack"),
        *("Unpack", "ConcatV2", "Transpose", "GatherV2", "GatherNd", "Split", "SplitV", "Pad"),
        *("MirrorPad", "PadV2", "Tile", "BroadcastTo", "Real", "BiasAdd", "Relu"),
    }
)


def chain(rows: Table, event: dict[str, Any]) -> Chain:
    """Return the chain behind an event.

    Args:
        rows: its rows of the table ``chain``, nearest first.
        event: its row of the table ``events``.
    """
    links = [_link(rows.row(index)) for index in range(len(rows))]
    shown = _shown(links)
    return Chain(
        sentence=_sentence(links, event),
        links=tuple(links[index] for index in shown),
        left_out=len(links) - len(shown),
    )


def _link(row: dict[str, Any]) -> Link:
    return Link(
        link=int(row["link"]),
        what=row["what"],
        name=row["name"],
        layer=row["layer"],
        phase=row["phase"],
        source=row["source"],
        dtype=row["dtype"],
        shape=row["shape"],
        element=row["index"].replace(",", ", ") if row["followed"] else "",
        followed=bool(row["followed"]),
        value=row["value"],
        through=row["through"],
        departed=bool(row["departed"]),
        ordinary_low=row["ordinary_low"],
        ordinary_high=row["ordinary_high"],
        low=row["min"],
        high=row["max"],
        nonfinite=sum(max(int(row[column]), 0) for column in ("nan", "posinf", "neginf")),
    )


def _shown(links: Sequence[Link]) -> list[int]:
    """Return which links a report shows: all of a short chain, the telling ones of a long one."""
    count = len(links)
    if count <= _NEAREST + _AROUND + _LAST:
        return list(range(count))
    at = next((index for index, link in enumerate(links) if link.departed), 0)
    kept = {*range(_NEAREST), *range(count - _LAST, count)}
    kept |= set(range(max(at - _AROUND, 0), min(at + _AROUND + 1, count)))
    return sorted(kept)


def _sentence(links: Sequence[Link], event: dict[str, Any]) -> str:
    """Return the way from the source to the failure, the telling links only."""
    named = [links[index] for index in _named(links)]
    if not named:
        return ""
    clauses = [f"{_subject(named[0])} is {number(named[0].value)}"]
    clauses += [f"{_subject(link)} makes {number(link.value)}{_all(links, link)}"
                for link in named[1:]]  # fmt: skip
    for place in range(1, len(named)):
        gap = named[place - 1].link - named[place].link
        clauses[place] = f"{gap} links on {clauses[place]}" if gap >= _FAR else clauses[place]
    clauses[1:2] = [f"so {clause}" for clause in clauses[1:2]]
    grown = links[0].phase == "backward"
    text = ", ".join(clauses) + f", and {_failed(event, grown=grown)}."
    return f"{text[0].upper() if text[0] != '`' else text[0]}{text[1:]} {_departure(links)}"


def _named(links: Sequence[Link]) -> list[int]:
    """Return the links that the sentence names, from the source on: where the number changed."""
    known = [
        index for index, link in enumerate(links) if not math.isnan(link.value) or link.followed
    ]
    if not known:
        return []
    source, nearest = known[-1], known[0]
    wanted = {source, nearest, *(index for index in known if links[index].departed)}
    changes = sorted(
        (index for index in known if index not in wanted and not _idle(links, index)),
        key=lambda index: (-_jump(links, index), index),
    )
    wanted.update(changes[: max(_NAMED - len(wanted), 0)])
    if _idle(links, nearest) and len(wanted) > 2 and not links[nearest].departed:
        wanted.discard(nearest)
    return sorted(wanted, reverse=True)


def _idle(links: Sequence[Link], index: int) -> bool:
    """Say whether a link only hands on the number that came before it."""
    before = links[index + 1].value if index + 1 < len(links) else math.nan
    return links[index].name in _PASSING and _alike(links[index].value, before)


def _alike(value: float, other: float) -> bool:
    return value == other or math.isclose(value, other, rel_tol=0.02)


def _jump(links: Sequence[Link], index: int) -> float:
    """Return how far a link's magnitude lies from that of the link before it, in powers of two."""
    before = links[index + 1].value if index + 1 < len(links) else math.nan
    here = links[index].value
    if not (math.isfinite(before) and math.isfinite(here)):
        return 0.0
    if (before == 0) != (here == 0):
        return math.inf
    return 0.0 if here == 0 else abs(math.log2(abs(here)) - math.log2(abs(before)))


def _subject(link: Link) -> str:
    element = f"[{link.element}]" if link.element else ""
    if link.what == "constant":
        return f"a constant{element}"
    if link.what in {"batch", "variable"}:
        word = "the weight " if link.what == "variable" else ""
        return word + quoted(f"{link.name}{element}")
    place = f" in {quoted(link.layer)}" if link.layer else ""
    line = f" at {quoted(link.source)}" if link.source and not link.layer else ""
    return quoted(link.name) + place + line


def _all(links: Sequence[Link], link: Link) -> str:
    """Say where an op's number stands for all that went into it: a row of zeros."""
    fed = next((other for other in links if other.link == link.link + 1), None)
    return f" ({fed.through})" if fed is not None and fed.through.startswith("all ") else ""


def _failed(event: dict[str, Any], *, grown: bool) -> str:
    """Return what came of it.

    Args:
        event: the row of the failure.
        grown: the number is a gradient itself, not the input at which a derivative is singular.
    """
    if not event["produced"]:
        return f"{quoted(event['op_type'])} took it in"
    made = next(
        (
            word
            for column, word in (("nan", "NaN"), ("posinf", "Inf"), ("neginf", "-Inf"))
            if event[column] > 0
        ),
        "not finite",
    )
    if event["derivative"]:
        if grown:
            return f"{made} comes out of the derivative of {quoted(event['op_type'])}"
        return f"the derivative of {quoted(event['op_type'])} there is {made}"
    return f"{quoted(event['op_type'])} of it is {made}"


def _departure(links: Sequence[Link]) -> str:
    """Say where the number left the ordinary range."""
    link = next((link for link in links if link.departed), None)
    if link is None:
        return "No number on the way is of an unusual size: the op itself made it."
    if math.isnan(link.value) or math.isinf(link.value):
        return f"It was not finite from {_subject(link)} on."
    if link.ordinary_low > 0:
        return f"It is as good as 0 (below {number(link.ordinary_low)}) from {_subject(link)} on."
    if abs(link.value) > link.ordinary_high:
        return (
            f"It left the ordinary range (up to {number(link.ordinary_high)}) at {_subject(link)}."
        )
    return f"It became {number(link.value)} at {_subject(link)}."
