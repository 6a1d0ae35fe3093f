"""What does a writer leave that is killed, at any moment and after every call?"""

from __future__ import annotations

from divergence_doctor.bundle import salvage, verify


def test_fifty_kills_at_random_leave_only_whole_bundles_and_no_old_one_damaged(swift, run):
    told = run("kills", "random", swift / "crashes")

    # The seed is in what a failure shows.
    assert told["kills"] == 50, told
    assert told["bad"] == [], told
    assert told["elder"], told
    assert told["interrupted"] > 0, told
    assert told["written"] > 1, told
    assert not told["tensorflow"]
    # What a later run leaves of the interrupted ones is the newest, for salvage.
    assert len(told["left"]) <= 1, told
    for name in told["left"]:
        assert verify(salvage(swift / "crashes" / name, swift / "saved")) == ()


def test_a_kill_after_any_call_leaves_only_whole_bundles_and_loses_no_closed_array(swift, run):
    told = run("kills", "every", swift)

    assert told["calls"] > 60, told
    assert told["bad"] == [], told
    assert told["damaged"] == [], told
    assert told["lost"] == [], told
    assert told["left"] == [], told
    assert told["salvaged"] > 40, told
    assert not told["tensorflow"]
