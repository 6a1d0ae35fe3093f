"""What is done at a step at which nothing is due? Its batch is held, and its losses are looked at.

Right after a step the processor's caches hold the step's own data, and the recorder's code runs at
several times its usual cost. So that is all that every step pays for; the steps that have passed
are taken into the ring and the history several at a time, the second of them for a fraction of what
the first one costs.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.capture import _seams as seams
from divergence_doctor.capture.losses import is_loss, scalar

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Steps that pass between two at which all is done, at most, and for how many seconds: where steps
#: are long what is done at one costs nothing beside it, and the state is better copied often.
MOST: Final = 63
LONGEST: Final = 0.1
_SHORTEST: Final = 1e-6


@final
class Passing:
    """The steps that have passed and are not taken in yet.

    Attributes:
        left: steps that may still pass.

    Args:
        clock: seconds, rising.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self.left = 0
        self._clock: Final = clock
        self._first = 0.0
        self._began = 0.0
        self._batches: list[Any] = []
        self._logs: list[Any] = []
        self._means: list[float] = []
        self._losses: tuple[str, ...] = ()
        self._others: tuple[str, ...] = ()
        self._logged = -1

    def let(self, steps: int, seconds: float) -> None:
        """Let steps pass; none is here that was not taken in.

        Args:
            steps: how many may.
            seconds: that a step takes.
        """
        self.left = min(steps, MOST, int(LONGEST / max(seconds, _SHORTEST)))
        self._began = self._clock()

    def stop(self) -> None:
        """Let no more steps pass until all is done at one."""
        self.left = 0

    def begins(self, batch: Any) -> None:
        """Hold the batch of the step that comes next, which must be of tensors."""
        self.left -= 1
        self._batches.append(batch)

    def ends(self, logs: Any) -> bool:
        """Keep what the step logged, and say whether all its losses are there and finite.

        The mean over the epoch is finite only where the loss of every step was.
        """
        started = None if self._logs else self._clock()
        self._logs.append(logs)
        sound = type(logs) is dict and self._are_finite(logs)
        if started is not None:
            self._first = self._clock() - started
        return sound

    @property
    def is_open(self) -> bool:
        """Whether a step has begun and not ended."""
        return len(self._batches) > len(self._logs)

    def __len__(self) -> int:
        """Return how many have begun."""
        return len(self._batches)

    @property
    def seconds(self) -> float:
        """Seconds that their ends took: of the first, and as many for each of the others."""
        return self._first * len(self._logs)

    @property
    def elapsed(self) -> float:
        """Seconds since they were let."""
        return self._clock() - self._began

    def taken(self) -> Iterator[tuple[Any, Any, float | None]]:
        """Yield batch, logs and mean loss of those that have ended, which are here no more.

        The mean is None where a loss was not finite, or not there.
        """
        count = len(self._logs)
        means = [*self._means, *[None] * (count - len(self._means))]
        done = list(zip(self._batches, self._logs, means, strict=False))
        del self._batches[:count], self._logs[:count], self._means[:count]
        self.left = 0
        yield from done

    def odd(self, logs: dict[str, Any]) -> bool:
        """Say whether something else than a loss was logged that is not finite, or no number."""
        return any(not math.isfinite(_number(logs[name])) for name in self._others)

    def opened(self) -> Any:
        """Return the batch of the step that has begun and not ended, which is here no more."""
        (batch,) = self._batches
        self._batches.clear()
        return batch

    def clear(self) -> None:
        """Forget all."""
        self.left = 0
        self._batches.clear()
        self._logs.clear()
        self._means.clear()

    def _are_finite(self, logs: dict[str, Any]) -> bool:
        if self._logged != len(logs):
            self._logged = len(logs)
            self._losses = tuple(name for name in logs if name != "loss" and is_loss(str(name)))
            self._others = tuple(name for name in logs if not is_loss(str(name)))
        try:
            # No generator and no more functions than this: each costs as much as reading a tensor.
            mean = seams.number(logs["loss"])
            if not math.isfinite(mean):
                return False
            for name in self._losses:
                if not math.isfinite(seams.number(logs[name])):
                    return False
        except (KeyError, TypeError, ValueError, AttributeError):
            return False
        self._means.append(mean)
        return True


def _number(value: Any) -> float:
    number = scalar(value)
    return math.nan if number is None else number
