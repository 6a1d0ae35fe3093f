from __future__ import annotations

import pytest

from divergence_doctor.bundle import open_bundle, verify, write_bundle
from tests.bundle._made import HOST, at, contents


@pytest.fixture
def interrupted(tmp_path):
    """A dump that was killed after its first few arrays."""
    path = write_bundle(tmp_path / "crashes", contents(), host=HOST, now=at(0))
    (path / "manifest.json").unlink()
    for number in range(6, 14):
        (path / f"state/{number:05d}.npy").unlink()
    (path / "state/00005.npy").write_bytes(b"\x93NUMPY")
    return path.rename(path.with_name(f".{path.name}-0123456789ab.partial"))


def test_what_is_whole_becomes_a_bundle_in_the_working_folder(doctor, interrupted, elsewhere):
    said = doctor("salvage", interrupted)

    assert said.status == 0
    assert said.err == ""
    (made,) = elsewhere.iterdir()
    assert made.name == f"{interrupted.name[1:].removesuffix('-0123456789ab.partial')}-salvaged"
    assert verify(made) == ()
    assert len(open_bundle(made).variables) == 5
    first, *rest = said.out.splitlines()
    assert first == f"✓ What is whole of it is now {made.name}"
    assert "died      non-finite-loss at step 41: the loss of step 41 is nan" in rest
    assert "state     4 weights, 1 seed, from before step 40; 9 are missing" in rest
    assert any(line.startswith("left out  damaged (state/00005.npy): ") for line in rest)
    assert rest[-1] == f"explain   doctor replay {made.name}"


def test_it_goes_where_it_is_told_and_nothing_there_is_overwritten(doctor, interrupted, elsewhere):
    assert doctor("salvage", interrupted, "--out", "saved").status == 0
    assert verify(elsewhere / "saved") == ()

    again = doctor("salvage", interrupted, "--out", "saved")

    again.assert_refused(2, "output-exists", "saved exists already")
    assert [path.name for path in elsewhere.iterdir()] == ["saved"]


def test_where_nothing_is_whole_it_ends_with_4_and_else_with_2(doctor, interrupted, elsewhere):
    (elsewhere / "empty").mkdir()
    doctor("salvage", "empty").assert_refused(2, "not-a-bundle")
    doctor("salvage", "nowhere").assert_refused(2, "there is no bundle nowhere")
    (elsewhere / "empty" / "reason.json").write_text("{")
    doctor("salvage", "empty").assert_refused(4, "nothing-to-salvage", "reason.json")
    doctor("salvage", interrupted, "--out", "no/where").assert_refused(2, "no/where")
    assert [path.name for path in elsewhere.iterdir()] == ["empty"]
