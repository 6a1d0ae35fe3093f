"""Which bundles stay? The newest few of each worker, and everybody else's."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from typing import TYPE_CHECKING

from divergence_doctor.bundle import FileSystem, verify, write_bundle
from tests.bundle._made import HOST, at, contents, finals, partials, tiny

if TYPE_CHECKING:
    from pathlib import Path

DAY = 86_400


def write(root, seconds, **keywords):
    return write_bundle(root, tiny(), **({"host": HOST, "now": at(seconds)} | keywords))


def ended() -> int:
    """Return the number of a process that has ended."""
    with subprocess.Popen([sys.executable, "-c", ""]) as process:
        process.wait()
    return process.pid


def leave(root, second: int, *, pid: int, reason: str = "{}", host: str = HOST) -> str:
    """Leave an unfinished folder as another process would, and return its name."""
    stamp = at(second).strftime("%Y%m%dT%H%M%SZ")
    folder = root / f".crash-{stamp}-{host}-w0-{pid}-0-{second:012x}.partial"
    folder.mkdir(parents=True)
    if reason:
        (folder / "reason.json").write_text(reason)
    return folder.name


def test_the_newest_three_stay_by_default(swift):
    written = [write(swift, second) for second in range(6)]

    assert finals(swift) == written[3:]
    assert [path.name for path in swift.iterdir() if path.name.startswith(".")] == []


def test_one_is_the_least_that_stays_and_it_is_the_new_one(swift):
    write(swift, 1)
    newest = write(swift, 2, keep=0)

    assert finals(swift) == [newest]


def test_those_of_other_workers_and_machines_stay(swift):
    others = [
        write(swift, 1, worker=1),
        write(swift, 1, worker="chief"),
        write(swift, 1, host="other"),
        write(swift, 1, host=f"{HOST}-w0-1-2"),
    ]
    (swift / "crash-notes").mkdir()
    (swift / "model.keras").write_bytes(b"x")

    newest = write(swift, 2, keep=1)

    left = {path.name for path in swift.iterdir()}
    assert left == {*(path.name for path in [*others, newest]), "crash-notes", "model.keras"}


def test_those_that_look_newer_stay_whatever_the_clock_did(swift):
    newer = write(swift, 100)
    older = write(swift, 1)

    written = write(swift, 50, keep=1)

    assert finals(swift) == sorted([newer, written])
    assert not older.exists()


def test_within_one_second_those_of_the_same_process_are_counted(swift):
    for number in range(4):
        last = write(swift, 1, sequence=number, keep=2)

    assert [path.name.rpartition("-")[2] for path in finals(swift)] == ["2", "3"]
    assert verify(last) == ()


def test_what_was_being_removed_is_removed(swift):
    old = write(swift, 1)
    old.rename(swift / f".trash-{old.name}")
    (swift / ".trash-of-somebody").mkdir()

    write(swift, 2)

    assert not (swift / f".trash-{old.name}").exists()
    assert (swift / ".trash-of-somebody").exists()


def test_a_link_that_is_called_like_a_bundle_is_removed_and_not_followed(swift, tmp_path):
    (tmp_path / "precious").write_text("x")
    old = write(swift, 1)
    link = swift / old.name.replace(f"-{old.name.split('-')[-2]}-", "-4242-")
    link.symlink_to(tmp_path)
    (old / "inside").symlink_to(tmp_path)

    write(swift, DAY, keep=1)

    assert not link.is_symlink()
    assert not old.exists()
    assert (tmp_path / "precious").read_text() == "x"


def test_an_unfinished_one_whose_process_has_ended_stays_for_salvage(swift):
    name = leave(swift, 1, pid=ended())

    write(swift, DAY)

    assert [path.name for path in partials(swift)] == [name]


def test_of_the_unfinished_ones_the_newest_few_stay(swift):
    pid = ended()
    names = [leave(swift, second, pid=pid) for second in range(5)]

    write(swift, DAY, keep=2)

    assert [path.name for path in partials(swift)] == names[3:]


def test_an_unfinished_one_that_says_nothing_goes(swift):
    pid = ended()
    leave(swift, 1, pid=pid, reason="")
    (swift / leave(swift, 2, pid=pid, reason="") / "reason.json").touch()

    write(swift, DAY)

    assert partials(swift) == []


def test_one_that_may_still_be_written_stays(swift):
    running = leave(swift, 1, pid=1, reason="")
    young = leave(swift, DAY - 60, pid=ended(), reason="")
    elsewhere = leave(swift, 1, pid=ended(), reason="", host="other")

    write(swift, DAY, keep=1)

    assert {path.name for path in partials(swift)} == {running, young, elsewhere}


def test_what_cannot_be_removed_does_not_cost_the_new_one(swift):
    (swift / "crash-20200101T000000Z-node-7-w0-1-0").write_text("a file, no folder")

    path = write_bundle(swift, contents(), host=HOST, now=at(1), keep=1)

    assert verify(path) == ()


def test_a_link_that_cannot_be_removed_is_not_followed_either(swift, tmp_path):
    class Stuck(FileSystem):
        def unlink(self, path: Path) -> None:
            if path.is_symlink():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().unlink(path)

    (tmp_path / "precious").write_text("x")
    old = write(swift, 1)
    (old / "inside").symlink_to(tmp_path)

    write(swift, DAY, keep=1, fs=Stuck())

    assert not old.exists()
    assert (swift / f".trash-{old.name}" / "inside").is_symlink()
    assert (tmp_path / "precious").read_text() == "x"
