"""How is the doctor called from a shell? One file per subcommand, and one place for its errors."""

from divergence_doctor.cli._app import main

__all__ = ["main"]
