"""Write bundles onto disks that are too small for them; prints one JSON object.

    unshare --mount python -m tests.bundle.full_disk FOLDER

The disks are tmpfs of a few sizes, mounted where only this process sees them.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from contextlib import suppress
from pathlib import Path

from divergence_doctor.bundle import open_bundle, salvage, verify, write_bundle
from tests.bundle._faults import Counting
from tests.bundle._made import HOST, at, contents, finals, partials

KIB = 1 << 10
#: The bundle takes about 2.6 MiB, of which the optimizer 1.7.
UNITS = 192
SIZES = (4, 16, 64, 68, 80, 96, 128, 192, 256, 512, 768, 1024, 2048, 4096)


class Unaware(Counting):
    """Does not know how much is free, so that the disk itself is what says no."""

    def statvfs(self, path: Path) -> int:  # noqa: ARG002 - of any disk
        return 1 << 50


class Filling(Unaware):
    """Somebody else takes what is left once the last array is written."""

    def fsync(self, descriptor: int) -> None:
        super().fsync(descriptor)
        path = Path(f"/proc/self/fd/{descriptor}").readlink()
        if path.name == "00013.npy":
            with (path.parents[2] / "filler").open("wb", buffering=0) as filler, suppress(OSError):
                while True:
                    filler.write(bytes(1 << 12))


def one(folder: Path, size: int, fs: Counting) -> dict[str, object]:
    """Write onto a disk of so many KiB, and tell what became of it."""
    folder.mkdir()
    # Folders take none of a tmpfs' size.
    options = f"size={size}k,mode=700"
    subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", str(folder)], check=True)  # noqa: S607 - as PATH has it
    aware = not isinstance(fs, Unaware)
    told: dict[str, object] = {"size": size, "aware": aware, "free": _free(folder)}
    try:
        path = write_bundle(
            folder,
            contents(units=UNITS),
            host=HOST,
            now=at(0),
            fs=fs,
        )
    except OSError as error:
        told["error"] = error.strerror
        told["salvaged"] = [
            [
                problem.says
                for problem in verify(salvage(path, folder.parent / f"{folder.name}-saved"))
            ]
            for path in partials(folder)
        ]
    else:
        opened = open_bundle(path)
        told["dropped"] = [item["what"] for item in opened.manifest["dropped"]]
        told["problems"] = [problem.says for problem in verify(path)]
        told["batches"] = len(opened.batches)
        told["roles"] = sorted({variable.role for variable in opened.variables})
    told["finals"] = len(finals(folder))
    told["reasons"] = len(list(folder.glob("*/reason.json")))
    told["partials"] = len(partials(folder))
    subprocess.run(["umount", str(folder)], check=True)  # noqa: S607 - as PATH has it
    return told


def _free(folder: Path) -> int:
    found = os.statvfs(folder)
    return found.f_bavail * found.f_frsize


def main() -> None:
    """Go through the sizes, once knowing what is free and once not."""
    root = Path(sys.argv[1])
    told = [
        one(root / f"{size}-{kind.__name__}", size, kind())
        for size in SIZES
        for kind in (Counting, Unaware)
    ]
    filled = one(root / "filled", max(SIZES), Filling())
    print(json.dumps({"disks": told, "filled": filled}))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
