"""``python -m tests.benchmarks.capture``: what the flight recorder costs, beside other callbacks.

Every model is trained by each callback in short turns, one after the other in an order that
rotates, so that a busy machine slows all of them. What counts is the median over the rounds of the
ratio to the turn without a callback of the same round.
"""

# ruff: noqa: ARG002 - Keras calls callbacks and layers with what it calls them with

from __future__ import annotations

import argparse
import os
import platform
import random
import statistics
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


def callbacks(folder: Path) -> dict[str, Callable[[], list[Any]]]:
    """Return what is compared, by name; the first is what the others are related to."""
    import keras

    from divergence_doctor import FlightRecorder

    return {
        "none": list,
        "FlightRecorder": lambda: [FlightRecorder(folder / "crashes")],
        "TerminateOnNaN": lambda: [keras.callbacks.TerminateOnNaN()],
        "BackupAndRestore(save_freq=50)": lambda: [
            keras.callbacks.BackupAndRestore(str(folder / "backup"), save_freq=50)
        ],
    }


class Turns:
    """One model per callback, each in a fit of its own that is asked for one turn at a time.

    A callback that is made anew for every turn would pay for its beginning again and again: the
    turns are epochs of one long ``fit``, which waits in a generator between them.
    """

    def __init__(
        self, make: Callable[[], Made], steps: int, with_them: list[Any], clock: Callable[[], float]
    ) -> None:
        import keras

        keras.utils.set_random_seed(0)
        self.model, self._data, _ = make()
        self._steps = steps
        self._callbacks = with_them
        self._clock = clock
        self.seconds: list[float] = []

    def epochs(self, count: int, turn: Callable[[], None]) -> None:
        """Train so many epochs; ``turn`` is called before each, and may train others meanwhile."""
        import keras

        seconds, clock = self.seconds, self._clock

        class Clock(keras.callbacks.Callback):  # type: ignore[misc]
            started = 0.0

            def on_epoch_begin(self, epoch: int, logs: Any = None) -> None:
                turn()
                self.started = clock()

            def on_epoch_end(self, epoch: int, logs: Any = None) -> None:
                seconds.append(clock() - self.started)

        # First in the list, so that the clock runs while the others do what they do.
        self.model.fit(
            self._data, shuffle=False, steps_per_epoch=self._steps, epochs=count, verbose=0,
            callbacks=[Clock(), *self._callbacks],
        )  # fmt: skip


def compare(
    case: str, rounds: int, folder: Path, clock: Callable[[], float]
) -> tuple[float, dict[str, list[float]]]:
    """Return the seconds of a plain step, and the ratios of each callback, one per round."""
    import threading

    make, steps = MODELS[case]
    told = callbacks(folder)
    turns = {name: Turns(make, steps, made(), clock) for name, made in told.items()}
    locks = {name: threading.Semaphore(0) for name in told}
    done = threading.Semaphore(0)
    threads = []
    for name, one in turns.items():

        def wait(lock: threading.Semaphore = locks[name]) -> None:
            done.release()
            lock.acquire()

        thread = threading.Thread(target=one.epochs, args=(rounds + 1, wait))
        thread.start()
        threads.append(thread)
        done.acquire()
    names = list(told)
    for number in range(rounds + 1):
        order = random.Random(number).sample(names, len(names))  # noqa: S311 - the order of turns
        for name in order:
            locks[name].release()
            if number < rounds:
                done.acquire()
            else:
                threads[names.index(name)].join()
    # The first epoch traces the graph.
    plain = turns["none"].seconds[1:]
    ratios = {
        name: [mine / other for mine, other in zip(one.seconds[1:], plain, strict=True)]
        for name, one in turns.items()
    }
    return statistics.median(plain) / steps, ratios


def main() -> None:
    """Print the table, as README holds it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=25, help="turns of each callback")
    parser.add_argument("--models", nargs="*", default=list(MODELS), choices=list(MODELS))
    parser.add_argument(
        "--cpu", action="store_true",
        help="time of the processor instead of the clock's: on a machine that others use as well",
    )  # fmt: skip
    asked = parser.parse_args()
    clock = time.process_time if asked.cpu else time.perf_counter
    _say(f"{date.today():%Y-%m-%d}, {_machine()}\n")  # noqa: DTZ011 - the day where it ran
    with tempfile.TemporaryDirectory() as scratch:
        names = list(callbacks(Path(scratch)))[1:]
        _say("| model | step, no callback | " + " | ".join(names) + " |")
        _say("| --- |" + " --- |" * (len(names) + 1))
        for number, case in enumerate(asked.models):
            step, ratios = compare(case, asked.rounds, Path(scratch) / str(number), clock)
            cells = [
                f"{statistics.median(ratios[name]) - 1:+.1%} (± {_error(ratios[name]):.1%})"
                for name in names
            ]
            _say(f"| {case} | {1e3 * step:.1f} ms | " + " | ".join(cells) + " |")


def _error(ratios: list[float]) -> float:
    """Return the standard error of the median, from the middle half of the ratios."""
    quarters = statistics.quantiles(ratios, n=4)
    return float(1.2533 * (quarters[2] - quarters[0]) / 1.349 / len(ratios) ** 0.5)


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
