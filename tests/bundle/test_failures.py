"""What does a dump leave when the disk refuses one of its calls, whichever it is?"""

from __future__ import annotations

import errno
import os
import shutil

import pytest

from divergence_doctor.bundle import open_bundle, salvage, verify, write_bundle
from tests.bundle._faults import CALLS, Counting, Failing
from tests.bundle._made import HOST, at, contents, digest, finals, partials

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
    return len(os.listdir("/proc/self/fd"))


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
            assert raised.errno == code, number
            assert [
                made for made in finals(root) if made.name[6:].startswith("20260301T120010Z")
            ] == [] or _rename_done(fs)
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
