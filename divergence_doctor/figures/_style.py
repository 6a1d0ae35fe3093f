"""How does every picture look? Colours that all can tell apart, and one set of matplotlib settings.

The settings start from matplotlib's defaults, not from the user's matplotlibrc: a picture on a
ticket looks the same wherever it was drawn. Names are never read as maths (``text.parse_math``).
"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Iterator

#: Okabe & Ito (2008), "Color universal design": told apart with any common colour blindness.
BLACK: Final = "#000000"
ORANGE: Final = "#E69F00"
SKY: Final = "#56B4E9"
GREEN: Final = "#009E73"
BLUE: Final = "#0072B2"
VERMILLION: Final = "#D55E00"
PURPLE: Final = "#CC79A7"
#: For the parts of a whole, in this order; vermillion is kept for what is not finite.
SERIES: Final = (BLUE, ORANGE, GREEN, PURPLE, SKY, BLACK)
#: From a small part to the whole.
RAMP: Final = ("#E3EEF8", "#A3CDEB", BLUE, "#06213D")

INK: Final = "#222222"
FAINT: Final = "#6B6B6B"
GRID: Final = "#E3E3E3"
NOT_FINITE: Final = VERMILLION
#: The same for words: dark enough to be read on white (contrast above 4.5, WCAG 2.2, 1.4.3).
NOT_FINITE_WORDS: Final = "#BA5000"

WIDTH: Final = 10.0
SMALL: Final = 8.5

_SETTINGS: Final[Any] = {
    "axes.axisbelow": True,
    "axes.edgecolor": "#9A9A9A",
    "axes.formatter.use_mathtext": False,
    "axes.grid": True,
    "axes.labelcolor": INK,
    "axes.labelsize": 10.0,
    "axes.spines.right": False,
    "axes.spines.top": False,
    "axes.titlelocation": "left",
    "axes.titlepad": 7.0,
    "axes.titlesize": 10.5,
    "figure.facecolor": "white",
    "figure.titlesize": 13.0,
    "figure.titleweight": "bold",
    "font.family": "DejaVu Sans",
    "font.size": 9.5,
    "grid.color": GRID,
    "grid.linewidth": 0.7,
    "legend.fontsize": 8.5,
    "legend.framealpha": 0.9,
    "legend.edgecolor": "#CCCCCC",
    "savefig.facecolor": "white",
    "svg.fonttype": "none",
    "text.color": INK,
    "text.parse_math": False,
    "xtick.color": INK,
    "xtick.labelsize": 9.0,
    "ytick.color": INK,
    "ytick.labelsize": 9.0,
}


@contextmanager
def styled(*, salt: str) -> Iterator[None]:
    """Draw under the common settings; the caller's own are put back afterwards.

    Args:
        salt: what SVG ids are hashed with, so that they are the same in every run.

    Matplotlib's settings are global: two threads should not draw at the same time.
    """
    import matplotlib as mpl

    with mpl.rc_context():
        mpl.rcdefaults()
        mpl.rcParams.update({**_SETTINGS, "svg.hashsalt": salt})
        yield
