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
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor import diagnosis
from divergence_doctor._clean import clean
from divergence_doctor.batches import describe, read_batches, write_batch
from divergence_doctor.errors import BatchError, DoctorError
from divergence_doctor.supervision import PlaceFile, end_with, leave
from divergence_doctor.trace import Trace, TraceBuilder

if TYPE_CHECKING:
    from collections.abc import Callable

    from divergence_doctor.batches import Batch
    from divergence_doctor.checkpoints import OpenOptions

#: Exit status of the child when an error on purpose lies in ``error.json``.
ERROR_STATUS: Final = 70

#: Causes that sit in the checkpoint, so that an older one may do.
_BROKEN: Final = frozenset({"corrupt-weights", "corrupt-optimizer-state"})
#: A weight that is out of all scale was so once it was within this factor of what it is now.
_OUT_OF_SCALE: Final = 1e3

TRACE: Final = "trace.h5"
MINIMAL_BATCH: Final = "minimal_batch.npz"
#: The model from before the failing step of a crash bundle, or its weights alone.
BEFORE: Final = ("before.keras", "before.weights.h5")
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
        jit: compile the step by XLA or do not; None as recorded in the checkpoint.
        as_trained: run the step as it was trained too; None where that is quick enough.
        seed: seed where the checkpoint holds no random state.
        step: number of the checkpoint to take out of a folder of them; None for the latest.
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
    step: int | None = None
    jit: bool | None = None
    as_trained: bool | None = None

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
            step=self.step,
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

        from divergence_doctor.replay import Engine, Snapshot
        from divergence_doctor.replay.seeds import reseed
    with _timed(timings, "open"):
        opened = _open(request, progress)
    request, crash = _rolled(request, opened, builder, progress, timings)
    batches, fed = _read(request, opened, crash, builder, progress)
    builder.describe(**_facts(request, opened, batches, fed[0], crash))
    reseed(opened.unseeded, request.seed)
    snapshot = Snapshot(opened.model, None if crash is None else crash.start)
    with _timed(timings, "replay"):
        engine = Engine(opened.model, fed, builder, progress)
        engine.replay(steps=request.steps, seed=request.seed, start=snapshot)
    with _timed(timings, "as trained"):
        progress(-1, "the step as it was trained", "")
        request = _compared(request, crash, builder)
        function = _as_trained(request, engine, snapshot, builder, progress)
    _tell_sequence(len(batches), crash, builder)
    bench = _bench(request, engine, snapshot, batches, builder, function)
    if bench is not None:
        _explain(request, engine, snapshot, opened, bench, builder, folder, progress, timings)
    _excerpts(bench, batches, builder)
    with _timed(timings, "seeds"):
        progress(-1, "other seeds", "")
        _other_seeds(request, engine, snapshot, opened, batches, bench, builder, timings)
    _keep_start(opened, crash, snapshot, builder, folder)
    builder.describe(run={**builder.context["run"], "timings": timings})
    progress(-1, "writing the trace", "")
    return _saved(builder, folder)


def _saved(builder: TraceBuilder, folder: Path) -> Trace:
    trace = builder.build()
    trace.save(folder / TRACE)
    return trace


def _explain(  # noqa: PLR0913, PLR0917 - what the examination knows by then
    request: Request,
    engine: Any,
    snapshot: Any,
    opened: Any,
    bench: Any,
    builder: TraceBuilder,
    folder: Path,
    progress: Callable[[int, str, str], None],
    timings: dict[str, float],
) -> None:
    """Find out why the failing step fails: by its chain, by trials, by the samples."""
    with _timed(timings, "chain"):
        progress(-1, "chain of origin", "")
        _chain(bench, engine, builder)
    with _timed(timings, "along update"):
        _along_update(request, bench, builder, progress)
    control = None
    if request.trials:
        with _timed(timings, "trials"):
            control = _prove(request, bench, builder, progress)
    if bench.function is None and _unexplained(builder):
        with _timed(timings, "as trained"):
            bench.function = _as_trained(request, engine, snapshot, builder, progress, worth=True)
        if request.trials:
            _prove(request, bench, builder, progress, control=control)
    with _timed(timings, "earlier checkpoints"):
        _earlier(opened, builder, progress)
    if request.trials:
        with _timed(timings, "samples"):
            left = max(request.budget - timings["trials"], 0.0)
            _blame(bench, builder, folder, seconds=left, progress=progress)


def _rolled(
    request: Request,
    opened: Any,
    builder: TraceBuilder,
    progress: Callable[[int, str, str], None],
    timings: dict[str, float],
) -> tuple[Request, Any]:
    """Roll forward to the step to be watched, where the checkpoint holds what led there."""
    crash = _crash(request, opened, progress)
    if crash is None:
        return request, None
    with _timed(timings, "rolling forward"):
        crash.roll(builder)
    return replace(request, steps=crash.steps), crash


def _other_seeds(
    request: Request,
    engine: Any,
    snapshot: Any,
    opened: Any,
    batches: tuple[Batch, ...],
    bench: Any,
    builder: TraceBuilder,
    timings: dict[str, float],
) -> None:
    """Where the verdict hangs on random numbers, see whether it holds for others."""
    from divergence_doctor.replay.seeds import FURTHER, OtherSeeds, draws

    seeds = OtherSeeds(
        opened.model,
        batches,
        engine.batches,
        snapshot,
        opened.unseeded,
        seed=request.seed,
        steps=bench.enough if bench is not None else len(builder.rows("steps")),
    )
    left = request.budget - timings.get("trials", 0.0) - FURTHER * timings["replay"]
    why_not = "" if request.trials else "--no-trials"
    if left < 0:
        why_not = why_not or "the time for trials (--budget) was used up"
    # Numbers drawn otherwise would have shown in the losses of the recorded steps.
    losses = (builder.context.get("recorded") or {}).get("losses") or {"compared": 0, "equal": 0}
    known = losses["compared"] == losses["equal"] > 0
    seeds.settle(draws(engine.last_stream), builder, why_not=why_not, known=known)


def _open(request: Request, progress: Callable[[int, str, str], None]) -> Any:
    """Open the checkpoint."""
    from divergence_doctor.checkpoints import choose, open_checkpoint
    from divergence_doctor.replay import check_supported

    progress(-1, "opening the checkpoint", "")
    path = Path(request.checkpoint)
    if not request.batches:
        choose(path, request.options()).without_batch(path)
    opened = open_checkpoint(path, request.options())
    check_supported(opened.model)
    _set_jit(opened, jit=request.jit)
    return opened


def _crash(request: Request, opened: Any, progress: Callable[[int, str, str], None]) -> Any:
    """Return the recorded steps that lead to the failure, where the checkpoint's own are asked for.

    With a batch given a crash bundle is a checkpoint like any other.
    """
    from divergence_doctor.replay.crash import Crash

    if opened.recording is None or request.batches:
        return None
    return Crash(opened.model, opened.recording, progress)


def _compared(request: Request, crash: Any, builder: TraceBuilder) -> Request:
    """Have the step run as it was trained, where the recorded steps fail so and only so."""
    sound = builder.context.get("outcome") != "diverged"
    if crash is None or not (sound and crash.fails_as_trained) or request.as_trained is not None:
        return request
    return replace(request, as_trained=True)


def _keep_start(
    opened: Any, crash: Any, snapshot: Any, builder: TraceBuilder, folder: Path
) -> None:
    """Write the model from before the failing step of a crash bundle, to be run without us."""
    failing = builder.context.get("failing_step")
    if opened.recording is None or builder.context.get("outcome") != "diverged" or failing is None:
        return
    if crash is not None:
        kept = crash.save(folder, int(failing))
    else:
        from divergence_doctor.replay.crash import write_model

        snapshot.restore()
        kept = write_model(opened.model, folder)
    builder.describe(reproduce={**builder.context["reproduce"], **kept})


def _read(
    request: Request,
    opened: Any,
    crash: Any,
    builder: TraceBuilder,
    progress: Callable[[int, str, str], None],
) -> tuple[tuple[Batch, ...], list[Any]]:
    """Read the batches, and return them with the same as the model wants them."""
    from divergence_doctor.replay import match

    progress(-1, "reading the batch", "")
    batches = (
        read_batches([Path(path) for path in request.batches]) if crash is None else crash.batches
    )
    fed = [_matched(match, batch, opened.model) for batch in batches]
    for index, (batch, one) in enumerate(zip(batches, fed, strict=True)):
        describe(batch, index, builder, roles=one.roles)
    return batches, fed


def _tell_sequence(given: int, crash: Any, builder: TraceBuilder) -> None:
    """Say where a sequence of batches was longer than the steps, or was gone through again.

    Of a crash bundle: how the recorded steps came again.
    """
    if crash is not None:
        crash.settle(builder)
        return
    ran = len(builder.rows("steps"))
    if given < 2 or given == ran or (ran < given and builder.context["outcome"] == "diverged"):
        return
    fidelity = builder.context["fidelity"]
    told = (
        f"Of the {given} batches the first {ran} were replayed, one a step; --steps {given} replays"
        " them all."
        if ran < given
        else f"The {given} batches were replayed one a step and over again, for {ran} steps."
    )
    builder.describe(fidelity={**fidelity, "notes": [*fidelity["notes"], told]})


def _bench(
    request: Request,
    engine: Any,
    snapshot: Any,
    batches: tuple[Batch, ...],
    builder: TraceBuilder,
    function: Any,
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
        function=function,
        watched=[(row["loss"], not _sound(row)) for row in builder.rows("steps")],
        execution="as-trained"
        if builder.context.get("failing_execution") == "as-trained"
        else "reference",
    )


def _sound(row: dict[str, Any]) -> bool:
    """Say whether nothing of a recorded step went bad, what loss scaling skipped on purpose aside.

    A step that was skipped leaves its gradients unused.
    """
    gradients = row["gradients_finite"] or row["skipped"]
    return bool(row["loss_finite"] and row["state_finite"] and gradients and not row["raised"])


def _set_jit(opened: Any, *, jit: bool | None) -> None:
    """Have the step compiled by XLA, or not, as the user says instead of the checkpoint."""
    import warnings

    if jit is None:
        return
    model, notes = opened.model, opened.fidelity.setdefault("notes", [])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that the model does not support it is told below
        model.run_eagerly = False
        model.jit_compile = jit
    if model.jit_compile == jit:
        notes.append(f"jit_compile is {jit}, as --{'jit' if jit else 'no-jit'} says")
    else:
        notes.append("jit_compile stays False: a layer of the model does not support XLA")


def _as_trained(
    request: Request,
    engine: Any,
    snapshot: Any,
    builder: TraceBuilder,
    progress: Callable[[int, str, str], None],
    *,
    worth: bool = False,
) -> Any:
    """Run the step as it was trained, where that is worth it; return it for trials, or None."""
    from divergence_doctor.replay.as_trained import WORTH, run_as_trained
    from divergence_doctor.replay.execution import Comparison

    comparison = Comparison(
        engine.model,
        snapshot,
        engine.batches,
        builder,
        seed=request.seed,
        ops=frozenset(op.op_type for op in engine.last_stream.ops),
    )
    return run_as_trained(
        comparison,
        builder,
        asked=request.as_trained,
        affordable=WORTH if worth or request.jit is not None else None,
        progress=lambda detail: progress(-1, "the step as it was trained", detail),
    )


def _chain(bench: Any, engine: Any, builder: TraceBuilder) -> None:
    """Walk back from the failure; in half precision, see what float32 makes of the same step."""
    from divergence_doctor.replay import chain, counterpart

    primary = next((event for event in engine.last_stream.events if event.primary), None)
    if primary is not None:
        step = builder.rows("steps")[-1]["step"]
        walked = chain.measure(bench, primary, step, builder)
        if walked is not None:
            counterpart.measure(bench, primary, step, walked, builder)


def _earlier(opened: Any, builder: TraceBuilder, progress: Callable[[int, str, str], None]) -> None:
    """Where the checkpoint itself is broken, look for the last sound one beside it."""
    from divergence_doctor.checkpoints import Fault, last_good

    trace = builder.build()
    main = diagnosis.diagnose(trace).main
    if main is None or main.finding.cause not in _BROKEN:
        return
    defects = trace.table("defects")
    largest = float("inf")
    if not len(defects):
        held = trace.table("weights").select(
            step=0, when="before", variable=main.finding.site.variable
        )
        largest = max((float(size) for size in held["absmax"]), default=0.0) / _OUT_OF_SCALE
        if largest < _OUT_OF_SCALE:
            return
    progress(-1, "earlier checkpoints", "")
    negative = [
        (tuple(int(side) for side in row["shape"].split("x") if side), row["count"])
        for row in defects.select(kind="negative").rows()
    ]
    found = last_good(Path(str(opened.source["file"])), Fault(tuple(negative), largest))
    if found is not None:
        builder.describe(last_good=found)


def _along_update(
    request: Request,
    bench: Any,
    builder: TraceBuilder,
    progress: Callable[[int, str, str], None],
) -> None:
    """Measure the loss along the update, where a rule asks for it and trials are on."""
    from divergence_doctor.replay.along_update import measure

    if request.trials and request.budget > 0 and "directions" in diagnosis.asked(builder.build()):
        progress(-1, "loss along the update", "")
        measure(bench, builder)


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


def _unexplained(builder: TraceBuilder) -> bool:
    """Say whether nothing explains the failure so far."""
    main = diagnosis.diagnose(builder.build()).main
    return main is not None and main.finding.cause == diagnosis.UNEXPLAINED


def _prove(
    request: Request,
    bench: Any,
    builder: TraceBuilder,
    progress: Callable[[int, str, str], None],
    *,
    control: Any = None,
) -> Any:
    """Run the trials that the suspects call for and that have not run; return the control's."""
    from divergence_doctor.trials import all_trials, prove

    runs = {name: trial.runs for name, trial in all_trials().items()}
    ran = {(row["cause"], row["name"], row["parameters"]) for row in builder.rows("trials")}
    return prove(
        [
            (cause, proof)
            for cause, proof in diagnosis.plan(builder.build(), runs=runs)
            if (cause, proof.trial, json.dumps(dict(proof.parameters), sort_keys=True)) not in ran
        ],
        bench,
        builder,
        budget=request.budget,
        progress=lambda name: progress(-1, "trial", name),
        control=control,
    )


def _blame(
    bench: Any,
    builder: TraceBuilder,
    folder: Path,
    *,
    seconds: float,
    progress: Callable[[int, str, str], None],
) -> None:
    """Find the rows to blame, and write the smallest batch that was seen to fail."""
    from divergence_doctor.replay.blame import blame

    progress(-1, "samples to blame", "")
    main = diagnosis.diagnose(builder.build()).main
    found = blame(bench, builder, main.finding.samples if main else (), seconds=seconds)
    if found is None or not found.minimal:
        return
    copy = found.copy if found.copy >= 0 else None
    part = bench.subsets.part(found.minimal, copy=copy)
    if copy is None and part.samples == bench.subsets.batch.samples:
        return
    write_batch(folder / MINIMAL_BATCH, part, range(part.samples))
    builder.describe(
        minimal_batch={
            "samples": list(found.minimal),
            "verified": True,
            "batch": found.batch,
            "copy": found.copy,
            "replays": found.replays,
            "detail": next(
                (
                    run.detail
                    for run in found.tried
                    if run.outcome == "same-failure" and run.kept == found.minimal
                ),
                "",
            ),
        }
    )


def _excerpts(bench: Any, batches: tuple[Batch, ...], builder: TraceBuilder) -> None:
    """Keep, where a step failed, what the samples to blame look like."""
    from divergence_doctor.replay.excerpts import keep

    if bench is None:
        return
    samples = [int(row["sample"]) for row in builder.rows("culprits")]
    if not samples:
        main = diagnosis.diagnose(builder.build()).main
        samples = list(main.finding.samples) if main else []
    keep(batches, list(dict.fromkeys(samples)), builder)


def _facts(
    request: Request, opened: Any, batches: tuple[Batch, ...], fed: Any, crash: Any
) -> dict[str, Any]:
    """Return what the reports say of the run: versions, device, fidelity, how to reproduce."""
    import keras
    import tensorflow as tf

    devices = [device.name for device in tf.config.list_logical_devices()]
    fidelity = dict(opened.fidelity)
    fidelity.setdefault("notes", [])
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
            "step": None if crash is None else crash.recording.failing,
            "steps_asked": request.steps,
        },
        "reproduce": {
            # Of a folder of checkpoints: the one that was opened.
            # No script loads a crash bundle; the model out of it is written at the end.
            "checkpoint": ""
            if opened.recording is not None
            else str(opened.source.get("file") or request.checkpoint),
            "objects": opened.source.get("objects"),
            "format": opened.source.get("format", ""),
            "batch": batches[0].source,
            "bundle": "" if opened.recording is None else request.checkpoint,
            "batches": [batch.source for batch in batches],
            "custom_objects": list(request.custom_objects),
            "model": request.model,
            "loss": request.loss,
            "optimizer": request.optimizer,
            "learning_rate": request.learning_rate,
            "trust": request.trust,
            "jit": request.jit,
            "seed": request.seed,
            "reseed": bool(opened.unseeded),
            "steps": request.steps,
            "arrays": arrays,
            "input_structure": fed.structure,
            "names": list(fed.names),
            "sparse": list(fed.sparse),
        },
    }


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
    leave(main(sys.argv[1:]))
