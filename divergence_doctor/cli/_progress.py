"""How far is the replay? A bar on a terminal, one line per phase anywhere else."""

from __future__ import annotations

import sys
from typing import TYPE_CHECKING, ParamSpec, Self, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from divergence_doctor.supervision import Place

_Given = ParamSpec("_Given")


@final
class Progress:
    """Shows where the replay is, on standard error.

    Args:
        steps: steps that were asked for.
    """

    def __init__(self, *, steps: int) -> None:
        self._steps = steps
        self._last = ""
        self._bar: _Bar | None = None

    def __enter__(self) -> Self:
        if sys.stderr.isatty():
            self._bar = _Bar(self._steps)
        return self

    def __exit__(self, *_: object) -> None:
        self._clear()

    def over(self, act: Callable[_Given, None]) -> Callable[_Given, None]:
        """Return what clears the bar from the screen, for good, and acts then."""

        def clear_and_act(*args: _Given.args, **kwargs: _Given.kwargs) -> None:
            self._clear()
            act(*args, **kwargs)

        return clear_and_act

    def _clear(self) -> None:
        if self._bar is not None:
            self._bar.stop()

    def show(self, place: Place) -> None:
        """Show a place, unless it is the one that was shown last."""
        phase = f"step {place.step}" if place.step >= 0 else place.phase
        if place.step < 0 and place.phase == "trial":
            phase = f"trial {place.detail}"
        if self._bar is not None:
            self._bar.update(place.step, phase, place.detail if place.step >= 0 else "")
        elif phase != self._last:
            print(phase, file=sys.stderr, flush=True)  # noqa: T201 - progress for a log file
        self._last = phase


@final
class _Bar:
    def __init__(self, steps: int) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, SpinnerColumn, TextColumn, TimeElapsedColumn
        from rich.progress import Progress as RichProgress

        self._progress = RichProgress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TimeElapsedColumn(),
            TextColumn("{task.fields[layer]}", markup=False),
            console=Console(stderr=True),
            transient=True,
        )
        self._task = self._progress.add_task("starting", total=steps + 1, layer="")
        self._progress.start()

    def update(self, step: int, phase: str, layer: str) -> None:
        completed = step + 1 if step >= 0 else None
        self._progress.update(self._task, description=phase, layer=layer[:40], completed=completed)

    def stop(self) -> None:
        self._progress.stop()
