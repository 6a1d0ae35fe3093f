"""In whose formats can a trace be written down? One per file; nothing leaves the machine."""

from divergence_doctor.exports._export import Export, all_exports, write_export

__all__ = ["Export", "all_exports", "write_export"]
