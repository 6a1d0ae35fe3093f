"""How does a user get the recorder? As one more callback of ``fit``, or round a loop of their own.

This module is imported when the class is first asked for: it needs Keras to be a Keras callback.
"""

from __future__ import annotations

from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import keras  # noqa: TID253 - a Keras callback is made of a Keras class; imported on demand

from divergence_doctor.capture import _seams as seams
from divergence_doctor.capture.installation import Installation
from divergence_doctor.capture.options import RING, OnFailure, Options
from divergence_doctor.capture.recorder import Recorder
from divergence_doctor.capture.signals import Signals

if TYPE_CHECKING:
    import os
    from collections.abc import Iterable, Iterator, Sequence


@final
class RunningStep:
    """The step that runs inside ``with recorder.step(batch) as step``.

    Attributes:
        loss: set it to the loss of the step, a number or a tensor of one element; without it only
            the state is watched.
        number: of the step, counted by the recorder from 0.
    """

    def __init__(self, number: int) -> None:
        self.number: Final = number
        self.loss: Any = None


@final
class FlightRecorder(keras.callbacks.Callback):  # type: ignore[misc]
    """Keeps batches and state from before a failing step, and writes them as a crash bundle.

    ::

        model.fit(..., callbacks=[FlightRecorder("crashes/")])

    or, in a loop of your own::

        recorder = FlightRecorder("crashes/", model=model, optimizer=optimizer, loss=loss_fn)
        for batch in dataset:
            with recorder.step(batch) as step:
                step.loss = train_step(batch)

    It changes nothing in the training. Where several workers train together (a strategy that spans
    machines), each needs one. ``doctor replay crashes/crash-...`` explains the bundle.

    Args:
        directory: folder for the bundles; made when it is missing.
        on_failure: ``"stop"`` ends ``fit`` after the failing step, ``"raise"`` raises
            :class:`~divergence_doctor.capture.DivergenceError`, ``"continue"`` goes on, with one
            bundle per episode and at most ``keep`` of them.
        model: the model, or several, of a loop of your own; ``fit`` sets it itself.
        optimizer: the optimizer, or several, of a loop of your own.
        loss: the loss function of a loop of your own, for the bundle to name.
        budget: the recorder's share of the time of training; it spaces the snapshots accordingly.
        snapshot_every: a fixed number of steps between snapshots instead.
        ring_bytes: bytes of batches held (by reference) between snapshots.
        spike: factor by which the loss of a step may stand above the median of the last hundred.
        signals: signals that write a bundle before they do what they do: True for SIGTERM and
            SIGINT (Ctrl-C), or a list of them. A second one while it is being written gives up.
        keep: bundles that are kept in the folder, of this host and worker.
        max_bytes: size of one bundle; slots, then weights, then older batches are left out.
        data: False leaves out the batches, which may be private.
        verbose: 0 says nothing, 1 where a bundle is, 2 what the recorder cost as well.

    Raises:
        UsageError: an argument that cannot be.
        OutputError: from ``fit``, when the folder cannot be written.
    """

    def __init__(  # noqa: PLR0913 - what may be asked for, each with its default
        self,
        directory: str | os.PathLike[str] = "crashes",
        *,
        on_failure: OnFailure = "stop",
        model: Any = None,
        optimizer: Any = None,
        loss: Any = None,
        budget: float = 0.01,
        snapshot_every: int | None = None,
        ring_bytes: int = RING,
        spike: float | None = None,
        signals: bool | Sequence[int] = False,
        keep: int = 3,
        max_bytes: int | None = None,
        data: bool = True,
        verbose: int = 1,
    ) -> None:
        super().__init__()
        options = Options(
            directory=Path(directory).absolute(), on_failure=on_failure, budget=budget,
            snapshot_every=snapshot_every, ring_bytes=ring_bytes, spike=spike, keep=keep,
            max_bytes=max_bytes, data=data, verbose=verbose,
        )  # fmt: skip
        self.recorder: Final = Recorder(options)
        self._own = (_several(model), _several(optimizer), loss)
        self._signals = Signals(self.recorder, signals)
        self._installation: Installation | None = None
        self._began = False

    # -------------------------------------------------------------------------------- in fit

    def on_train_begin(self, logs: Any = None) -> None:
        """Check the folder, and take the place of the train function."""
        del logs
        _check_backend()
        _check_writable(self.recorder.options.directory)
        with self.recorder.guarded():
            weights = seams.fit_arguments().get("class_weight")
            if isinstance(weights, dict):
                told = {str(key): float(part) for key, part in weights.items()}
                self.recorder.class_weight = told
            self.recorder.begin([self.model], loop="fit")
            self._installation = Installation(self.recorder, self.model)
            self._installation.install()
            self._signals.install()

    def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
        """Take note of the epoch."""
        del logs
        self.recorder.epoch_begins(epoch)

    def on_train_end(self, logs: Any = None) -> None:
        """Put the train function back, and look at the state a last time."""
        del logs
        if self._installation is not None:
            self._installation.remove()
        self._signals.remove()
        self.recorder.end()

    @contextmanager
    def train_on_batch(self, model: Any) -> Iterator[None]:
        """Watch the ``train_on_batch`` that runs inside: a step, and none that ends the loop."""
        recorder = self.recorder
        if recorder.loop != "train_on_batch" or self._installation is None:
            _check_writable(recorder.options.directory)
            self.set_model(model)
            recorder.begin([model], loop="train_on_batch")
            self._installation = Installation(recorder, model)
            self._signals.install()
        self._installation.stay()
        yield

    # ------------------------------------------------------------------- in a loop of one's own

    @contextmanager
    def step(self, batch: Any) -> Iterator[RunningStep]:
        """Watch one step of a loop of your own.

        Args:
            batch: what the step is given: ``(x, y)``, ``(x, y, sample_weight)``, or ``x`` alone.

        Yields:
            The step; set its ``loss``.
        """
        self._begin()
        recorder = self.recorder
        recorder.before(batch)
        running = RunningStep(recorder.step)
        try:
            yield running
        except Exception as error:
            recorder.raised(error)
            raise
        recorder.after(loss=running.loss)

    def watch(self, dataset: Iterable[Any]) -> Iterator[Any]:
        """Yield the batches of a dataset; the body of the loop is a step each.

        The state is watched, and the loss where the body sets ``recorder.loss``. An exception out
        of the body is not seen (``step`` sees it). After a failure the loop ends, unless
        ``on_failure="continue"``.
        """
        self._begin()
        for batch in dataset:
            self.loss = None
            self.recorder.before(batch)
            try:
                yield batch
            finally:
                # A `break` ends the step like any other.
                self.recorder.after(loss=self.loss)
            if self.failed and self.recorder.options.on_failure == "stop":
                break
        self.recorder.end()

    #: Loss of the running step, for :meth:`watch`.
    loss: Any = None

    @property
    def failed(self) -> bool:
        """Whether anything failed since the recorder was made."""
        return self.recorder.failed

    @property
    def bundles(self) -> tuple[Path, ...]:
        """The bundles that were written."""
        return tuple(self.recorder.bundles)

    def close(self) -> None:
        """Look at the state a last time, after a loop of your own; signals are as before."""
        self._signals.remove()
        self.recorder.end()

    def _begin(self) -> None:
        if self._began:
            return
        self._began = True
        _check_writable(self.recorder.options.directory)
        models, optimizers, loss = self._own
        self.recorder.begin(models, optimizers, loss, loop="custom")
        self._signals.install()


def _several(given: Any) -> list[Any]:
    if given is None:
        return []
    return list(given) if isinstance(given, list | tuple) else [given]


def _check_backend() -> None:
    """Refuse another backend of Keras than TensorFlow: its step is not the one that is known."""
    from divergence_doctor.errors import UsageError

    if keras.backend.backend() != "tensorflow":
        raise UsageError(
            "not-on-tensorflow",
            f"FlightRecorder cannot watch a step of Keras on {keras.backend.backend()}",
            why="it is made for the training step of the TensorFlow backend",
            fix="set KERAS_BACKEND=tensorflow before Keras is imported, or leave the recorder out",
        )


def _check_writable(folder: Path) -> None:
    """Refuse a folder that no bundle can be written into, while there is time to mend that."""
    import tempfile

    from divergence_doctor._clean import clean
    from divergence_doctor.errors import OutputError

    try:
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except OSError as error:
        raise OutputError(
            "crashes-not-writable",
            f"crash bundles cannot be written into {clean(str(folder))}",
            why=clean(str(error.strerror or error)),
            fix='give a folder that can be: FlightRecorder("/tmp/crashes")',
        ) from None
