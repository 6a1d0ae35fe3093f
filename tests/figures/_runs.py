"""A run of any size in which every figure has something to draw, with long names."""

from __future__ import annotations

import math
from functools import cache
from typing import TYPE_CHECKING

import numpy as np

from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace

if TYPE_CHECKING:
    from divergence_doctor.trace import Trace


@cache
def run(count: int) -> Trace:
    """Return a run with so many layers, samples, links and steps that fails in the middle."""
    names = [f"encoder/block_{number}/attention_dense" for number in range(count)]
    middle = names[count // 2]
    link = {"step": 1, "op": 0, "layer": middle, "followed": True, "ordinary_high": 100.0}
    values = np.linspace(-3.0, 5.0, count)[:, None] * np.ones((1, 4))
    values[count // 2] = math.nan
    return training_trace(
        layers=names,
        losses=(*np.geomspace(1.0, 1e9, min(count, 12)).tolist(), math.nan),
        activation_absmax=np.geomspace(1e-3, 6e4, count).tolist(),
        gradient_l2=np.geomspace(1e30, 1e-9, count).tolist(),
        update_ratio=[0.001, 3.0],
        dtype="float16",
        x=values,
        y=np.arange(count)[:, None] * 1.0,
        events=[SyntheticEvent("LogSoftmax", layer=middle, samples=(count // 2, count - 1))],
        trials=[
            {
                "name": "lower-rate",
                "changed": f"the learning rate of {names[-1]} divided by {number}",
                "outcome": ("still-fails", "finite", "not-run")[number % 3],
                "detail": "loss 0.5027 to 0.001371 over 10 steps, as it should have been",
                "breadth": min(number, 3),
                "steps": number,
            }
            for number in range(min(count, 40))
        ],
        rows={
            "chain": [
                {**link, "link": number, "what": "op", "name": "BiasAddGrad",
                 "value": 3.0**-number, "departed": number == 1, **tensor([1.0, 3.0**-number])}
                for number in range(count)
            ],
            "sample_losses": [
                {"step": min(count, 12), "name": "mse", "sample": number, "value": 2.0 + number}
                for number in range(count)
            ],
            "along_update": [
                {"step": 0, "scale": 10.0**power, "loss": 10.0 ** max(power, 0)}
                for power in range(-5, 2)
            ],
            "directions": [
                {"step": 0, "loss": 1.0, "learning_rate": 0.003, "longest": 0.0237}
            ],
            "history": [
                {"step": 900 + number, "source": source, "loss": 1.5**number, "measured": True,
                 "learning_rate": 0.003, "loss_scale": 2.0**15, "gradient_norm": 1.2**number}
                for number in range(min(count, 60))
                for source in ("recorded", "rolled", "watched")
            ],
        },
        context={"recorded": {"first_bad": 901, "failing": 902}},
    )  # fmt: skip
