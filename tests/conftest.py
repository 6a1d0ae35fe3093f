"""What every test shares: TensorFlow is quiet, on the CPU, and imported once per process."""

from __future__ import annotations

import os
import sys
from contextlib import contextmanager
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
os.environ.setdefault("KERAS_BACKEND", "tensorflow")
os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")

import pytest


@pytest.fixture
def keras():
    """Keras with names counted from the start, so that layer paths do not depend on test order."""
    keras = pytest.importorskip("keras")
    keras.backend.clear_session()
    keras.utils.set_random_seed(0)
    yield keras
    keras.config.set_dtype_policy("float32")


@contextmanager
def _left_as_it_was():
    """Undo what importing a sample's code leaves behind, and the objects that it registers."""
    import keras

    path, modules = list(sys.path), set(sys.modules)
    registered = keras.saving.get_custom_objects()
    before = dict(registered)
    try:
        yield
    finally:
        sys.path[:] = path
        for name in set(sys.modules) - modules:
            if "sample_runs" in (getattr(sys.modules[name], "__file__", None) or ""):
                del sys.modules[name]
        registered.clear()
        registered.update(before)


@pytest.fixture
def untouched():
    with _left_as_it_was():
        yield


@pytest.fixture(scope="session")
def examined(tmp_path_factory):
    """Return what examines a sample run: its trace and the folder written; each only once."""
    from divergence_doctor.examination import Request, examine

    seen = {}

    def of(folder: Path):
        if folder not in seen:
            custom, out = folder / "custom.py", tmp_path_factory.mktemp(folder.name)
            request = Request(
                checkpoint=str(folder / "model.keras"),
                batches=(str(folder / "batch.npz"),),
                custom_objects=(str(custom),) if custom.exists() else (),
            )
            with _left_as_it_was():
                seen[folder] = (examine(request, out), out)
        return seen[folder]

    return of
