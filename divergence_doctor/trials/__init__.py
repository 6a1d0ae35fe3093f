"""What if one thing had been different? One intervention per file, each run on the bench."""

from divergence_doctor.trials._trial import Outcome, Trial, all_trials, prove

__all__ = ["Outcome", "Trial", "all_trials", "prove"]
