"""What is left of a bundle on a disk that is too small for it? A real one, a tmpfs."""

from __future__ import annotations

import os
import shutil
import subprocess

import pytest


def own_mounts() -> tuple[str, ...]:
    """Return the command under which a process may mount what only it sees; else skip."""
    why = "there is no unshare"
    if shutil.which("unshare") and shutil.which("mount"):
        # As root, or else as root of a namespace of one's own.
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


@pytest.fixture(scope="module")
def disks(tmp_path_factory):
    """What became of the same bundle on disks of 4 KiB to 4 MiB."""
    import json
    import sys

    from tests.bundle.conftest import ROOT

    command = own_mounts()
    folder = tmp_path_factory.mktemp("disks")
    done = subprocess.run(
        [*command, sys.executable, "-m", "tests.bundle.full_disk", str(folder)],
        capture_output=True,
        text=True,
        check=False,
        cwd=ROOT,
        env={**os.environ},
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def test_a_bundle_on_a_full_disk_is_whole_or_not_there(disks):
    for told in disks:
        if "error" in told:
            assert told["finals"] == 0, told
            assert told["error"] == "No space left on device", told
            assert told["salvaged"] == [[]] * told["partials"], told
        else:
            assert told["finals"] == 1, told
            assert told["partials"] == 0, told
            assert told["problems"] == [], told


def test_the_reason_is_there_wherever_64_kb_were_free(disks):
    roomy = [told for told in disks if told["free"] >= 64 << 10]
    assert len(roomy) > 20
    assert all(told["reasons"] == 1 for told in roomy)
    # And the batches with it, where it was known how little that is.
    assert all(told["batches"] == 2 for told in roomy if told["aware"])


def test_the_less_room_there_is_the_less_is_kept_the_least_valuable_first(disks):
    kept = {(told["size"], told["aware"]): told.get("roles") for told in disks}
    everything, nothing = ["metric", "optimizer", "seed", "weight"], ["seed"]
    for aware in (True, False):
        assert kept[4096, aware] == everything
        assert kept[1024, aware] == ["metric", "seed", "weight"]
        assert kept[512, aware] == nothing
    dropped = {(told["size"], told["aware"]): told.get("dropped") for told in disks}
    for aware in (True, False):
        assert dropped[4096, aware] == []
        assert dropped[1024, aware] == ["optimizer"]
        assert dropped[512, aware] == ["weights", "optimizer"]


def test_some_of_what_others_may_need_is_left_free_where_that_is_known(disks):
    kept = {(told["size"], told["aware"]): told.get("dropped") for told in disks}

    assert kept[2048, False] == []
    assert kept[2048, True] == ["optimizer"]
