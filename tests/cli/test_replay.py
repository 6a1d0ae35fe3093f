"""Does `doctor replay` do what it says: in the end, and when it does not come to its end?"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from divergence_doctor.trace import Trace
from tests.cli.conftest import SAMPLES

FAST = ("--steps", 1, "--no-trials")
REPORTS = {"report.html", "report.json", "report.md", "trace.h5"}

CODE = """
import os
import signal
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

MODE = Path(__file__).with_name("mode.txt")
KEPT = []

@keras.saving.register_keras_serializable("tests")
class Trouble(keras.layers.Layer):
    def call(self, x):
        if tf.executing_eagerly() and not tf.is_symbolic_tensor(x) and hasattr(x, "numpy"):
            mode = MODE.read_text() if MODE.exists() else ""
            if mode == "crash":
                os.kill(os.getpid(), signal.SIGSEGV)
            while mode == "memory":
                KEPT.append(np.ones(1 << 25))
        return x + 0.0
"""


def strict(text: str) -> Any:
    def refuse(token: str) -> None:
        pytest.fail(f"{token} is no JSON")

    return json.loads(text, parse_constant=refuse)


def sample(name: str) -> tuple[Path, Path]:
    return SAMPLES / name / "model.keras", SAMPLES / name / "batch.npz"


# ---------------------------------------------------------------------- to the end


@pytest.mark.slow
def test_json_is_the_report_and_everything_else_goes_to_standard_error(shell, elsewhere):
    said = shell("replay", *sample("log_of_zero"), *FAST, "--json", "--fail-on-divergence")

    assert said.status == 3
    folder = elsewhere / "model-diagnosis"
    assert said.out == (folder / "report.json").read_text(encoding="utf-8")
    assert strict(said.out)["outcome"] == "diverged"
    lines = said.err.splitlines()
    assert len(lines) == len(set(lines))
    for phase in (
        "importing TensorFlow",
        "opening the checkpoint",
        "step 0",
        "writing the reports",
    ):
        assert phase in lines
    assert "\x1b" not in said.err
    assert {path.name for path in folder.iterdir()} >= REPORTS
    assert Trace.open(folder / "trace.h5").outcome == "diverged"


@pytest.mark.slow
def test_a_healthy_step_exits_0_and_names_no_cause(shell, elsewhere):
    said = shell("replay", *sample("healthy"), "--steps", 1, "--fail-on-divergence", "--out", "out")

    assert said.status == 0
    assert said.out.startswith("✓ Healthy: no divergence in 1 replayed step\n")
    report = strict((elsewhere / "out" / "report.json").read_text(encoding="utf-8"))
    assert (report["outcome"], report["diagnosis"]) == ("healthy", None)


@pytest.mark.slow
def test_a_step_that_xla_compiled_is_run_so_and_the_report_says_how_it_differs(shell, elsewhere):
    said = shell("replay", *sample("labels_out_of_range"), *FAST, "--jit", "--out", "out")

    assert said.status == 0
    report = strict((elsewhere / "out" / "report.json").read_text(encoding="utf-8"))
    execution = report["fidelity"]["execution"]
    assert execution["reference"] == "eager, functions run eagerly"
    assert execution["as_trained"].startswith("graph compiled by XLA (jit_compile=True); oneDNN o")
    assert "jit_compile is True, as --jit says" in report["fidelity"]["notes"]
    assert report["diagnosis"]["cause"] == "bad-labels"
    assert [cause["cause"] for cause in report["contributing"]] == ["execution-mismatch"]
    assert "has a loss of nan" in report["contributing"][0]["summary"]
    assert "--jit" in (elsewhere / "out" / "report.md").read_text(encoding="utf-8")
    assert "\nJIT = True " in (elsewhere / "out" / "reproduce.py").read_text(encoding="utf-8")


# ---------------------------------------------------------------------- the child dies


@pytest.fixture(scope="module")
def trouble(tmp_path_factory):
    """A model with a layer that does what mode.txt beside its code says."""
    import keras

    folder = tmp_path_factory.mktemp("trouble")
    (folder / "layers_of_mine.py").write_text(CODE)
    registered = dict(keras.saving.get_custom_objects())
    code: dict[str, Any] = {"__name__": "mine", "__file__": str(folder / "layers_of_mine.py")}
    exec(CODE, code)  # noqa: S102 - our own code, as the user's module would run it
    model = keras.Sequential(
        [
            keras.Input((4,)),
            keras.layers.Dense(3, name="first"),
            code["Trouble"](name="trouble"),
            keras.layers.Dense(1, name="head"),
        ]
    )
    model.compile("sgd", "mse")
    model.save(folder / "model.keras")
    keras.saving.get_custom_objects().clear()
    keras.saving.get_custom_objects().update(registered)
    np.savez(folder / "batch.npz", x=np.ones((3, 4), "float32"), y=np.zeros((3, 1), "float32"))
    return folder


@pytest.fixture
def replay_trouble(shell, trouble, elsewhere):
    """Replay that model in a mode; return what was said, the report and the trace."""

    def run(mode: str, *flags: object) -> tuple[Any, Any, Trace]:
        (trouble / "mode.txt").write_text(mode)
        said = shell(
            "replay",
            trouble / "model.keras",
            trouble / "batch.npz",
            "--custom-objects",
            trouble / "layers_of_mine.py",
            "--out",
            "out",
            *FAST,
            *flags,
        )
        assert "Traceback" not in said.err
        report = strict((elsewhere / "out" / "report.json").read_text(encoding="utf-8"))
        return said, report, Trace.open(elsewhere / "out" / "trace.h5")

    return run


def assert_clean(elsewhere: Path, tmp_path: Path) -> None:
    assert [path.name for path in elsewhere.iterdir()] == ["out"]
    assert list((tmp_path / "temporary").iterdir()) == []


@pytest.mark.slow
def test_a_crash_becomes_a_report_that_names_the_place(replay_trouble, elsewhere, tmp_path):
    said, report, trace = replay_trouble("crash")

    assert said.status == 0
    assert report["outcome"] == "inconclusive"
    assert report["diagnosis"] is None
    assert "SIGSEGV" in report["run"]["outcome_because"]
    assert "trouble" in report["run"]["outcome_because"]
    assert "SIGSEGV at step 0" in said.out
    assert trace.context["died"]["how"] == "signal"
    assert list(trace.table("batch")["name"]) == ["x", "y"]
    assert "first" in set(trace.table("activations")["layer"])
    assert_clean(elsewhere, tmp_path)


@pytest.mark.slow
def test_too_much_memory_ends_it_with_status_5_and_a_report(replay_trouble, elsewhere, tmp_path):
    said, report, trace = replay_trouble("memory", "--memory-limit", 2)

    assert said.status == 5
    assert report["outcome"] == "inconclusive"
    assert "memory limit at step 0" in report["run"]["outcome_because"]
    assert "trouble" in report["run"]["outcome_because"]
    assert "memory limit" in said.err
    assert trace.context["died"]["peak"] > 2 << 30
    assert_clean(elsewhere, tmp_path)


def test_too_much_time_ends_it_with_status_5_and_a_report(replay_trouble, elsewhere, tmp_path):
    said, report, trace = replay_trouble("", "--time-limit", 1)

    assert said.status == 5
    assert report["outcome"] == "inconclusive"
    assert report["run"]["outcome_because"].startswith("the replay hit its time limit at ")
    assert "what was recorded until then is in out" in said.err
    assert trace.context["died"]["how"] == "time"
    assert trace.outcome == "inconclusive"
    assert_clean(elsewhere, tmp_path)


@pytest.mark.slow
def test_the_same_model_without_trouble_is_healthy(replay_trouble):
    said, report, _ = replay_trouble("")

    assert said.status == 0
    assert report["outcome"] == "healthy"


# ---------------------------------------------------------------------- the user ends it


@pytest.mark.parametrize(
    ("number", "status"),
    [(signal.SIGINT, 130), (signal.SIGTERM, 143)],
    ids=["ctrl-c", "term"],
)
def test_what_is_interrupted_leaves_neither_files_nor_a_child(elsewhere, tmp_path, number, status):
    with subprocess.Popen(
        [sys.executable, "-m", "divergence_doctor", "replay", *sample("log_of_zero")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    ) as process:
        child = _child_of(process)
        assert [path.name[:17] for path in elsewhere.iterdir()] == [".model-diagnosis."]
        os.killpg(process.pid, number)
        out, err = process.communicate(timeout=60)

    assert process.returncode == status
    assert out == ""
    assert "Traceback" not in err
    assert ("interrupted; nothing was written" in err) == (number == signal.SIGINT)
    assert _gone(child)
    assert list(elsewhere.iterdir()) == []
    assert list((tmp_path / "temporary").iterdir()) == []


def _child_of(process: subprocess.Popen[str]) -> int:
    """Return the process that a command has started, once it is there."""
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children")
    if not children.exists():
        process.kill()
        pytest.skip("this system does not tell the children of a process")
    until = time.monotonic() + 60
    while time.monotonic() < until and process.poll() is None:
        with contextlib.suppress(OSError):
            found = children.read_text(encoding="ascii").split()
            if found:
                return int(found[0])
        time.sleep(0.05)
    raise AssertionError(f"no child was started: {process.communicate()}")


def _gone(pid: int) -> bool:
    """Say whether a process ends within a minute; one that was just forked needs a moment."""
    until = time.monotonic() + 60
    while time.monotonic() < until:
        try:
            os.kill(pid, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def test_a_child_does_not_outlive_a_command_that_is_killed(elsewhere):
    with subprocess.Popen(
        [sys.executable, "-m", "divergence_doctor", "replay", *sample("log_of_zero")],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        child = _child_of(process)
        process.kill()

    assert _gone(child)
    assert not (elsewhere / "model-diagnosis").exists()


# ---------------------------------------------------------------------- the disk


@pytest.mark.slow
def test_a_disk_that_fills_up_is_told_and_nothing_is_left_on_it(shell, small_disk):
    said = shell("replay", *sample("healthy"), *FAST, "--out", small_disk / "out")

    said.assert_refused(2, "cannot be written", "no space left on device", "--out")
    assert list(small_disk.iterdir()) == []


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


FACTORY = """
import keras

def build():
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1, kernel_initializer="zeros")])
    model.compile("sgd", "mse")
    return model
"""


@pytest.mark.slow
def test_a_folder_of_checkpoints_gives_its_latest_or_the_step_that_is_asked_for(shell, elsewhere):
    import tensorflow as tf

    (elsewhere / "factory.py").write_text(FACTORY, encoding="utf-8")
    space: dict[str, Any] = {}
    exec(FACTORY, space)  # noqa: S102 - the user's own script, as it ran
    model = space["build"]()
    checkpoint = tf.train.Checkpoint(net=model, opt=model.optimizer)
    manager = tf.train.CheckpointManager(checkpoint, "run", max_to_keep=None)
    manager.save(checkpoint_number=10)
    model.layers[0].kernel.assign([[np.nan], [0.0]])
    manager.save(checkpoint_number=20)
    for number in (1, 2, 10):
        np.savez(f"b{number}.npz", x=np.full((4, 2), number, "f4"), y=np.ones((4, 1), "f4"))
    batches = [f"b{number}.npz" for number in (1, 2, 10)]
    factory = ("--model", "factory.py:build")

    said = shell("replay", "run", *batches, *factory, "--json", "--out", "latest")

    report = strict(said.out)
    assert (said.status, report["outcome"]) == (0, "diverged")
    assert report["diagnosis"]["cause"] == "corrupt-weights"
    notes = report["fidelity"]["notes"]
    assert notes[0].startswith("ckpt-20 was opened, the latest of the 2 checkpoints")
    script = subprocess.run(
        [sys.executable, "latest/reproduce.py"], capture_output=True, text=True, check=False
    )
    assert script.returncode == 1, script.stderr

    said = shell(
        "replay", "run", *batches, *factory, "--step", 10, "--steps", 2, "--json", "--out", "ten"
    )

    report = strict(said.out)
    assert (said.status, report["outcome"]) == (0, "healthy")
    assert report["fidelity"]["notes"] == [
        "Of the 3 batches the first 2 were replayed, one a step; --steps 3 replays them all."
    ]
    trace = Trace.open(elsewhere / "ten" / "trace.h5")
    assert list(trace.table("steps")["batch"]) == [0, 1]
