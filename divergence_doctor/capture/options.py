"""What may a user ask of the flight recorder, and what does it raise when asked to?"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal, TypeAlias, final

from divergence_doctor.errors import UsageError

if TYPE_CHECKING:
    from pathlib import Path

OnFailure: TypeAlias = Literal["stop", "raise", "continue"]
CHOICES: Final = ("stop", "raise", "continue")
#: Bytes of batches that are held by reference.
RING: Final = 512 << 20


@final
class DivergenceError(RuntimeError):
    """Raised out of ``fit`` by ``FlightRecorder(on_failure="raise")``.

    Attributes:
        bundle: the crash bundle; None where none could be written.
    """

    def __init__(self, message: str, bundle: Path | None) -> None:
        super().__init__(message)
        self.bundle: Final = bundle


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What :class:`~divergence_doctor.FlightRecorder` was asked for; see there."""

    directory: Path
    on_failure: OnFailure = "stop"
    budget: float = 0.01
    snapshot_every: int | None = None
    ring_bytes: int = RING
    spike: float | None = None
    keep: int = 3
    max_bytes: int | None = None
    data: bool = True
    verbose: int = 1

    def __post_init__(self) -> None:
        wrong = self._wrong()
        if wrong:
            name, why = wrong
            raise UsageError(
                "bad-recorder-option",
                f"FlightRecorder({name}={getattr(self, name)!r}) cannot be",
                why=why,
                fix="help(divergence_doctor.FlightRecorder) says what each argument may be",
            )

    def _wrong(self) -> tuple[str, str] | None:
        positive = "it must be above zero"
        checks = (
            ("on_failure", self.on_failure in CHOICES, "it is one of " + ", ".join(CHOICES)),
            ("budget", 0 < self.budget <= 1, "it is a fraction of the time of a step, as 0.01"),
            (
                "snapshot_every",
                self.snapshot_every is None or self.snapshot_every > 0,
                "it is a number of steps, 1 or more",
            ),
            ("ring_bytes", self.ring_bytes > 0, positive),
            ("spike", self.spike is None or self.spike > 1, "it is a factor above 1"),
            ("keep", self.keep > 0, positive),
            ("max_bytes", self.max_bytes is None or self.max_bytes > 0, positive),
        )
        return next(((name, why) for name, good, why in checks if not good), None)
