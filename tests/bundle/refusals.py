"""Dump where nothing may be written; prints one JSON object.

unshare --mount python -m tests.bundle.refusals read-only FOLDER
python -m tests.bundle.refusals closed FOLDER
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

from divergence_doctor.bundle import Contents, write_bundle
from tests.bundle._made import HOST, at, contents

NOBODY = 65534


def outcome(folder: Path, given: Contents) -> dict[str, object]:
    """Tell what a dump into a folder ends with, and what it leaves there."""
    try:
        write_bundle(folder, given, host=HOST, now=at(0))
    except OSError as error:
        said = error.strerror
    else:
        said = "written"
    return {"said": said, "left": [path.name for path in folder.iterdir()]}


def read_only(folder: Path) -> dict[str, object]:
    """Try a disk that is mounted read-only; needs a mount namespace of its own."""
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", str(folder)], check=True)  # noqa: S607 - as PATH has it
    return outcome(folder, contents())


def closed(folder: Path) -> dict[str, object]:
    """Try a folder that its owner has closed, as somebody else where this is root."""
    given = contents()
    with tempfile.TemporaryDirectory() as elsewhere:
        # What is imported late must be there: the installation, too, may be closed to others.
        write_bundle(Path(elsewhere), given, host=HOST, now=at(0))
    folder.chmod(0o555)
    # From inside: those above it may be closed to others altogether.
    os.chdir(folder)
    if os.getuid() == 0:
        os.setuid(NOBODY)
    return outcome(Path(), given)


def main() -> None:
    """Try one of them."""
    told = {"read-only": read_only, "closed": closed}[sys.argv[1]](Path(sys.argv[2]))
    print(json.dumps(told))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
