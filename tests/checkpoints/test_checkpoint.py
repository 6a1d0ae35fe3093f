from __future__ import annotations

import pickle

import numpy as np
import pytest

from divergence_doctor.checkpoints import OpenOptions, choose
from divergence_doctor.checkpoints._checkpoint import all_formats
from divergence_doctor.errors import CheckpointError


def test_every_format_is_found_in_its_order():
    assert [kind.name for kind in all_formats()] == [
        "crash bundle",
        ".keras archive",
        "legacy whole-model .h5",
        "weights in HDF5",
        "tf.train.Checkpoint",
    ]
    assert len({kind.order for kind in all_formats()}) == len(all_formats())


@pytest.mark.parametrize(
    ("content", "look"),
    [
        (b"", "an empty file"),
        (b"epoch,loss\n", "a file of unknown content"),
        (pickle.dumps([1]), "a pickle"),
        (b"\x93NUMPY\x01\x00", "a NumPy array"),
        (b"PK\x05\x06" + bytes(18), "a zip archive without a Keras model in it"),
    ],
)
def test_what_is_no_checkpoint_is_told_by_its_looks(tmp_path, content, look):
    path = tmp_path / "model.dat"
    path.write_bytes(content)
    with pytest.raises(CheckpointError) as caught:
        choose(path, OpenOptions())
    assert caught.value.slug == "not-a-checkpoint"
    assert caught.value.message.endswith(f"model.dat is {look}")
    assert "--model MODULE_OR_FILE:FUNCTION" in caught.value.fix


def test_a_batch_in_the_place_of_the_checkpoint_is_told(tmp_path):
    np.savez(tmp_path / "batch.npz", x=np.ones(3))
    with pytest.raises(CheckpointError, match="zip archive") as caught:
        choose(tmp_path / "batch.npz", OpenOptions())
    assert "goes before the batch" in caught.value.why


@pytest.mark.parametrize("files", [(), ("notes.txt",), ("config.json", "model.weights.h5")])
def test_a_plain_folder_is_told(tmp_path, files):
    for name in files:
        (tmp_path / name).write_text("{}")
    with pytest.raises(CheckpointError, match="plain folder"):
        choose(tmp_path, OpenOptions())
