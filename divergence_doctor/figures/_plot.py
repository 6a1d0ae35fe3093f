"""How are the figures drawn from a notebook? ``trace.plot.loss()``: one method for each figure."""

from __future__ import annotations

import difflib
from functools import cache
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor import _html
from divergence_doctor.errors import UsageError
from divergence_doctor.figures._figure import Figure, all_figures
from divergence_doctor.figures._style import styled

if TYPE_CHECKING:
    from collections.abc import Callable

    from divergence_doctor.trace import Trace

#: Dots per inch on a page: a picture of 10 inches is as wide as a notebook's column.
_DPI: Final = 96


@final
class Plot:
    """The figures of one trace; every figure of the registry is a method without arguments.

    Each draws its picture and returns it as a ``matplotlib.figure.Figure``, which a notebook shows
    and which can be changed and saved like any other.
    """

    def __init__(self, trace: Trace) -> None:
        self._trace = trace

    def __getattr__(self, name: str) -> Callable[[], Any]:
        figures = {_identifier(figure): figure for figure in all_figures()}
        if name not in figures:
            near = difflib.get_close_matches(name, figures, n=3, cutoff=0.4)
            known = " or ".join(near) if near else ", ".join(figures)
            raise AttributeError(f"there is no figure {name!r}; there is {known}")
        return _method(figures[name], self._trace)

    def __dir__(self) -> list[str]:
        return [_identifier(figure) for figure in all_figures()]

    def __repr__(self) -> str:
        return f"<Plot of {', '.join(dir(self))}>"

    def _repr_html_(self) -> str:
        rows = [
            (
                f"`.plot.{_identifier(figure)}()`",
                figure.title,
                "" if figure.suits(self._trace) else "nothing to draw in this trace",
            )
            for figure in all_figures()
        ]
        return _html.table(("call", "figure", ""), rows, left=("call", "figure", ""))


def _identifier(figure: Figure) -> str:
    return figure.name.replace("-", "_")


def _method(figure: Figure, trace: Trace) -> Callable[[], Any]:
    def draw() -> Any:
        if not figure.suits(trace):
            raise UsageError(
                "nothing-to-draw",
                f"this trace holds nothing for the figure {figure.name!r}",
                why=f"of {', '.join(sorted(figure.needs))} there is nothing, or too little",
                fix="`trace.plot` says which figures suit it",
            )
        with styled(salt=figure.name):
            picture = _kind()(layout="constrained", dpi=_DPI)
            figure.draw(trace, picture)
            # Ticks take the style of the moment in which they are made: while it still holds.
            picture.draw_without_rendering()
        return picture

    draw.__name__ = draw.__qualname__ = _identifier(figure)
    draw.__doc__ = f"{figure.title}.\n\nReturns a matplotlib Figure.\n"
    return draw


@cache
def _kind() -> Any:
    """Return the class of the pictures: a Figure that a notebook shows without pyplot."""
    import io

    from matplotlib.figure import Figure as Canvas

    class Picture(Canvas):
        def _repr_png_(self) -> bytes:
            stream = io.BytesIO()
            with styled(salt="notebook"):
                self.savefig(stream, format="png", metadata={"Software": None})
            return stream.getvalue()

    return Picture
