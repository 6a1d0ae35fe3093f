"""Does verify find whatever is wrong with a bundle, wherever it is?"""

from __future__ import annotations

import os
import random
import shutil
import socket

import pytest

from divergence_doctor.bundle import open_bundle, verify, write_bundle
from divergence_doctor.bundle._folder import NotPlainError, read
from divergence_doctor.errors import CheckpointError, DoctorError, NotFoundError, RefusedError
from tests.bundle._made import at, contents

SEED = 20261125
#: Files of at most so many bytes have a bit flipped in every byte.
SMALL = 4096
BITS = 300


def found(path) -> bool:
    """Say whether verify finds something wrong, by naming it or by refusing the folder."""
    try:
        return verify(path) != ()
    except DoctorError:
        return True


def files(path):
    return sorted(file for file in path.rglob("*") if file.is_file())


def test_a_bundle_as_it_was_written_has_no_problem(bundle):
    assert verify(bundle) == ()


def test_a_flipped_bit_in_any_byte_of_a_small_file_is_found(tiny_bundle):
    generator = random.Random(SEED)  # noqa: S311 - no secret
    for file in files(tiny_bundle):
        whole = file.read_bytes()
        assert len(whole) <= SMALL, file
        for place in range(len(whole)):
            bit = 1 << generator.randrange(8)
            changed = bytearray(whole)
            changed[place] ^= bit
            file.write_bytes(changed)
            assert found(tiny_bundle), (file.name, place, bit)
        file.write_bytes(whole)
    assert not found(tiny_bundle)


def test_every_bit_of_the_manifest_counts_white_space_too(tiny_bundle):
    file = tiny_bundle / "manifest.json"
    whole = file.read_bytes()
    for place in range(0, len(whole), 7):
        for bit in range(8):
            changed = bytearray(whole)
            changed[place] ^= 1 << bit
            file.write_bytes(changed)
            (problem,) = verify(tiny_bundle)
            assert (problem.file, problem.what) == ("manifest.json", "changed"), (place, bit)


def test_300_flipped_bits_in_every_file_of_a_larger_bundle_are_found(swift):
    path = write_bundle(swift, contents(layers=1, units=60, samples=500), now=at(0))
    generator = random.Random(SEED)  # noqa: S311 - no secret
    for file in files(path):
        size = file.stat().st_size
        for _ in range(BITS if size > SMALL else 30):
            place, bit = generator.randrange(size), 1 << generator.randrange(8)
            flip(file, place, bit)
            assert found(path), (file.name, place, bit)
            flip(file, place, bit)
    assert not found(path)


def flip(file, place: int, bit: int) -> None:
    with file.open("r+b") as stream:
        stream.seek(place)
        (byte,) = stream.read(1)
        stream.seek(place)
        stream.write(bytes([byte ^ bit]))


def test_a_file_cut_at_any_4_kib_boundary_or_by_a_byte_or_grown_is_found(swift):
    path = write_bundle(swift, contents(layers=1, units=60, samples=500), now=at(0))
    for file in files(path):
        whole = file.read_bytes()
        for length in {0, 1, len(whole) - 1, *range(0, len(whole), 4096)}:
            file.write_bytes(whole[:length])
            problems = verify(path)
            assert [problem.file for problem in problems] == [file.relative_to(path).as_posix()]
            assert problems[0].what == ("changed" if file.name == "manifest.json" else "size")
            with pytest.raises(RefusedError):
                open_bundle(path)
        file.write_bytes(whole + b"\0")
        assert found(path), file
        file.write_bytes(whole)
    assert not found(path)


def test_a_tiny_bundle_cut_anywhere_is_found(tiny_bundle):
    for file in files(tiny_bundle):
        whole = file.read_bytes()
        for length in range(0, len(whole), 3):
            file.write_bytes(whole[:length])
            assert found(tiny_bundle), (file.name, length)
        file.write_bytes(whole)


@pytest.mark.parametrize("name", ["reason.json", "history.json", "model.json", "state.json"])
def test_what_is_read_when_it_is_opened_is_compared_with_its_hash_there(tiny_bundle, name):
    file = tiny_bundle / name
    # White space alone, so that nothing but the hash can tell.
    file.write_bytes(file.read_bytes().replace(b"{\n ", b"{ \n", 1))

    with pytest.raises(RefusedError, match="not those that were written"):
        open_bundle(tiny_bundle)


def test_a_file_that_is_missing_is_named(bundle):
    for file in files(bundle):
        if file.name == "manifest.json":
            continue
        whole = file.read_bytes()
        file.unlink()
        (problem,) = verify(bundle)
        assert (problem.file, problem.what) == (file.relative_to(bundle).as_posix(), "missing")
        file.write_bytes(whole)
    assert verify(bundle) == ()


@pytest.mark.parametrize("name", ["more.txt", ".hidden", "state/00099.npy", "batches/x.npz"])
def test_a_file_that_nothing_lists_is_named(bundle, name):
    (bundle / name).write_bytes(b"x")

    (problem,) = verify(bundle)

    assert (problem.file, problem.what) == (name, "unknown")


def test_a_folder_that_nothing_lists_is_named(bundle):
    (bundle / "deep" / "er" / "still").mkdir(parents=True)

    assert [(one.file, one.what) for one in verify(bundle)] == [
        ("deep", "unknown"),
        ("deep/er", "unknown"),
    ]


@pytest.mark.parametrize("name", ["reason.json", "state/00000.npy", "manifest.json"])
def test_a_link_in_the_place_of_a_file_is_refused_even_to_the_very_bytes(bundle, tmp_path, name):
    elsewhere = tmp_path / "elsewhere"
    shutil.move(bundle / name, elsewhere)
    (bundle / name).symlink_to(elsewhere)

    problems = verify(bundle)

    assert name in {problem.file for problem in problems}
    assert any("link" in problem.says for problem in problems)
    with pytest.raises(RefusedError, match=name):
        open_bundle(bundle)


def test_a_link_in_the_place_of_a_folder_is_refused(bundle, tmp_path):
    shutil.copytree(bundle / "state", tmp_path / "state")
    shutil.rmtree(bundle / "state")
    (bundle / "state").symlink_to(tmp_path / "state")

    problems = verify(bundle)

    assert ("state", "link") in {(problem.file, problem.what) for problem in problems}
    with pytest.raises(RefusedError):
        open_bundle(bundle)


def test_a_pipe_or_a_socket_is_refused_and_nobody_waits_for_it(bundle):
    (bundle / "reason.json").unlink()
    os.mkfifo(bundle / "reason.json")
    (bundle / "history.json").unlink()
    with socket.socket(socket.AF_UNIX) as server:
        here = os.open(bundle, os.O_RDONLY)
        server.bind(f"/proc/self/fd/{here}/history.json")
        os.close(here)

        problems = verify(bundle)

        with pytest.raises(NotPlainError, match="no regular file"):
            read(bundle, "reason.json", 100)
    told = {(problem.file, problem.what) for problem in problems}
    assert {("reason.json", "not-a-file"), ("history.json", "not-a-file")} <= told
    with pytest.raises(RefusedError):
        open_bundle(bundle)


def test_a_folder_in_the_place_of_a_file_is_refused(bundle):
    (bundle / "model.json").unlink()
    (bundle / "model.json").mkdir()

    assert "model.json" in {problem.file for problem in verify(bundle)}
    with pytest.raises(RefusedError):
        open_bundle(bundle)


def test_a_bundle_may_be_copied_and_called_otherwise_and_reached_by_a_link(bundle, tmp_path):
    copied = tmp_path / "copied"
    shutil.copytree(bundle, copied)
    (tmp_path / "latest").symlink_to(copied)

    assert verify(copied) == ()
    assert verify(tmp_path / "latest") == ()


def test_what_is_no_bundle_is_told_apart_from_one_that_is_damaged(swift, bundle):
    (swift / "file").write_text("x")
    (swift / "empty").mkdir()
    with pytest.raises(NotFoundError, match="there is no bundle"):
        verify(swift / "nowhere")
    with pytest.raises(CheckpointError, match="a folder, and this is a file"):
        verify(swift / "file")
    with pytest.raises(CheckpointError, match=r"holds no manifest\.json"):
        verify(swift / "empty")
    with pytest.raises(CheckpointError, match=rf"but bundles, such as {bundle.name}"):
        verify(bundle.parent)
    (bundle / "manifest.json").unlink()
    with pytest.raises(RefusedError, match="doctor salvage"):
        verify(bundle)
