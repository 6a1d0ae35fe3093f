"""Where bundles are written, and a process of its own to do it in."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from divergence_doctor.bundle import write_bundle
from tests.bundle._made import HOST, at, contents, tiny

ROOT = Path(__file__).parents[2]
MEMORY = Path("/dev/shm")  # noqa: S108 - a folder that needs no fsync


@pytest.fixture
def swift(tmp_path):
    """A folder in memory, where there is one: thousands of dumps wait for no disk."""
    if not os.access(MEMORY, os.W_OK):
        yield tmp_path
        return
    with tempfile.TemporaryDirectory(dir=MEMORY) as folder:
        yield Path(folder)


@pytest.fixture(scope="session")
def run():
    """Run a module of the tests as a process of its own, and return the JSON that it prints."""

    def run(module: str, *arguments: object, prefix: tuple[str, ...] = ()):
        done = subprocess.run(
            [*prefix, sys.executable, "-m", f"tests.bundle.{module}", *map(str, arguments)],
            capture_output=True,
            text=True,
            check=False,
            cwd=ROOT,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        return json.loads(done.stdout)

    return run


@pytest.fixture
def bundle(swift):
    """A bundle of a small model."""
    return write_bundle(swift / "crashes", contents(), host=HOST, now=at(0))


@pytest.fixture
def tiny_bundle(swift):
    """A bundle of as few bytes as can be."""
    return write_bundle(swift / "crashes", tiny(), host=HOST, now=at(0))
