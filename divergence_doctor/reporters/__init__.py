"""In which formats is a diagnosis told? One per file; what they say is decided once."""

from divergence_doctor.reporters._document import document
from divergence_doctor.reporters._parts import Document
from divergence_doctor.reporters._reporter import Reporter, all_reporters
from divergence_doctor.reporters._ticket import Sharing, write_ticket
from divergence_doctor.reporters._write import write_reports

__all__ = [
    "Document",
    "Reporter",
    "Sharing",
    "all_reporters",
    "document",
    "write_reports",
    "write_ticket",
]
