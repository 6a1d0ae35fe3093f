"""How does the report look in a browser? One file that opens offline and asks nobody for anything.

Every name is escaped by the template (autoescape). The only markup that passes as it is are our
own style sheet, our own script and the pictures that the figures drew, whose texts matplotlib
escapes. A content security policy stands behind it: this style sheet and this script by their
hashes, no other, no style attribute, no request, whatever a name may hold.
"""

from __future__ import annotations

import base64
import hashlib
import io
import math
import re
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

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

    from divergence_doctor.reporters._parts import Document, Excerpt

#: A browser still scrolls a table of this many rows at once; the trace has the others.
MAX_ROWS: Final = 5_000
#: Okabe & Ito's vermillion, as the figures paint what is not finite.
_BAD: Final = (0xD5, 0x5E, 0x00)

#: A tag, and in it one attribute after the other: a name may hold what looks like either.
_TAG: Final = re.compile(r"<[A-Za-z][^<>]*>")
_ATTRIBUTE: Final = re.compile(r"""(?P<name>[\w:.-]+)\s*=\s*(?P<value>"[^"]*"|'[^']*')""")
#: What matplotlib writes as the style of an element. Anything else is dropped: it cannot be ours.
_STYLE: Final = re.compile(r"""[\w\s:;#.,%()'+-]*""")


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
            held=_held,
            measured=measured,
            number=number,
            png=_png,
            prose=_prose,
            short=shorten,
            values=values_of,
        )
        environment.globals.update(and_more=and_more, max_rows=self._max_rows)
        rules: dict[str, str] = {}
        drawings = {picture.name: _unstyled(picture.svg, rules) for picture in document.pictures}
        sheet = _ours("html.css") + "".join(f".{name}{{{rule}}}\n" for rule, name in rules.items())
        script = _ours("html.js")
        return environment.from_string(_ours("html.jinja")).render(
            document=document,
            css=Markup(sheet),  # noqa: S704 -- our own style sheet
            css_hash=_hash(sheet),
            script=Markup(script),  # noqa: S704 -- our own script
            script_hash=_hash(script),
            # Our own pictures: the figures clean the texts in them, matplotlib escapes them.
            drawings={name: Markup(svg) for name, svg in drawings.items()},  # noqa: S704
        )


def _ours(name: str) -> str:
    return resources.files(__package__).joinpath(name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """Return the source expression of a content security policy for an element with this text."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _unstyled(svg: str, rules: dict[str, str]) -> str:
    """Return a picture with a class in place of every style attribute, which the policy forbids.

    Args:
        svg: an ``<svg>`` element.
        rules: declarations with the name of the class that stands for them; added to.
    """

    def attribute(found: re.Match[str]) -> str:
        if found["name"] != "style":
            return found.group()
        rule = found["value"][1:-1].strip()
        if not _STYLE.fullmatch(rule):
            return ""
        return f'class="{rules.setdefault(rule, f"s{len(rules)}")}"'

    return _TAG.sub(lambda tag: _ATTRIBUTE.sub(attribute, tag.group()), svg)


def _prose(text: str) -> Markup:
    """Return prose with what stands between backticks as code; all of it escaped."""
    from markupsafe import Markup, escape

    return Markup("").join(
        Markup("<code>{}</code>").format(part) if is_code else escape(part)
        for is_code, part in code_pieces(text)
    )


def _held(excerpt: Excerpt) -> Markup:
    """Return the values that are kept of a sample's array, told once where all are the same."""
    from markupsafe import Markup, escape

    values = [float(value) for value in excerpt.values]
    alike = len(values) > 1 and len(set(values)) == 1
    told = Markup(", ").join(
        escape(number(value))
        if math.isfinite(value)
        else Markup('<span class="bad">{}</span>').format(number(value))
        for value in (values[:1] if alike else values)
    )
    if alike:
        told = Markup("{:,} times ").format(len(values)) + told
    left_out = excerpt.size - len(values)
    return told + (Markup(", … {:,} more").format(left_out) if left_out > 0 else Markup(""))


def _png(excerpt: Excerpt) -> str:
    """Return a sample's picture as PNG in base64: grey or in colour, what is not finite in red."""
    from matplotlib.image import imsave

    shape = (excerpt.height, excerpt.width, excerpt.channels)
    levels = np.asarray(excerpt.values, dtype=np.int64).reshape(shape)
    colours = np.tile(levels, (1, 1, 3 // excerpt.channels)).clip(0, 255).astype(np.uint8)
    colours[(levels < 0).any(axis=2)] = _BAD
    stream = io.BytesIO()
    # No version of matplotlib in it: the same trace gives the same bytes.
    metadata: Any = {"Software": None}
    imsave(stream, colours, format="png", metadata=metadata)
    return base64.b64encode(stream.getvalue()).decode("ascii")
