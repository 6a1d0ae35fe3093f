"""A training run that is recorded by hand: what a bundle must hold, written by its own room.

The flight recorder does more (it chooses when to copy, and what to look for); here every step is
plain, so that a test says exactly which step was copied and which one went wrong.
"""

from __future__ import annotations

import json
import math
import random
from typing import TYPE_CHECKING, Any

import numpy as np

from divergence_doctor.bundle import Contents, Recorded, Variable, write_bundle

if TYPE_CHECKING:
    from pathlib import Path


def variables(model: Any) -> list[Variable]:
    """Return the model's state as a bundle keeps it, copied."""
    import keras
    from keras.src.backend.common import global_state

    inner = getattr(model.optimizer, "inner_optimizer", model.optimizer)
    known: set[int] = set()
    found = []

    def add(some: Any, role: str) -> None:
        for variable in some:
            if id(variable) not in known:
                known.add(id(variable))
                value = np.array(keras.ops.convert_to_numpy(variable))
                found.append(
                    Variable(
                        role=role, path=variable.path, name=variable.name, array=value,
                        dtype=str(variable.dtype),
                    )
                )  # fmt: skip

    metrics = {id(variable) for variable in model.metrics_variables}
    add(model.weights, "weight")
    add([v for v in model.variables if id(v) not in metrics], "seed")
    drawn = global_state.get_global_attribute("global_seed_generator")
    add([] if drawn is None else [drawn.state], "seed")
    add(model.metrics_variables, "metric")
    if model.optimizer is not None:
        inside = {id(variable) for variable in inner.variables}
        add([v for v in model.optimizer.variables if id(v) not in inside], "loss-scale")
        add(inner.variables, "optimizer")
    return found


def generators() -> dict[str, Any]:
    """Return the state of the process' generators as JSON."""
    version, words, gauss = random.getstate()
    state = np.random.get_state(legacy=False)  # noqa: NPY002 - the global one is meant
    state["state"]["key"] = state["state"]["key"].tolist()
    return {
        "python": [version, list(words), gauss],
        "numpy": state,
        "tf_global_generator": None,
        "tf_global_seed": None,
    }


def train(
    model: Any, batches: list[tuple[Any, ...]], *, snapshot: int, loop: str = "fit"
) -> Contents:
    """Train on one batch after the other, as ``fit`` does, and return what is to be written.

    Args:
        model: a built and compiled model.
        batches: (x, y[, sample_weight]) of NumPy arrays for each step; the last one fails.
        snapshot: the step before which the state is copied.
        loop: ``fit`` or ``train_on_batch``.
    """
    import keras

    model.optimizer.build(model.trainable_variables)
    model.make_train_function()
    model.reset_metrics()
    losses: list[float] = []
    kept, drawn = variables(model), generators()
    for step, batch in enumerate(batches):
        if step == snapshot:
            kept, drawn = variables(model), generators()
        if loop == "train_on_batch":
            losses.append(float(model.train_on_batch(*batch, return_dict=True)["loss"]))
            continue
        data = keras.utils.pack_x_y_sample_weight(*(keras.ops.convert_to_tensor(b) for b in batch))
        losses.append(float(model.train_function(iter([data]))["loss"]))
    last = len(batches) - 1
    scale = getattr(model.optimizer, "initial_scale", None)
    return Contents(
        reason={"trigger": "non-finite-loss", "message": "the loss is not finite", "step": last,
                "epoch": 0, "loss": losses[-1]},
        history={
            "step": list(range(len(batches))),
            "epoch": [0] * len(batches),
            "loss": losses,
            "step_loss": [None] * len(batches),
            "learning_rate": [float(model.optimizer.learning_rate)] * len(batches),
            "loss_scale": [scale] * len(batches),
        },
        manifest={
            "step": last,
            "snapshot_step": snapshot,
            "steps_per_execution": int(model.steps_per_execution),
            "epoch": 0,
            "execution": {
                "run_eagerly": bool(model.run_eagerly),
                "jit_compile": model.jit_compile,
                "jit_resolved": bool(model.jit_compile),
                "replicas": 1,
            },
            "dtype_policy": keras.config.dtype_policy().name,
            "loop": loop,
            "user_code": {"main": None, "argument": None},
            "versions": {"keras": keras.__version__},
        },
        batches=[
            Recorded(step=step, arrays=dict(zip(("x", "y", "sample_weight"), batch, strict=False)))
            for step, batch in enumerate(batches)
            if step >= snapshot
        ],
        model=json.loads(
            json.dumps(
                {
                    "config": keras.saving.serialize_keras_object(model),
                    "compile": model.get_compile_config(),
                }
            )
        ),
        variables=kept,
        generators=drawn,
    )  # fmt: skip


def write(root: Path, contents: Contents, **options: Any) -> Path:
    """Write a bundle, and return its folder."""
    return write_bundle(root, contents, **options)


def finite(losses: Any) -> bool:
    """Say whether every loss is a number."""
    return all(math.isfinite(loss) for loss in losses)
