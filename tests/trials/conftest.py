"""The failing step of a model made on the spot, ready to be run again with one thing changed."""

import pytest

from divergence_doctor.batches import Batch
from divergence_doctor.trace import TraceBuilder


@pytest.fixture
def bench_of(keras):
    """Return a function that replays a model until it fails and gives the bench of that step."""
    from divergence_doctor.replay import Bench, Engine, Snapshot, match

    def bench(model, *, steps=6, **arrays):
        batch = Batch(arrays=arrays, source="made.npz", sha256="0" * 64)
        builder, snapshot = TraceBuilder(), Snapshot(model)
        engine = Engine(model, [match(batch, model)], builder)
        engine.replay(steps=steps, seed=0)
        trace = builder.build()
        assert trace.outcome == "diverged", trace.context["outcome_because"]
        return Bench(
            model, snapshot, [batch], seed=0, asked=steps, failing_step=trace.failing_step,
            stream=engine.last_stream, losses=list(trace.table("targets")["loss"]),
        )  # fmt: skip

    return bench
