"""``python -m tests.benchmarks.replay``: the watched step against a plain one and two other tools.

Every model is run by each tool in a process of its own, for the peak of its memory, and for several
steps, the median of which counts. The tools take turns, so that a busy machine slows all of them.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import ExitStack, contextmanager
from datetime import date
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

from tests.benchmarks import _models

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

#: Small sample runs that need no code of their own to be opened.
SAMPLES = ("log_of_zero", "nan_in_input", "high_learning_rate")
TOOLS = ("plain", "watched", "enable_check_numerics", "FULL_HEALTH")
CASES: dict[str, Callable[[], tuple[Any, dict[str, Any]]]] = {
    **_models.MODELS,
    "100 layers": partial(_models.deep, 100),
    "1000 layers": partial(_models.deep, 1_000),
    "50 MB": partial(_models.wide, 50),
    "500 MB": partial(_models.wide, 500),
}


# ---------------------------------------------------------------------- one tool, in its process


def measure(case: str, tool: str, steps: int) -> dict[str, float]:
    """Return the median seconds of a step and the peak of resident memory in MB."""
    import tensorflow as tf

    from divergence_doctor.batches import Batch
    from divergence_doctor.replay import match
    from divergence_doctor.replay.feeding import tensors

    model, arrays = CASES[case]()
    fed = match(Batch(arrays=arrays, source="made.npz", sha256="0" * 64), model)
    tf.config.run_functions_eagerly(True)
    with ExitStack() as stack:
        seconds = []
        if tool == "watched":
            from divergence_doctor.replay import Engine
            from divergence_doctor.trace import TraceBuilder

            engine = Engine(model, [fed], TraceBuilder())
            stack.enter_context(engine.ready())
            step = iter(range(steps + 1))
            run = lambda: engine.step(next(step))  # noqa: E731 - one step of the replay
        else:
            stack.enter_context(_other(tool))
            data = tensors(fed)
            run = lambda: model.train_step(data)  # noqa: E731 - as fit calls it
        for _ in range(steps + 1):
            start = time.perf_counter()
            run()
            seconds.append(time.perf_counter() - start)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    # The first step builds what the later ones have.
    return {"seconds": statistics.median(seconds[1:]), "peak": peak}


@contextmanager
def _other(tool: str) -> Iterator[None]:
    import tensorflow as tf

    if tool == "plain":
        yield
    elif tool == "enable_check_numerics":
        tf.debugging.enable_check_numerics()
        yield
    else:
        with tempfile.TemporaryDirectory() as folder:
            tf.debugging.experimental.enable_dump_debug_info(
                folder, tensor_debug_mode="FULL_HEALTH", circular_buffer_size=-1
            )
            yield
            tf.debugging.experimental.disable_dump_debug_info()


def _in_process(case: str, tool: str, steps: int) -> dict[str, float]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.benchmarks.replay", "--one", case, tool, str(steps)],
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    found: dict[str, float] = json.loads(done.stdout.splitlines()[-1])
    return found


# ---------------------------------------------------------------------- the trace file


def trace_file(steps: int) -> dict[str, float]:
    """Return the size in MB of ResNet50's trace, and the seconds that it takes to list its layers.

    It is opened in a process of its own, the start of Python and the imports included.
    """
    from divergence_doctor.batches import Batch
    from divergence_doctor.replay import Engine, match
    from divergence_doctor.trace import TraceBuilder

    model, arrays = _models.resnet50()
    builder = TraceBuilder()
    fed = match(Batch(arrays=arrays, source="made.npz", sha256="0" * 64), model)
    Engine(model, [fed], builder).replay(steps=steps, seed=0)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trace.h5"
        builder.build().save(path)
        size = path.stat().st_size / 1e6
        code = (
            "import sys; from divergence_doctor import Trace; "
            f"t = Trace.open({str(path)!r}); print(len(t.table('layers')['layer'])); "
            "assert 'tensorflow' not in sys.modules"
        )
        seconds = []
        for _ in range(5):
            start = time.perf_counter()
            subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
            seconds.append(time.perf_counter() - start)
    return {"megabytes": size, "seconds": statistics.median(seconds)}


# ---------------------------------------------------------------------- the table


def main() -> None:
    """Print the table, as README holds it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--one", nargs=3, metavar=("CASE", "TOOL", "STEPS"))
    parser.add_argument("--steps", type=int, default=5, help="steps whose median counts")
    parser.add_argument("--rounds", type=int, default=3, help="processes per tool")
    parser.add_argument("--quick", action="store_true", help="the plain and the watched step only")
    asked = parser.parse_args()
    if asked.one:
        case, tool, steps = asked.one
        print(json.dumps(measure(case, tool, int(steps))))  # noqa: T201 - read by the parent
        return
    _say(f"{date.today():%Y-%m-%d}, {_machine()}\n")  # noqa: DTZ011 - the day where it ran
    ratios = _ratios(asked)
    _say(f"\nmedian of the three: watched / plain {statistics.median(ratios):.2f}")
    _growth(asked)
    _verdicts(asked)
    found = trace_file(10)
    _say(
        f"\ntrace.h5 of ResNet50 over 10 steps: {found['megabytes']:.2f} MB; "
        f"its layers listed in {found['seconds']:.2f} s"
    )


def _verdicts(asked: argparse.Namespace) -> None:
    """Print how long ``doctor replay`` takes to its verdict, trials included, and to its end."""
    _say("\n| sample run | import tensorflow | to the verdict | to the last report |")
    _say("| --- | --- | --- | --- |")
    for name in SAMPLES:
        runs = [(*_import(), *_verdict(name)) for _ in range(asked.rounds)]
        cells = [f"{statistics.median(times):.1f} s" for times in zip(*runs, strict=True)]
        _say(f"| {name} | " + " | ".join(cells) + " |")


def _import() -> tuple[float]:
    start = time.perf_counter()
    code = "import tensorflow"
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)
    return (time.perf_counter() - start,)


def _verdict(name: str) -> tuple[float, float]:
    folder = Path(__file__).parents[2] / "sample_runs" / name
    with tempfile.TemporaryDirectory() as out:
        arguments = [str(folder / "model.keras"), str(folder / "batch.npz"), "--out", f"{out}/d"]
        start = time.perf_counter()
        with subprocess.Popen(
            [sys.executable, "-m", "divergence_doctor", "replay", *arguments],
            stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        ) as command:  # fmt: skip
            assert command.stdout is not None
            first = command.stdout.readline()
            seconds = time.perf_counter() - start
            command.stdout.read()
        assert "Diverged" in first, first
        return seconds, time.perf_counter() - start


def _ratios(asked: argparse.Namespace) -> list[float]:
    tools = TOOLS[:2] if asked.quick else TOOLS
    _say("| model | " + " | ".join(tools) + " | watched: memory |")
    _say("| --- |" + " --- |" * (len(tools) + 1))
    ratios = []
    for case in _models.MODELS:
        found = _rounds(case, tools, asked)
        plain = found["plain"]
        ratios.append(found["watched"]["seconds"] / plain["seconds"])
        cells = [f"{plain['seconds']:.3f} s"]
        cells += [f"{found[tool]['seconds'] / plain['seconds']:.2f}x" for tool in tools[1:]]
        cells.append(f"{found['watched']['peak'] / plain['peak']:.2f}x")
        _say(f"| {case} | " + " | ".join(cells) + " |")
    return ratios


def _growth(asked: argparse.Namespace) -> None:
    """Print how the cost grows with layers and with elements: ten times as many of each."""
    _say("\n| | plain | watched | watched / plain | watched: memory |")
    _say("| --- | --- | --- | --- | --- |")
    for case in ("100 layers", "1000 layers", "50 MB", "500 MB"):
        found = _rounds(case, TOOLS[:2], asked)
        plain, watched = found["plain"], found["watched"]
        _say(
            f"| {case} | {plain['seconds']:.3f} s | {watched['seconds']:.3f} s | "
            f"{watched['seconds'] / plain['seconds']:.2f}x | "
            f"{watched['peak'] / plain['peak']:.2f}x |"
        )


def _rounds(
    case: str, tools: tuple[str, ...], asked: argparse.Namespace
) -> dict[str, dict[str, float]]:
    runs: dict[str, list[dict[str, float]]] = {tool: [] for tool in tools}
    for _ in range(asked.rounds):
        for tool in tools:
            runs[tool].append(_in_process(case, tool, asked.steps))
    return {
        tool: {key: statistics.median(run[key] for run in of) for key in of[0]}
        for tool, of in runs.items()
    }


def _machine() -> str:
    import tensorflow as tf

    return (
        f"{platform.machine()}, {os.cpu_count()} cores, TensorFlow {tf.__version__}, "
        f"NumPy {np.__version__}"
    )


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
