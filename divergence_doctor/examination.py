"""What happens on the TensorFlow side? Open, replay, prove, write the trace.

This is what the child process of ``doctor replay`` runs (``python -m divergence_doctor.examination
REQUEST.json PARENT``), and what a notebook runs in its own process. Everything it has to say goes
into the trace; the reading half takes it from there.
"""

from __future__ import annotations

import json
import os
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor import diagnosis
from divergence_doctor._clean import clean
from divergence_doctor.batches import describe, read_batches, write_batch
from divergence_doctor.errors import BatchError, DoctorError
from divergence_doctor.supervision import PlaceFile, end_with
from divergence_doctor.trace import Trace, TraceBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

    from divergence_doctor.batches import Batch
    from divergence_doctor.checkpoints import OpenOptions

#: Exit status of the child when an error on purpose lies in ``error.json``.
ERROR_STATUS: Final = 70

TRACE: Final = "trace.h5"
MINIMAL_BATCH: Final = "minimal_batch.npz"
JOURNAL: Final = "journal.jsonl"
PLACE: Final = "place.json"
ERROR: Final = "error.json"


@dataclass(frozen=True, slots=True)
class Request:
    """What is to be examined.

    Attributes:
        checkpoint: path of the checkpoint.
        batches: paths of the batches.
        custom_objects: modules or files to import before loading.
        model: ``MODULE_OR_FILE:FUNCTION`` for checkpoints that hold weights only.
        loss, optimizer, learning_rate: used instead of the checkpoint's, or None.
        trust: allow what can run code on loading.
        steps: steps to replay at most.
        trials: run the interventions.
        budget: seconds for them.
        seed: seed where the checkpoint holds no random state.
    """

    checkpoint: str
    batches: tuple[str, ...]
    custom_objects: tuple[str, ...] = ()
    model: str | None = None
    loss: str | None = None
    optimizer: str | None = None
    learning_rate: float | None = None
    trust: bool = False
    steps: int = 10
    trials: bool = True
    budget: float = 300.0
    seed: int = 0

    def to_json(self) -> str:
        """Return the request as JSON."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Return the request that :meth:`to_json` wrote."""
        fields = json.loads(text)
        for name in ("batches", "custom_objects"):
            fields[name] = tuple(fields[name])
        return cls(**fields)

    def options(self) -> OpenOptions:
        """Return what the checkpoint is to be opened with."""
        from divergence_doctor.checkpoints import OpenOptions

        return OpenOptions(
            custom_objects=self.custom_objects,
            model=self.model,
            loss=self.loss,
            optimizer=self.optimizer,
            learning_rate=self.learning_rate,
            trust=self.trust,
        )


def examine(
    request: Request,
    folder: Path,
    *,
    builder: TraceBuilder | None = None,
    progress: Callable[[int, str, str], None] = lambda _step, _phase, _detail: None,
) -> Trace:
    """Replay the step, have the suspects proven, and return the trace.

    Args:
        request: what is to be examined.
        folder: where ``trace.h5`` and, where there is one, ``minimal_batch.npz`` are written.
        builder: a builder with a journal; a fresh one by default.
        progress: told (step, phase, layer or trial) as it goes along.

    Raises:
        DoctorError: an input cannot be understood, or is refused.
    """
    builder = builder if builder is not None else TraceBuilder()
    timings: dict[str, float] = {}
    with _timed(timings, "import"):
        progress(-1, "importing TensorFlow", "")
        _quieten()
        import tensorflow  # noqa: F401, ICN001 - its import is what is timed here

        from divergence_doctor.checkpoints import open_checkpoint
        from divergence_doctor.replay import Engine, Snapshot, check_supported, match
    with _timed(timings, "open"):
        progress(-1, "opening the checkpoint", "")
        opened = open_checkpoint(Path(request.checkpoint), request.options())
        check_supported(opened.model)
        progress(-1, "reading the batch", "")
        batches = read_batches([Path(path) for path in request.batches])
        fed = [_matched(match, batch, opened.model) for batch in batches]
        for index, (batch, one) in enumerate(zip(batches, fed, strict=True)):
            describe(batch, index, builder, roles=one.roles)
    builder.describe(**_facts(request, opened, batches, fed[0]))
    snapshot = Snapshot(opened.model)
    with _timed(timings, "replay"):
        engine = Engine(opened.model, fed, builder, progress)
        engine.replay(steps=request.steps, seed=request.seed)
    bench = _bench(request, engine, snapshot, batches, builder)
    if bench is not None:
        with _timed(timings, "chain"):
            progress(-1, "chain of origin", "")
            _chain(bench, engine, builder)
    if bench is not None and request.trials:
        with _timed(timings, "trials"):
            _prove(request, bench, builder, folder, progress)
    builder.describe(run={**builder.context["run"], "timings": timings})
    progress(-1, "writing the trace", "")
    trace = builder.build()
    trace.save(folder / TRACE)
    return trace


def _bench(
    request: Request, engine: Any, snapshot: Any, batches: tuple[Batch, ...], builder: TraceBuilder
) -> Any:
    """Return the failing step, ready for experiments; None where nothing failed."""
    from divergence_doctor.replay import Bench

    trace = builder.build()
    if trace.outcome != "diverged":
        return None
    return Bench(
        engine.model,
        snapshot,
        batches,
        seed=request.seed,
        asked=request.steps,
        failing_step=trace.failing_step or 0,
        stream=engine.last_stream,
        losses=[str(name) for name in trace.table("targets")["loss"]],
        ran=len(trace.table("steps")),
    )


def _chain(bench: Any, engine: Any, builder: TraceBuilder) -> None:
    from divergence_doctor.replay.chain import measure

    primary = next((event for event in engine.last_stream.events if event.primary), None)
    if primary is not None:
        measure(bench, primary, builder.rows("steps")[-1]["step"], builder)


def _matched(match: Callable[[Batch, Any], Any], batch: Batch, model: Any) -> Any:
    """Match one batch to the model; an error names the file, for there may be several."""
    try:
        return match(batch, model)
    except BatchError as error:
        raise BatchError(
            error.slug,
            f"{clean(Path(batch.source).name)}: {error.message}",
            why=error.why,
            fix=error.fix,
        ) from error


def _prove(
    request: Request,
    bench: Any,
    builder: TraceBuilder,
    folder: Path,
    progress: Callable[[int, str, str], None],
) -> None:
    """Run the trials that the suspects call for, and find the smallest batch that still fails."""
    from divergence_doctor.trials import prove

    prove(
        diagnosis.plan(builder.build()),
        bench,
        builder,
        budget=request.budget,
        progress=lambda name: progress(-1, "trial", name),
    )
    verdict = diagnosis.diagnose(builder.build())
    samples = list(verdict.main.finding.samples) if verdict.main is not None else []
    if samples and len(bench.batches) == 1:
        progress(-1, "minimal batch", "")
        _minimal(bench, bench.batches[0], samples, builder, folder)


def _minimal(
    bench: Any, batch: Batch, samples: list[int], builder: TraceBuilder, folder: Path
) -> None:
    from divergence_doctor.trials.drop_samples import only

    candidates = [samples[:1], samples] if len(samples) > 1 else [samples]
    for candidate in candidates:
        try:
            rerun = bench.run(batches=(only(batch, candidate),))
        except DoctorError:
            # Rows that belong together, the nodes of one graph, do not run alone.
            continue
        if not rerun.finite:
            write_batch(folder / MINIMAL_BATCH, batch, candidate)
            builder.describe(
                minimal_batch={"samples": candidate, "verified": True, "detail": rerun.why}
            )
            return


def _facts(request: Request, opened: Any, batches: tuple[Batch, ...], fed: Any) -> dict[str, Any]:
    """Return what the reports say of the run: versions, device, fidelity, how to reproduce."""
    import keras
    import tensorflow as tf

    devices = [device.name for device in tf.config.list_logical_devices()]
    fidelity = dict(opened.fidelity)
    fidelity.setdefault("notes", [])
    fidelity["execution"] = {
        "reference": "eager, functions run eagerly",
        "as_trained": _as_trained(opened.model),
    }
    arrays: dict[str, list[str]] = {"x": [], "y": [], "sample_weight": []}
    for name, role in fed.roles.items():
        arrays[role].append(name)
    return {
        "fidelity": fidelity,
        "checkpoint": {"path": Path(request.checkpoint).name, **opened.source},
        "batch": {
            "paths": [Path(batch.source).name for batch in batches],
            "sha256": [batch.sha256 for batch in batches],
        },
        "run": {
            "versions": {
                "python": ".".join(str(part) for part in sys.version_info[:3]),
                "tensorflow": tf.__version__,
                "keras": keras.__version__,
                "numpy": __import__("numpy").__version__,
                "divergence_doctor": __import__("divergence_doctor").__version__,
            },
            "device": ", ".join(devices),
            "dtype_policy": str(opened.model.dtype_policy.name),
            "platform": f"{os.uname().sysname} {os.uname().machine}",
            "seed": request.seed,
            "steps_asked": request.steps,
        },
        "reproduce": {
            "checkpoint": request.checkpoint,
            "format": opened.source.get("format", ""),
            "batch": request.batches[0],
            "custom_objects": list(request.custom_objects),
            "model": request.model,
            "loss": request.loss,
            "optimizer": request.optimizer,
            "learning_rate": request.learning_rate,
            "trust": request.trust,
            "seed": request.seed,
            "steps": request.steps,
            "arrays": arrays,
            "input_structure": fed.structure,
            "names": list(fed.names),
            "sparse": list(fed.sparse),
        },
    }


def _as_trained(model: Any) -> str:
    if getattr(model, "run_eagerly", False):
        return "eager"
    return "graph with XLA (jit_compile)" if getattr(model, "jit_compile", False) else "graph"


def _quieten() -> None:
    os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")
    os.environ.setdefault("KERAS_BACKEND", "tensorflow")


class _timed:  # noqa: N801 - used like a function, in `with`
    def __init__(self, timings: dict[str, float], name: str) -> None:
        self._timings, self._name = timings, name

    def __enter__(self) -> None:
        self._start = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self._timings[self._name] = round(time.perf_counter() - self._start, 3)


def main(arguments: list[str]) -> int:
    """Run one request from a file, as the child of ``doctor replay``.

    Args:
        arguments: path of the request, and the id of the process that waits for the answer.
    """
    end_with(int(arguments[1]))
    path = Path(arguments[0])
    folder = path.parent
    request = Request.from_json(path.read_text(encoding="utf-8"))
    place = PlaceFile(folder / PLACE)
    try:
        with (folder / JOURNAL).open("w", encoding="utf-8") as journal:
            examine(request, folder, builder=TraceBuilder(journal), progress=place.write)
    except DoctorError as error:
        fields = {
            "type": type(error).__name__,
            "slug": error.slug,
            "message": error.message,
            "why": error.why,
            "fix": error.fix,
        }
        (folder / ERROR).write_text(json.dumps(fields), encoding="utf-8")
        return ERROR_STATUS
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
