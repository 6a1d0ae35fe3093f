"""What if the process is told to end? The bundle first, then what would have happened anyway.

A handler may run between any two lines, so it only asks for a bundle: that is written when the
state is whole, at once between steps and otherwise after the running one. Then the handlers from
before are put back and the signal is sent again. A second signal does not wait.
"""

from __future__ import annotations

import os
import signal
import threading
from typing import TYPE_CHECKING, Any, Final, final

if TYPE_CHECKING:
    from collections.abc import Sequence

    from divergence_doctor.capture.recorder import Recorder

DEFAULT: Final = (signal.SIGTERM, signal.SIGINT)


@final
class Signals:
    """Handlers of some signals, for as long as training runs.

    Args:
        recorder: what writes the bundle.
        asked: True for SIGTERM and SIGINT, or the signals.
    """

    def __init__(self, recorder: Recorder, asked: bool | Sequence[int]) -> None:  # noqa: FBT001
        self._recorder = recorder
        self._asked = (DEFAULT if asked else ()) if isinstance(asked, bool) else tuple(asked)
        self._before: dict[int, Any] = {}
        self._waiting = False

    def install(self) -> None:
        """Handle the signals; only the main thread of a process can."""
        if threading.current_thread() is not threading.main_thread():
            return
        for number in self._asked:
            if number not in self._before:
                self._before[number] = signal.signal(number, self._came)

    def remove(self) -> None:
        """Put the handlers from before back."""
        while self._before:
            number, handler = self._before.popitem()
            signal.signal(number, signal.SIG_DFL if handler is None else handler)

    def _came(self, number: int, _frame: Any) -> None:
        if self._waiting:
            self._again(number)
            return
        self._waiting = True
        name = signal.Signals(number).name
        self._recorder.request("signal", f"the process got {name}", lambda: self._again(number))

    def _again(self, number: int) -> None:
        """Let the signal do what it would have done."""
        self._waiting = False
        self.remove()
        os.kill(os.getpid(), number)
