"""Does the script on the ticket fail by itself, and no more once the cause is taken away?

Each sample run's ``reproduce.py`` lies in a folder with what one attaches to a ticket, and is run
from elsewhere, without this package: as it is it must exit 1, after the mend 0.
"""

from __future__ import annotations

import io
import json
import re
import shutil
import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.reporters import document
from divergence_doctor.reporters.reproduction import Reproduction
from tests._scripts import End, Job, run

if TYPE_CHECKING:
    from collections.abc import Callable

    from divergence_doctor.trace import Trace

ROOT = Path(__file__).parents[1]
SAMPLE_RUNS = sorted(path.parent for path in (ROOT / "sample_runs").glob("*/expected.toml"))


def without_the_culprits(folder: Path, trace: Trace) -> None:
    """Leave the samples to blame out of the whole batch."""
    culprits = trace.context["culprits"]["samples"]
    assert culprits
    change_batch(folder, lambda array: np.delete(array, culprits, axis=0))


def standardised(folder: Path, _: Trace) -> None:
    """Give x zero mean and unit variance."""
    change_batch(folder, lambda x: (x - x.mean()) / x.std(), only="x")


def zeros_for_nan(folder: Path, _: Trace) -> None:
    """Put 0 in place of what is not finite in the weights."""
    change_weights(folder, lambda values: np.where(np.isfinite(values), values, 0))


def as_he_initialises(folder: Path, _: Trace) -> None:
    """Give every kernel the spread of He's initialiser."""

    def rescaled(values: np.ndarray) -> np.ndarray:
        if values.ndim < 2:
            return values
        return values * (np.sqrt(2.0 / np.prod(values.shape[:-1])) / values.std())

    change_weights(folder, rescaled)


def clipped(folder: Path, _: Trace) -> None:
    """Clip the gradients together, in the optimizer's own config."""
    change_archive(folder, "config.json", lambda content: _with_clipnorm(json.loads(content)))


def _with_clipnorm(config: dict[str, Any]) -> bytes:
    config["compile_config"]["optimizer"]["config"]["global_clipnorm"] = 1.0
    return json.dumps(config).encode()


def slower(folder: Path, trace: Trace) -> None:
    """Set the rate in the script itself, as its comment offers."""
    script = folder / "reproduce.py"
    rate = float(trace.table("steps")["learning_rate"][0]) / 1000
    changed, count = re.subn(
        r"^LEARNING_RATE = None", f"LEARNING_RATE = {rate}", script.read_text(), flags=re.MULTILINE
    )
    assert count == 1
    script.write_text(changed)


MENDS: dict[str, Callable[[Path, Trace], None]] = {
    "corrupt_weights": zeros_for_nan,
    "exploding_activation": as_he_initialises,
    "exploding_gradient": clipped,
    "high_learning_rate": slower,
    "high_learning_rate_sgd": slower,
    "unscaled_pixels": standardised,
}


def change_batch(
    folder: Path, change: Callable[[np.ndarray], np.ndarray], *, only: str = ""
) -> None:
    with np.load(folder / "batch.npz") as arrays:
        kept = {
            name: change(arrays[name]) if only in {"", name} else arrays[name] for name in arrays
        }
    np.savez(folder / "batch.npz", **kept)
    # The whole batch is what is mended.
    (folder / "minimal_batch.npz").unlink(missing_ok=True)


def change_weights(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    def changed(content: bytes) -> bytes:
        stream = io.BytesIO(content)
        with h5py.File(stream, "r+") as file:
            file.visititems(lambda _, item: _change(item, change))
        return stream.getvalue()

    change_archive(folder, "model.weights.h5", changed)


def _change(item: Any, change: Callable[[np.ndarray], np.ndarray]) -> None:
    if isinstance(item, h5py.Dataset) and item.dtype.kind == "f" and item.shape:
        item[...] = change(item[...])


def change_archive(folder: Path, member: str, change: Callable[[bytes], bytes]) -> None:
    path = folder / "model.keras"
    with zipfile.ZipFile(path) as archive:
        content = {name: archive.read(name) for name in archive.namelist()}
    content[member] = change(content[member])
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in content.items():
            archive.writestr(name, data)


def attachments(sample: Path, trace: Trace, written: Path, folder: Path) -> None:
    """Lay out a folder as a ticket's attachments are: all files side by side."""
    folder.mkdir()
    text = Reproduction().render(document(trace, diagnose(trace)))
    (folder / "reproduce.py").write_text(text, encoding="utf-8")
    for path in (
        sample / "model.keras",
        sample / "batch.npz",
        sample / "custom.py",
        written / "minimal_batch.npz",
    ):
        if path.exists():
            shutil.copy(path, folder)


@pytest.fixture(scope="module")
def ends(examined, tmp_path_factory) -> dict[str, tuple[End, End]]:
    """How each script ended, as it is and after the mend."""
    place = tmp_path_factory.mktemp("tickets")
    jobs = []
    for sample in SAMPLE_RUNS:
        trace, written = examined(sample)
        failing, mended = place / sample.name, place / f"{sample.name}-mended"
        for folder in (failing, mended):
            attachments(sample, trace, written, folder)
            jobs.append(Job(str(folder / "reproduce.py"), (), str(place)))
        if trace.outcome == "diverged":
            MENDS.get(sample.name, without_the_culprits)(mended, trace)
    found = run(jobs, seconds=900)
    names = [sample.name for sample in SAMPLE_RUNS]
    return dict(zip(names, zip(found[::2], found[1::2], strict=True), strict=True))


@pytest.mark.slow
@pytest.mark.parametrize("sample", SAMPLE_RUNS, ids=lambda sample: sample.name)
def test_the_script_fails_as_the_run_did_and_passes_once_it_is_mended(sample, examined, ends):
    before, after = ends[sample.name]
    if examined(sample)[0].outcome == "healthy":
        assert before.status == 0, before.said
    else:
        assert before.status == 1, before.said
        assert "FAILS" in before.said
    assert "Traceback" not in before.said
    assert after.status == 0, after.said
    assert "It does not fail in" in after.said
