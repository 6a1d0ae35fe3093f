"""At which time step of a recurrent layer does the step stand? Told to whoever asks during a loop.

Keras walks through time in one function, ``backend.rnn``, which calls the cell once per time step;
``TimeDistributed`` calls its layer's ``call`` in a loop of its own. Time steps are numbered as they
stand in the layer's input, from 0, also where the layer reads it backwards.
"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.replay import _seams as seams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Not within a loop over time, or in the call that Keras makes before the loop to learn the shape.
NO_TIME: Final = -1


@final
class Clock:
    """Follows the loops over time.

    Args:
        as_call: wraps a function of (layer, ...) as a call of that layer, for layers whose ``call``
            is run without going through ``__call__``.
    """

    def __init__(self, as_call: Callable[[Callable[..., Any]], Callable[..., Any]]) -> None:
        self.now = NO_TIME
        self._as_call = as_call

    @contextmanager
    def running(self) -> Iterator[None]:
        """Follow the loops that run inside."""
        with ExitStack() as stack:
            stack.enter_context(seams.patched(seams.rnn_module(), "rnn", self._rnn))
            stack.enter_context(
                seams.patched(seams.time_distributed_class(), "call", self._distributed)
            )
            yield

    @contextmanager
    def _at(self, time: int) -> Iterator[None]:
        before, self.now = self.now, time
        try:
            yield
        finally:
            self.now = before

    def _counted(self, function: Callable[..., Any], times: Iterator[int]) -> Callable[..., Any]:
        def step(*args: Any, **kwargs: Any) -> Any:
            with self._at(next(times, NO_TIME)):
                return function(*args, **kwargs)

        return step

    def _rnn(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def rnn(step_function: Callable[..., Any], inputs: Any, *args: Any, **kwargs: Any) -> Any:
            times = _times(inputs, **kwargs)
            return original(self._counted(step_function, times), inputs, *args, **kwargs)

        return rnn

    def _distributed(self, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(wrapper: Any, inputs: Any, *args: Any, **kwargs: Any) -> Any:
            layer, function = wrapper.layer, wrapper.layer.call
            inner = self._as_call(lambda _layer, *a, **k: function(*a, **k))
            once = self._counted(lambda *a, **k: inner(layer, *a, **k), _times(inputs, unroll=True))
            with seams.own_attribute(layer, "call", once):
                return original(wrapper, inputs, *args, **kwargs)

        return call


def _times(
    inputs: Any,
    *,
    go_backwards: bool = False,
    unroll: bool = False,
    time_major: bool = False,
    **_: Any,
) -> Iterator[int]:
    import keras

    first = keras.tree.flatten(inputs)[0]
    steps = range(int(first.shape[0 if time_major else 1]))
    if not unroll:
        yield NO_TIME
    yield from (reversed(steps) if go_backwards else steps)
