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

#: Columns where nothing says how wide the output is: a pipe, a file.
PIPED_WIDTH: Final = 140
NARROWEST: Final = 40
_LONGEST: Final = 4_000


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
    """

    def __init__(self, width: int | None = None) -> None:
        from rich.console import Console

        styled = sys.stdout.isatty()
        self._console = Console(
            file=StringIO(),
            width=max(width or width_of_output(), NARROWEST),
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
    ) -> None:
        """Add a table.

        Args:
            columns: headings.
            rows: cells, one sequence per row.
            left: headings of the columns that hold text; the others hold figures.
            styles: style of each row, in their order; rows beyond have none.
        """
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
            table.add_row(*(Text(_one_line(cell)) for cell in row), style=style)
        self._console.print(table)

    def show(self) -> None:
        """Print what was added."""
        file = self._console.file
        text = file.getvalue() if isinstance(file, StringIO) else ""
        say("\n".join(line.rstrip() for line in text.splitlines()).lstrip("\n") + "\n")

    def _print(self, text: str, style: str = "") -> None:
        from rich.text import Text

        self._console.print(Text(clean(text, _LONGEST, multiline=True), style))


def _one_line(cell: str) -> str:
    return clean(" ".join(cell.split()), _LONGEST)
