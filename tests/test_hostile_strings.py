"""Does any string from a stranger's file do more than stand there, wherever it is shown?

Every string of ``tests/_hostile.py`` names layers, variables, arrays, paths, source lines and
messages of a run, which goes to every sink: once as the trace was built and once as it is loaded
from its file, where strings are cleaned. The sinks must hold without that.
"""

from __future__ import annotations

import ast
import csv
import io
import json
import re
import signal
import sys
import unicodedata
import xml.etree.ElementTree as ET
import zipfile
from dataclasses import replace
from functools import cache
from html.parser import HTMLParser
from typing import TYPE_CHECKING

import numpy as np
import pytest
from markdown_it import MarkdownIt

from divergence_doctor._clean import clean
from divergence_doctor.cli import main
from divergence_doctor.cli._screen import Screen
from divergence_doctor.cli._trace_tables import layer_tables, step_tables
from divergence_doctor.diagnosis import Diagnosis
from divergence_doctor.errors import NotFoundError
from divergence_doctor.exports import all_exports
from divergence_doctor.figures import all_figures, render_svg
from divergence_doctor.reporters import Document, document, write_reports
from divergence_doctor.reporters.html import Html
from divergence_doctor.reporters.json import Json
from divergence_doctor.reporters.markdown import Markdown
from divergence_doctor.reporters.reproduction import Reproduction
from divergence_doctor.reporters.terminal import Terminal
from divergence_doctor.trace import Trace
from tests._hostile import STRINGS, judged, run_of

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

PLAIN = "plain"
#: Categories of characters that move the cursor, hide or reorder text, or are no text at all.
INVISIBLE = frozenset({"Cc", "Cf", "Cs", "Co", "Zl", "Zp"})
#: What the reports themselves put between letters, to break a mention in two.
JOINER = "\u200d"
#: Colours, and nothing else that an escape could ask of a terminal.
COLOUR = re.compile(r"\x1b\[[0-9;]*m")


def strings() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("text", STRINGS.values(), ids=STRINGS)


@cache
def told(text: str) -> Document:
    """Return what is said of a run whose every name is this text; without its pictures."""
    trace = run_of(text)
    return replace(document(trace, judged(trace, text)), pictures=())


def unseen(text: str, *, but: str = "\n") -> list[str]:
    """Return the characters that are not to be seen."""
    return [c for c in text if unicodedata.category(c) in INVISIBLE and c not in but]


def test_there_are_strings_for_every_sink() -> None:
    assert len(STRINGS) >= 60
    assert len(set(STRINGS.values())) == len(STRINGS)


# ---------------------------------------------------------------------- the terminal


@strings()
def test_a_terminal_is_asked_for_nothing_but_colour(text: str) -> None:
    summary = Terminal(color=True).render(told(text))
    assert unseen(COLOUR.sub("", summary)) == []
    assert unseen(Terminal().render(told(text))) == []
    assert len(summary.splitlines()) <= 24


@strings()
def test_inspect_shows_a_hostile_trace(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    screen = Screen(100)
    trace = run_of(text)
    step_tables(trace, screen, step=None)
    layer_tables(trace, screen, name=text, step=None)
    screen.show()
    shown = capsys.readouterr().out
    assert unseen(shown) == []
    assert len(shown) < 60_000


# ---------------------------------------------------------------------- Markdown


def live(text: str) -> Iterator[str]:
    """Yield what GitHub would make of Markdown beside words, code, tables and our own folds."""
    parser = MarkdownIt("gfm-like")
    parser.linkify.set({"fuzzy_link": False})
    for block in parser.parse(text):
        for token in (block, *(block.children or ())):
            if token.type in {"link_open", "image"}:
                yield f"{token.type} {token.attrs}"
            ours = r"(<details( open)?><summary>[\w ,']+</summary>|</details>)\s*"
            if token.type.startswith("html") and not re.fullmatch(ours, token.content):
                yield token.content
            if token.type == "text":
                yield from re.findall(
                    r"@\w|#\d|\b(?:GH|[A-Z]{2,})-\d|(?:^|\s)[!%&~$]\w|://|www\.|[<>{}]|\$",
                    token.content,
                )
            if token.type in {"heading_open", "hr", "blockquote_open", "bullet_list_open"}:
                yield f"{token.type} {token.tag}"


@cache
def ordinary() -> frozenset[str]:
    return frozenset(live(Markdown().render(told(PLAIN))))


@strings()
def test_markdown_holds_no_link_no_image_no_mention_and_no_markup(text: str) -> None:
    report = Markdown().render(told(text))
    assert set(live(report)) <= ordinary()
    assert unseen(report, but=f"\n{JOINER}") == []
    assert len(report) <= 60_000


@strings()
def test_the_tables_and_fences_of_markdown_stay_whole(text: str) -> None:
    tokens = MarkdownIt("gfm-like").parse(Markdown().render(told(text)))
    calm = MarkdownIt("gfm-like").parse(Markdown().render(told(PLAIN)))

    def shape(parsed: list) -> list[str]:
        # Fences end where they should, cells stay in their columns, and headings in their order.
        return [
            t.type for t in parsed if re.match(r"t[rdh]_open|table_open|fence|heading_open", t.type)
        ]

    assert shape(tokens) == shape(calm)


# ---------------------------------------------------------------------- HTML


class Skeleton(HTMLParser):
    """The elements of a page with the names of their attributes, and its text."""

    #: Attributes through which a page could reach out or run something.
    ACTIVE = ("href", "src", "action", "formaction", "srcdoc", "style", "content", "xlink:href")

    def __init__(self, page: str) -> None:
        super().__init__(convert_charrefs=True)
        self.elements: list[tuple[str, ...]] = []
        self.active: set[tuple[str, str]] = set()
        self.words: list[str] = []
        self.feed(page)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag != "code":  # prose may be split into code at other places
            self.elements.append((tag, *(name for name, _ in attrs)))
        self.active |= {(name, value or "") for name, value in attrs if name in self.ACTIVE}
        self.words += [value or "" for _, value in attrs]

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.elements.append(("comment", data))

    def handle_decl(self, decl: str) -> None:
        self.elements.append(("declaration", decl))

    def handle_pi(self, data: str) -> None:
        self.elements.append(("instruction", data))


@cache
def plain_page() -> Skeleton:
    return Skeleton(Html().render(told(PLAIN)))


@strings()
def test_html_is_text_and_the_page_is_the_same_as_with_plain_names(text: str) -> None:
    page = Html().render(told(text))
    seen = Skeleton(page)
    assert seen.elements == plain_page().elements
    assert seen.active == plain_page().active
    assert unseen(page) == []


# ---------------------------------------------------------------------- CSV


def rows_of(content: bytes) -> list[list[str]]:
    return list(csv.reader(io.StringIO(content.decode(), newline=""), strict=True))


@strings()
def test_csv_keeps_its_cells_and_none_is_a_formula(text: str) -> None:
    export = all_exports()["csv"]
    files, calm = export.render(run_of(text)), export.render(run_of(PLAIN))
    assert list(files) == list(calm)
    for name, content in files.items():
        rows = rows_of(content)
        assert [len(row) for row in rows] == [len(row) for row in rows_of(calm[name])]
        assert unseen(content.decode(), but="\r\n") == []
        for cell in (cell for row in rows for cell in row):
            assert not cell.startswith(("=", "@", "\t", "\r"))
            assert not cell.startswith(("+", "-")) or isinstance(float(cell), float)


# ---------------------------------------------------------------------- figures


def chunks() -> list[list[str]]:
    every = list(STRINGS.values())
    return [every[start : start + 24] for start in range(0, len(every), 24)]


@pytest.mark.parametrize("names", chunks(), ids=lambda names: f"from {names[0][:8]!r}")
def test_figures_of_hostile_names_are_drawn_and_their_svg_is_xml(names: list[str]) -> None:
    trace = run_of(*names)
    drawn = 0
    for figure in all_figures():
        if not figure.suits(trace):
            continue
        svg = render_svg(figure, trace)
        root = ET.fromstring(svg)  # noqa: S314 - our own output, which is what is tested
        tags = {element.tag.rpartition("}")[2] for element in root.iter()}
        assert tags <= {"svg", "g", "path", "defs", "use", "text", "tspan", "rect", "clipPath",
                        "image", "linearGradient", "stop"}, tags  # fmt: skip
        for element in root.iter():
            assert not [name for name in element.attrib if name.startswith("on")]
            for name, value in element.attrib.items():
                if name.rpartition("}")[2] == "href":
                    assert value.startswith(("#", "data:image/png;base64,"))
        assert unseen(svg) == []
        assert unseen(figure.caption(trace)) == []
        drawn += 1
    assert drawn >= 7


# ---------------------------------------------------------------------- JSON, scripts, files


@strings()
def test_json_is_strict_ascii_and_says_the_cleaned_name(text: str) -> None:
    report = Json().render(told(text))
    assert report.isascii()
    loaded = json.loads(report, parse_constant=pytest.fail)
    diagnosis = loaded["diagnosis"]
    assert diagnosis["layer"] == clean(text.replace("\t", "    "), 4_000, multiline=True)
    assert unseen(json.dumps(loaded, ensure_ascii=False)) == []


@cache
def calls_in_the_plain_script() -> str:
    return re.sub(r"Constant\(.*?\)", "", ast.dump(ast.parse(Reproduction().render(told(PLAIN)))))


@strings()
def test_the_script_holds_names_as_literals_and_nothing_more_is_run(text: str) -> None:
    script = Reproduction().render(told(text))
    assert script.isascii()
    tree = ast.parse(script)
    plain = ast.parse(Reproduction().render(told(PLAIN)))
    kinds, calm = ([type(node) for node in ast.walk(one)] for one in (tree, plain))
    assert kinds == calm


@pytest.fixture(scope="module")
def loaded(tmp_path_factory: pytest.TempPathFactory) -> Trace:
    """Return the run with all names in one trace, written to its file and read from it."""
    path = tmp_path_factory.mktemp("trace") / "trace.h5"
    run_of(*STRINGS.values()).save(path)
    return Trace.open(path)


def test_names_are_cleaned_as_a_trace_is_loaded_and_stay_as_many(loaded: Trace) -> None:
    layers = loaded.table("layers")["layer"].tolist()
    assert len(layers) == len(STRINGS)
    for name, layer in zip(STRINGS, layers, strict=True):
        assert unseen(layer) == [], name
        assert len(layer) <= 4_000
    assert unseen(json.dumps(loaded.context, ensure_ascii=False), but="") == []
    assert layers[list(STRINGS).index("script")] == STRINGS["script"]


def test_reports_and_figures_lie_under_their_own_names_only(loaded: Trace, tmp_path: Path) -> None:
    folder = tmp_path / "deep" / "er" / "out"
    folder.mkdir(parents=True)
    write_reports(loaded, judged(loaded, "../../../owned"), folder)
    written = {str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*") if path.is_file()}
    pictures = {f"deep/er/out/figures/{f.name}.png" for f in all_figures() if f.suits(loaded)}
    reports = {"report.html", "report.json", "report.md", "reproduce.py"}
    assert written == pictures | {f"deep/er/out/{name}" for name in reports}


@pytest.mark.parametrize("kind", [Trace, Diagnosis], ids=lambda kind: kind.__name__)
def test_a_notebook_shows_hostile_names_as_text(kind: type) -> None:
    if not hasattr(kind, "_repr_html_"):
        pytest.skip(f"a {kind.__name__} has no view for notebooks")

    def view(text: str) -> Skeleton:
        trace = run_of(text)
        shown = trace if kind is Trace else judged(trace, text)
        return Skeleton(shown._repr_html_())

    plain = view(PLAIN)
    for text in STRINGS.values():
        seen = view(text)
        assert seen.elements == plain.elements
        assert seen.active == plain.active
        assert unseen("".join(seen.words)) == []


# ---------------------------------------------------------------------- errors


@pytest.fixture
def complaint(capsys, monkeypatch):
    """Return what a command says on standard error, run in this process."""

    def of(*arguments: str) -> str:
        monkeypatch.setattr(sys, "argv", ["doctor", *arguments])
        handler = signal.getsignal(signal.SIGTERM)
        try:
            with pytest.raises(SystemExit) as ended:
                main()
        finally:
            signal.signal(signal.SIGTERM, handler)
        assert ended.value.code in {2, 4}
        said = capsys.readouterr()
        assert said.out == ""
        return str(said.err)

    return of


def argument(text: str) -> str:
    """Return the text as a shell could hand it over: no NUL, of a length that systems take."""
    return text.replace("\0", "")[:100_000] or "x"


@strings()
@pytest.mark.parametrize("command", ["report", "check"])
def test_a_complaint_about_a_path_shows_the_path_and_does_nothing(
    command: str, text: str, complaint
) -> None:
    said = complaint(command, "--", argument(text))
    assert unseen(said) == []
    assert "Traceback" not in said
    assert len(said) < 8_000


@strings()
def test_a_complaint_about_a_file_that_is_no_trace_shows_its_name_only(
    text: str, complaint, tmp_path: Path, monkeypatch
) -> None:
    monkeypatch.chdir(tmp_path)
    name = re.sub(r"[/\0]", "_", text)[:60].encode("utf-8", "backslashreplace").decode() + ".h5"
    (tmp_path / name).write_bytes(b"\x1b[2J no trace")
    said = complaint("inspect", "--", name)
    assert unseen(said) == []
    assert "error[" in said


@strings()
def test_the_last_door_shows_what_an_error_quotes(text: str, complaint, monkeypatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise NotFoundError("slug", f"there is no {text}", why=text, fix=text)

    monkeypatch.setattr("divergence_doctor.trace.Trace.open", fail)
    said = complaint("report", "trace.h5")
    assert said.startswith("error[slug]: there is no ")
    assert unseen(said) == []


def test_a_batch_with_hostile_names_is_looked_at(capsys, monkeypatch, tmp_path: Path) -> None:
    path = tmp_path / "batch.npz"
    array = np.ones((2, 3))
    with zipfile.ZipFile(path, "w") as archive:
        for text in STRINGS.values():
            name = text.encode("utf-8", "backslashreplace").decode()[:60_000]
            with archive.open(zipfile.ZipInfo(f"x/{name}.npy"), "w") as stream:
                np.save(stream, array)
    monkeypatch.setattr(sys, "argv", ["doctor", "check", str(path)])
    handler = signal.getsignal(signal.SIGTERM)
    try:
        with pytest.raises(SystemExit):
            main()
    finally:
        signal.signal(signal.SIGTERM, handler)
    said = capsys.readouterr()
    assert unseen(said.out + said.err) == []
    assert "Traceback" not in said.err
