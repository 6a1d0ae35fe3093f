"""What was seen in the replayed steps? The one thing that crosses to the reading half."""

from divergence_doctor.trace.builder import TraceBuilder
from divergence_doctor.trace.model import Trace
from divergence_doctor.trace.table import Table

__all__ = ["Table", "Trace", "TraceBuilder"]
