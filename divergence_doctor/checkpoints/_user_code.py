"""Where does the user's own code come from? A ``.py`` file or a module, imported by its name.

Whatever goes wrong in it is told as one line that names the user's file and line; a traceback
through the import machinery helps nobody.
"""

from __future__ import annotations

import importlib
import importlib.util
import sys
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._guarded import ended_early, until_training
from divergence_doctor.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import ModuleType


def import_user_code(spec: str) -> ModuleType:
    """Import what ``--custom-objects`` or ``--model`` names, up to where it would train.

    Args:
        spec: path of a ``.py`` file, imported under its stem with its folder on ``sys.path``; or a
            dotted module name, found from the working folder as well. It may be named again: what
            is imported already is returned.

    Raises:
        CheckpointError: there is no such code, or it raised.
    """
    path = Path(spec)
    if path.suffix == ".py" or path.is_file():
        return _import_file(path)
    return _import_module(spec)


def user_factory(spec: str) -> Callable[[], Any]:
    """Return the function that ``--model MODULE_OR_FILE:FUNCTION`` names.

    Raises:
        CheckpointError: the code cannot be imported, or has no such function.
    """
    code, colon, name = spec.rpartition(":")
    if not colon or not code or not name.isidentifier():
        raise CheckpointError(
            "bad-model-option",
            f"--model {clean(spec)!r} names no function",
            why="it is a module or a .py file, a colon, and the function that returns the model",
            fix="--model train.py:build_model",
        )
    module = import_user_code(code)
    function = getattr(module, name, None)
    if not callable(function):
        mine = ", ".join(clean(key, 40) for key in _defined(module)) or "none"
        raise CheckpointError(
            "bad-model-option",
            f"{clean(code)} has no function {name!r}",
            why=f"the functions it defines: {mine}" + _as_far_as(module),
            fix="name the function that returns the compiled model: --model FILE:FUNCTION",
        )
    return function  # type: ignore[no-any-return]


def _as_far_as(module: ModuleType) -> str:
    """Say that a module was read in part only, and why; empty where it was read whole."""
    ended = ended_early(module.__name__)
    return f"; it was read as far as {ended}, which would have trained or saved" if ended else ""


def call_factory(spec: str) -> Any:
    """Return the model that the factory of ``--model`` makes.

    Raises:
        CheckpointError: it raised, or what it returned is no Keras model.
    """
    function = user_factory(spec)
    import keras

    try:
        model = function()
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise CheckpointError(
            "model-factory-failed",
            f"--model {clean(spec)} raised {describe_error(error)}",
            why="the factory is called without arguments and returns the compiled model",
            fix="call the function yourself in a Python shell, and mend what it raises",
        ) from error
    if not isinstance(model, keras.Model):
        raise CheckpointError(
            "model-factory-failed",
            f"--model {clean(spec)} returned a {clean(type(model).__name__)}",
            why="it must return a keras.Model",
            fix="end the function with: model.compile(...); return model",
        )
    return model


def describe_error(error: BaseException, *, within: Path | None = None) -> str:
    """Return an exception as ``NameError: name 'x' is not defined (losses.py, line 12)``.

    Args:
        error: the exception.
        within: the user's file; without it the innermost line outside of installed packages.
    """
    message = meaningful_line(error)
    text = type(error).__name__ + (f": {message}" if message else "")
    place = _place(error, within)
    return clean(text, 300) + (f" ({place})" if place else "")


def meaningful_line(error: BaseException) -> str:
    """Return the line of a message that says what is wrong, cleaned.

    Keras wraps the reason in the configs of everything around it; the reason comes last.
    """
    text = str(error)
    _, found, inner = text.rpartition("Exception encountered:")
    lines = [line.strip() for line in (inner if found else text).splitlines() if line.strip()]
    first = lines[0] if lines else ""
    for noise in ("Full object config:", "config={"):
        first = first.partition(noise)[0].strip()
    return clean(first, 240)


def _place(error: BaseException, within: Path | None) -> str:
    if isinstance(error, SyntaxError) and error.filename:
        return f"{clean(Path(error.filename).name)}, line {error.lineno}"
    frames = traceback.extract_tb(error.__traceback__)
    here = str(Path(__file__).parents[1])
    mine = [
        frame
        for frame in frames
        if (
            Path(frame.filename).resolve() == within
            if within
            else not frame.filename.startswith((here, "<"))
            and "site-packages" not in frame.filename
            and not frame.filename.startswith(sys.base_prefix + "/lib")
        )
    ]
    if not mine:
        return ""
    return f"{clean(Path(mine[-1].filename).name)}, line {mine[-1].lineno}"


def _import_file(path: Path) -> ModuleType:
    if not path.is_file():
        raise CheckpointError(
            "code-not-found",
            f"there is no file {clean(str(path))}",
            why="--custom-objects and --model import the code that the checkpoint needs",
            fix="give the path of the .py file, or a module that Python can import",
        )
    file = path.resolve()
    name = _free_name(file)
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.spec_from_file_location(name, file)
    if spec is None or spec.loader is None:
        raise CheckpointError(
            "code-not-found",
            f"{clean(str(path))} is no Python file",
            why="its name does not end in .py",
            fix="give the path of the .py file, or a module that Python can import",
        )
    module = importlib.util.module_from_spec(spec)
    _on_path(file.parent)
    sys.modules[name] = module
    try:
        with until_training(name, file):
            spec.loader.exec_module(module)
    except KeyboardInterrupt:
        del sys.modules[name]
        raise
    except BaseException as error:
        del sys.modules[name]
        raise _failed(str(path), error, within=file) from error
    return module


def _free_name(file: Path) -> str:
    """Return the stem, which registered names may hold, unless another module has it."""
    taken = sys.modules.get(file.stem)
    if taken is None and file.stem.isidentifier() and file.stem not in sys.stdlib_module_names:
        return file.stem
    origin = getattr(taken, "__file__", None)
    if origin and Path(origin).resolve() == file:
        return file.stem
    return f"_user_code_{file.stem}_{abs(hash(file)):x}"


def _import_module(name: str) -> ModuleType:
    _on_path(Path.cwd())
    try:
        return _import_dotted(name)
    except ModuleNotFoundError as error:
        if error.name and (name == error.name or name.startswith(f"{error.name}.")):
            raise CheckpointError(
                "code-not-found",
                f"there is no module {clean(name)!r}",
                why=f"Python finds no {clean(error.name)!r} from {clean(str(Path.cwd()))}",
                fix="give the path of the .py file instead, or run the command where it is found",
            ) from error
        raise _failed(name, error) from error
    except KeyboardInterrupt:
        raise
    except BaseException as error:
        raise _failed(name, error) from error


def _import_dotted(name: str) -> ModuleType:
    """Import a module as Python does, and keep what it has defined where it would train."""
    if name in sys.modules:
        return sys.modules[name]
    spec = importlib.util.find_spec(name)
    if spec is None or spec.loader is None or spec.origin is None:
        return importlib.import_module(name)
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        with until_training(name, Path(spec.origin)):
            spec.loader.exec_module(module)
    except BaseException:
        sys.modules.pop(name, None)
        raise
    parent, _, child = name.rpartition(".")
    if parent:
        setattr(sys.modules[parent], child, module)
    return sys.modules[name]


def _failed(spec: str, error: BaseException, *, within: Path | None = None) -> CheckpointError:
    missing = clean(str(error.name)) if isinstance(error, ModuleNotFoundError) else ""
    return CheckpointError(
        "user-code-failed",
        f"{clean(spec)} cannot be imported: {describe_error(error, within=within)}",
        why="the checkpoint's own classes and functions are in this code",
        fix=f"install {missing} into this environment, or add its folder to PYTHONPATH"
        if missing
        else "mend the line, or put the classes and functions into a file that only defines them",
    )


def _on_path(folder: Path) -> None:
    # Left there: the user's code imports its neighbours whenever it likes.
    if str(folder) not in sys.path:
        sys.path.insert(0, str(folder))


def _defined(module: ModuleType) -> list[str]:
    return [
        key
        for key, value in vars(module).items()
        if callable(value) and getattr(value, "__module__", None) == module.__name__
    ]
