"""What is left of a bundle on a disk that is too small for it? A real one, a tmpfs."""

from __future__ import annotations

import pytest

from tests.bundle._mounts import own_mounts


@pytest.fixture(scope="module")
def made(tmp_path_factory, run):
    """What became of the same bundle on small disks."""
    return run("full_disk", tmp_path_factory.mktemp("disks"), prefix=own_mounts())


@pytest.fixture(scope="module")
def disks(made):
    """On disks of 4 KiB to 4 MiB, whether it was known how much is free or not."""
    return made["disks"]


def test_a_disk_that_somebody_fills_up_in_the_meantime_costs_nothing_that_was_written(made):
    filled = made["filled"]

    assert filled["dropped"] == []
    assert filled["problems"] == []


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
