"""How does the report look on a ticket? Markdown that GitHub and GitLab show, within their limit.

Names come from strangers. They stand in code spans, whose fence is longer than any run of backticks
in them; in prose whatever could become a link, a mention, HTML or maths is put into a span too.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.diagnosis import UNEXPLAINED
from divergence_doctor.reporters._reporter import Reporter
from divergence_doctor.reporters._text import (
    NONE,
    and_more,
    code_pieces,
    measured,
    number,
    one_line,
    shorten,
)
from divergence_doctor.reporters._where import values_of

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from divergence_doctor.reporters._parts import (
        Cause,
        Chain,
        Document,
        History,
        Remedy,
        Where,
        Who,
    )

#: GitHub refuses a comment of more than 65,536 characters, and with it the whole post.
LIMIT: Final = 60_000
#: What may stand before the details, which share what is left of the limit.
MAIN_LIMIT: Final = 40_000
_ROWS: Final = 24
_SAMPLES: Final = 12
_PROSE_LIMIT: Final = 1_500
#: Room for the note that names the sections of which something was cut.
_NOTE: Final = 300

#: Breaks a mention, a reference or a link in two without being seen (ZERO WIDTH JOINER).
_JOINER: Final = "\u200d"
_BACKTICKS: Final = re.compile(r"`+")
#: In prose these could start markup, HTML, maths, a mention, a reference, a link or a commit, on
#: GitHub, on GitLab (``!1`` is a merge request, ``%1`` a milestone) or in Jira (``{code}``,
#: ``!image!``, ``KEY-1``).
_RISKY: Final = re.compile(
    r"[@#<>\[\]{}|\\*~$&]|(?<![^\W_])_|_(?![^\W_])|://|\bwww\.|^[!%]\w|\w!\w"
    r"|(?-i:\b[A-Z][A-Z\d]+-\d)|^:\w+:$|^[0-9a-f]{7,40}$",
    re.IGNORECASE,
)
_EDGES: Final = re.compile(r"^(?P<open>[(\"']*)(?P<core>.*?)(?P<close>[)\"'.,;:!?]*)$", re.DOTALL)
_BLOCK_START: Final = re.compile(r"^(?P<mark>[-+=]|\d+(?=[.)]))")


@final
class Markdown(Reporter):
    """The report for a ticket: verdict first, at most 60,000 characters, every cut announced.

    Args:
        limit: most characters of the whole report.
    """

    name: ClassVar[str] = "markdown"
    filename: ClassVar[str] = "report.md"

    def __init__(self, *, limit: int = LIMIT) -> None:
        self._limit = limit

    def render(self, document: Document) -> str:
        """Return the report as GitHub-flavoured Markdown."""
        body = _fitted(_main(document), min(MAIN_LIMIT, self._limit * 2 // 3))
        foot = "---\n\nWritten by `divergence_doctor`; `report.html` and `trace.h5` hold all of it."
        left = self._limit - len(body) - len(foot) - 8
        details = []
        for table in _details(document):
            text = table.render(left)
            if text:
                details.append(text)
                left -= len(text) + 2
        return "\n\n".join([body, *details, foot]) + "\n"


@dataclass(frozen=True, slots=True)
class _Details:
    """A folded table (or list) that gives way when the report grows too long."""

    title: str
    head: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]
    what: str

    def render(self, room: int) -> str:
        """Return the table with as many rows as fit into ``room`` characters."""
        if not self.rows:
            return ""
        opening = f"<details><summary>{self.title}</summary>\n\n{_head(self.head)}"
        closing = "\n\n</details>"
        used = len(opening) + len(closing) + 200
        lines: list[str] = []
        for row in self.rows:
            line = _row(row)
            used += len(line) + 1
            if used > room:
                break
            lines.append(line)
        if not lines:
            return f"_{self.title}: left out for length, see `report.html`._" if room > used else ""
        missing = and_more(len(lines), len(self.rows), self.what)
        tail = f"\n\n**Cut for length:** {missing} `report.html` has all of them." * bool(missing)
        return opening + "\n" + "\n".join(lines) + tail + closing


def _fitted(blocks: Iterable[str], limit: int) -> str:
    """Return the blocks that fit into ``limit`` characters; a note names the sections that lack.

    Args:
        blocks: paragraphs, tables and headings; a heading opens a section.
        limit: most characters.
    """
    kept: list[str] = []
    cut: dict[str, None] = {}
    section, left = "the verdict", limit - _NOTE
    for block in blocks:
        if block.startswith("### "):
            section = block.removeprefix("### ")
        if len(block) + 2 <= left:
            kept.append(block)
            left -= len(block) + 2
        else:
            cut[section] = None
    if cut:
        kept.append(f"**Cut for length:** more of {', '.join(cut)}: `report.html` has all of it.")
    return "\n\n".join(kept)


def _folded(title: str, body: str, *, unfolded: bool = False) -> str:
    """Return Markdown that a click on its title shows (or hides, where it is unfolded)."""
    start = "<details open>" if unfolded else "<details>"
    return f"{start}<summary>{title}</summary>\n\n{body}\n\n</details>"


def code(text: str, limit: int = 160) -> str:
    """Return text as a code span that nothing in it can end; a dash when there is none."""
    flat = shorten(one_line(text), limit)
    if not flat:
        return NONE
    fence = "`" * (1 + max((len(run) for run in _BACKTICKS.findall(flat)), default=0))
    pad = " " if flat.startswith("`") or flat.endswith("`") else ""
    return f"{fence}{pad}{flat}{pad}{fence}"


def prose(text: str, limit: int = _PROSE_LIMIT) -> str:
    """Return text as one paragraph without live markup: what is risky becomes a code span."""
    flat = shorten(one_line(text), limit)
    pieces = [code(part, limit) if span else _words(part) for span, part in code_pieces(flat)]
    # Two spans side by side would share a longer fence.
    joined = "".join(pieces).replace("``", f"`{_JOINER}`")
    return _BLOCK_START.sub(lambda mark: _escaped(mark["mark"]), joined)


def _escaped(mark: str) -> str:
    return mark + _JOINER if mark.isdigit() else "\\" + mark


def _words(text: str) -> str:
    """Return prose with what could start markup as code; a bracketed list is one word.

    A star between spaces, as in a product, starts nothing.
    """
    return "".join(
        word if not _RISKY.search(word) or (word == "*" and place) else _risky_word(word)
        for place, word in enumerate(re.split(r"(\s+)(?![^\[\]]*\])", text))
    )


def _risky_word(word: str) -> str:
    edges = _EDGES.match(word)
    if edges is None or not edges["core"]:
        return code(word)
    core, close = edges["core"], edges["close"]
    if close.startswith(")") and core.count("(") > core.count(")"):
        core, close = core + ")", close[1:]
    return edges["open"] + code(core) + close


def fenced(text: str, language: str = "") -> str:
    """Return text as a fenced block whose fence is longer than any run of backticks in it."""
    longest = max((len(run) for run in _BACKTICKS.findall(text)), default=0)
    fence = "`" * max(3, longest + 1)
    return f"{fence}{language}\n{text.rstrip()}\n{fence}"


def _cell(text: str) -> str:
    """Return inline Markdown as a table's cell: no bare ``|``, no line break.

    A backslash right before a ``|`` would undo its escape in some parsers; a joiner parts them.
    """
    return text.replace("\\|", f"\\{_JOINER}|").replace("|", "\\|").replace("\n", " ")


def _row(cells: Iterable[str]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _head(names: Sequence[str]) -> str:
    return _row(names) + "\n" + "|" + " --- |" * len(names)


def _table(head: Sequence[str], rows: Sequence[Sequence[str]], what: str) -> str:
    shown = [_row(row) for row in rows[:_ROWS]]
    more = and_more(len(shown), len(rows), what)
    cut = f"\n\n**Cut for length:** {more} `report.html` has all of them." if more else ""
    return "\n".join([_head(head), *shown]) + cut


def _main(document: Document) -> Iterable[str]:
    yield f"## {_mark(document)} {_title(document)}"
    yield prose(document.summary)
    facts = _facts(document)
    if facts:
        yield facts
    yield from (f"> **Note:** {prose(note)}" for note in document.notes)
    if document.proof:
        yield "### Proof"
        yield prose(document.proof_sentence)
        yield _folded("The trials", _proof(document), unfolded=True)
    elif document.proof_sentence:
        yield prose(document.proof_sentence)
    yield from _up_to(document.history)
    if document.where is not None:
        yield from _where(document.where)
    if document.who is not None and document.cause is not None:
        yield from _who(document.who)
    if document.cause is not None:
        yield from _mend(document.cause.remedies)
        yield from _evidence(document.cause)
    if document.symptoms:
        yield from _symptoms(document.symptoms)
    if document.told:
        yield from _told(document)
    yield "### Reproduce"
    yield fenced("\n".join(f"# {c.does}\n{c.command}" for c in document.commands), "sh")
    if document.pictures:
        yield "### Figures"
        # No images: a ticket knows no folder beside it, and would show each as broken.
        yield "They lie in `figures/` beside this report: drag those that matter into the ticket."
        yield _folded(
            "What each of them shows",
            "\n".join(f"- `{p.name}.png`: {prose(p.caption)}" for p in document.pictures),
        )


def _proof(document: Document) -> str:
    return _table(
        ("what was changed", "then", "seen"),
        [
            (
                f"{prose(line.changed, 300)}{' (control)' if line.control else ''}",
                f"**{line.then}**" if line.aimed else prose(line.then),
                prose(line.detail, 300),
            )
            for line in document.proof
        ],
        "trials",
    )


def _mark(document: Document) -> str:
    return {"diverged": "❌", "healthy": "✅"}.get(document.outcome, "❔")


def _title(document: Document) -> str:
    cause = document.cause
    if cause is None or cause.cause == UNEXPLAINED:
        return prose(document.headline)
    return (
        f"{code(cause.cause)}: {prose(cause.proven)}, {cause.confidence:.0%} sure "
        f"({prose(cause.code)})"
    )


def _facts(document: Document) -> str:
    cause = document.cause
    if cause is None:
        return ""
    samples = ", ".join(str(sample) for sample in cause.samples[:_SAMPLES])
    facts = [
        ("stage", prose(cause.stage)),
        ("step", str(cause.step)),
        ("layer", code(cause.layer or "")),
        ("op", code(cause.op or "")),
        ("line", code(cause.source or "")),
        ("samples", samples + _rest(len(cause.samples))),
    ]
    return " · ".join(f"{name} {value}" for name, value in facts if value not in {"", NONE})


def _rest(samples: int) -> str:
    """Return where the samples stand that a line has no room for."""
    return f", … ({samples:,} in all: see `report.json`)" if samples > _SAMPLES else ""


def _where(place: Where) -> Iterable[str]:
    yield "### Where"
    yield prose(place.sentence)
    if place.operands:
        yield _folded("What went in and what came out", _operands(place))
    if place.chain.links:
        yield from _chain(place.chain)
    if place.message:
        yield fenced(place.message)
    if place.stack:
        yield _folded("The user's own frames", fenced(place.stack))


def _operands(place: Where) -> str:
    return _table(
        ("tensor", "from", "dtype, shape", "values"),
        [
            (
                f"{prose(o.role)} {o.position}",
                prose(o.origin, 200),
                code(f"{o.dtype} {o.shape or 'scalar'}"),
                values_of(o),
            )
            for o in place.operands
        ],
        "tensors",
    )


def _chain(chain: Chain) -> Iterable[str]:
    yield "### Where it came from"
    if chain.sentence:
        yield prose(chain.sentence)
    yield _folded("The chain, link by link", _links(chain))
    if chain.left_out:
        yield f"{chain.left_out:,} links between them are in `trace.h5`."


def _links(chain: Chain) -> str:
    return _table(
        ("", "what", "layer", "line", "element", "value", "how it went on", "whole tensor"),
        [
            (
                f"{'➜ ' if link.departed else ''}{link.link}",
                f"{prose(link.what)} {code(link.name)}",
                code(link.layer),
                code(link.source),
                code(link.cell) if link.cell else NONE,
                number(link.value) if link.followed else NONE,
                prose(link.through, 200) if link.through else NONE,
                f"{code(link.tensor)} {measured(link.low)} to {measured(link.high)}",
            )
            for link in chain.links
        ],
        "links",
    )


def _who(who: Who) -> Iterable[str]:
    yield "### Who"
    yield prose(who.sentence)
    rows: list[tuple[str, ...]] = []
    for offender in who.offenders:
        cells = ", ".join(
            f"{code(f'{cell.array}[{cell.index}]')} = {number(cell.value)}"
            for cell in offender.cells
        )
        ranges = "; ".join(
            f"{code(a.array)} {measured(a.low)} to {measured(a.high)}" for a in offender.arrays
        )
        loss = NONE if offender.loss is None else number(offender.loss)
        rows.append((str(offender.sample), loss, ranges or NONE, cells or NONE))
    if rows:
        head = ("sample", "loss", "range of its values", "cells not finite")
        yield _folded("The samples", _table(head, rows, "samples"))
        more = and_more(len(rows), who.total, "samples")
        if more:
            yield f"{more} `report.json` lists all of them."
    if who.cells:
        yield "Cells that are not finite: " + ", ".join(
            f"{code(f'{cell.array}[{cell.index}]')} = {number(cell.value)}" for cell in who.cells
        )


def _mend(remedies: Sequence[Remedy]) -> Iterable[str]:
    if remedies:
        yield "### How to mend it"
    for remedy in remedies:
        yield prose(remedy.text)
        if remedy.code:
            yield fenced(remedy.code, "python")
        if remedy.after:
            yield prose(remedy.after)


def _evidence(cause: Cause) -> Iterable[str]:
    if cause.evidence:
        yield "### Evidence"
        table = _table(
            ("figure", "value", "in `trace.h5`"),
            [(prose(c.claim, 300), _value(c.value), code(c.where)) for c in cause.evidence],
            "figures",
        )
        yield _folded("The figures that the verdict rests on", table)


def _value(value: Any) -> str:
    return code(value) if isinstance(value, str) else number(value)


def _symptoms(symptoms: Sequence[Cause]) -> Iterable[str]:
    yield "### Symptoms"
    yield "Seen beside the verdict; none of them is a cause."
    table = _table(
        ("symptom", "in a sentence", "comes of", "what mends it"),
        [
            (
                f"{code(s.cause)} {prose(s.code)}",
                prose(s.summary, 600),
                code(s.explained_by or ""),
                _in_a_line(s.remedies[0]) if s.remedies else NONE,
            )
            for s in symptoms
        ],
        "symptoms",
    )
    yield _folded("The symptoms", table)


def _in_a_line(remedy: Remedy) -> str:
    parts = (prose(remedy.text), code(remedy.code) if remedy.code else "", prose(remedy.after))
    return " ".join(part for part in parts if part)


def _told(document: Document) -> Iterable[str]:
    yield "### Not finite, but harmless"
    yield "Told, not blamed: these reach neither the loss nor a gradient nor the state."
    table = _table(
        (
            "what",
            "layer",
            "phase",
            "line",
            "times",
            "NaN",
            "Inf",
            "ended in",
            "why it does no harm",
        ),
        [
            (
                f"{prose(t.what)} {code(t.name)}",
                code(t.layer),
                prose(t.phase) or NONE,
                code(t.source),
                number(t.times),
                number(t.nan),
                number(t.inf),
                code(t.ended),
                prose(t.because),
            )
            for t in document.told
        ],
        "places",
    )
    yield _folded("Where, and why they do no harm", table)


def _details(document: Document) -> Iterable[_Details]:
    yield _Details(
        "Every finding",
        ("finding", "", "sure", "in a sentence"),
        tuple(
            (
                f"{code(c.cause)} {prose(c.code)}",
                f"{prose(c.kind)}, {c.proven}",
                f"{c.confidence:.0%}",
                prose(c.summary, 500),
            )
            for c in document.considered
        ),
        "findings",
    )
    yield _Details(
        "How true the replay is, and the environment",
        ("", ""),
        tuple(_circumstances(document)),
        "lines",
    )
    yield _Details(
        "Steps",
        ("step", "loss", "learning rate", "gradient norm", "update norm", "weight norm", "after"),
        tuple(
            (
                f"**{s.step}**" if s.failing else str(s.step),
                number(s.loss),
                measured(s.learning_rate),
                measured(s.gradient_norm),
                measured(s.update_norm),
                measured(s.weight_norm),
                prose(s.state),
            )
            for s in document.steps
        ),
        "steps",
    )
    if document.history is not None:
        yield _history(document.history)
    yield _Details(
        "Ruled out",
        ("cause", "because"),
        tuple((code(item.cause), prose(item.because, 400)) for item in document.ruled_out),
        "causes",
    )
    yield _layers(document)


def _up_to(past: History | None) -> Iterable[str]:
    if past is not None:
        yield "### Up to the crash"
        yield "\n".join(f"- {prose(sentence)}" for sentence in past.sentences)


def _history(past: History) -> _Details:
    more = and_more(len(past.rows), past.total, "steps")
    return _Details(
        "Training steps up to the crash" + f" ({more.rstrip('.')})" * bool(more),
        (
            "step",
            "epoch",
            "logged loss",
            "again",
            "",
            "learning rate",
            "loss scale",
            "gradient norm",
            "not finite after it",
        ),
        tuple(
            (
                f"**{row.step}**" if row.failing else str(row.step),
                str(row.epoch) if row.epoch >= 0 else NONE,
                number(row.recorded),
                number(row.rolled),
                prose(row.again) or NONE,
                measured(row.learning_rate),
                measured(row.loss_scale),
                measured(row.gradient_norm),
                code(row.bad_variable) if row.bad_variable else NONE,
            )
            for row in past.rows
        ),
        "steps",
    )


def _circumstances(document: Document) -> Iterable[tuple[str, str]]:
    fidelity = document.fidelity
    yield "optimizer state", prose(fidelity.optimizer_state)
    yield "random state", prose(fidelity.random_state)
    if fidelity.reference:
        yield "reference execution", prose(fidelity.reference, 600)
    if fidelity.as_trained:
        yield "as trained", prose(fidelity.as_trained, 600)
    yield from (("note", prose(note, 600)) for note in fidelity.notes)
    # The names of files are ours (checkpoint, SHA-256); those of the environment need not be.
    yield from ((name, code(text, 600)) for name, text in document.files)
    yield from ((prose(name), code(text, 600)) for name, text in document.environment)


def _layers(document: Document) -> _Details:
    return _Details(
        f"Layers at step {document.layers_step}",
        (
            "layer",
            "class",
            "output max abs",
            "std",
            "not finite",
            "gradient L2",
            "not finite",
            "weight max abs",
            "update / weight",
        ),
        tuple(
            (
                f"{'➜ ' if layer.blamed else ''}{code(layer.layer)}",
                code(layer.layer_class),
                measured(layer.forward_absmax),
                measured(layer.forward_std),
                number(layer.forward_nonfinite),
                measured(layer.gradient_l2),
                number(layer.gradient_nonfinite),
                measured(layer.weight_absmax),
                measured(layer.update_ratio),
            )
            for layer in document.layers
        ),
        "layers",
    )
