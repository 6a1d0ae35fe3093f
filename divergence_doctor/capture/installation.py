"""How does the recorder come between ``fit`` and its step? In place of the train function.

``fit`` calls ``on_train_begin`` when the train function is there, and the train function with an
iterator at every step. The one put in its place takes the batches off the iterator itself and hands
them on as a plain Python iterator, which Keras takes step by step.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, final

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
        self._before: Callable[[Any], Any] | None = None
        self._installed: Callable[[Any], Any] | None = None

    def install(self) -> None:
        """Take the place of the train function, until :meth:`remove` or the next ``fit``."""
        if self._take_place():
            seams.shadow_make_train_function(self._model, self._go_before)

    def stay(self) -> None:
        """Take the place of the train function as soon as it is made, for good.

        ``train_on_batch`` makes it and calls it at once, and nobody says which call is the last.
        """
        held = seams.train_function(self._model)
        if isinstance(held, _TrainFunction) and held is self._installed:
            return
        if not self._take_place():
            seams.shadow_make_train_function(self._model, self._make_and_take_place)

    def remove(self) -> None:
        """Put the train function back, where the one in its place is still ours."""
        seams.unshadow_make_train_function(self._model)
        if self._installed is not None and seams.train_function(self._model) is self._installed:
            seams.set_train_function(self._model, self._before)
        self._before = self._installed = None

    def _take_place(self) -> bool:
        before = seams.train_function(self._model)
        if before is None:
            return False
        original = before.original if isinstance(before, _TrainFunction) else before
        self._before = before
        self._installed = _TrainFunction(self._recorder, self._model, original)
        seams.set_train_function(self._model, self._installed)
        return True

    def _go_before(self, *args: Any, **kwargs: Any) -> Any:
        """Go before the next ``fit``: the one we were asked for ended by an exception."""
        self.remove()
        return self._model.make_train_function(*args, **kwargs)

    def _make_and_take_place(self, *args: Any, **kwargs: Any) -> Any:
        seams.unshadow_make_train_function(self._model)
        made = self._model.make_train_function(*args, **kwargs)
        self._take_place()
        return made


@final
class _TrainFunction:
    """A train function of Keras with the recorder round every step."""

    def __init__(self, recorder: Recorder, model: Any, original: Callable[[Any], Any]) -> None:
        self._recorder = recorder
        self._model = model
        self.original: Final = original
        self._own = seams.has_own_train_function(model)
        self._traced = False
        #: The iterator that steps may pass with: one of tensors, which never change.
        self._of_tensors: Any = None

    def __call__(self, iterator: Any) -> Any:
        """Run one execution: ``steps_per_execution`` steps, or as many as there are batches."""
        if self._recorder.passing.left and iterator is self._of_tensors:
            return self._pass(iterator)
        if self._own:
            return self._unseen(iterator)
        if not self._traced:
            self._traced = True
            self._trace(iterator)
        batches = list(_taken(iterator, self._model.steps_per_execution))
        if not batches:
            return self._run_out(iterator)
        recorder = self._recorder
        one_by_one = self._model.steps_per_execution == 1
        self._of_tensors = (
            iterator if one_by_one and seams.is_tensorflow_iterator(iterator) else None
        )
        try:
            logs = self.original(recorder.around(batches))
        except Exception as error:
            recorder.raised(error)
            raise
        recorder.after(logs)
        return logs

    def _pass(self, iterator: Any) -> Any:
        """Run a step at which nothing is due."""
        recorder = self._recorder
        try:
            batch = next(iterator)
        except StopIteration:
            return self._run_out(iterator)
        recorder.passing.begins(batch)
        try:
            logs = self.original(iter((batch,)))
        except Exception as error:
            recorder.raised(error)
            raise
        recorder.passed(logs)
        return logs

    def _run_out(self, iterator: Any) -> Any:
        """Let Keras find out that the data have ended.

        In a graph the step has begun by then: the optimizer counts it, and random generators move
        on. Whatever that changes it must change here too, and the copy of the state is no longer
        one to roll forward from.
        """
        self._recorder.invalidate()
        if not seams.is_tensorflow_iterator(iterator):
            raise StopIteration
        return self.original(iterator)

    def _unseen(self, iterator: Any) -> Any:
        """Run an execution whose batches nobody but the model's own train function may take."""
        recorder = self._recorder
        recorder.before(None)
        try:
            logs = self.original(iterator)
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
            seams.trace_ahead(self.original, iterator)
        except Exception:  # noqa: BLE001 - the step itself raises it again, with its batch kept
            # Where only this could not be done, it is traced from the batches, a second time.
            return


def _taken(iterator: Any, count: int) -> Iterator[Any]:
    for _ in range(count):
        try:
            yield next(iterator)
        except StopIteration:
            return
