"""Which line of the user's own code ran this op? Cheap enough to ask for every op."""

from __future__ import annotations

import os
import sys
import sysconfig
from pathlib import Path
from typing import TYPE_CHECKING, Any, final

from divergence_doctor._clean import clean
from divergence_doctor.replay._seams import before_autograph

if TYPE_CHECKING:
    from collections.abc import Callable
    from types import CodeType, FrameType

#: How AutoGraph names the files that it writes.
_GENERATED = "__autograph_generated_file"
_OURS = str(Path(__file__).resolve().parents[1])
_LIBRARY = tuple(
    {sysconfig.get_paths()[key] for key in ("stdlib", "platstdlib", "purelib", "platlib")}
)


#: What a code object is, by its identity: a library's, the user's, the door, or one of ours from
#: where the rest of the way is known. The object itself is kept, so that its identity is not given
#: to another; to hash it would read all its constants.
_KINDS: dict[int, tuple[int, CodeType]] = {}
_LIBRARYS, _PLUMBING, _USERS, _DOOR, _KNOWN_FROM_HERE = range(5)
#: Folders of TensorFlow and Keras through which every op's call goes down to its kernel.
_PIPES = tuple(
    f"{os.sep}{folder.replace('/', os.sep)}{os.sep}"
    for folder in (
        *("tensorflow/python/ops", "tensorflow/python/framework", "tensorflow/python/util"),
        *("tensorflow/python/eager", "tensorflow/python/profiler", "keras/src/backend"),
        *("keras/src/ops", "keras/src/utils"),
    )
)


def _kind(code: CodeType) -> int:
    if _is_door(code):
        kind = _DOOR
    elif is_users(code):
        kind = _USERS
    else:
        kind = _PLUMBING if any(pipe in code.co_filename for pipe in _PIPES) else _LIBRARYS
    _KINDS[id(code)] = (kind, code)
    return kind


def is_users(code: CodeType) -> bool:
    """Say whether a code object was written by the user, not by a library or by us.

    A user's package may be installed into site-packages too, so only what lies under the folders of
    TensorFlow, Keras, NumPy and their kin counts as a library there.
    """
    name = code.co_filename
    if name.startswith(("<", _OURS)):
        return False
    if not name.startswith(_LIBRARY):
        return True
    parts = Path(name).parts
    if "site-packages" not in parts and "dist-packages" not in parts:
        return False
    at = max(i for i, part in enumerate(parts) if part in {"site-packages", "dist-packages"})
    return parts[at + 1].split(".")[0] not in _LIBRARIES


def _is_door(code: CodeType) -> bool:
    """Say whether this is where the replay enters the step: who called the replay is no source."""
    return code.co_name == "run_step" and code.co_filename.startswith(_OURS)


_LIBRARIES = frozenset(
    {
        "absl", "keras", "keras_hub", "keras_nlp", "keras_cv", "ml_dtypes", "numpy", "optree",
        "pluggy", "_pytest", "pytest", "tensorflow", "tensorflow_probability", "tree", "typer",
        "click", "wrapt", "h5py", "hypothesis", "ipykernel", "IPython",
    }
)  # fmt: skip


def known_from(function: Callable[..., Any]) -> None:
    """Let :func:`users_line` stop at the frames of a function of ours."""
    code = function.__code__
    _KINDS[id(code)] = (_KNOWN_FROM_HERE, code)


def users_line(depth: int = 1, outer: tuple[str, int] | None = None) -> tuple[str, int] | None:
    """Return file and line of the innermost frame that the user wrote, or None.

    What AutoGraph generated from the user's code (the body of a ``tf.map_fn``) counts as the line
    that it was generated from.

    Args:
        depth: frames of ours to skip.
        outer: the answer from the innermost function on that was given to :func:`known_from`.
    """
    frame: FrameType | None = sys._getframe(depth)  # noqa: SLF001 - CPython's documented frame walk
    while frame is not None:
        code = frame.f_code
        known = _KINDS.get(id(code))
        kind = known[0] if known is not None else _kind(code)
        if kind > _PLUMBING:
            if kind == _USERS:
                return _written(frame)
            return outer if kind == _KNOWN_FROM_HERE else None
        frame = frame.f_back
    return None


@final
class UsersLines:
    """Answers :func:`users_line` for one op after the other, at half the price.

    Ops that come one after the other mostly come out of the same call of a layer or an optimizer.
    As long as that call stands on the stack, all that called it stands still, so the way up from
    there need not be gone again.
    """

    def __init__(self) -> None:
        self._call: FrameType | None = None
        self._answer: tuple[str, int] | None = None

    def of_op(self, depth: int = 1, outer: tuple[str, int] | None = None) -> Any:
        """Return what :func:`users_line` does."""
        call = None
        frame: FrameType | None = sys._getframe(depth)  # noqa: SLF001 - see users_line
        answer = None
        while frame is not None:
            code = frame.f_code
            known = _KINDS.get(id(code))
            kind = known[0] if known is not None else _kind(code)
            if kind == _LIBRARYS:
                if frame is self._call:
                    return self._answer
                call = call or frame
            elif kind != _PLUMBING:
                if kind == _USERS:
                    answer = _written(frame)
                elif kind == _KNOWN_FROM_HERE:
                    answer = outer
                break
            frame = frame.f_back
        if call is not None:
            self._call, self._answer = call, answer
        return answer

    def forget(self) -> None:
        """Let go of the call that was seen last, and of all that it holds."""
        self._call = None


def _written(frame: FrameType) -> tuple[str, int]:
    """Return file and line that a frame of the user's stands for."""
    name, line = frame.f_code.co_filename, frame.f_lineno
    return (_GENERATED in name and before_autograph(name, line)) or (name, line)


def users_stack(limit: int = 12) -> str:
    """Return the user's frames, innermost last, one ``file:line in function`` per line."""
    lines: list[str] = []
    frame: FrameType | None = sys._getframe(1)  # noqa: SLF001 - see users_line
    while frame is not None and len(lines) < limit and not _is_door(frame.f_code):
        if is_users(frame.f_code):
            name = clean(frame.f_code.co_name).removeprefix("tf__")
            lines.append(f"{spell(*_written(frame))} in {name}")
        frame = frame.f_back
    return "\n".join(reversed(lines))


def spell(file: str, line: int) -> str:
    """Return ``file:line`` with the file's bare name."""
    return f"{clean(Path(file).name)}:{line}"


def of_exception(error: BaseException) -> tuple[str, str]:
    """Return the user's innermost line in a traceback, and all of the user's frames."""
    lines: list[tuple[str, str]] = []
    trace = error.__traceback__
    while trace is not None:
        code = trace.tb_frame.f_code
        if _is_door(code):
            lines.clear()
        if is_users(code):
            lines.append((spell(code.co_filename, trace.tb_lineno), clean(code.co_name)))
        trace = trace.tb_next
    stack = "\n".join(f"{where} in {name}" for where, name in lines[-12:])
    return (lines[-1][0] if lines else ""), stack


def raised_by_us(error: BaseException) -> bool:
    """Say whether an exception was raised in this package, not in the step that it watches."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return trace is not None and trace.tb_frame.f_code.co_filename.startswith(_OURS)
