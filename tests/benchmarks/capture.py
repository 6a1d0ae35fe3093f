"""``python -m tests.benchmarks.capture``: what the flight recorder costs, beside other callbacks.

One model is trained by one ``fit``, whose epochs are turns: in each another callback is there, in
an order that is drawn anew every round, and in one of them none. What counts is the median over
the rounds of the ratio to the turn without one. A process has a bias of its own, of up to 4 % to
either side (where its memory happens to lie), so there are several, and their mean and its
standard error are told. Beside it stands what the recorder says of itself: the time that it spent,
as a share of that of the steps, which no bias touches.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import random
import statistics
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING, Any

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Callable

Made = tuple[Any, Any, Any]
#: Samples of the data; of images of 32 x 32 pixels they are 50 MB.
SAMPLES = 4_096
#: What the recorder says of itself.
OWN = "own"
#: Rounds that are not counted.
BEGINNING = 3


def mlp() -> Made:
    """Return six dense layers of 256 units, and 64 samples a batch."""
    import keras

    layers = [keras.layers.Dense(256, "relu") for _ in range(6)]
    model = keras.Sequential([keras.Input((128,)), *layers, keras.layers.Dense(10)])
    return _fed(model, (64, 128), ())


def cnn() -> Made:
    """Return a small convolutional network with batch normalisation, on 32 x 32 pixels."""
    import keras

    layers: list[Any] = [keras.Input((32, 32, 3))]
    for filters in (32, 64, 128):
        layers += [
            keras.layers.Conv2D(filters, 3, strides=2, padding="same", use_bias=False),
            keras.layers.BatchNormalization(),
            keras.layers.ReLU(),
        ]
    layers += [keras.layers.GlobalAveragePooling2D(), keras.layers.Dropout(0.3)]
    return _fed(keras.Sequential([*layers, keras.layers.Dense(10)]), (32, 32, 32, 3), ())


def transformer() -> Made:
    """Return two transformer layers of width 128 on 32 tokens, 16 sequences a batch."""
    import keras

    tokens = keras.Input((32,))
    x = keras.layers.Embedding(1000, 128)(tokens)
    for _ in range(2):
        attended = keras.layers.MultiHeadAttention(4, 32, dropout=0.1)(x, x)
        x = keras.layers.LayerNormalization()(x + attended)
        hidden = keras.layers.Dense(128)(keras.layers.Dense(512, "gelu")(x))
        x = keras.layers.LayerNormalization()(x + hidden)
    return _fed(keras.Model(tokens, keras.layers.Dense(10)(x)), (16, 32), (32,))


def _fed(model: Any, shape: tuple[int, ...], targets: tuple[int, ...]) -> Made:
    import keras
    import tensorflow as tf

    model.compile("adam", keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    rng = np.random.default_rng(0)
    x = rng.random((SAMPLES, *shape[1:]), np.float32)
    y = rng.integers(10, size=(len(x), *targets)).astype("int32")
    pairs = tf.data.Dataset.from_tensor_slices((x, y)).repeat()
    # As every guide has it. Eight batches read round and round without it would never leave the
    # processor's cache, and a batch that is kept would be the only one to come from memory.
    return model, pairs.batch(shape[0], drop_remainder=True).prefetch(tf.data.AUTOTUNE), shape


MODELS: dict[str, tuple[Callable[[], Made], int]] = {
    "small CNN": (cnn, 60),
    "transformer": (transformer, 40),
    "MLP": (mlp, 150),
}


def callbacks(folder: Path) -> dict[str, list[Any]]:
    """Return what is compared, by name; the first is what the others are related to."""
    import keras

    from divergence_doctor import FlightRecorder

    return {
        "none": [],
        "FlightRecorder": [FlightRecorder(folder / "crashes", verbose=0)],
        "TerminateOnNaN": [keras.callbacks.TerminateOnNaN()],
        "BackupAndRestore(save_freq=50)": [
            keras.callbacks.BackupAndRestore(str(folder / "backup"), save_freq=50)
        ],
    }


def compare(
    case: str, rounds: int, folder: Path, clock: Callable[[], float]
) -> tuple[float, dict[str, list[float]], float]:
    """Return the seconds of a plain step, the ratios of each callback, and the recorder's share."""
    import keras

    make, steps = MODELS[case]
    told = callbacks(folder)
    keras.utils.set_random_seed(0)
    model, data, _ = make()
    turns = _turns(model, told, clock)
    # In the first rounds the graph is traced, and what each callback does once is done.
    model.fit(
        data, shuffle=False, steps_per_epoch=steps, epochs=(rounds + BEGINNING) * len(told),
        verbose=0, callbacks=turns,
    )  # fmt: skip
    plain = turns.seconds["none"][BEGINNING:]
    ratios = {
        name: [mine / other for mine, other in zip(seconds[BEGINNING:], plain, strict=True)]
        for name, seconds in turns.seconds.items()
    }
    (recorder,) = told["FlightRecorder"]
    return statistics.median(plain) / steps, ratios, recorder.recorder.pace.overhead


def _turns(model: Any, told: dict[str, list[Any]], clock: Callable[[], float]) -> Any:
    """Return the list of callbacks of which one after the other is there for one epoch."""
    import keras

    everyone = [one for held in told.values() for one in held]

    class Turns(keras.callbacks.CallbackList):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__(everyone, add_history=True, model=model)
            self.seconds: dict[str, list[float]] = {name: [] for name in told}
            self._order: list[str] = []
            self._round = 0
            self._now = ""
            self._started = 0.0
            self._with_recorder: Any = None

        def on_train_begin(self, logs: Any = None) -> None:
            super().on_train_begin(logs)
            self._with_recorder = model.train_function

        def on_train_end(self, logs: Any = None) -> None:
            self._let(everyone, recorded=True)
            super().on_train_end(logs)

        def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
            if not self._order:
                self._order = random.Random(self._round).sample(list(told), len(told))  # noqa: S311
                self._round += 1
            self._now = self._order.pop()
            self._let(told[self._now], recorded=self._now == "FlightRecorder")
            self._started = clock()
            super().on_epoch_begin(epoch, logs)

        def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
            super().on_epoch_end(epoch, logs)
            self.seconds[self._now].append(clock() - self._started)

        def _let(self, there: list[Any], *, recorded: bool) -> None:
            """Have these callbacks there, called as Keras would call them if they were alone."""
            alone = keras.callbacks.CallbackList(there, add_history=False)
            self.callbacks, self._async_train = [*there, self._history], alone._async_train
            installed = self._with_recorder
            model.train_function = installed if recorded else installed.original

    return Turns()


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--processes", type=int, default=5, help="processes for each model")
    parser.add_argument(
        "--rounds", type=int, default=12, help="turns of each callback in a process"
    )
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument(
        "--cpu", action="store_true",
        help="time of the processor instead of the clock's: on a machine that others use as well",
    )  # fmt: skip
    parser.add_argument("--one", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.one:
        with tempfile.TemporaryDirectory() as scratch:
            clock = time.process_time if asked.cpu else time.perf_counter
            _say(json.dumps(compare(asked.models[0], asked.rounds, Path(scratch), clock)))
        return
    _say(f"{date.today():%Y-%m-%d}, {_machine()}\n")  # noqa: DTZ011 - the day where it ran
    names = list(callbacks(Path(tempfile.gettempdir())))[1:]
    _say("| model | step, no callback | " + " | ".join((*names, "FlightRecorder says")) + " |")
    _say("| --- |" + " --- |" * (len(names) + 2))
    for case in asked.models:
        seconds, cells = [], {name: [] for name in (*names, OWN)}  # type: ignore[var-annotated]
        for _ in range(asked.processes):
            step, ratios, own = _in_a_process(case, asked.rounds, cpu=asked.cpu)
            seconds.append(step)
            cells[OWN].append(1 + own)
            for name in names:
                cells[name].append(statistics.median(ratios[name]))
        row = " | ".join(_percent(found) for found in cells.values())
        _say(f"| {case} | {1e3 * statistics.median(seconds):.1f} ms | {row} |")


def _in_a_process(case: str, rounds: int, *, cpu: bool) -> Any:
    command = [sys.executable, "-m", "tests.benchmarks.capture", "--one", "--models", case]
    command += ["--rounds", str(rounds), *(["--cpu"] if cpu else [])]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def _percent(ratios: list[float]) -> str:
    """Return a mean and its standard error."""
    error = statistics.stdev(ratios) / len(ratios) ** 0.5 if len(ratios) > 1 else float("nan")
    return f"{statistics.mean(ratios) - 1:+.1%} (± {error:.1%})"


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
