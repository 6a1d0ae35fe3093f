"""How much memory does it take to write a bundle, to verify and to load it? One JSON object.

python -m tests.bundle.memory FOLDER
"""

from __future__ import annotations

import json
import re
import resource
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np

from divergence_doctor.bundle import Recorded, Variable, open_bundle, verify, write_bundle
from tests.bundle._made import tiny

ELEMENTS = 12 << 20
ARRAYS = 6


def _peak() -> int:
    # Not ru_maxrss, which starts with that of the process that started this one.
    text = Path("/proc/self/status").read_text(encoding="ascii")
    return int(re.search(r"VmHWM:\s+(\d+) kB", text).group(1)) * 1024


def _resident() -> int:
    fields = Path("/proc/self/statm").read_text(encoding="ascii").split()
    return int(fields[1]) * resource.getpagesize()


def main() -> None:
    """Write, verify, load; tell the peaks above what was resident before."""
    variables = [
        Variable(
            role="weight",
            path=f"w{index}",
            name=f"w{index}",
            array=lambda index=index: np.full(ELEMENTS, index, np.float32),
            dtype="float32",
            shape=(ELEMENTS,),
        )
        for index in range(ARRAYS)
    ]
    batch = Recorded(step=0, arrays=lambda: {"x": np.ones((ELEMENTS, 1), np.float32)})
    before = _resident()
    path = write_bundle(Path(sys.argv[1]), replace(tiny(), variables=variables, batches=[batch]))
    told = {"writing": _peak() - before, "largest": 4 * ELEMENTS}
    assert verify(path) == ()
    for variable in open_bundle(path).variables:
        variable.load()
    told["reading"] = _peak() - before
    told["total"] = sum(entry.size for entry in open_bundle(path).files.values())
    print(json.dumps(told))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
