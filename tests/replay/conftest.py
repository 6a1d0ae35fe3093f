"""Replays in the tests' own process, on models made on the spot."""

import numpy as np
import pytest

from divergence_doctor.batches import Batch


def batch_of(**arrays):
    """Return a batch over arrays; ``/`` in a name is written as ``__``."""
    named = {name.replace("__", "/"): np.asarray(array) for name, array in arrays.items()}
    return Batch(arrays=named, source="made.npz", sha256="0" * 64)


@pytest.fixture
def replayed(keras):
    """Return a function that replays a model on arrays and gives the trace."""
    from divergence_doctor.replay import Engine, match
    from divergence_doctor.trace import TraceBuilder

    def replay(model, *, steps=1, **arrays):
        builder = TraceBuilder()
        Engine(model, [match(batch_of(**arrays), model)], builder).replay(steps=steps, seed=0)
        return builder.build()

    return replay


@pytest.fixture
def primary():
    """Return a function that gives the primary event of a trace as a dict."""

    def first(trace):
        events = trace.table("events")
        found = list(events.where(events["primary"]).rows())
        assert len(found) == 1, f"{len(found)} primary events"
        return found[0]

    return first
