"""What happens around every step while the recorder rides along? Kept, looked at, and written.

Before a step: the batch goes into the ring, and the state is copied when that is due. After it: the
loss of the step is looked at. Whatever goes wrong in here is told once and switches the recorder
off; only the user's own errors, and :class:`DivergenceError` on request, ever leave it.

At most steps of a ``fit`` nothing of this is due; they pass (:mod:`~divergence_doctor.capture.
passing`), and are taken in several at a time.
"""

from __future__ import annotations

import math
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.bundle import REAL, FileSystem
from divergence_doctor.capture import batch as batches
from divergence_doctor.capture.accounts import Account, Accounts
from divergence_doctor.capture.dump import Dump
from divergence_doctor.capture.history import History
from divergence_doctor.capture.losses import is_loss
from divergence_doctor.capture.options import DivergenceError
from divergence_doctor.capture.pace import Pace
from divergence_doctor.capture.passing import MOST, Passing
from divergence_doctor.capture.ring import Ring, Step
from divergence_doctor.capture.snapshot import Snapshot, Unsound
from divergence_doctor.capture.telling import tell, warn_once
from divergence_doctor.capture.variables import Watched, every_optimizer, watched

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence
    from pathlib import Path

    from divergence_doctor.capture.options import Options
    from divergence_doctor.capture.rate import Rate

#: Every so many snapshots the list of variables is made anew: layers may be built late.
_RELIST: Final = 8
#: Steps that pass may be so many times slower than the one before them, with what feeds them.
_SLOWER: Final = 3.0


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """Why a bundle is to be written."""

    trigger: str
    message: str
    step: int
    error: BaseException | None = None


@final
class Recorder:
    """Keeps what is needed to run the failing step again, and writes it when it fails.

    Args:
        options: what the user asked for.
        clock: seconds, rising; for tests.
    """

    def __init__(self, options: Options, *, clock: Callable[[], float] | None = None) -> None:
        self.options: Final = options
        self.models: list[Any] = []
        self.optimizers: list[Any] = []
        self.loss: Any = None
        self.loop = "custom"
        self.class_weight: dict[str, float] | None = None
        self.epoch = 0
        self.step = 0
        self.bundles: list[Path] = []
        #: Where bundles are written through; a test may put one that fails.
        self.fs: FileSystem = REAL
        self.failed = False
        self.ring: Final = Ring(options.ring_bytes)
        self.snapshot: Final = Snapshot()
        self.history: Final = History()
        self.pace: Final = (
            Pace(options.budget, every=options.snapshot_every)
            if clock is None
            else Pace(options.budget, every=options.snapshot_every, clock=clock)
        )
        self.passing: Final = Passing(self.pace.clock)
        self._accounts: Accounts | None = None
        self._off = False
        self._listed: list[Watched] = []
        self._relist_in = 0
        #: The slots of an optimizer come with its first step: the copy from before is without them.
        self._provisional = False
        self._epoch_begins = False
        self._open = False
        self._started = 0.0
        self._own = 0.0
        #: Seconds of the last step at which all was done.
        self._usual = 0.0
        #: Set from a failure until the state is seen sound again: one bundle per episode.
        self._in_episode = False
        self._odd: set[str] = set()
        self._pending: tuple[str, str, Callable[[], None]] | None = None
        self._busy = False

    # ------------------------------------------------------------------ beginning and ending

    def begin(
        self,
        models: Sequence[Any],
        optimizers: Sequence[Any] = (),
        loss: Any = None,
        *,
        loop: str,
    ) -> None:
        """Begin to watch; state from before is no state to roll forward from any more.

        Args:
            models: Keras models, built or not.
            optimizers: optimizers besides those of the models.
            loss: the loss of a loop of one's own.
            loop: ``fit``, ``train_on_batch`` or ``custom``.
        """
        with self.guarded():
            self.models, self.optimizers, self.loss = list(models), list(optimizers), loss
            self.loop = loop
            self._open = self._busy = False
            self.passing.clear()
            if self._accounts is not None:
                self._accounts.rate.release()
            self._accounts = Accounts(
                next(iter(self.models), None),
                next(iter(every_optimizer(self.models, self.optimizers)), None),
                loop,
                self.history,
            )
            if loop == "fit":
                self._accounts.rate.watch(self.passing.stop)
            self.invalidate()

    def invalidate(self) -> None:
        """Have the state copied anew before the next step: something else may have changed it."""
        with self.guarded():
            self.snapshot.forget()
            self._relist_in = 0
            self._other_may_change_things()

    def epoch_begins(self, epoch: int) -> None:
        """Take note of a new epoch: Keras has reset the metrics, and callbacks may do anything."""
        with self.guarded():
            # The steps that have passed are of the epoch before.
            self._other_may_change_things()
            self.epoch = epoch

    def end(self) -> None:
        """Look at the state a last time, for what the last steps did to it."""
        failure = None
        with self.guarded():
            failure = self._take_in()
            if not self._off and self.step and not self._in_episode and self.models:
                found = self.snapshot.look(watched(self.models, self.optimizers))
                failure = failure if found is None else self._of_state(found)
        self._settle(failure)
        with self.guarded():
            if self.options.verbose > 1 and self.step:
                tell(
                    f"the flight recorder took {self.pace.overhead:.1%} of the time, "
                    f"with a snapshot every {self.pace.interval:.0f} steps"
                )
            self.ring.clear()
            self.passing.clear()
            if self._accounts is not None and self.loop == "fit":
                self._accounts.rate.release()

    # -------------------------------------------------------------------------------- steps

    def around(self, data: Sequence[Any]) -> Iterator[Any]:
        """Yield the batches of one execution; each is a step that ends when the next is asked for.

        The last one is ended by :meth:`after`.
        """
        for one in data:
            if self._open:
                self.after()
            self.before(one)
            yield one

    def before(self, data: Any) -> None:
        """Keep the batch of the step that comes next, and the state where that is due."""
        if self._off:
            return
        failure = None
        try:
            started = self.pace.clock()
            self._busy = True
            failure = self._before(data)
            self._open = True
            self._started = self.pace.clock()
            self._own = self._started - started
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
            self._give_up(error)
        if failure is not None:
            self._settle(failure)

    def after(self, logs: Any = None, *, loss: Any = None) -> None:
        """Look at the step that has just ended.

        Args:
            logs: what it logged, by name.
            loss: its loss, where a loop of one's own tells it.
        """
        failure = None
        try:
            if not self._off and self._open:
                ended = self.pace.clock()
                failure = self._after(logs, loss)
                self._open = False
                self._own += self.pace.clock() - ended
                self._usual = ended - self._started
                self.pace.stepped(self._usual, self._own)
                self.passing.let(0 if failure else self._may_pass(), self._usual)
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
            self._give_up(error)
        self._busy = False
        if failure is not None:
            self._settle(failure)
        if self._pending is not None:
            self._deliver()

    def raised(self, error: BaseException) -> None:
        """Write what led up to an exception that came out of the step."""
        with self.guarded():
            self._take_in()
            if self.passing.is_open and self._accounts is not None:
                self._open = True
                self._accounts.moves_on()
                self.ring.add(Step(self.step, self.epoch, self.passing.opened()))
            if self._open and not self._off:
                self.failed = True
                if self._accounts is not None:
                    self._accounts.died(self.step, self.epoch)
                self.step += 1
                kind, said = type(error).__name__, str(error).strip()
                first = said.splitlines()[0] if said else ""
                message = f"the step raised {kind}: {first}" if first else f"the step raised {kind}"
                self._write(
                    Failure(trigger="exception", message=message, step=self.step - 1, error=error)
                )
            self._open = False
            self._busy = False
        self._deliver()

    def nothing(self) -> None:
        """Take back the step that was begun: there was no batch for it."""
        with self.guarded():
            if self._open:
                self.ring.take_back()
            self._open = self._busy = False

    def request(self, trigger: str, message: str, then: Callable[[], None]) -> bool:
        """Write a bundle as soon as the state is whole: now, or when the running step has ended.

        Args:
            trigger: as ``reason.json`` names it.
            message: what happened.
            then: called once it is written.

        Returns:
            Whether it was written at once.
        """
        self._pending = (trigger, message, then)
        if self._busy or self.passing.is_open:
            return False
        self._deliver()
        return True

    def passed(self, logs: Any) -> None:
        """Take note of the end of a step that was let pass, and look at it where that is due."""
        if self.passing.ends(logs) and self._pending is None:
            return
        failure = None
        with self.guarded():
            failure = self._take_in()
        if failure is not None:
            self._settle(failure)
        if self._pending is not None:
            self._deliver()

    # ------------------------------------------------------------------------------ in detail

    def _before(self, data: Any) -> Failure | None:
        failure = self._take_in()
        suited, self._epoch_begins = self._epoch_begins, False
        due = (
            self.snapshot.step is None
            or self._provisional
            or self.ring.is_full()
            or self.pace.is_due(suited=suited)
        )
        if due:
            failure = self._look_and_copy() or failure
        self.ring.add(Step(self.step, self.epoch, batches.keep(data)))
        if self.snapshot.step is None or self._in_episode:
            self.ring.shorten(self.step)
        if self._accounts is not None:
            self._accounts.before_step(afresh=due or suited)
        return failure

    def _look_and_copy(self) -> Failure | None:
        started = self.pace.clock()
        if not self._relist_in:
            self._listed = watched(self.models, self.optimizers)
            self._relist_in = _RELIST
        self._relist_in -= 1
        if self._accounts is not None:
            self._accounts.read_tracker()
        optimizers = every_optimizer(self.models, self.optimizers)
        self._provisional = not all(getattr(one, "built", True) for one in optimizers)
        built = any(one.role == "weight" for one in self._listed)
        found = self.snapshot.take(self._listed, self.step, self.epoch) if built else None
        if not built or self._provisional:
            # What the first step builds, the next one finds.
            self._relist_in = 0
        if not built:
            return None
        failure = None if found is None else self._of_state(found)
        if found is None:
            self._in_episode = False
            self.ring.shorten(self.step)
        self.pace.paid(self.pace.clock() - started)
        return failure

    def _of_state(self, found: Unsound) -> Failure | None:
        if self._in_episode:
            return None
        return Failure(trigger=found.trigger, message=f"there is {found}", step=self.step - 1)

    def _after(self, logs: Any, loss: Any) -> Failure | None:
        accounts = self._accounts
        if accounts is None:
            return None
        self.step += 1
        return self._judged(accounts.kept(self.ring.last, logs, loss))

    def _may_pass(self) -> int:
        """Return at how many of the next steps nothing is due."""
        if self.pace.is_fixed or self.options.spike is not None or self._in_episode:
            return 0
        if self.snapshot.step is None or self._provisional:
            return 0
        if self._accounts is None or not self._accounts.may_be_late:
            return 0
        return self.ring.room(MOST)

    def _take_in(self) -> Failure | None:
        """Take the steps that have passed into ring and history, and return what is wrong."""
        passed, accounts = len(self.passing), self._accounts
        if not passed or accounts is None:
            self.passing.left = 0
            return None
        started, elapsed, spent = self.pace.clock(), self.passing.elapsed, self.passing.seconds
        failure = None
        for data, logs, mean in self.passing.taken():
            step = Step(self.step, self.epoch, data)
            self.ring.add(step)
            self.step += 1
            accounts.moves_on()
            if mean is not None and not self.passing.odd(logs):
                accounts.kept_late(step, mean)
                continue
            found = self._judged(accounts.kept(step, logs, None))
            failure = failure or found
        own = spent + self.pace.clock() - started
        # A validation or a checkpoint that came in between is none of the steps' time.
        self.pace.stepped(min(elapsed, _SLOWER * self._usual * passed), own, steps=passed)
        return failure

    def _other_may_change_things(self) -> None:
        self._epoch_begins = True
        self._take_in()
        if self._accounts is not None:
            self._accounts.read_tracker(between=False)

    def _judged(self, account: Account) -> Failure | None:
        step, step_loss = account.step, account.loss
        if step_loss is not None and not math.isfinite(step_loss):
            return self._failure("non-finite-loss", f"the loss of the step is {step_loss}", step)
        odd = {name: value for name, value in account.told.items() if not math.isfinite(value)}
        if step_loss is not None:
            # The mean over the epoch stays bad after the step that was; the step's own is known.
            odd.pop("loss", None)
        bad = next((name for name in odd if is_loss(name)), None)
        if bad is not None:
            return self._failure("non-finite-loss", f"{bad} is {odd[bad]}", step)
        if self.options.spike is not None:
            spike = self.history.spike(step_loss, self.options.spike)
            if spike:
                return self._failure("loss-spike", spike, step)
        scale = None if self._accounts is None else self._accounts.scale
        if scale is not None and scale.searched:
            frozen = scale.after_step(scale.read())
            if frozen:
                return self._failure("frozen", frozen, step)
        return self._odd_metric(set(odd)) if odd else None

    def _odd_metric(self, odd: set[str]) -> Failure | None:
        """Look at the state once for every metric that is not finite: it may mean nothing."""
        if not odd - self._odd or self._in_episode:
            return None
        self._odd |= odd
        found = self.snapshot.look(self._listed)
        return None if found is None else self._of_state(found)

    def _failure(self, trigger: str, message: str, step: int) -> Failure | None:
        if self._in_episode:
            return None
        return Failure(trigger=trigger, message=message, step=step)

    # ------------------------------------------------------------------------------- outcomes

    def _settle(self, failure: Failure | None) -> None:
        """Write a bundle, and stop the training, or raise, or go on, as it was asked for."""
        if failure is None:
            return
        path = None
        with self.guarded():
            self._in_episode = True
            self.failed = True
            if len(self.bundles) < self.options.keep:
                path = self._write(failure)
        if self.options.on_failure == "raise":
            self._open = self._busy = False
            raise DivergenceError(f"step {failure.step}: {failure.message}", path)
        if self.options.on_failure == "stop":
            for model in self.models:
                model.stop_training = True

    def _write(self, failure: Failure) -> Path | None:
        path = Dump(self).write(failure)
        if path is not None:
            self.bundles.append(path)
        return path

    def _deliver(self) -> None:
        if self._pending is None:
            return
        (trigger, message, then), self._pending = self._pending, None
        with self.guarded():
            self._take_in()
            if not self._off and self.step:
                self._write(Failure(trigger=trigger, message=message, step=self.step - 1))
        then()

    @property
    def rate(self) -> Rate | None:
        """What worked out the learning rates of the history."""
        return None if self._accounts is None else self._accounts.rate

    @contextmanager
    def guarded(self) -> Iterator[None]:
        """Keep an error of the recorder's own from the training: it is told once, and it ends."""
        try:
            yield
        except Exception as error:  # noqa: BLE001 - whatever it is, training goes on
            self._give_up(error)

    def _give_up(self, error: Exception) -> None:
        self._off = True
        self._busy = self._open = False
        self.ring.clear()
        self.passing.clear()
        warn_once(self, error)
