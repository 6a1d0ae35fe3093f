"""How does the report look in a browser? One file that opens offline and asks nobody for anything.

Every name is escaped by the template (autoescape). The only markup that passes as it is are our own
style sheet and the pictures that the figures drew, whose texts matplotlib escapes. A content
security policy stands behind both: no script, no request, whatever a name may hold.
"""

from __future__ import annotations

from importlib import resources
from typing import TYPE_CHECKING, ClassVar, Final, final

from divergence_doctor.reporters._reporter import Reporter
from divergence_doctor.reporters._text import (
    and_more,
    code_pieces,
    measured,
    number,
    shorten,
)
from divergence_doctor.reporters._where import values_of

if TYPE_CHECKING:
    from markupsafe import Markup

    from divergence_doctor.reporters._parts import Document

#: A browser still scrolls a table of this many rows at once; the trace has the others.
MAX_ROWS: Final = 5_000


@final
class Html(Reporter):
    """The report as one page: light and dark, on a phone and on paper.

    Args:
        max_rows: most rows of one table; a cut is announced.
    """

    name: ClassVar[str] = "html"
    filename: ClassVar[str] = "report.html"

    def __init__(self, *, max_rows: int = MAX_ROWS) -> None:
        self._max_rows = max_rows

    def render(self, document: Document) -> str:
        """Return the report as HTML."""
        from jinja2 import Environment, FunctionLoader, StrictUndefined
        from markupsafe import Markup

        environment = Environment(
            loader=FunctionLoader(_ours),  # for the parts that the page includes
            autoescape=True,
            undefined=StrictUndefined,
            trim_blocks=True,
            lstrip_blocks=True,
            keep_trailing_newline=True,
        )
        environment.filters.update(
            measured=measured, number=number, prose=_prose, values=values_of, short=shorten
        )
        environment.globals.update(and_more=and_more, max_rows=self._max_rows)
        return environment.from_string(_ours("html.jinja")).render(
            document=document,
            css=Markup(_ours("html.css")),  # noqa: S704 -- our own style sheet
            # Our own pictures: the figures clean the texts in them, matplotlib escapes them.
            drawings={p.name: Markup(p.svg) for p in document.pictures},  # noqa: S704
        )


def _ours(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _prose(text: str) -> Markup:
    """Return prose with what stands between backticks as code; all of it escaped."""
    from markupsafe import Markup, escape

    return Markup("").join(
        Markup("<code>{}</code>").format(part) if is_code else escape(part)
        for is_code, part in code_pieces(text)
    )
