"""To whose experiments can a report be attached? One tracker per file, by the user's own client."""

from divergence_doctor.trackers._tracker import Reports, Tracker, all_trackers, attach

__all__ = ["Reports", "Tracker", "all_trackers", "attach"]
