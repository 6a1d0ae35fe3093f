"""How is a crash bundle opened? Its model from the config, every variable put back where it was."""

from __future__ import annotations

import hashlib
import re
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.bundle import open_bundle
from divergence_doctor.checkpoints import _restoring
from divergence_doctor.checkpoints._checkpoint import Checkpoint, Opened, OpenOptions
from divergence_doctor.checkpoints._compile import (
    build_optimizer,
    compile_arguments,
    has_loss_scaling,
    optimizers,
    settle,
)
from divergence_doctor.checkpoints._config import Reference, check_config, check_sizes, references
from divergence_doctor.checkpoints._custom import collect, unknown_objects
from divergence_doctor.checkpoints._elsewhere import differences
from divergence_doctor.checkpoints._factory import made_by
from divergence_doctor.checkpoints._fidelity import Fidelity, listed
from divergence_doctor.checkpoints._first_call import call_once, step_once
from divergence_doctor.checkpoints._loading import heed, loading, policy, sha256
from divergence_doctor.checkpoints._recording import RecordedStep, Recording, columns
from divergence_doctor.checkpoints._seams import shared_objects
from divergence_doctor.errors import CheckpointError, UsageError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from divergence_doctor.bundle import Bundle

MANIFEST: Final = "manifest.json"
REASON: Final = "reason.json"
_PARTIAL: Final = ".partial"
#: Flags that may be set as a stranger's bundle says: others name files and libraries to load.
_FLAGS: Final = (
    "TF_ENABLE_ONEDNN_OPTS",
    "TF_DETERMINISTIC_OPS",
    "TF_CUDNN_DETERMINISTIC",
    "TF_NUM_INTRAOP_THREADS",
    "TF_NUM_INTEROP_THREADS",
    "OMP_NUM_THREADS",
)
#: Roles of an optimizer's variables.
_OPTIMIZER: Final = ("optimizer", "loss-scale")
#: Last part of the path of an optimizer's first variable.
_COUNTER: Final = "iteration"
#: Parts of a compile config that can be done without, always or where another is given.
_METRICS: Final = ("metrics", "weighted_metrics")
_LOSS: Final = ("loss", "loss_weights")


@final
class CrashBundle(Checkpoint):
    """What the flight recorder leaves: model, state, random state, and what it was fed with."""

    name: ClassVar[str] = "crash bundle"
    order: ClassVar[int] = 5

    @classmethod
    def can_open(cls, path: Path) -> bool:
        """Say whether the path is a bundle, or one that was interrupted."""
        return path.is_dir() and (
            any((path / name).is_file() for name in (MANIFEST, REASON))
            or path.name.endswith(_PARTIAL)
        )

    @classmethod
    def without_batch(cls, path: Path) -> None:
        """Say nothing where the bundle holds batches; see the base class."""
        bundle = open_bundle(path)
        if _batches(bundle):
            return
        private = bundle.manifest.get("data") is False
        raise UsageError(
            "no-batch",
            f"{clean(path.name)} holds no batch",
            why="it was recorded with data=False: the batches stay with their owner"
            if private
            else _why_dropped(bundle) or "none was recorded",
            fix=f"name the batch of training step {_failing(bundle)} after it:"
            f" doctor replay {clean(str(path))} batch.npz",
        )

    @classmethod
    def environment(cls, path: Path) -> dict[str, str]:
        """Return the recorded flags that are plain numbers; see the base class."""
        recorded = _part(open_bundle(path), "environment")
        return {
            name: str(recorded[name])
            for name in _FLAGS
            if re.fullmatch(r"\d{1,4}", str(recorded.get(name, "")))
        }

    @classmethod
    def preflight(cls, path: Path, options: OpenOptions) -> None:
        """Check the manifest, the sizes and the config; see the base class."""
        _checked(path, options)

    @classmethod
    def open(cls, path: Path, options: OpenOptions) -> Opened:
        """Open the bundle; see the base class."""
        bundle = _checked(path, options)
        fidelity = Fidelity()
        with ExitStack() as stack:
            stack.enter_context(_policy_kept())
            if options.model is None:
                model = _rebuilt(path, bundle, options, fidelity, stack)
            else:
                scaled = any(variable.role == "loss-scale" for variable in bundle.variables)
                model = stack.enter_context(
                    made_by(options.model, scaled=scaled, fidelity=fidelity)
                )
                fidelity.note(f"The model comes from --model {clean(options.model)}.")
            settle(path, model, replace(options, learning_rate=None), fidelity)
            _execute_as_recorded(model, bundle, fidelity)
            if _makes_slots_late(model):
                _step_once(model, bundle)
            _fill(model, bundle, fidelity)
            if options.learning_rate is not None:
                settle(path, model, replace(options, loss=None, optimizer=None), fidelity)
            _tell(bundle, options, fidelity)
        told = fidelity.report(model)
        return Opened(
            model=model,
            fidelity=told,
            source={
                "file": str(path),
                "format": cls.name,
                "sha256": sha256(path / MANIFEST),
                "keras_version": clean(str(_part(bundle, "versions").get("keras", ""))),
                "dtype_policy": model.dtype_policy.name,
            },
            unseeded=tuple(fidelity.unseeded(model)),
            recording=_recording(path, bundle, _global_seed(model, bundle)),
        )


# ---------------------------------------------------------------------- before TensorFlow


def _checked(path: Path, options: OpenOptions) -> Bundle:
    bundle = open_bundle(path)
    if options.model is None:
        if not isinstance(bundle.model, dict):
            raise _no_model(path, bundle)
        whole = _config(bundle)
        check_config(path, whole, trust=options.trust)
        check_sizes(path, whole, sum(variable.nbytes for variable in bundle.variables))
    if not any(variable.role == "weight" for variable in bundle.variables):
        raise CheckpointError(
            "no-weights",
            f"{clean(path.name)} holds no weights",
            why=_why_dropped(bundle)
            or "they were left out when it was written (manifest.json says why)",
            fix="replay an earlier bundle; reason.json and the batch in this one are whole",
        )
    return bundle


def _no_model(path: Path, bundle: Bundle) -> CheckpointError:
    why = _part(bundle, "model").get("why")
    main = _part(bundle, "user_code").get("main")
    script = clean(Path(str(main)).name, 80) if main else "SCRIPT.py"
    return CheckpointError(
        "model-needed",
        f"{clean(path.name)} holds the weights, but not what the model is made of",
        why=clean(str(why), 200) if why else "the model's config could not be written",
        fix="give a function that returns the compiled model, as the training script builds it:"
        f" --model {script}:FUNCTION",
    )


def _config(bundle: Bundle) -> dict[str, Any]:
    """Return what Keras would find in the ``config.json`` of an archive."""
    held = bundle.model if isinstance(bundle.model, dict) else {}
    config = held.get("config")
    whole = dict(config) if isinstance(config, dict) else {}
    if isinstance(held.get("compile"), dict):
        whole["compile_config"] = held["compile"]
    return whole


def _part(bundle: Bundle, name: str) -> dict[str, Any]:
    value = bundle.manifest.get(name)
    return value if isinstance(value, dict) else {}


def _why_dropped(bundle: Bundle) -> str:
    dropped = bundle.manifest.get("dropped")
    return clean("; ".join(map(_words, dropped)), 200) if isinstance(dropped, list) else ""


def _words(dropped: Any) -> str:
    if isinstance(dropped, dict):
        return ": ".join(str(value) for value in dropped.values())
    return str(dropped)


# ---------------------------------------------------------------------- the model


@contextmanager
def _policy_kept() -> Iterator[None]:
    """Put the global dtype policy back, which the user's own script may set when it is imported."""
    import keras

    before = keras.config.dtype_policy()
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def _rebuilt(
    path: Path, bundle: Bundle, options: OpenOptions, fidelity: Fidelity, stack: ExitStack
) -> Any:
    """Return the model that the config describes, compiled, under the policy of the training."""
    import keras

    whole = _config(bundle)
    custom, unknown = collect(references(whole), options)
    blocking = [one for one in unknown if not _dispensable(one, options)]
    if blocking:
        raise _needs_code(path, bundle, blocking, options)
    stack.enter_context(policy(_policy(bundle)))
    compiled = whole.pop("compile_config", None) or {}
    gone = {str(one.path[1]) for one in unknown}
    if gone:
        names = ", ".join(clean(one.key, 60) for one in unknown)
        fidelity.note(f"Left out, because nothing defines it: {names}.")
    compiled = {part: value for part, value in compiled.items() if part not in gone}
    with loading(path) as said, shared_objects(), keras.saving.CustomObjectScope(custom):
        model = keras.saving.deserialize_keras_object(
            whole, custom_objects=custom, safe_mode=not options.trust
        )
        _build(model, bundle)
        if compiled and not ("loss" in gone and options.loss is None):
            model.compile_from_config(compiled)
        build_optimizer(model)
        _unscale(model, bundle, fidelity)
    heed(said, fidelity)
    return model


def _policy(bundle: Bundle) -> str | None:
    told = bundle.manifest.get("dtype_policy")
    return told if isinstance(told, str) else None


def _dispensable(reference: Reference, options: OpenOptions) -> bool:
    """Say whether the step can do without: metrics always, the loss when another one is given."""
    part = reference.path[1] if reference.path[:1] == ("compile_config",) else ""
    return part in _METRICS or (part in _LOSS and options.loss is not None)


def _needs_code(
    path: Path, bundle: Bundle, blocking: Sequence[Reference], options: OpenOptions
) -> CheckpointError:
    """Return the error that names what nothing defines, and the script that does."""
    error = unknown_objects(path, blocking, options)
    argument = _part(bundle, "user_code").get("argument")
    if not isinstance(argument, str) or options.custom_objects:
        return error
    return CheckpointError(
        error.slug,
        error.message,
        why=error.why,
        fix=f"{clean(argument, 300)}, the script that was running; it is imported up to where it"
        " would train",
    )


def _build(model: Any, bundle: Bundle) -> None:
    """Make the weights of a model that makes them when it is first called."""
    wanted = sum(variable.role == "weight" for variable in bundle.variables)
    if model.built and len(model.weights) >= wanted:
        return
    steps = _batches(bundle)
    if steps:
        call_once(model, steps[0].read())


def _unscale(model: Any, bundle: Bundle, fidelity: Fidelity) -> None:
    """Undo the loss scaling that Keras adds under mixed_float16, where the training had none."""
    scaled = any(variable.role == "loss-scale" for variable in bundle.variables)
    if not has_loss_scaling(model) or scaled or not _holds_optimizer(bundle):
        return
    arguments = compile_arguments(model)
    arguments["optimizer"] = model.optimizer.inner_optimizer
    model.compile(**arguments, auto_scale_loss=False)
    build_optimizer(model)
    fidelity.note("The model was trained in mixed_float16 without loss scaling.")


def _holds_optimizer(bundle: Bundle) -> bool:
    return any(variable.role in _OPTIMIZER for variable in bundle.variables)


def _execute_as_recorded(model: Any, bundle: Bundle, fidelity: Fidelity) -> None:
    """Have the step run eagerly, as a graph or compiled by XLA, as it did."""
    execution = _part(bundle, "execution")
    if isinstance(execution.get("run_eagerly"), bool):
        model.run_eagerly = execution["run_eagerly"]
    jit = execution.get("jit_resolved")
    if isinstance(jit, bool) and not model.run_eagerly:
        with loading(Path(str(bundle.path))):
            model.jit_compile = jit
        if model.jit_compile != jit:
            fidelity.note("jit_compile stays False: a layer of the model does not support XLA")
    replicas = execution.get("replicas")
    if isinstance(replicas, int) and replicas > 1:
        fidelity.note(
            f"It was trained on {replicas} replicas ({clean(str(execution.get('strategy')), 60)})"
            " and is replayed on one device: sums are taken in another order."
        )


# ---------------------------------------------------------------------- the state


def _seeds(model: Any) -> list[Any]:
    """Return what the model holds beside weights and metrics: the states of its generators."""
    apart = {id(variable) for variable in (*model.weights, *model.metrics_variables)}
    return [variable for variable in model.variables if id(variable) not in apart]


def _makes_slots_late(model: Any) -> bool:
    """Say whether optimizers of the model's own make their slots at their first step only."""
    held = optimizers(model)
    return len(held) > 1 and any(not one.built for one in held)


def _step_once(model: Any, bundle: Bundle) -> None:
    """Take a step, for what makes variables at its first one; what was there holds what it held."""
    steps = _batches(bundle)
    if not steps:
        return
    before = {id(v): (v, np.asarray(v.value).copy()) for v in _every(model)}
    step_once(model, steps[0].read())
    for variable in _every(model):
        _, value = before.get(id(variable), (None, None))
        variable.assign(np.zeros(variable.shape) if value is None else value)


def _every(model: Any) -> list[Any]:
    slots = (v for one in optimizers(model) for v in one.variables)
    found = _unique([*model.variables, *model.metrics_variables, *slots])
    return [variable for variable in found if str(variable.dtype) != "string"]


def _global_seed(model: Any, bundle: Bundle) -> list[int] | None:
    """Return the state behind unseeded ``keras.random`` calls, which follows those of the model."""
    stored = [one for one in bundle.variables if one.role == "seed"]
    if len(stored) != len(_seeds(model)) + 1 or stored[-1].shape != (2,):
        return None
    return [int(word) for word in stored[-1].load()]


def _fill(model: Any, bundle: Bundle, fidelity: Fidelity) -> None:
    """Put every variable back by what it is, its place, its shape and its dtype."""
    extra = _global_seed(model, bundle) is not None
    for role, variables, what in (
        ("weight", model.weights, "weight"),
        ("seed", _seeds(model), "random state"),
        ("other", _states(model), "state"),
    ):
        stored = [one for one in bundle.variables if one.role == role]
        if role == "seed" and extra:
            stored.pop()
        pairs = _restoring.put_back(stored, variables, root=model.name)
        _restoring.tell(pairs, what, fidelity)
        if role == "seed":
            fidelity.seeded |= {id(variable) for variable in pairs.filled}
    _fill_metrics(model, bundle)
    _fill_optimizers(model, bundle, fidelity)


def _fill_metrics(model: Any, bundle: Bundle) -> None:
    """Put the running means back; those that Keras makes at the first step change nothing in it."""
    held = {variable.path: variable for variable in model.metrics_variables}
    for one in bundle.variables:
        variable = held.get(one.path)
        if one.role == "metric" and variable is not None and _alike(one, variable):
            variable.assign(one.load())


def _alike(stored: Any, variable: Any) -> bool:
    return tuple(stored.shape) == tuple(variable.shape) and stored.dtype == str(variable.dtype)


def _fill_optimizers(model: Any, bundle: Bundle, fidelity: Fidelity) -> None:
    held = optimizers(model)
    if not held:
        return
    inner = _unique(getattr(one, "inner_optimizer", one) for one in held)
    inside = {id(variable) for one in inner for variable in one.variables}
    scale = [v for v in _unique(v for one in held for v in one.variables) if id(v) not in inside]
    if not _holds_optimizer(bundle):
        fidelity.optimizer_state = "missing"
        fidelity.note(
            "The optimizer starts fresh: the bundle holds none of its state"
            + (f" ({_why_dropped(bundle)})." if _why_dropped(bundle) else ".")
        )
        return
    pairs = _restoring.Pairs()
    scales = [one for one in bundle.variables if one.role == "loss-scale"]
    pairs.extend(_restoring.put_back(scales, scale, root=model.name))
    for stored, one in _by_optimizer(bundle, inner):
        found = _restoring.put_back(stored, one.variables, root=model.name)
        if len(held) > 1 and _never_stepped(found):
            # One that is compiled in and never used, beside those that take the steps.
            found.missing.clear()
        pairs.extend(found)
    fresh = [note for note in fidelity.notes if note.startswith("The optimizer is a fresh")]
    if _never_stepped(pairs):
        fidelity.optimizer_state = "restored"
        fidelity.note(
            "The optimizer had not taken a step when its state was copied: it starts as fresh as it"
            " was."
        )
        return
    if not pairs.missing:
        fidelity.optimizer_state = "restored"
        fidelity.notes[:] = [note for note in fidelity.notes if note not in fresh]
    elif fresh:
        # Another optimizer was asked for: the slots of the old one mean nothing to it.
        return
    else:
        fidelity.optimizer_state = "partial" if pairs.filled else "missing"
    _restoring.tell(pairs, "optimizer's", fidelity)


def _by_optimizer(bundle: Bundle, inner: list[Any]) -> list[tuple[list[Any], Any]]:
    """Return what is stored for each optimizer: it begins with the counter of its steps."""
    stored: list[list[Any]] = []
    for one in bundle.variables:
        if one.role == "optimizer":
            if not stored or one.path.rpartition("/")[2] == _COUNTER:
                stored.append([])
            stored[-1].append(one)
    if len(stored) == len(inner):
        return list(zip(stored, inner, strict=True))
    every = [one for part in stored for one in part]
    return [(every, one) for one in inner[:1]]


def _never_stepped(pairs: _restoring.Pairs) -> bool:
    """Say whether the training's optimizer had no slots yet, its step counter standing at 0."""
    counters = [v for v in pairs.filled if v.path.rpartition("/")[2] == _COUNTER]
    return bool(pairs.missing and counters) and not pairs.left and not any(map(int, counters))


def _states(model: Any) -> list[Any]:
    """Return variables that a layer keeps past Keras' own list: the states of a stateful RNN."""
    import keras

    layers = model._flatten_layers(include_self=True, recursive=True)  # noqa: SLF001 - Keras has no public walk through nested layers
    held = [
        state for layer in layers for state in keras.tree.flatten(getattr(layer, "states", None))
    ]
    return _unique(state for state in held if isinstance(state, keras.Variable))


def _unique(variables: Any) -> list[Any]:
    return list({id(variable): variable for variable in variables}.values())


# ---------------------------------------------------------------------- what is told


def _tell(bundle: Bundle, options: OpenOptions, fidelity: Fidelity) -> None:
    if bundle.manifest.get("salvaged"):
        fidelity.note("The bundle was salvaged from an interrupted one: it may lack parts.")
    for lack in _lacking(bundle):
        fidelity.note(f"{lack[0].upper()}{lack[1:]}.")
    dropped = _why_dropped(bundle)
    if dropped:
        fidelity.note(f"When the bundle was written, this was left out: {dropped}.")
    commit = bundle.manifest.get("git")
    if isinstance(commit, str) and commit:
        fidelity.note(f"The code was at git commit {clean(commit, 60)}.")
    code = _part(bundle, "user_code")
    for spec in options.custom_objects:
        file = Path(spec)
        same = file.is_file() and file.name == Path(str(code.get("main"))).name
        if same and code.get("sha256") not in (None, _digest(file)):
            fidelity.note(f"{clean(file.name)} is not what it was when the run died.")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _failing(bundle: Bundle) -> int:
    step = bundle.manifest.get("step")
    return step if isinstance(step, int) else -1


def _batches(bundle: Bundle) -> tuple[RecordedStep, ...]:
    """Return the batches up to the failing step, as far back as they are without a gap."""
    failing, start = _failing(bundle), bundle.manifest.get("snapshot_step")
    steps = sorted(
        (
            RecordedStep(int(step), Path(path), structure)
            for step, path, structure, before_snapshot in bundle.batches
            if not before_snapshot and step <= failing
        ),
        key=lambda one: one.step,
    )
    if isinstance(start, int):
        steps = [one for one in steps if one.step >= start]
    for number in range(len(steps) - 1, 0, -1):
        if steps[number].step != steps[number - 1].step + 1:
            return tuple(steps[number:])
    return tuple(steps)


def _lacking(bundle: Bundle) -> tuple[str, ...]:
    """Say which values the bundle names and does not hold, as a part of a sentence."""
    if not bundle.absent:
        return ()
    return (f"the bundle lacks what {listed(bundle.absent)} held",)


def _recording(path: Path, bundle: Bundle, seed: list[int] | None) -> Recording:
    manifest, execution = bundle.manifest, _part(bundle, "execution")
    snapshot, replicas = manifest.get("snapshot_step"), execution.get("replicas")
    return Recording(
        bundle=path,
        failing=_failing(bundle),
        snapshot=snapshot if isinstance(snapshot, int) else -1,
        steps=_batches(bundle),
        history=columns(bundle.history),
        loop=str(manifest.get("loop", "fit")),
        trigger=clean(str(bundle.reason.get("trigger", "")), 60),
        message=clean(str(bundle.reason.get("message", "")), 400),
        generators={**bundle.generators, "keras_global_seed_generator": seed},
        jit=bool(execution.get("jit_resolved")),
        replicas=replicas if isinstance(replicas, int) else 1,
        elsewhere=(*_lacking(bundle), *differences(manifest)),
    )
