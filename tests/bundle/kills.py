"""Kill a writer again and again and look at what it leaves; prints one JSON object.

    python -m tests.bundle.kills random FOLDER [KILLS] [SEED]
    python -m tests.bundle.kills every FOLDER

A process of its own, with NumPy alone: the writers are its forks, and TensorFlow does not fork.
"""

from __future__ import annotations

import json
import os
import random
import secrets
import shutil
import signal
import sys
import time
from itertools import count
from pathlib import Path

from divergence_doctor.bundle import open_bundle, salvage, verify, write_bundle
from tests.bundle._faults import Killing
from tests.bundle._made import HOST, at, contents, digest, finals, partials

#: A writer is killed within so many times what one bundle takes.
WAIT = 4


def at_random(root: Path, kills: int, seed: int) -> dict[str, object]:
    """Kill a process that writes one bundle after the other, at moments drawn at random."""
    generator = random.Random(seed)  # noqa: S311 - no secret
    started = time.monotonic()
    elder = write_bundle(root, contents(), host="elder", now=at(0))
    longest = WAIT * (time.monotonic() - started)
    before = digest(elder)
    told = {"seed": seed, "kills": 0, "bad": [], "interrupted": 0, "written": 0, "elder": True}
    for number in range(kills):
        ready, say = os.pipe()
        child = os.fork()
        if child == 0:
            for turn in count():
                os.write(say, b"!")
                write_bundle(root, contents(), host=HOST, keep=3, now=at(1000 * number + turn))
        # Every fifth has surely written one by then, however slow the machine has become.
        for _ in range(2 if number % 5 == 0 else 1):
            os.read(ready, 1)
        time.sleep(generator.uniform(0, longest))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        os.close(ready)
        os.close(say)
        told["kills"] += status == signal.SIGKILL
        told["bad"] += [path.name for path in finals(root) if verify(path)]
        told["elder"] = told["elder"] and digest(elder) == before
        told["interrupted"] = max(told["interrupted"], len(partials(root)))
        told["written"] = max(told["written"], len(finals(root)))
    last = write_bundle(root, contents(), host=HOST, keep=1, now=at(10_000_000))
    told["left"] = sorted(path.name for path in root.iterdir() if path not in {elder, last})
    return told


def at_every_call(root: Path) -> dict[str, object]:
    """Kill a process after its n-th call of the file system, for every n until it ends."""
    told = {"calls": 0, "bad": [], "damaged": [], "lost": [], "left": [], "salvaged": 0}
    template = root / "template"
    elder = write_bundle(template, contents(layers=1), host="elder", now=at(0))
    older = [write_bundle(template, contents(layers=1), host=HOST, now=at(n)) for n in (1, 2)]
    for number in count(1):
        folder = root / f"{number:04d}"
        shutil.copytree(template, folder)
        before = {folder / path.name: digest(path) for path in (elder, older[1])}
        status, closed = _killed(folder, number)
        told["bad"] += [f"{number}: {path.name}" for path in finals(folder) if verify(path)]
        told["damaged"] += [
            f"{number}: {path.name}" for path, was in before.items() if digest(path) != was
        ]
        told["lost"] += [f"{number}: {name}" for name in _lost(folder, closed, told)]
        write_bundle(folder, contents(layers=1), host=HOST, keep=1, now=at(100_000))
        told["left"] += [
            f"{number}: {path.name}"
            for path in folder.iterdir()
            if path.name.startswith(".trash-")
            or (path.name.endswith(".partial") and _empty(path / "reason.json"))
        ]
        shutil.rmtree(folder)
        if status == 0:
            return told
        told["calls"] = number
    raise AssertionError


def _empty(reason: Path) -> bool:
    return not reason.exists() or reason.stat().st_size == 0


def _killed(folder: Path, number: int) -> tuple[int, list[Path]]:
    """Return how a writer ended, and which files it had brought to the disk."""
    hear, say = os.pipe()
    child = os.fork()
    if child == 0:
        write_bundle(
            folder, contents(layers=3), host=HOST, keep=2, now=at(10), fs=Killing(number, say)
        )
        os._exit(0)
    _, status = os.waitpid(child, 0)
    os.close(say)
    with os.fdopen(hear) as stream:
        return status, [Path(line) for line in stream.read().splitlines()]


def _lost(folder: Path, closed: list[Path], told: dict[str, object]) -> list[str]:
    """Return the arrays that were on the disk and are not given back."""
    for partial in partials(folder):
        files = [path for path in closed if partial in path.parents and path.suffix]
        if not files:
            continue
        made = salvage(partial, folder / f"saved-{secrets.token_hex(4)}")
        told["salvaged"] += 1
        if verify(made):
            return [f"{made.name} does not verify"]
        bundle = open_bundle(made)
        given = {batch.path.name for batch in bundle.batches}
        given |= {Path(one.file).name for one in bundle.variables if one.load().size}
        return [
            path.name
            for path in files
            if path.suffix in {".npy", ".npz"} and path.name not in given
        ]
    return []


def main() -> None:
    """Do what the arguments say."""
    mode, folder, *more = sys.argv[1:]
    if mode == "random":
        kills, seed = (int(text) for text in (more or (50, secrets.randbelow(1 << 30))))
        told = at_random(Path(folder), kills, seed)
    else:
        told = at_every_call(Path(folder))
    told["tensorflow"] = "tensorflow" in sys.modules
    print(json.dumps(told))  # noqa: T201 - the result


if __name__ == "__main__":
    main()
