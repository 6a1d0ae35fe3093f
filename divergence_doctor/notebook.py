"""What does a notebook call? Load a trace, or replay a step in the kernel's own process."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.trace import Trace

if TYPE_CHECKING:
    from divergence_doctor.postmortem import Postmortem

#: Suffixes that a checkpoint's name loses on the way to its folder.
_SUFFIXES: Final = (".weights.h5", ".keras", ".h5")


def load(path: str | Path) -> Trace:
    """Open a ``trace.h5`` that ``doctor replay`` wrote; needs no TensorFlow.

    Args:
        path: the file.

    Raises:
        DoctorError: there is no such file, or it is refused as no trace.
    """
    return Trace.open(path)


def replay_step(
    checkpoint: str | Path,
    *batches: str | Path,
    out: str | Path | None = None,
    force: bool = False,
    in_process: bool = True,
    **options: Any,
) -> Postmortem:
    """Replay the failing step, prove the cause, write the reports: ``doctor replay`` as a function.

    Args:
        checkpoint: the checkpoint from before the failing step.
        *batches: the batch (``.npz``) that broke it; several are a sequence of steps.
        out: the output folder; ``<checkpoint's name>-diagnosis`` in the working folder by default.
        force: replace an output folder that exists.
        in_process: in this process, where TensorFlow stays imported and a model that crashes takes
            the kernel along; False starts a child process with limits, as the command does.
        **options: the flags of ``doctor replay`` with underscores: ``steps``, ``trials``,
            ``budget``, ``seed``, ``custom_objects`` (a sequence), ``model``, ``loss``,
            ``optimizer``, ``learning_rate``, ``trust``, ``step``, ``jit``, ``as_trained``.

    Returns:
        What came of it: ``.trace``, ``.diagnosis``, ``.folder``; a notebook shows the verdict.

    Raises:
        DoctorError: an input cannot be understood or is refused, or the output cannot be written.
        TypeError: there is no such option.
    """
    from divergence_doctor.errors import UsageError
    from divergence_doctor.examination import Request
    from divergence_doctor.postmortem import postmortem

    if not batches:
        raise UsageError(
            "no-batch",
            "no batch was given",
            why="a checkpoint does not hold the batch that broke the step",
            fix="save it with np.savez('batch.npz', x=x, y=y) and name it after the checkpoint",
        )
    options["custom_objects"] = tuple(str(one) for one in options.get("custom_objects", ()))
    request = Request(
        checkpoint=str(checkpoint), batches=tuple(str(batch) for batch in batches), **options
    )
    folder = Path(out) if out is not None else Path(f"{_stem(checkpoint)}-diagnosis")
    return postmortem(request, folder, force=force, in_process=in_process)


def _stem(checkpoint: str | Path) -> str:
    name = Path(checkpoint).name or Path(checkpoint).resolve().name
    for suffix in _SUFFIXES:
        name = name.removesuffix(suffix)
    return name or "checkpoint"
