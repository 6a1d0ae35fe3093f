"""What does a dying training run leave behind? A crash bundle: a folder, whole or not there.

FORMAT.md beside this file says what is in it. Beyond the interface that was agreed on first:
``Variable`` takes the ``shape`` of an array that is given as a function; ``context.json`` holds
what the manifest says of the run, early, so that an interrupted dump has it; the manifest has
``written`` (time, host, worker, pid) and is sealed by its own hash.
"""

from divergence_doctor.bundle._contents import Contents, Recorded, Variable
from divergence_doctor.bundle._filesystem import REAL, FileSystem
from divergence_doctor.bundle._opening import is_bundle
from divergence_doctor.bundle._read import Bundle, StoredBatch, open_bundle
from divergence_doctor.bundle._salvage import salvage
from divergence_doctor.bundle._variables import StoredVariable
from divergence_doctor.bundle._verify import Problem, verify
from divergence_doctor.bundle._write import write_bundle

__all__ = [
    "REAL",
    "Bundle",
    "Contents",
    "FileSystem",
    "Problem",
    "Recorded",
    "StoredBatch",
    "StoredVariable",
    "Variable",
    "is_bundle",
    "open_bundle",
    "salvage",
    "verify",
    "write_bundle",
]
