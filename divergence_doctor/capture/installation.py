"""How does the recorder come between ``fit`` and its step? In place of the train function.

``fit`` calls ``on_train_begin`` when the train function is there, and the train function with an
iterator at every step. The one put in its place takes the batches off the iterator itself and hands
them on as a plain Python iterator, which Keras takes step by step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, final

from divergence_doctor.capture import _seams as seams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from divergence_doctor.capture.recorder import Recorder


@final
class Installation:
    """One recorder in one model.

    Args:
        recorder: what is told of every step.
        model: a compiled Keras model whose train function is made.
    """

    def __init__(self, recorder: Recorder, model: Any) -> None:
        self._recorder = recorder
        self._model = model
        self._original: Callable[[Any], Any] | None = None
        self._installed: Callable[[Any], Any] | None = None

    def install(self) -> None:
        """Take the place of the train function, until :meth:`remove` or the next ``fit``."""
        original = seams.train_function(self._model)
        if original is None or isinstance(original, _TrainFunction):
            return
        self._original = original
        self._installed = _TrainFunction(self._recorder, self._model, original)
        seams.set_train_function(self._model, self._installed)
        seams.shadow_make_train_function(self._model, self._make_train_function)

    def remove(self) -> None:
        """Put the train function back, where the one in its place is still ours."""
        seams.unshadow_make_train_function(self._model)
        if self._original is not None and seams.train_function(self._model) is self._installed:
            seams.set_train_function(self._model, self._original)
        self._original = self._installed = None

    def _make_train_function(self, *args: Any, **kwargs: Any) -> Any:
        """Go before the next ``fit``: the one we were asked for ended by an exception."""
        self.remove()
        return self._model.make_train_function(*args, **kwargs)


@final
class _TrainFunction:
    """A train function of Keras with the recorder round every step."""

    def __init__(self, recorder: Recorder, model: Any, original: Callable[[Any], Any]) -> None:
        self._recorder = recorder
        self._model = model
        self._original = original
        self._own = seams.has_own_train_function(model)
        self._traced = False

    def __call__(self, iterator: Any) -> Any:
        """Run one execution: ``steps_per_execution`` steps, or as many as there are batches."""
        if self._own:
            return self._unseen(iterator)
        if not self._traced:
            self._traced = True
            self._trace(iterator)
        batches = list(_taken(iterator, self._model.steps_per_execution))
        if not batches:
            raise StopIteration
        recorder = self._recorder
        try:
            logs = self._original(recorder.around(batches))
        except Exception as error:
            recorder.raised(error)
            raise
        recorder.after(logs)
        return logs

    def _unseen(self, iterator: Any) -> Any:
        """Run an execution whose batches nobody but the model's own train function may take."""
        recorder = self._recorder
        recorder.before(None)
        try:
            logs = self._original(iterator)
        except StopIteration:
            recorder.nothing()
            raise
        except Exception as error:
            recorder.raised(error)
            raise
        recorder.after(logs)
        return logs

    def _trace(self, iterator: Any) -> None:
        try:
            seams.trace_ahead(self._original, iterator)
        except LookupError:
            # Then it is traced from the batches, which costs a second trace and no more.
            return


def _taken(iterator: Any, count: int) -> Iterator[Any]:
    for _ in range(count):
        try:
            yield next(iterator)
        except StopIteration:
            return
