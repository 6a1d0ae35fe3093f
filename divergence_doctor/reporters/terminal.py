"""What fits on one screen? The verdict, the place, the proof and the way out, without scrolling."""

from __future__ import annotations

from io import StringIO
from typing import TYPE_CHECKING, ClassVar, Final, final

from divergence_doctor.reporters._reporter import Reporter
from divergence_doctor.reporters._text import one_line, shorten
from divergence_doctor.reporters._where import counted

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.console import Console
    from rich.text import Text

    from divergence_doctor.reporters._parts import Document, Remedy, TrialLine

_LABEL: Final = 9
_NARROWEST: Final = 30
_MARKS: Final = {
    "diverged": ("✗", "bold red"),
    "healthy": ("✓", "bold green"),
    "inconclusive": ("?", "bold yellow"),
}
_TRIALS: Final = 5
#: Most lines of each part: 23 in all without `when`, which only a crash bundle has, so that the
#: prompt still stands on a screen of 24.
_LINES: Final = {
    "": 3,
    "when": 2,
    "where": 3,
    "samples": 1,
    "proof": _TRIALS,
    "mend": 3,
    "also": 1,
    "signs": 1,
    "note": 2,
    "files": 2,
}


@final
class Terminal(Reporter):
    """A summary of at most one screen.

    Args:
        width: columns.
        height: most lines.
        color: style the text with SGR codes; ``NO_COLOR`` in the environment still leaves
            colours out.
    """

    name: ClassVar[str] = "terminal"
    filename: ClassVar[None] = None

    def __init__(
        self,
        *,
        width: int = 80,
        height: int = 24,
        color: bool = False,
    ) -> None:
        self._width = max(width, _NARROWEST)
        self._height = height
        self._color = color

    def render(self, document: Document) -> str:
        """Return the summary, ending in a line feed."""
        console = self._console()
        lines = [self._verdict(document), *self._parts(document, console)]
        if len(lines) > self._height:
            lines = [*lines[: self._height - 1], _text("… the rest is in report.md", "dim")]
        return self._printed(lines, console)

    def render_files(self, files: Sequence[str]) -> str:
        """Return the lines that say where the whole report lies, as the user may type it."""
        console = self._console()
        texts = [_text(path, "cyan") for path in files]
        return self._printed(self._part("files", texts, console), console)

    def _console(self) -> Console:
        from rich.console import Console

        return Console(
            file=StringIO(),
            width=self._width,
            force_terminal=self._color,
            color_system="standard" if self._color else None,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )

    @staticmethod
    def _printed(lines: Iterable[Text], console: Console) -> str:
        with console.capture() as captured:
            for line in lines:
                console.print(line, no_wrap=True, overflow="ellipsis", crop=True)
        return "\n".join(line.rstrip() for line in captured.get().splitlines()) + "\n"

    def _verdict(self, document: Document) -> Text:
        mark, style = _MARKS[document.outcome]
        return _text(f"{mark} {document.headline}", style)

    def _parts(self, document: Document, console: Console) -> Iterable[Text]:
        yield from self._part("", [_text(_plain(document.summary))], console)
        yield _text("")
        if document.history is not None and document.history.lost:
            yield from self._part("when", [_text(_plain(document.history.lost))], console)
        if document.where is not None:
            yield from self._part("where", [_text(_plain(document.where.sentence))], console)
        if document.cause is not None and document.cause.samples:
            samples = counted(document.cause.samples, 12).split(" ", 1)[1]
            yield from self._part("samples", [_text(samples)], console)
        yield from self._part("proof", [*self._proof(document.proof)], console)
        if document.cause is not None:
            yield from self._part("mend", [*_remedies(document.cause.remedies)], console)
        also = ", ".join(f"{c.cause} ({c.proven})" for c in document.contributing)
        yield from self._part("also", [_text(also)] if also else [], console)
        signs = ", ".join(symptom.cause for symptom in document.symptoms)
        yield from self._part("signs", [_text(signs)] if signs else [], console)
        yield from self._part(
            "note", [_text(_plain(note), "yellow") for note in document.notes], console
        )

    def _part(self, label: str, texts: Sequence[Text], console: Console) -> Iterable[Text]:
        """Yield a part's lines, its label before the first, cut to what the part may take."""
        from rich.text import Text

        indent = _LABEL if label else 0
        wrapped = [line for text in texts for line in text.wrap(console, self._width - indent)]
        most = _LINES[label]
        for index, line in enumerate(wrapped[:most]):
            line.rstrip()
            if index == most - 1 and len(wrapped) > most:
                line.truncate(self._width - indent - 2)
                line.append(" …", "dim")
            yield Text((label if index == 0 else "").ljust(indent), "bold").append_text(line)

    def _proof(self, trials: Sequence[TrialLine]) -> Iterable[Text]:
        shown = trials if len(trials) <= _TRIALS else trials[: _TRIALS - 1]
        room = self._width - _LABEL
        for trial in shown:
            style = {"finite": "green", "still-fails": "red"}.get(trial.outcome, "dim")
            changed = _plain(trial.changed) + (" (control)" if trial.control else "")
            row = _text(changed)
            row.truncate(room - 15, overflow="ellipsis", pad=True)
            yield row.append("  ").append(trial.then[:13], style)
        if len(shown) < len(trials):
            yield _text(f"and {len(trials) - len(shown)} more trials, see report.md", "dim")


def _remedies(remedies: Sequence[Remedy]) -> Iterable[Text]:
    for remedy in remedies[:1]:
        yield _text(_plain(" ".join(part for part in (remedy.text, remedy.code) if part)))


def _plain(text: str) -> str:
    """Return prose without its backticks; they only mark code."""
    return text.replace("`", "")


def _text(text: str, style: str = "") -> Text:
    """Return text for one paragraph; never markup, and no longer than a screen can show."""
    from rich.text import Text

    return Text(shorten(one_line(text), 1_200), style)
