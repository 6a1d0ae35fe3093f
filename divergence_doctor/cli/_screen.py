"""How do tables and text get onto the terminal? Cut to its width, plain where it is no terminal."""

from __future__ import annotations

import os
import shutil
import sys
from io import StringIO
from typing import TYPE_CHECKING, Final, final

from divergence_doctor._clean import clean

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from rich.table import Table

#: Columns where nothing says how wide the output is: a pipe, a file.
PIPED_WIDTH: Final = 140
NARROWEST: Final = 40
_LONGEST: Final = 4_000
#: Wider than any row that is not folded.
_ENDLESS: Final = 100_000
#: Columns of text are folded to this at most before others are left out.
_FOLDED: Final = 20
#: Characters between two columns.
_GAP: Final = 2
#: What stands for our own marks where the output takes ASCII only.
_IN_ASCII: Final = str.maketrans({"─": "-", "—": "-", "▶": ">", "×": "x", "…": "~"})  # noqa: RUF001
#: What an empty cell holds.
_NOTHING: Final = frozenset({"", "—"})


def say(text: str) -> None:
    """Write a result to standard output.

    A reader that has gone (``doctor inspect ... | head``) is no error, and neither is a terminal
    that lacks a character.
    """
    encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
    try:
        sys.stdout.write(text.encode(encoding, "replace").decode(encoding))
        sys.stdout.flush()
    except BrokenPipeError:
        # What is still buffered must not fail again when the interpreter ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def width_of_output() -> int:
    """Return the columns of the terminal (or what COLUMNS says), 140 where there is none."""
    return shutil.get_terminal_size((PIPED_WIDTH, 24)).columns


@final
class Screen:
    """Text and tables, in the order in which they are added; :meth:`show` prints them.

    Strings are shown as they are: no markup, control characters spelled out.

    Args:
        width: columns; those of the terminal by default.
        whole_lines: where the output goes into a pipe or a file, and neither ``width`` nor COLUMNS
            says how wide it is, every row stands whole on one line, for ``grep`` and ``cut``.
    """

    def __init__(self, width: int | None = None, *, whole_lines: bool = False) -> None:
        from rich.console import Console

        styled = sys.stdout.isatty()
        told = width is not None or styled or bool(os.environ.get("COLUMNS"))
        self._whole = whole_lines and not told
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        #: The output takes ASCII only: bars and marks have to do with that.
        self.plain: Final = not encoding.lower().startswith("utf")
        self._console = Console(
            file=StringIO(),
            width=_ENDLESS if self._whole else max(width or width_of_output(), NARROWEST),
            force_terminal=styled,
            color_system="standard" if styled else None,
            highlight=False,
            markup=False,
            emoji=False,
            legacy_windows=False,
        )

    def heading(self, text: str) -> None:
        """Add a heading, an empty line before it."""
        self._print("")
        self._print(text, "bold")

    def text(self, text: str, style: str = "") -> None:
        """Add a paragraph, wrapped."""
        self._print(text, style)

    def markdown(self, text: str) -> None:
        """Add Markdown: rendered on a terminal, as it is written anywhere else."""
        if self._console.is_terminal:
            from rich.markdown import Markdown

            self._console.print(Markdown(text))
        else:
            self._console.print(text, soft_wrap=True)

    def table(
        self,
        columns: Sequence[str],
        rows: Iterable[Sequence[str]],
        *,
        left: Sequence[str] = (),
        styles: Sequence[str] = (),
        spare: Sequence[str] = (),
    ) -> None:
        """Add a table.

        Where it is wider than the output, columns that the caller can spare are left out, those in
        which nothing stands first, and a line names the others; what is too long still is folded.

        Args:
            columns: headings.
            rows: cells, one sequence per row.
            left: headings of the columns that hold text; the others hold figures.
            styles: style of each row, in their order; rows beyond have none.
            spare: headings of the columns that may be left out, the least telling first; of two
                with one heading the right one goes first.
        """
        cells = [[_one_line(cell) for cell in row] for row in rows]
        kept = list(range(len(columns)))
        spared = [i for name in spare for i in reversed(kept) if columns[i] == name]
        empty = [i for i in spared if all(row[i] in _NOTHING for row in cells)]
        left_out = []
        for index in (*empty, *(i for i in spared if i not in empty)):
            shown = [[row[i] for i in kept] for row in cells]
            if self._fits([columns[i] for i in kept], shown, left):
                break
            kept.remove(index)
            left_out += [columns[index]] if index not in empty else []
        self._console.print(
            _table(
                [columns[i] for i in kept],
                [[row[i] for i in kept] for row in cells],
                left=left,
                styles=styles,
            )
        )
        if left_out:
            told = ", ".join(dict.fromkeys(left_out))
            self.text(f"no room here for: {told} (--width N, or into a pipe, shows all)", "dim")

    def _fits(
        self, columns: Sequence[str], rows: Sequence[Sequence[str]], left: Sequence[str]
    ) -> bool:
        """Say whether it fits, its figures whole and its text no narrower than it may be folded."""
        from rich.cells import cell_len

        widths = [max(map(cell_len, column)) for column in zip(columns, *rows, strict=True)]
        needed = [
            min(width, _FOLDED) if name in left else width
            for name, width in zip(columns, widths, strict=True)
        ]
        return sum(needed) + len(needed) * _GAP <= self._console.width

    def show(self) -> None:
        """Print what was added."""
        file = self._console.file
        text = file.getvalue() if isinstance(file, StringIO) else ""
        text = text.translate(_IN_ASCII) if self.plain else text
        say("\n".join(line.rstrip() for line in text.splitlines()).lstrip("\n") + "\n")

    def _print(self, text: str, style: str = "") -> None:
        from rich.text import Text

        self._console.print(Text(clean(text, _LONGEST, multiline=True), style))


def _table(
    columns: Sequence[str],
    rows: Iterable[Sequence[str]],
    *,
    left: Sequence[str],
    styles: Sequence[str],
) -> Table:
    from rich import box
    from rich.table import Table
    from rich.text import Text

    table = Table(
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
        pad_edge=False,
        show_edge=False,
        header_style="bold",
    )
    for column in columns:
        if column in left:
            table.add_column(Text(column), overflow="fold")
        else:
            table.add_column(Text(column), justify="right", no_wrap=True)
    for index, row in enumerate(rows):
        style = styles[index] if index < len(styles) else ""
        table.add_row(*(Text(cell) for cell in row), style=style)
    return table


def _one_line(cell: str) -> str:
    return clean(" ".join(cell.split()), _LONGEST)
