"""What may a tool be told that renders with Python-Markdown? The verdict, every name as text.

It reads another dialect than GitHub's, for which ``report.md`` is written: what stands inside
``<details>`` is HTML to it as it lies, so that a name there could fetch a picture from somewhere.
"""

from __future__ import annotations

import re
from html import escape
from typing import TYPE_CHECKING, Final

from divergence_doctor.reporters._text import one_line

if TYPE_CHECKING:
    from collections.abc import Iterator

    from divergence_doctor.reporters import Document

#: What a backslash takes the meaning from; the bar does not belong to them outside tables.
_MARKS: Final = re.compile(r"([\\`*_{}\[\]()#+\-.!])")
_BAR: Final = "&#124;"


def as_text(text: str) -> str:
    """Return plain text on one line, with nothing in it that is markup."""
    escaped = _MARKS.sub(r"\\\1", escape(one_line(text), quote=False))
    return escaped.replace("|", _BAR)


def verdict(told: Document) -> str:
    """Return the verdict, its proof, the place and the way out, as Markdown."""
    return "\n\n".join(_parts(told)) + "\n"


def _parts(told: Document) -> Iterator[str]:
    yield f"## {as_text(told.headline)}"
    yield as_text(told.summary)
    if told.where is not None:
        yield as_text(told.where.sentence)
    if told.proof:
        rows = [
            f"| {as_text(trial.changed)} | {as_text(trial.then)} | {as_text(trial.detail)} |"
            for trial in told.proof
        ]
        yield "\n".join(["| what was changed | then | seen |", "|---|---|---|", *rows])
        yield as_text(told.proof_sentence)
    if told.cause is not None and told.cause.remedies:
        yield "### How to mend it"
        for remedy in told.cause.remedies:
            yield as_text(remedy.text)
            if remedy.code:
                # Four spaces make code of a line, and code is never markup.
                yield "\n".join(f"    {line}" for line in remedy.code.splitlines())
            if remedy.after:
                yield as_text(remedy.after)
