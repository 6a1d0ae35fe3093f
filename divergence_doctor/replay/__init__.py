"""The step again: the model's own ``train_step``, watched."""

from divergence_doctor.replay.bench import Bench
from divergence_doctor.replay.engine import Engine
from divergence_doctor.replay.feeding import match
from divergence_doctor.replay.state import Snapshot
from divergence_doctor.replay.support import check_supported

__all__ = ["Bench", "Engine", "Snapshot", "check_supported", "match"]
