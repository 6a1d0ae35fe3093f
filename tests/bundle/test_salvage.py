"""What does salvage give back of an interrupted dump, and of a damaged bundle?"""

from __future__ import annotations

import shutil

import numpy as np
import pytest

from divergence_doctor.bundle import open_bundle, salvage, verify
from divergence_doctor.errors import CheckpointError, NotFoundError, OutputError, RefusedError
from tests.bundle._faults import Failing
from tests.bundle._made import digest


@pytest.fixture
def interrupted(bundle):
    """A dump that was killed in the middle of its eighth array, before the manifest."""
    folder = bundle.with_name(f".{bundle.name}-0123456789ab.partial")
    bundle.rename(folder)
    (folder / "manifest.json").unlink()
    (folder / ".reserve").write_bytes(bytes(64 << 10))
    for number in range(8, 14):
        (folder / f"state/{number:05d}.npy").unlink()
    cut = folder / "state/00007.npy"
    cut.write_bytes(cut.read_bytes()[:-1])
    return folder


def test_every_array_that_is_whole_comes_back_with_its_name_and_role(interrupted, swift):
    before = digest(interrupted)

    made = salvage(interrupted, swift / "saved")

    assert made == swift / "saved"
    assert verify(made) == ()
    opened = open_bundle(made)
    assert [one.path for one in opened.variables] == [
        *(f"dense_{number}/kernel" for number in range(4)),
        "dropout/seed_generator_state",
        "loss/total",
        "adam/dense_0_kernel_momentum",
    ]
    assert opened.variables[4].load().tolist() == [7, 9]
    assert opened.absent[0] == "adam/dense_0_kernel_velocity"
    assert len(opened.absent) == 7
    # What it was made from is as it was.
    assert digest(interrupted) == before


def test_what_the_manifest_would_have_said_comes_from_the_context(interrupted, swift):
    opened = open_bundle(salvage(interrupted, swift / "saved"))

    assert opened.manifest["salvaged"] is True
    assert opened.manifest["snapshot_step"] == 40
    assert opened.manifest["versions"] == {"numpy": np.__version__}
    assert opened.manifest["written"]["host"] == "node-7"
    assert [batch.step for batch in opened.batches] == [40, 41]
    assert opened.reason["message"] == "the loss of step 41 is nan"
    assert opened.history["step"] == (39, 40, 41)
    assert opened.generators["tf_global_seed"] == 5
    (dropped,) = opened.manifest["dropped"]
    assert dropped["what"] == "damaged"
    assert dropped["files"] == ["state/00007.npy"]
    assert "bytes of data and holds" in dropped["why"]


def test_it_is_private_too(interrupted, swift):
    made = salvage(interrupted, swift / "saved")

    assert made.stat().st_mode & 0o777 == 0o700
    assert {file.stat().st_mode & 0o777 for file in made.rglob("*.npy")} == {0o600}


def test_of_a_damaged_bundle_what_still_has_its_hash_comes_back(bundle, swift):
    file = bundle / "state/00002.npy"
    changed = bytearray(file.read_bytes())
    changed[-1] ^= 1
    file.write_bytes(changed)

    made = salvage(bundle, swift / "saved")

    assert verify(made) == ()
    opened = open_bundle(made)
    assert opened.absent == ("dense_2/kernel",)
    assert len(opened.variables) == 13
    assert opened.manifest["dropped"] == [
        {
            "what": "damaged",
            "files": ["state/00002.npy"],
            "why": "its bytes are not those that were written",
        }
    ]


def test_a_bundle_that_is_whole_comes_back_whole(bundle, swift):
    made = salvage(bundle, swift / "saved")

    assert verify(made) == ()
    assert open_bundle(made).manifest["dropped"] == []
    assert open_bundle(made).files == open_bundle(bundle).files


@pytest.mark.parametrize("name", ["reason.json", "context.json", "history.json", "model.json"])
def test_without_one_of_the_small_files_the_rest_comes_back(bundle, swift, name):
    (bundle / "manifest.json").write_bytes(b"{")
    (bundle / name).write_bytes(b'{"cut')

    made = salvage(bundle, swift / "saved")

    assert verify(made) == ()
    opened = open_bundle(made)
    assert len(opened.variables) == 14
    assert [batch.step for batch in opened.batches] == [40, 41]
    assert name in [file for one in opened.manifest["dropped"] for file in one["files"]]
    if name == "reason.json":
        assert opened.reason["trigger"] == "unknown"


def test_without_the_state_s_index_arrays_are_called_by_their_files(bundle, swift):
    (bundle / "manifest.json").unlink()
    (bundle / "state.json").unlink()

    opened = open_bundle(salvage(bundle, swift / "saved"))

    assert [one.path for one in opened.variables] == [f"state/{n:05d}" for n in range(14)]
    assert {one.role for one in opened.variables} == {"other"}
    assert opened.variables[4].load().tolist() == [7, 9]


def test_a_batch_that_was_cut_does_not_come_back(bundle, swift):
    (bundle / "manifest.json").unlink()
    batch = bundle / "batches/00000040.npz"
    batch.write_bytes(batch.read_bytes()[:-30])

    opened = open_bundle(salvage(bundle, swift / "saved"))

    assert [one.step for one in opened.batches] == [41]


def test_an_array_whose_bytes_do_not_fit_its_index_does_not_come_back(bundle, swift):
    (bundle / "manifest.json").unlink()
    shutil.copy(bundle / "state/00004.npy", bundle / "state/00000.npy")

    opened = open_bundle(salvage(bundle, swift / "saved"))

    assert opened.absent == ("dense_0/kernel",)


def test_links_in_it_are_not_followed(interrupted, swift, tmp_path):
    np.save(tmp_path / "secret.npy", np.ones((8, 8), np.float32))
    (interrupted / "state/00003.npy").unlink()
    (interrupted / "state/00003.npy").symlink_to(tmp_path / "secret.npy")

    opened = open_bundle(salvage(interrupted, swift / "saved"))

    assert "dense_3/kernel" in opened.absent


def test_where_nothing_is_whole_or_there_it_says_so(swift, tmp_path):
    broken = swift / ".crash-x.partial"
    broken.mkdir()
    with pytest.raises(CheckpointError, match="none of the files"):
        salvage(broken, tmp_path / "saved")
    (broken / "reason.json").write_bytes(b'{"trig')
    with pytest.raises(RefusedError, match=r"reason\.json: Unterminated string"):
        salvage(broken, tmp_path / "saved")
    with pytest.raises(NotFoundError):
        salvage(swift / "nowhere", tmp_path / "saved")
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_of_a_later_version_is_left_to_a_later_doctor(bundle, swift):
    from tests.bundle._forged import manifest_of, put_manifest

    put_manifest(bundle, manifest_of(bundle) | {"schema": "divergence-doctor/bundle/2"})

    with pytest.raises(CheckpointError, match="newer-bundle"):
        salvage(bundle, swift / "saved")


def test_what_exists_is_not_overwritten(interrupted, swift):
    (swift / "saved").mkdir()
    (swift / "dangling").symlink_to(swift / "nowhere")

    for name in ("saved", "dangling"):
        with pytest.raises(OutputError, match="exists already"):
            salvage(interrupted, swift / name)


def test_whichever_call_fails_nothing_is_left(interrupted, tmp_path):
    import errno

    for number in range(1, 1_000):
        fs = Failing(number, errno.EIO)
        try:
            made = salvage(interrupted, tmp_path / "saved", fs=fs)
        except OutputError as error:
            assert "input/output error" in error.why  # noqa: PT017 - one of two good ends
        else:
            assert verify(made) == ()
            shutil.rmtree(made)
        left = [path.name for path in tmp_path.iterdir() if path.name != "saved"]
        assert left == [] or fs.calls[number - 1] == "unlink", number
        for name in left:
            shutil.rmtree(tmp_path / name)
        shutil.rmtree(tmp_path / "saved", ignore_errors=True)
        if not fs.failed:
            return
    raise AssertionError
