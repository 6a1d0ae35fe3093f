"""Watched or plain, a step is the same to the bit, for every kind of model; nothing goes unseen."""

import numpy as np
import pytest

from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.bounds import Bounds
from divergence_doctor.replay.opstream import OpStream
from tests.replay.kinds._comparison import plain, watched
from tests.replay.kinds._kind import all_kinds


@pytest.fixture
def proven(monkeypatch):
    """Look at every result that the watch takes as finite unseen; count them."""
    count = 0
    prove, on_op = Bounds.prove, OpStream.on_op
    limits: dict[int, float] = {}

    def noted(bounds, kind, ins, inputs, out, dtype):
        sure = prove(bounds, kind, ins, inputs, out, dtype)
        if sure:
            limits[out] = bounds._tensors[out]
        return sure

    def looked_at(stream, op_type, inputs, attrs, outputs, *rest, **named):
        nonlocal count
        on_op(stream, op_type, inputs, attrs, outputs, *rest, **named)
        for tensor in outputs:
            limit = limits.pop(seams.identity(tensor), None)
            if limit is not None and seams.elements(tensor):
                count += 1
                largest = float(np.abs(tensor.numpy().astype("float64")).max())
                assert largest <= limit * 1.00001, (op_type, largest, limit)

    monkeypatch.setattr(Bounds, "prove", noted)
    monkeypatch.setattr(OpStream, "on_op", looked_at)
    return lambda: count


@pytest.mark.parametrize("made", all_kinds(), ids=lambda made: made.name)
def test_a_watched_step_equals_a_plain_one_to_the_bit_and_leaves_nothing_out(keras, made, proven):
    model = made.build(keras)
    alone = plain(model, made.arrays, made.steps)
    seen = watched(model, made.arrays, made.steps)
    assert seen.targets == alone.targets
    assert alone.targets
    assert [path for path, _ in seen.gradients] == [path for path, _ in alone.gradients]
    assert seen.gradients == alone.gradients
    assert [name for name in alone.state if seen.state.get(name) != alone.state[name]] == []
    if alone.losses:
        assert seen.trace.table("steps")["loss"].tolist()[: made.steps] == alone.losses
    rows = seen.trace.table("activations")
    assert alone.layers <= set(rows["layer"].tolist())
    trainable = {variable.path for variable in model.trainable_variables}
    gradients = seen.trace.table("gradients")
    recorded = set(gradients["variable"].tolist()) - {""}
    assert recorded == (alone.variables & trainable)
    assert recorded
    # What reached a layer's weights came back through its output.
    came_back = set(gradients.select(variable="")["layer"].tolist())
    reached = set(gradients.where(gradients["variable"] != "")["layer"].tolist())
    assert reached <= came_back
    assert proven() > 0
