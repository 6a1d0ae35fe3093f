"""What is a checkpoint format, and which one is this path in?"""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor import _plugins
from divergence_doctor._clean import clean
from divergence_doctor.errors import CheckpointError, NotFoundError, RefusedError, UsageError

if TYPE_CHECKING:
    from divergence_doctor.checkpoints._recording import Recording

_ACCEPTED = (
    "give a .keras archive, a legacy whole-model .h5 or a crash bundle; or a .weights.h5 or a"
    " tf.train.Checkpoint together with --model MODULE_OR_FILE:FUNCTION"
)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OpenOptions:
    """How the user asked for the checkpoint to be opened.

    Attributes:
        custom_objects: modules or ``.py`` files to import before loading.
        model: ``MODULE_OR_FILE:FUNCTION``, a factory that returns the compiled model, or None.
        loss: Keras name of a loss that replaces the checkpoint's, or None.
        optimizer: Keras name of an optimizer that replaces the checkpoint's, or None.
        learning_rate: replaces the checkpoint's, schedules included, or None.
        trust: allow what can run code on loading.
        step: number of the checkpoint to take out of a folder of them; None for the latest.
    """

    custom_objects: tuple[str, ...] = ()
    model: str | None = None
    loss: str | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    trust: bool = False
    step: int | None = None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """A checkpoint, opened.

    Attributes:
        model: the compiled ``keras.Model``.
        fidelity: ``optimizer_state`` (restored, partial, missing), ``random_state`` (restored,
            missing) and ``notes``, as ``report.json`` holds them.
        source: ``file``, ``format``, ``sha256``, ``keras_version`` (empty when unknown) and
            ``dtype_policy``, the policy under which the model was built.
        unseeded: the state variables of random generators that the file did not bring back.
        recording: the steps that led to the failure, where the checkpoint holds them.
    """

    model: Any
    fidelity: dict[str, Any]
    source: dict[str, Any]
    unseeded: tuple[Any, ...] = ()
    recording: Recording | None = None


class Checkpoint(ABC):
    """One format. ``can_open`` and ``preflight`` do without TensorFlow."""

    name: ClassVar[str]
    #: Formats are asked in this order.
    order: ClassVar[int]
    #: The format holds weights only: it takes ``--model``.
    needs_model: ClassVar[bool] = False
    #: The format keeps checkpoints of several steps in one folder: it takes ``--step``.
    has_steps: ClassVar[bool] = False

    @classmethod
    @abstractmethod
    def can_open(cls, path: Path) -> bool:
        """Say whether the path is in this format, by its content."""

    @classmethod
    @abstractmethod
    def preflight(cls, path: Path, options: OpenOptions) -> None:
        """Look for what must not reach Keras, without TensorFlow.

        Raises:
            CheckpointError: the file is not what it seems to be.
            RefusedError: it is damaged, or could harm the machine that loads it.
        """

    @classmethod
    def without_batch(cls, path: Path) -> None:
        """Say that a batch is needed, unless the checkpoint itself holds what it failed on.

        Raises:
            UsageError: there is none in it.
        """
        del path
        raise UsageError(
            "no-batch",
            "no BATCH was given",
            why="a checkpoint does not hold the batch that broke the step",
            fix="save it with np.savez('batch.npz', x=x, y=y) and name it after the checkpoint",
        )

    @classmethod
    def environment(cls, path: Path) -> dict[str, str]:
        """Return flags of TensorFlow that the training ran under and that bear on numbers."""
        del path
        return {}

    @classmethod
    @abstractmethod
    def open(cls, path: Path, options: OpenOptions) -> Opened:
        """Open the checkpoint as a compiled model.

        Raises:
            CheckpointError: it cannot be opened as it was asked for.
            RefusedError: it is damaged, or could harm the machine that loads it.
        """


@cache
def all_formats() -> tuple[type[Checkpoint], ...]:
    """Return every format, in the order in which they are asked."""
    formats = _plugins.load("divergence_doctor.checkpoints", Checkpoint)  # type: ignore[type-abstract]
    return tuple(sorted(formats, key=lambda kind: kind.order))


def choose(path: Path, options: OpenOptions) -> type[Checkpoint]:
    """Return the format that opens a path; needs no TensorFlow.

    Args:
        path: a file, a folder, or the prefix of a ``tf.train.Checkpoint``.
        options: only ``model`` and ``step`` are looked at.

    Raises:
        NotFoundError: there is no such path.
        CheckpointError: it is no checkpoint, holds weights only and ``model`` is not given, or
            holds one step only and ``step`` is given.
        RefusedError: it is a SavedModel and ``model`` is not given.
    """
    path = Path(path)
    kind = next((kind for kind in all_formats() if kind.can_open(path)), None)
    if options.model is None:
        _check_saved_model(path)
    if kind is None:
        raise _unknown(path)
    if kind.needs_model and options.model is None:
        raise CheckpointError(
            "model-needed",
            f"{clean(str(path))} holds weights, but no model ({kind.name})",
            why="the layers, the loss and the training step are not in such a file",
            fix="give a factory that returns the compiled model: --model MODULE_OR_FILE:FUNCTION",
        )
    if options.step is not None and not kind.has_steps:
        raise CheckpointError(
            "no-steps",
            f"{clean(str(path))} is one checkpoint ({kind.name}); --step has no choice",
            why="--step picks one of the checkpoints that a tf.train.CheckpointManager keeps in a"
            " folder",
            fix="leave --step out, or name the folder of the checkpoints",
        )
    return kind


def open_checkpoint(path: Path, options: OpenOptions) -> Opened:
    """Open a checkpoint as a compiled model; imports TensorFlow.

    Args:
        path: a file, a folder, or the prefix of a ``tf.train.Checkpoint``.
        options: how to open it.

    Raises:
        NotFoundError: there is no such path.
        CheckpointError: it cannot be opened as it was asked for.
        RefusedError: it is damaged, or could harm the machine that loads it.
    """
    kind = choose(path, options)
    kind.preflight(Path(path), options)
    return kind.open(Path(path), options)


def _check_saved_model(path: Path) -> None:
    if path.is_dir() and any(
        (path / name).exists() for name in ("saved_model.pb", "saved_model.pbtxt")
    ):
        raise RefusedError(
            "saved-model",
            f"{clean(str(path))} is a SavedModel",
            why="it holds neither layers nor a training step, and its graph may read and write"
            " files",
            fix="save with model.save('model.keras'), or give --model MODULE_OR_FILE:FUNCTION to"
            " read its variables as the checkpoint they are",
        )


def _unknown(path: Path) -> CheckpointError | NotFoundError:
    shown = clean(str(path))
    if not path.exists():
        return NotFoundError(
            "checkpoint-not-found",
            f"there is no checkpoint {shown}",
            why="no file, folder or checkpoint prefix has this path",
            fix="look at the path; a tf.train.Checkpoint is named by its prefix, e.g. ckpt/run-12",
        )
    return CheckpointError(
        "not-a-checkpoint", f"{shown} is {_look(path)}", why=_why(path), fix=_ACCEPTED
    )


def _look(path: Path) -> str:
    if path.is_dir():
        return "a plain folder"
    start = _start(path)
    for magic, look in (
        (b"PK", "a zip archive without a Keras model in it"),
        (b"\x93NUMPY", "a NumPy array"),
        (b"\x80", "a pickle"),
        (b"", "an empty file" if not start else "a file of unknown content"),
    ):
        if start.startswith(magic):
            return look
    return "a file of unknown content"


def _why(path: Path) -> str:
    if path.is_dir():
        bundles = sorted(path.glob("crash-*/manifest.json"))
        if bundles:
            count = f"{len(bundles)} crash bundle{'s' * (len(bundles) > 1)}"
            return f"it holds {count}: name one, {clean(str(bundles[-1].parent))}"
        if (path / "config.json").exists():
            return "an unpacked .keras archive is not read; zip its files again"
        return "it holds no tf.train.Checkpoint (no checkpoint file, no *.index)"
    if path.suffix == ".keras" and not _start(path).startswith(b"PK"):
        return "a .keras archive is a zip archive, and this is none"
    if path.suffix == ".npz":
        return "an .npz is a batch; the checkpoint goes before the batch"
    return "nothing in it says that it is a Keras model or weights"


def _start(path: Path) -> bytes:
    try:
        with path.open("rb") as stream:
            return stream.read(8)
    except OSError:
        return b""
