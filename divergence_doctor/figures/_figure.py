"""What is a figure, and how does it become a PNG or an SVG? The same trace gives the same bytes."""

from __future__ import annotations

import io
import os
import re
import tempfile
from abc import ABC, abstractmethod
from contextlib import contextmanager
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final
from xml.sax.saxutils import quoteattr

from divergence_doctor import _plugins
from divergence_doctor.errors import OutputError
from divergence_doctor.figures._style import styled

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.figure import Figure as Canvas

    from divergence_doctor.trace import Trace

#: Sharp on a ticket page at half size; a picture stays well below 300 KB.
DPI: Final = 120
_TAG: Final = re.compile(r"<[^<>]*>")
_REFERENCE: Final = re.compile(r'(\bid="|href="#|url\(#)')


def columns(table: str, names: str) -> frozenset[str]:
    """Return what a figure needs of a table, from the names of its columns with spaces between."""
    return frozenset(f"{table}/{name}" for name in names.split())


class Figure(ABC):
    """One picture of a trace."""

    #: Kebab-case; the file is ``magnitude_spectrum.py``, the class ``MagnitudeSpectrum``.
    name: ClassVar[str]
    title: ClassVar[str]
    #: Place in the report; the most telling picture first.
    order: ClassVar[int]
    #: ``table`` or ``table/column`` that the figure cannot do without.
    needs: ClassVar[frozenset[str]] = frozenset()

    def suits(self, trace: Trace) -> bool:
        """Say whether the trace holds what the figure shows; ask before the other methods."""
        return all(trace.has(need) for need in self.needs)

    @abstractmethod
    def caption(self, trace: Trace) -> str:
        """Return one plain sentence that says what is to be seen, with its figures.

        It serves as the text for those who cannot see the picture, too. Names in it come from the
        trace: free of control characters, but not escaped for any markup.
        """

    @abstractmethod
    def draw(self, trace: Trace, canvas: Canvas) -> None:
        """Draw the picture on an empty canvas, whose size the figure may set."""


@cache
def all_figures() -> tuple[Figure, ...]:
    """Return one instance of every figure, in the order of the report."""
    figures: tuple[type[Any], ...] = _plugins.load("divergence_doctor.figures", Figure)
    return tuple(sorted((figure() for figure in figures), key=lambda f: (f.order, f.name)))


def suited_figures(trace: Trace) -> tuple[Figure, ...]:
    """Return the figures for which the trace holds something to draw, in the report's order."""
    return tuple(figure for figure in all_figures() if figure.suits(trace))


def render_png(figure: Figure, trace: Trace, *, dpi: int = DPI) -> bytes:
    """Return the picture as PNG; the same trace gives the same bytes.

    Args:
        figure: what to draw.
        trace: of what.
        dpi: dots per inch; the pictures are about 10 inches wide.

    Raises:
        ValueError: the figure does not suit the trace.
    """
    with _drawn(figure, trace) as canvas:
        return _saved(canvas, **_png(dpi))


def render_svg(figure: Figure, trace: Trace) -> str:
    """Return the picture as an ``<svg>`` element that may stand in an HTML page as it is.

    It has neither XML prolog nor document type, refers to nothing outside itself, styles nothing
    but itself, and its ids start with the figure's name. Its texts are texts: they can be searched.
    The caption is its ``aria-label``. The same trace gives the same bytes.

    Raises:
        ValueError: the figure does not suit the trace.
    """
    with _drawn(figure, trace) as canvas:
        drawn = _saved(canvas, **_SVG)
    return _inlined(drawn.decode("utf-8"), prefix=figure.name, label=figure.caption(trace))


def render_both(figure: Figure, trace: Trace, *, dpi: int = DPI) -> tuple[bytes, str]:
    """Return the picture as PNG and as an ``<svg>`` element, laid out once for both.

    Raises:
        ValueError: the figure does not suit the trace.
    """
    with _drawn(figure, trace) as canvas:
        png = _saved(canvas, **_png(dpi))
        canvas.set_layout_engine("none")
        svg = _saved(canvas, **_SVG)
    return png, _inlined(svg.decode("utf-8"), prefix=figure.name, label=figure.caption(trace))


def write_figures(trace: Trace, folder: str | Path) -> list[Path]:
    """Write every figure that suits the trace as ``<folder>/<name>.png``.

    Args:
        trace: what to draw.
        folder: made when it is not there; pictures of the same names are replaced.

    Returns:
        The files, in the order of the report; each is whole or absent.

    Raises:
        OutputError: the folder or a file cannot be written.
    """
    target = Path(folder)
    written = []
    for figure in suited_figures(trace):
        path = target / f"{figure.name}.png"
        _write_whole(path, render_png(figure, trace))
        written.append(path)
    return written


#: What makes the same trace give the same bytes: no dates and no versions.
_SVG: Final[dict[str, Any]] = {
    "kind": "svg",
    "metadata": dict.fromkeys(("Date", "Creator", "Format", "Type")),
}


def _png(dpi: int) -> dict[str, Any]:
    return {"kind": "png", "dpi": dpi, "metadata": {"Software": None}}


@contextmanager
def _drawn(figure: Figure, trace: Trace) -> Iterator[Canvas]:
    if not figure.suits(trace):
        raise ValueError(f"the trace holds nothing to draw for {figure.name!r}")
    from matplotlib.figure import Figure as Canvas

    # The salt is what ids are hashed with; one per figure keeps two pictures on a page apart.
    with styled(salt=figure.name):
        canvas = Canvas(layout="constrained")
        figure.draw(trace, canvas)
        yield canvas


def _saved(canvas: Canvas, *, kind: str, metadata: Any, dpi: int = DPI) -> bytes:
    """Return what is drawn as a file. Not by `savefig`, which draws everything twice."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG

    stream = io.BytesIO()
    # Of a heat map's pixels there are as many in the SVG as in the PNG.
    canvas.set_dpi(dpi)
    backend: Any = FigureCanvasAgg(canvas) if kind == "png" else FigureCanvasSVG(canvas)
    (backend.print_png if kind == "png" else backend.print_svg)(stream, metadata=metadata)
    return stream.getvalue()


def _inlined(svg: str, *, prefix: str, label: str) -> str:
    """Return matplotlib's SVG document as an element for an HTML page."""
    body = svg[svg.index("<svg") :]
    # Matplotlib's one style rule selects every element of the page; inherited, it does the same.
    body = re.sub(r"\s*<defs>\s*<style[^>]*>[^<]*</style>\s*</defs>", "", body, count=1)
    # Only tags are rewritten: a layer may be called `id="x` and is text.
    body = _TAG.sub(lambda tag: _REFERENCE.sub(rf"\g<1>{prefix}-", tag.group()), body)
    # quoteattr leaves line breaks and quotes safe for XML; captions hold no control characters.
    opening = (
        f'<svg role="img" aria-label={quoteattr(label)} '
        'style="stroke-linejoin: round; stroke-linecap: butt"'
    )
    return opening + body.removeprefix("<svg").rstrip() + "\n"


def _write_whole(path: Path, content: bytes) -> None:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, beside = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(content)
                stream.flush()
                os.fsync(stream.fileno())
            Path(beside).chmod(0o644)
            Path(beside).replace(path)
        except BaseException:
            Path(beside).unlink(missing_ok=True)
            raise
    except OSError as error:
        raise OutputError(
            "cannot-write-figure",
            f"{path} cannot be written",
            why=str(error.strerror or error),
            fix="choose a folder that can be written to, with space left on its disk",
        ) from error
