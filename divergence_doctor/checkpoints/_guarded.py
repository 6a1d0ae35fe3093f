"""How is a training script imported without training again? Up to the first step it would take.

What a checkpoint needs of a script, its classes and functions, stands above the line that trains.
Where that line is reached the import ends, as if the file ended there: nothing is trained, and no
model is written over the user's own.
"""

from __future__ import annotations

import sys
import traceback
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, Final, NoReturn, final

from divergence_doctor._clean import clean

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

#: Methods of a model that train it, or write it to where the training script wrote it.
_OF_MODEL: Final = ("fit", "train_on_batch", "save", "save_weights", "export")
#: A loop of the user's own trains by these, whatever else it does.
_OF_OPTIMIZER: Final = ("apply", "apply_gradients")

#: Where the import of each module ended early, by the module's name.
_ended: dict[str, str] = {}


@final
class _TrainingReached(BaseException):
    """The script was about to train. No ``except Exception`` of the user's may stop it."""


@contextmanager
def until_training(name: str, file: Path | None) -> Iterator[None]:
    """End what is imported inside where it would train a model, or save one.

    Args:
        name: name of the module, under which :func:`ended_early` tells of it.
        file: its file, whose line is told; None where it is not known.
    """
    _ended.pop(name, None)
    with ExitStack() as stack:
        for owner, methods in _guarded():
            for method in methods:
                stack.enter_context(_replaced(owner, method))
        stack.enter_context(_arguments(file))
        try:
            yield
        except _TrainingReached as reached:
            _ended[name] = f"{reached}{_line(reached, file)}"


def ended_early(name: str) -> str:
    """Return what a module was about to do when its import was ended, and where; or empty."""
    return _ended.get(name, "")


def _guarded() -> Iterator[tuple[Any, tuple[str, ...]]]:
    import keras

    yield keras.Model, _OF_MODEL
    yield keras.optimizers.Optimizer, _OF_OPTIMIZER
    # As the script asks for it: the room of the recorder is none of ours to see.
    recorder = getattr(sys.modules[__name__.partition(".")[0]], "FlightRecorder", None)
    if recorder is not None:
        yield recorder, ("step",)


@contextmanager
def _replaced(owner: Any, method: str) -> Iterator[None]:
    """Let a method of a class raise for a while, also where a subclass calls it by super()."""

    def reached(*_: Any, **__: Any) -> NoReturn:
        raise _TrainingReached(f"{method}()")

    inherited = method not in vars(owner)
    original = getattr(owner, method)
    setattr(owner, method, reached)
    try:
        yield
    finally:
        if inherited:
            delattr(owner, method)
        else:
            setattr(owner, method, original)


@contextmanager
def _arguments(file: Path | None) -> Iterator[None]:
    """Let the script see a command line of its own: an argparse in it knows none of ours."""
    before = sys.argv
    sys.argv = [str(file) if file is not None else before[0] if before else ""]
    try:
        yield
    finally:
        sys.argv = before


def _line(error: BaseException, file: Path | None) -> str:
    frames = [
        frame for frame in traceback.extract_tb(error.__traceback__) if frame.filename == str(file)
    ]
    return f" at line {frames[-1].lineno} of {clean(file.name)}" if file and frames else ""
