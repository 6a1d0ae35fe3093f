"""What is left out where a bundle may not take the room that it needs?"""

from __future__ import annotations

import errno
import os
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np
import pytest

from divergence_doctor.bundle import (
    FileSystem,
    Recorded,
    Variable,
    open_bundle,
    verify,
    write_bundle,
)
from tests.bundle._made import at, contents, tiny

if TYPE_CHECKING:
    from pathlib import Path

KIB = 1 << 10
#: With 64 x 64 arrays: 4 kernels of 16 KiB, 8 slots of 16 KiB, 3 batches of about 1.2 KiB.
MADE = {"units": 64, "steps": 3, "samples": 50}


class Free(FileSystem):
    """Says that so many bytes are free."""

    def __init__(self, free: int) -> None:
        self.free = free

    def statvfs(self, path: Path) -> int:  # noqa: ARG002 - of any disk
        return self.free


def size(path: Path) -> int:
    return sum(file.stat().st_size for file in path.rglob("*") if file.is_file())


def kept(path: Path) -> tuple[set[str], list[int]]:
    """Return the roles and the steps that a bundle holds."""
    opened = open_bundle(path)
    return {one.role for one in opened.variables}, [batch.step for batch in opened.batches]


EVERYTHING = {"weight", "seed", "metric", "optimizer"}


@pytest.mark.parametrize(
    ("limit", "roles", "steps"),
    [
        (300 * KIB, EVERYTHING, [39, 40, 41]),
        (150 * KIB, {"weight", "seed", "metric"}, [39, 40, 41]),
        (60 * KIB, {"seed"}, [39, 40, 41]),
        (12 * KIB, set(), [39, 40, 41]),
        (10 * KIB, set(), [40, 41]),
        (8 * KIB, set(), [41]),
        (6 * KIB, set(), []),
        (1, set(), []),
    ],
)
def test_a_bound_on_its_size_is_kept_by_leaving_out_the_optimizer_first(swift, limit, roles, steps):
    path = write_bundle(swift, contents(**MADE), max_bytes=limit, now=at(0))

    assert verify(path) == ()
    assert kept(path) == (roles, steps)
    assert open_bundle(path).reason["message"] == "the loss of step 41 is nan"
    if limit > 1:
        assert size(path) <= limit
    whole = roles == EVERYTHING and len(steps) == 3
    assert (open_bundle(path).manifest["dropped"] == []) == whole


def test_what_was_left_out_is_told_with_its_files_and_why(swift):
    path = write_bundle(swift, contents(**MADE), max_bytes=150 * KIB, now=at(0))

    (dropped,) = open_bundle(path).manifest["dropped"]
    assert dropped == {
        "what": "optimizer",
        "files": [f"state/{number:05d}.npy" for number in range(6, 14)],
        "why": "no room for 131,072 bytes",
    }
    assert open_bundle(path).absent[0] == "adam/dense_0_kernel_momentum"


def test_a_fifth_more_than_is_written_must_be_free(swift):
    whole = size(write_bundle(swift, contents(**MADE), now=at(0)))

    enough = write_bundle(swift, contents(**MADE), fs=Free(int(whole * 1.3)), now=at(1))
    short = write_bundle(swift, contents(**MADE), fs=Free(int(whole * 1.15)), now=at(2))

    assert kept(enough)[0] == EVERYTHING
    assert kept(short)[0] == {"weight", "seed", "metric"}


def test_an_array_whose_size_was_not_known_counts_when_it_is_fetched(swift):
    fetched = []

    def fetch(number):
        fetched.append(number)
        return np.zeros(16 * KIB, np.uint8)

    given = [
        Variable(
            role="weight",
            path=f"{number}",
            name="w",
            array=lambda number=number: fetch(number),
            dtype="uint8",
        )
        for number in range(9)
    ]

    path = write_bundle(swift, replace(tiny(), variables=given), max_bytes=60 * KIB)

    assert verify(path) == ()
    assert open_bundle(path).variables == ()
    assert size(path) <= 60 * KIB
    # It stopped at the first that did not fit.
    assert len(fetched) < 5


def test_the_batch_of_the_failing_step_outlives_the_older_ones(swift):
    large = np.zeros((100, 100), np.float32)
    given = [Recorded(step=step, arrays={"x": large}) for step in range(5)]

    path = write_bundle(swift, replace(tiny(), batches=given), max_bytes=100 * KIB)

    assert kept(path)[1] == [3, 4]
    assert open_bundle(path).manifest["dropped"][0] == {
        "what": "batch",
        "files": ["batches/00000002.npz", "batches/00000001.npz", "batches/00000000.npz"],
        "why": "no room for 40,384 bytes",
    }


class Full(FileSystem):
    """Has no room for the manifest as long as a file of a name is there."""

    def __init__(self, name: str) -> None:
        self.name = name

    def open(self, path: Path, flags: int) -> int:
        if path.name == "manifest.json" and (path.parent / self.name).exists():
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return super().open(path, flags)


@pytest.mark.parametrize(
    ("name", "dropped"),
    [
        ("state/00013.npy", ["optimizer"]),
        ("state/00000.npy", ["optimizer", "weights"]),
        ("batches/00000039.npz", ["optimizer", "weights", "batch"]),
        ("state/00004.npy", ["optimizer", "weights", "batch", "small variables"]),
        ("history.json", ["optimizer", "weights", "batch", "small variables", "state", "history"]),
    ],
)
def test_on_a_disk_that_has_filled_up_the_least_valuable_makes_room_for_the_manifest(
    swift, name, dropped
):
    path = write_bundle(swift, contents(**MADE), fs=Full(name), now=at(0))

    assert verify(path) == ()
    told = open_bundle(path).manifest["dropped"]
    assert [one["what"] for one in told] == dropped
    assert {one["why"] for one in told} == {"OSError: No space left on device"}
    if name.startswith("batches"):
        # Of the batches the oldest is enough.
        assert kept(path)[1] == [40, 41]


def test_a_manifest_that_does_not_fit_makes_room_by_dropping_the_least_valuable(swift):
    many = [
        Variable(role="optimizer", path=f"{number}", name="m", array=np.zeros(1), dtype="float64")
        for number in range(50)
    ]
    given = replace(tiny(), manifest={"step": 0, "devices": ["x" * 60_000]}, variables=many)
    # context.json says the same, so that they do not fit both.
    path = write_bundle(swift, given, max_bytes=100 * KIB)

    assert verify(path) == ()
    assert size(path) <= 100 * KIB
    opened = open_bundle(path)
    assert len(opened.manifest["devices"][0]) == 60_000
    assert [one["what"] for one in opened.manifest["dropped"]][-1] == "context"
