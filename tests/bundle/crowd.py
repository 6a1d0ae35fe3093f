"""Dump from several processes at once into one folder; prints one JSON object.

python -m tests.bundle.crowd FOLDER PROCESSES DUMPS KEEP own|shared
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

from divergence_doctor.bundle import open_bundle, verify, write_bundle
from tests.bundle._made import HOST, START, contents, finals


def main() -> None:
    """Fork, wait until all are there, dump."""
    root, processes, dumps, keep = Path(sys.argv[1]), *map(int, sys.argv[2:5])
    shared = sys.argv[5] == "shared"
    ready, go = os.pipe()
    children = []
    for worker in range(processes):
        child = os.fork()
        if child == 0:
            os.close(go)
            os.read(ready, 1)
            try:
                for turn in range(dumps):
                    number = 0 if shared else worker
                    write_bundle(
                        root,
                        contents(),
                        worker=number,
                        sequence=turn,
                        keep=keep,
                        host=HOST,
                        now=START,
                    )
            except BaseException:  # noqa: BLE001 - its parent is told by its status
                os._exit(1)
            os._exit(0)
        children.append(child)
    # All of them read the end of the pipe at the same time.
    os.close(go)
    statuses = [os.waitpid(child, 0)[1] for child in children]
    told = {
        "statuses": statuses,
        "finals": len(finals(root)),
        "bad": [path.name for path in finals(root) if verify(path)],
        "workers": sorted(
            {open_bundle(path).manifest["written"]["worker"] for path in finals(root)}
        ),
        "others": [path.name for path in root.iterdir() if path not in finals(root)],
    }
    print(json.dumps(told))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
