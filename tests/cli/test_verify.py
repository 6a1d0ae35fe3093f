from __future__ import annotations

import json
from dataclasses import replace

import pytest

from divergence_doctor.bundle import write_bundle
from tests.bundle._forged import put_json
from tests.bundle._made import HOST, at, contents


@pytest.fixture
def bundle(elsewhere):
    return write_bundle(elsewhere / "crashes", contents(), host=HOST, now=at(0))


def test_a_whole_bundle_is_told_to_be_whole_and_what_is_in_it(doctor, bundle):
    said = doctor("verify", bundle)

    assert said.status == 0
    assert said.err == ""
    first, *rest = said.out.splitlines()
    assert first == f"✓ {bundle.name} is whole: every file is as it was written."
    assert rest[:4] == [
        "died      non-finite-loss at step 41: the loss of step 41 is nan",
        "batches   2, of steps 40 to 41",
        "state     4 weights, 1 seed, 1 metric, 8 optimizer slots, from before step 40",
        "model     its config",
    ]
    assert rest[4].startswith("size      ")
    assert "".join(rest[5:]).replace(" ", "") == f"explaindoctorreplay{bundle}"


def test_what_was_left_out_is_told(doctor, elsewhere):
    given = contents()
    given = replace(given, manifest={**given.manifest, "missing": ["y: a Lambda"]})
    path = write_bundle(elsewhere, given, data=False, max_bytes=8 << 10, now=at(0))

    said = doctor("verify", path)

    assert said.status == 0
    assert "batches   none; they were not to be written" in said.out
    assert "missing   y: a Lambda\n" in said.out
    assert "left out  data: it was not wanted" in said.out
    assert (
        "left out  optimizer (state/00006.npy, state/00007.npy, state/00008.npy and 5 more): "
        in said.out
    )


def test_damage_is_told_line_by_line_and_ends_with_4(doctor, bundle):
    file = bundle / "state" / "00003.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"!")
    (bundle / "history.json").unlink()
    (bundle / "more").write_text("x")

    said = doctor("verify", bundle)

    assert said.status == 4
    rows = [line.split(maxsplit=2) for line in said.out.splitlines()[3:]]
    assert rows == [
        ["more", "unknown", "the manifest does not list it"],
        ["history.json", "missing", "history.json is missing"],
        ["state/00003.npy", "changed", "its bytes are not those that were written (SHA-256)"],
    ]
    assert said.err.startswith(f"error[damaged-bundle]: {bundle.name} is not as it was written\n")
    assert "  why: more: the manifest does not list it; and 2 more\n" in said.err
    assert "doctor salvage" in said.err
    assert "Traceback" not in said.err


def test_json_is_all_that_is_printed_and_strict(doctor, bundle):
    whole = doctor("verify", bundle, "--json")
    (bundle / "model.json").write_text("{}")
    damaged = doctor("verify", bundle, "--json")

    assert (whole.status, whole.err, damaged.status) == (0, "", 4)
    told = json.loads(whole.out)
    assert told["schema"] == "divergence-doctor/verify/1"
    assert (told["whole"], told["problems"], told["step"]) == (True, [], 41)
    assert told["trigger"] == "non-finite-loss"
    told = json.loads(damaged.out)
    assert told["whole"] is False
    assert [(one["file"], one["what"]) for one in told["problems"]] == [("model.json", "size")]


def test_what_is_no_bundle_ends_with_2(doctor, bundle, batch_file, elsewhere):
    doctor("verify", "nowhere").assert_refused(2, "there is no bundle nowhere")
    doctor("verify", batch_file(x=[1.0])).assert_refused(2, "a folder, and this is a file")
    doctor("verify", bundle.parent).assert_refused(2, f"but bundles, such as {bundle.name}")
    (elsewhere / "empty").mkdir()
    doctor("verify", "empty").assert_refused(2, "holds no manifest.json")


def test_one_that_was_not_finished_ends_with_4_and_the_way_to_salvage_it(doctor, bundle):
    (bundle / "manifest.json").unlink()

    said = doctor("verify", bundle)

    said.assert_refused(4, "unfinished-bundle", f"doctor salvage {bundle}")


def test_names_and_messages_from_a_stranger_are_shown_harmless(doctor, bundle):
    put_json(
        bundle, "reason.json", {"trigger": "\x1b[2J", "message": "a\nb\x1b]0;x\x07", "step": 1}
    )
    said = doctor("verify", bundle)
    (bundle / "\x1b[31mred\u202e").write_text("x")
    damaged = doctor("verify", bundle)

    assert said.status == 0
    assert "\x1b" not in said.out + damaged.out + damaged.err
    assert "\u202e" not in damaged.out + damaged.err
    assert "died      \\x1b[2J at step 1: a b\\x1b]0;x\\x07" in said.out


def test_it_needs_neither_tensorflow_nor_keras_nor_h5py(shell, bundle):
    said = shell("verify", bundle, python=("-X", "importtime"))

    assert said.status == 0
    for package in ("tensorflow", "keras", "h5py", "matplotlib"):
        assert f" {package}\n" not in said.err
