from __future__ import annotations

import os
import shutil
import subprocess

import pytest

from divergence_doctor.errors import OutputError
from divergence_doctor.output import guarded, whole_folder


def entries(folder):
    return sorted(path.name for path in folder.iterdir())


def written_by_the_doctor(folder):
    folder.mkdir()
    (folder / "report.json").write_text("former")
    return folder


def test_the_folder_appears_when_everything_is_in_it(tmp_path):
    target = tmp_path / "out"

    with whole_folder(target, force=False) as partial:
        (partial / "report.md").write_text("hello")
        assert not target.exists()

    assert (target / "report.md").read_text() == "hello"
    assert entries(tmp_path) == ["out"]
    assert target.stat().st_mode & 0o777 == 0o755


@pytest.mark.parametrize("error", [ValueError, KeyboardInterrupt, SystemExit])
def test_what_ends_the_filling_leaves_nothing_behind(tmp_path, error):
    def fill(partial):
        (partial / "report.md").write_text("hello")
        raise error

    with pytest.raises(error), whole_folder(tmp_path / "out", force=False) as partial:
        fill(partial)

    assert entries(tmp_path) == []


def test_a_folder_that_exists_is_not_overwritten(tmp_path):
    target = written_by_the_doctor(tmp_path / "out")

    with pytest.raises(OutputError, match="exists already"), whole_folder(target, force=False):
        pytest.fail("nothing may be written")

    assert (target / "report.json").read_text() == "former"


def test_force_replaces_what_the_doctor_wrote(tmp_path):
    target = written_by_the_doctor(tmp_path / "out")

    with whole_folder(target, force=True) as partial:
        (partial / "report.json").write_text("new")

    assert entries(target) == ["report.json"]
    assert (target / "report.json").read_text() == "new"
    assert entries(tmp_path) == ["out"]


def test_with_force_the_former_folder_stays_when_the_filling_fails(tmp_path):
    target = written_by_the_doctor(tmp_path / "out")

    with pytest.raises(ValueError, match="x"), whole_folder(target, force=True):
        raise ValueError("x")

    assert (target / "report.json").read_text() == "former"
    assert entries(tmp_path) == ["out"]


def test_force_does_not_replace_a_folder_of_the_users(tmp_path):
    target = tmp_path / "thesis"
    target.mkdir()
    (target / "thesis.tex").write_text("years of work")

    with pytest.raises(OutputError) as caught, whole_folder(target, force=True):
        pytest.fail("nothing may be written")

    assert caught.value.slug == "output-not-a-report"
    assert (target / "thesis.tex").read_text() == "years of work"


def test_an_empty_folder_is_replaced_with_force(tmp_path):
    (tmp_path / "out").mkdir()

    with whole_folder(tmp_path / "out", force=True) as partial:
        (partial / "report.json").write_text("new")

    assert entries(tmp_path / "out") == ["report.json"]


@pytest.mark.parametrize("force", [False, True])
def test_a_file_is_never_replaced_by_a_folder(tmp_path, force):
    target = tmp_path / "out"
    target.write_text("mine")

    with pytest.raises(OutputError), whole_folder(target, force=force):
        pytest.fail("nothing may be written")

    assert target.read_text() == "mine"


def test_a_dangling_link_is_not_overwritten(tmp_path):
    target = tmp_path / "out"
    target.symlink_to(tmp_path / "gone")

    with pytest.raises(OutputError, match="exists already"), whole_folder(target, force=False):
        pytest.fail("nothing may be written")

    assert target.is_symlink()


@pytest.mark.parametrize("where", ["file/out", "missing/out"])
def test_a_place_that_cannot_be_is_told_with_the_systems_reason(tmp_path, where):
    (tmp_path / "file").write_text("")

    with pytest.raises(OutputError) as caught, whole_folder(tmp_path / where, force=False):
        pytest.fail("nothing may be written")

    assert caught.value.slug == "cannot-write"
    assert str(tmp_path / where) in caught.value.message
    assert caught.value.why in {"not a directory", "no such file or directory"}
    assert entries(tmp_path) == ["file"]


def test_an_error_names_the_folder_by_its_final_name(tmp_path):
    target = tmp_path / "out"

    def fill(partial):
        raise OutputError("full", f"{partial / 'report.md'} cannot be written", why="w", fix="f")

    with pytest.raises(OutputError) as caught, whole_folder(target, force=False) as partial:
        fill(partial)

    assert caught.value.message == f"{target / 'report.md'} cannot be written"
    assert (caught.value.slug, caught.value.why, caught.value.fix) == ("full", "w", "f")


def test_a_full_disk_is_told_and_leaves_nothing_behind(small_disk):
    target = small_disk / "out"

    with pytest.raises(OutputError) as caught, whole_folder(target, force=False) as partial:
        guarded(target, lambda: (partial / "trace.h5").write_bytes(b"0" * (1 << 20)))

    assert caught.value.why == "no space left on device"
    assert "make room on the disk" in caught.value.fix
    assert entries(small_disk) == []


@pytest.fixture
def small_disk(tmp_path):
    """A disk of 64 KiB; mounting one takes rights that not every machine gives."""
    mount = shutil.which("mount")
    if mount is None or os.geteuid() != 0:
        pytest.skip("no right to mount a disk")
    disk = tmp_path / "disk"
    disk.mkdir()
    done = subprocess.run([mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", disk], check=False)
    if done.returncode:
        pytest.skip("no right to mount a disk")
    yield disk
    subprocess.run([shutil.which("umount") or "umount", disk], check=True)
