"""How is what the user saved opened as the model that was about to fail? One format per file."""

from divergence_doctor.checkpoints._checkpoint import (
    Checkpoint,
    Opened,
    OpenOptions,
    choose,
    open_checkpoint,
)
from divergence_doctor.checkpoints._earlier import Fault, last_good
from divergence_doctor.checkpoints._optimizers import innermost, optimizers_of
from divergence_doctor.checkpoints._recording import RecordedStep, Recording

__all__ = [
    "Checkpoint",
    "Fault",
    "OpenOptions",
    "Opened",
    "RecordedStep",
    "Recording",
    "choose",
    "innermost",
    "last_good",
    "open_checkpoint",
    "optimizers_of",
]
