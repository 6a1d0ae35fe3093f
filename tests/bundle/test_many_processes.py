"""Do several processes that dump at once into one folder get out of each other's way?"""

from __future__ import annotations


def test_eight_workers_write_five_bundles_each_in_the_same_second(swift, run):
    told = run("crowd", swift / "crashes", 8, 5, 5, "own")

    assert told["statuses"] == [0] * 8
    assert told["finals"] == 40
    assert told["bad"] == []
    assert told["workers"] == [str(number) for number in range(8)]
    assert told["others"] == []


def test_eight_processes_that_call_themselves_the_same_worker_lose_nothing(swift, run):
    told = run("crowd", swift / "crashes", 8, 5, 40, "shared")

    assert told["statuses"] == [0] * 8
    assert told["finals"] == 40
    assert told["bad"] == []
    assert told["others"] == []


def test_each_worker_keeps_its_own_newest_while_the_others_write(swift, run):
    told = run("crowd", swift / "crashes", 8, 5, 2, "own")

    assert told["statuses"] == [0] * 8
    assert told["finals"] == 16
    assert told["bad"] == []
    assert told["others"] == []
