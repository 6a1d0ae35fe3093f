"""Dump where nothing may be written; prints one JSON object.

    unshare --mount python -m tests.bundle.refusals FOLDER

A disk that is mounted read-only, and, as somebody else than root, a folder of root's.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

from divergence_doctor.bundle import write_bundle
from tests.bundle._made import HOST, at, contents

NOBODY = 65534


def outcome(folder: Path) -> dict[str, object]:
    """Tell what a dump into a folder ends with, and what it leaves there."""
    try:
        write_bundle(folder, contents(), host=HOST, now=at(0))
    except OSError as error:
        said = error.strerror
    else:
        said = "written"
    return {"said": said, "left": [path.name for path in folder.iterdir()]}


def main() -> None:
    """Try both."""
    root = Path(sys.argv[1])
    disk, closed = root / "disk", root / "closed"
    disk.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(disk)], check=True)  # noqa: S607 - as PATH has it
    told = {"read-only": outcome(disk)}
    closed.mkdir()
    closed.chmod(0o555)
    # From inside: those above it may be closed to others altogether.
    os.chdir(closed)
    # Root may write anywhere; in a namespace of one's own one is nobody else.
    if os.access(".", os.W_OK):
        os.setuid(NOBODY)
    told["closed"] = outcome(Path())
    print(json.dumps(told))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
