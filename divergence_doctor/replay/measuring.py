"""What do the tensors of a step hold? Measured beside the step, on a thread of its own.

The compiled loops for large tensors let go of the interpreter, and so does TensorFlow; an eager
step leaves a core idle much of the time. The rows still go into the trace in the order in which
they were asked for.
"""

from __future__ import annotations

from collections import deque
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

import numpy as np

from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.units import units
from divergence_doctor.stats import LARGE, summarize

if TYPE_CHECKING:
    from collections.abc import Callable

    from numpy.typing import NDArray

    from divergence_doctor.trace import TraceBuilder

#: Statistics that are, or will be, there.
Measured: TypeAlias = "Future[dict[str, Any]]"
#: What measures an array, given its dtype and shape in words.
Work: TypeAlias = "Callable[[NDArray[Any], dict[str, str]], dict[str, Any]]"

#: Bytes of tensors that may wait; the step then waits for them, so that none is held for long.
_WAITING: Final = 64_000_000


@final
class Measuring:
    """Measures tensors and writes their rows into a trace.

    Args:
        builder: where the rows go.
    """

    def __init__(self, builder: TraceBuilder) -> None:
        self._builder = builder
        self._pool: ThreadPoolExecutor | None = None
        self._waiting: deque[tuple[str, dict[str, Any], Measured, int]] = deque()
        self._bytes = 0
        #: The gradient of a sum comes back to each of its terms as one and the same tensor.
        self._known: dict[int, Measured] = {}
        self._copies: dict[int, NDArray[Any]] = {}

    def add(self, table: str, tensor: Any, /, **row: Any) -> Measured:
        """Add a row about an eager tensor, which nothing changes any more."""
        key = seams.identity(tensor)
        known = self._known.get(key)
        if known is None:
            known = self._known[key] = self.array(
                seams.view(tensor),
                tensor.dtype.name,
                work=_measure_output if table == "activations" else _measure,
            )
        self.put(table, known, seams.view(tensor).nbytes, **row)
        return known

    def array(self, values: NDArray[Any], dtype: str = "", *, work: Work | None = None) -> Measured:
        """Measure an array, which must stay as it is until :meth:`settle`."""
        kind = {
            "dtype": dtype or str(values.dtype),
            "shape": "x".join(str(size) for size in values.shape),
        }
        # NumPy's many short calls would take the interpreter from the step again and again.
        if values.size >= LARGE:
            return self._beside(work or _measure, values, kind)
        done: Measured = Future()
        done.set_result((work or _measure)(values, kind))
        return done

    def copied(self, key: int, values: NDArray[Any]) -> Future[NDArray[Any]]:
        """Return a copy of a variable's values, which stays as it is until the next one of it.

        It always goes to the same place: fresh memory would cost more than the copy.

        Args:
            key: identity of the variable.
            values: what it holds; as long as this array is held, TensorFlow lets it be.
        """
        place = self._copies.get(key)
        if place is None:
            place = self._copies[key] = np.empty_like(values)
        return self._beside(_copy, values, place)

    def _beside(self, work: Callable[..., Any], *args: Any) -> Future[Any]:
        if self._pool is None:
            self._pool = ThreadPoolExecutor(1, thread_name_prefix="measuring")
        return self._pool.submit(work, *args)

    def put(self, table: str, measured: Measured, size: int = 0, /, **row: Any) -> None:
        """Add a row about what was measured; ``size`` bytes are held until it is."""
        self._waiting.append((table, row, measured, size))
        self._bytes += size
        while self._waiting and (self._waiting[0][2].done() or self._bytes > _WAITING):
            self._write()

    def settle(self) -> None:
        """Wait for everything that is being measured, and write it."""
        while self._waiting:
            self._write()
        self._known.clear()

    def close(self) -> None:
        """End the thread; what is not written by then is dropped."""
        self._waiting.clear()
        self._known.clear()
        self._copies.clear()
        self._bytes = 0
        if self._pool is not None:
            self._pool.shutdown(cancel_futures=True)
            self._pool = None

    def _write(self) -> None:
        table, row, measured, size = self._waiting.popleft()
        self._bytes -= size
        self._builder.add(table, **row, **measured.result())


def _copy(values: NDArray[Any], place: NDArray[Any]) -> NDArray[Any]:
    np.copyto(place, values)
    return place


def _measure(values: NDArray[Any], kind: dict[str, str]) -> dict[str, Any]:
    return {**kind, **summarize(values)}


def _measure_output(values: NDArray[Any], kind: dict[str, str]) -> dict[str, Any]:
    row = _measure(values, kind)
    return {**row, **units(values, row)}
