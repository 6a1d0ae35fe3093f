"""How does ``doctor run`` reach every ``fit`` of a script? It waits until Keras has its trainer.

A script sets ``KERAS_BACKEND`` and flags of TensorFlow before it imports Keras, so nothing here may
import it first. A hook in the import system sees the module of the trainer being loaded, and has
the class changed before the script can use it.
"""

from __future__ import annotations

import functools
import inspect
import sys
from contextlib import contextmanager
from importlib.abc import MetaPathFinder
from importlib.machinery import PathFinder
from typing import TYPE_CHECKING, Any, Final, final
from weakref import WeakKeyDictionary

from divergence_doctor.capture import _seams as seams

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from importlib.machinery import ModuleSpec
    from types import ModuleType

    from divergence_doctor.capture.callback import FlightRecorder


@final
class Attachment(MetaPathFinder):
    """Attaches a recorder to every ``fit`` and ``train_on_batch`` of this process.

    Args:
        make: returns a new recorder, one for each model.
    """

    def __init__(self, make: Callable[[], FlightRecorder]) -> None:
        self._make: Final = make
        self._recorders: WeakKeyDictionary[Any, FlightRecorder] = WeakKeyDictionary()
        #: Kept beyond their models, for what they wrote.
        self.recorders: Final[list[FlightRecorder]] = []

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Wait for Keras' trainer to be imported."""
        if seams.TRAINER_MODULE in sys.modules:
            self.attach(sys.modules[seams.TRAINER_MODULE])
        sys.meta_path.insert(0, self)
        try:
            yield
        finally:
            sys.meta_path.remove(self)

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """Find Keras' trainer as Python would, and be there when it was loaded."""
        if fullname != seams.TRAINER_MODULE:
            return None
        spec = PathFinder.find_spec(fullname, path, target)
        if spec is not None and spec.loader is not None:
            load = spec.loader.exec_module

            def exec_module(module: ModuleType) -> None:
                load(module)
                self.attach(module)

            spec.loader.exec_module = exec_module  # type: ignore[method-assign]
        return spec

    def attach(self, module: ModuleType) -> None:
        """Change the trainer's ``fit`` and ``train_on_batch``."""
        trainer = getattr(module, seams.TRAINER_CLASS)
        trainer.fit = self._fit(trainer.fit)
        trainer.train_on_batch = self._train_on_batch(trainer.train_on_batch)

    def end(self) -> None:
        """Look at what the last steps did, once the script is done."""
        for recorder in self.recorders:
            if recorder.recorder.loop == "train_on_batch":
                recorder.close()

    def _of(self, model: Any) -> FlightRecorder:
        if model not in self._recorders:
            recorder = self._make()
            self._recorders[model] = recorder
            self.recorders.append(recorder)
        return self._recorders[model]

    def _fit(self, original: Callable[..., Any]) -> Callable[..., Any]:
        signature = inspect.signature(original)

        @functools.wraps(original)
        def fit(model: Any, *args: Any, **kwargs: Any) -> Any:
            try:
                given = signature.bind(model, *args, **kwargs)
            except TypeError:
                # Keras says what is wrong.
                return original(model, *args, **kwargs)
            given.arguments["callbacks"] = self._with_ours(model, given.arguments.get("callbacks"))
            return original(*given.args, **given.kwargs)

        return fit

    def _with_ours(self, model: Any, callbacks: Any) -> Any:
        import keras

        from divergence_doctor.capture.callback import FlightRecorder

        if isinstance(callbacks, keras.callbacks.CallbackList):
            held = callbacks.callbacks
            if not any(isinstance(one, FlightRecorder) for one in held):
                ours = self._of(model)
                ours.set_model(model)
                held.append(ours)
            return callbacks
        flat = keras.tree.flatten(callbacks) if callbacks else []
        if any(isinstance(one, FlightRecorder) for one in flat):
            return callbacks
        return [*flat, self._of(model)]

    def _train_on_batch(self, original: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(original)
        def train_on_batch(model: Any, *args: Any, **kwargs: Any) -> Any:
            with self._of(model).train_on_batch(model):
                return original(model, *args, **kwargs)

        return train_on_batch
