"""What does a dump leave when the disk refuses one of its calls, whichever it is?"""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest

from divergence_doctor.bundle import open_bundle, salvage, verify, write_bundle
from tests.bundle._faults import CALLS, Counting, Failing
from tests.bundle._made import HOST, at, contents, digest, finals, partials
from tests.bundle._mounts import own_mounts

NEW = at(10).strftime("%H%M%S")
#: Each once at every call; and the two that the writer tells apart from that call on.
CASES = [
    *((error, False) for error in ("ENOSPC", "EIO", "EACCES", "EROFS")),
    *((error, True) for error in ("ENOSPC", "EIO")),
]


@pytest.fixture
def written(swift):
    """A folder with one bundle of another machine and two of this one, of which one is to go."""
    template = swift / "template"
    write_bundle(template, contents(layers=1), host="elder", now=at(0))
    for second in (1, 2):
        write_bundle(template, contents(layers=1), host=HOST, now=at(second))
    return template


def descriptors() -> int:
    return sum(1 for _ in Path("/proc/self/fd").iterdir())


@pytest.fixture(scope="module")
def calls(tmp_path_factory):
    """The calls of a dump that nothing goes wrong with, sweep and all."""
    root = tmp_path_factory.mktemp("counted")
    for second in (1, 2):
        write_bundle(root, contents(layers=1), host=HOST, now=at(second))
    fs = Counting()
    write_bundle(root, contents(layers=2), host=HOST, keep=2, now=at(10), fs=fs)
    return fs.calls


def test_every_kind_of_call_is_among_those_that_are_made_to_fail(calls):
    assert set(calls) == set(CALLS)
    assert len(calls) > 60


@pytest.mark.parametrize(("error", "on"), CASES)
def test_whichever_call_fails_a_bundle_is_whole_or_not_there(swift, written, calls, error, on):
    code = getattr(errno, error)
    outcomes = set()
    for number in range(1, len(calls) + 1):
        root = swift / f"{number}"
        shutil.copytree(written, root)
        elder, _oldest, newer = finals(root)
        before, open_before = {path: digest(path) for path in (elder, newer)}, descriptors()
        fs = Failing(number, code, on=on)

        try:
            path = write_bundle(root, contents(layers=2), host=HOST, keep=2, now=at(10), fs=fs)
        except OSError as raised:
            assert raised.errno == code, number  # noqa: PT017 - one of two good ends
            assert not [path for path in finals(root) if NEW in path.name], number
            outcomes.add("raised")
        else:
            assert open_bundle(path).reason["message"] == "the loss of step 41 is nan"
            outcomes.add("dropped" if open_bundle(path).manifest["dropped"] else "whole")

        assert fs.failed
        assert descriptors() == open_before, number
        assert [verify(made) for made in finals(root)] == [()] * len(finals(root)), number
        assert {kept: digest(kept) for kept in before} == before, number
        _assert_a_later_run_tidies_up(root)
        shutil.rmtree(root)
    assert outcomes == {"raised", "whole"} if on else {"raised", "dropped", "whole"}


def _assert_a_later_run_tidies_up(root) -> None:
    for partial in partials(root):
        if tells(partial):
            made = salvage(partial, root / "saved")
            assert verify(made) == ()
            shutil.rmtree(made)
    write_bundle(root, contents(layers=1), host=HOST, keep=1, now=at(100))
    assert [path.name for path in root.iterdir() if path.name.startswith(".trash-")] == []
    left = partials(root)
    assert len(left) <= 1
    assert all(tells(path) for path in left)


def tells(partial) -> bool:
    reason = partial / "reason.json"
    return reason.exists() and reason.stat().st_size > 0


class Vanishing(Counting):
    """The folder of all bundles is removed by somebody after the n-th call."""

    def __init__(self, number: int, root) -> None:
        super().__init__()
        self.number = number
        self.root = root

    def after(self, call: str, *arguments: object) -> None:  # noqa: ARG002 - of any call
        if len(self.calls) == self.number:
            shutil.rmtree(self.root)


def test_whenever_the_folder_vanishes_an_os_error_says_so_or_the_next_dump_makes_it_again(
    swift, calls
):
    for number in range(1, len(calls) + 1):
        root, open_before = swift / f"{number}", descriptors()
        root.mkdir()
        try:
            write_bundle(root, contents(layers=2), now=at(0), fs=Vanishing(number, root))
        except OSError as error:
            assert error.errno == errno.ENOENT, number  # noqa: PT017 - one of two good ends
        assert descriptors() == open_before
        assert verify(write_bundle(root, contents(layers=2), now=at(1))) == ()
        shutil.rmtree(root)


def test_on_a_disk_that_is_read_only_the_error_says_so_and_nothing_is_left(tmp_path, run):
    told = run("refusals", "read-only", tmp_path, prefix=own_mounts())

    assert told == {"said": "Read-only file system", "left": []}


def test_in_a_folder_that_is_closed_the_error_says_so_and_nothing_is_left(tmp_path, run):
    told = run("refusals", "closed", tmp_path)

    assert told == {"said": "Permission denied", "left": []}


def test_the_error_of_an_unfinished_dump_says_where_it_lies(swift):
    class NoManifest(Counting):
        def open(self, path, flags):
            if path.name == "manifest.json":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().open(path, flags)

    with pytest.raises(OSError, match="Input/output error") as raised:
        write_bundle(swift, contents(), fs=NoManifest())

    (partial,) = partials(swift)
    (note,) = raised.value.__notes__
    assert str(partial) in note
    # Nothing was given up for it: there was room.
    assert len(open_bundle(salvage(partial, swift / "saved")).variables) == 14


def test_what_can_neither_be_written_nor_removed_keeps_the_folder_from_being_a_bundle(swift):
    class Stuck(Counting):
        """One file's bytes are refused, and then it cannot be removed."""

        def write(self, descriptor, data):
            if descriptor == self.stuck:
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().write(descriptor, data)

        def open(self, path, flags):
            descriptor = super().open(path, flags)
            if path.name == "00003.npy":
                self.stuck = descriptor
            elif descriptor == self.stuck:
                self.stuck = None
            return descriptor

        def unlink(self, path):
            if path.name == "00003.npy":
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            super().unlink(path)

        stuck: int | None = None

    with pytest.raises(OSError, match="cannot be removed"):
        write_bundle(swift, contents(), fs=Stuck())

    assert finals(swift) == []
    (partial,) = partials(swift)
    assert len(open_bundle(salvage(partial, swift / "saved")).variables) == 13


def test_what_a_caller_breaks_off_is_left_for_salvage(swift):
    class Interrupted(Counting):
        def before(self, call):
            if call == "fsync" and self.calls.count("fsync") == 5:
                raise KeyboardInterrupt

    open_before = descriptors()
    with pytest.raises(KeyboardInterrupt):
        write_bundle(swift, contents(), fs=Interrupted())

    (partial,) = partials(swift)
    assert finals(swift) == []
    assert descriptors() == open_before
    assert verify(salvage(partial, swift / "saved")) == ()
