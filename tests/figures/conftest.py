"""What do the figures' tests share? A canvas with a figure drawn on it, not yet rendered."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from matplotlib.figure import Figure as Canvas

from divergence_doctor.figures._style import styled

if TYPE_CHECKING:
    from collections.abc import Callable

    from divergence_doctor.figures import Figure
    from divergence_doctor.trace import Trace


@pytest.fixture
def drawn() -> Callable[[Figure, Trace], Canvas]:
    def draw(figure: Figure, trace: Trace) -> Canvas:
        with styled(salt="test"):
            canvas = Canvas(layout="constrained")
            figure.draw(trace, canvas)
            canvas.draw_without_rendering()
        return canvas

    return draw
