"""How is what the user saved opened as the model that was about to fail? One format per file."""

from divergence_doctor.checkpoints._checkpoint import (
    Checkpoint,
    Opened,
    OpenOptions,
    choose,
    open_checkpoint,
)

__all__ = ["Checkpoint", "OpenOptions", "Opened", "choose", "open_checkpoint"]
