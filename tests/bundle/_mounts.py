"""Under which command may a process mount what only it sees?"""

from __future__ import annotations

import shutil
import subprocess

import pytest


def own_mounts() -> tuple[str, ...]:
    """Return that command: as root, or else as root of a namespace of one's own; else skip."""
    why = "there is no unshare"
    if shutil.which("unshare") and shutil.which("mount"):
        for command in (("unshare", "--mount"), ("unshare", "--mount", "--map-root-user")):
            tried = subprocess.run(
                [*command, "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"],
                capture_output=True,
                text=True,
                check=False,
            )
            if tried.returncode == 0:
                return command
            why = tried.stderr.strip()
    pytest.skip(f"no small disk can be mounted here: {why}")
