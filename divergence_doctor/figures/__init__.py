"""Which pictures can be drawn of a trace? One per file; each says what it shows in a sentence."""

from divergence_doctor.figures._figure import (
    Figure,
    all_figures,
    render_both,
    render_png,
    render_svg,
    suited_figures,
    write_figures,
)

__all__ = [
    "Figure",
    "all_figures",
    "render_both",
    "render_png",
    "render_svg",
    "suited_figures",
    "write_figures",
]
