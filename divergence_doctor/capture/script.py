"""How does Python run a script, or a module, from the command line? The same way, in this process.

``sys.argv``, ``sys.path[0]`` and ``__main__`` are what the script would find; what comes out of it
(an exit status, an exception, Ctrl-C) is left to Python to deal with.
"""

from __future__ import annotations

import builtins
import importlib.util
import io
import signal
import sys
import types
from importlib.machinery import SourceFileLoader
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor._clean import clean
from divergence_doctor.capture.frames import clean_chain
from divergence_doctor.errors import NotFoundError, UsageError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from importlib.machinery import ModuleSpec
    from types import TracebackType


@final
class Script:
    """A script that is ready to run.

    Args:
        target: path of a file; or the name of a module.
        arguments: what stands after it on the command line.
        module: the target is a module's name, as after ``python -m``.

    Raises:
        UsageError: it cannot be found or read.
    """

    def __init__(self, target: str, arguments: Sequence[str], *, module: bool) -> None:
        self._arguments: Final = list(arguments)
        self._module = module
        self._spec: ModuleSpec | None = None
        if module:
            # Where `python -m` looks first, and where the module's own imports will.
            _set_path(str(Path.cwd()))
            self._spec = _find(target)
            self._file = str(self._spec.origin)
        else:
            self._file = _existing(target)
        self._target = target

    def run(self) -> None:
        """Run it as ``__main__``; whatever it raises leaves here."""
        # The doctor's own handler ends in an exit status of the doctor's.
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        # Its globals would be emptied when nobody held it any more.
        self._replaced = sys.modules["__main__"]
        main = types.ModuleType("__main__")
        main.__dict__["__builtins__"] = builtins
        if sys.version_info < (3, 14):
            # Python 3.14 makes it when it is asked for.
            main.__annotations__ = {}
        sys.argv = [self._file if self._module else self._target, *self._arguments]
        if self._spec is None:
            _set_path(str(Path(self._file).resolve().parent))
            main.__file__ = self._file
            main.__loader__ = SourceFileLoader("__main__", self._file)
            main.__dict__["__cached__"] = None
        else:
            main.__file__ = self._file
            main.__loader__ = self._spec.loader
            main.__spec__ = self._spec
            main.__package__ = self._spec.parent
            main.__dict__["__cached__"] = self._spec.cached
        sys.modules["__main__"] = main
        try:
            # Running the user's own script is what was asked for.
            exec(self._code(), main.__dict__)  # noqa: S102
        except SystemExit:
            raise
        except BaseException:
            sys.excepthook = _without_ours(sys.excepthook)
            raise

    def _code(self) -> Any:
        if self._spec is not None and self._spec.loader is not None:
            return self._spec.loader.get_code(self._spec.name)  # type: ignore[attr-defined]
        with io.open_code(self._file) as file:
            return compile(file.read(), self._file, "exec", dont_inherit=True)


def _set_path(folder: str) -> None:
    if not sys.flags.safe_path:
        sys.path[0] = folder


def _existing(target: str) -> str:
    path = Path(target)
    if path.is_file():
        return str(path.absolute())
    raise NotFoundError(
        "no-script",
        f"there is no script {clean(target)}",
        why="it is a folder" if path.is_dir() else "no such file",
        fix="doctor run SCRIPT.py ARGUMENTS, or doctor run -m MODULE ARGUMENTS",
    )


def _find(name: str) -> ModuleSpec:
    try:
        spec = importlib.util.find_spec(name)
        if spec is not None and spec.submodule_search_locations is not None:
            spec = importlib.util.find_spec(f"{name}.__main__")
    except (ImportError, ValueError) as error:
        raise _no_module(name, str(error)) from None
    if spec is None or not hasattr(spec.loader, "get_code"):
        raise _no_module(name, "no module of that name, or none that can be run, is on sys.path")
    return spec


def _no_module(name: str, why: str) -> UsageError:
    return NotFoundError(
        "no-module",
        f"there is no module {clean(name)} to run",
        why=clean(why, 300),
        fix="doctor run -m PACKAGE.MODULE ARGUMENTS, from the folder that holds the package",
    )


def _without_ours(hook: Callable[..., Any]) -> Callable[..., Any]:
    """Return a hook that shows the traceback as it would be without this package in it."""

    def show(kind: type[BaseException], error: BaseException, _trace: Any) -> None:
        error.__traceback__ = _from_script(error.__traceback__)
        clean_chain(error)
        hook(kind, error, error.__traceback__)

    return show


def _from_script(found: TracebackType | None) -> TracebackType | None:
    """Return a traceback from where the script begins: the doctor's command stands before it."""
    start, trace = found, found
    while trace is not None:
        if trace.tb_frame.f_code is Script.run.__code__:
            start = trace.tb_next
        trace = trace.tb_next
    return start
