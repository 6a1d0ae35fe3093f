"""How is a crash bundle opened? Its model from the config, every variable put back where it was."""

from __future__ import annotations

import hashlib
import re
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar, Final, final

from divergence_doctor._clean import argument, clean
from divergence_doctor.bundle import open_bundle
from divergence_doctor.checkpoints._bundle_model import execute_as_recorded, policy_kept, rebuilt
from divergence_doctor.checkpoints._bundle_parts import (
    batches_of,
    config_of,
    failing_step,
    lacking,
    part,
    recording_of,
    why_dropped,
)
from divergence_doctor.checkpoints._bundle_state import (
    fill,
    global_seed,
    makes_slots_late,
    step_for_slots,
)
from divergence_doctor.checkpoints._checkpoint import Checkpoint, Opened, OpenOptions
from divergence_doctor.checkpoints._compile import settle
from divergence_doctor.checkpoints._config import check_config, check_sizes
from divergence_doctor.checkpoints._factory import made_by
from divergence_doctor.checkpoints._fidelity import Fidelity
from divergence_doctor.checkpoints._loading import sha256
from divergence_doctor.errors import CheckpointError, UsageError

if TYPE_CHECKING:
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
        if batches_of(bundle):
            return
        private = bundle.manifest.get("data") is False
        raise UsageError(
            "no-batch",
            f"{clean(path.name)} holds no batch",
            why="it was recorded with data=False: the batches stay with their owner"
            if private
            else why_dropped(bundle) or "none was recorded",
            fix=f"name the batch of training step {failing_step(bundle)} after it:"
            f" doctor replay {argument(path)} batch.npz",
        )

    @classmethod
    def environment(cls, path: Path) -> dict[str, str]:
        """Return the recorded flags that are plain numbers; see the base class."""
        recorded = part(open_bundle(path), "environment")
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
            stack.enter_context(policy_kept())
            if options.model is None:
                model = rebuilt(path, bundle, options, fidelity, stack)
            else:
                scaled = any(variable.role == "loss-scale" for variable in bundle.variables)
                model = stack.enter_context(
                    made_by(options.model, scaled=scaled, fidelity=fidelity)
                )
                fidelity.note(f"The model comes from --model {clean(options.model)}.")
            settle(path, model, replace(options, learning_rate=None), fidelity)
            execute_as_recorded(model, bundle, fidelity)
            if makes_slots_late(model):
                step_for_slots(model, bundle)
            fill(model, bundle, fidelity)
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
                "keras_version": clean(str(part(bundle, "versions").get("keras", ""))),
                "dtype_policy": model.dtype_policy.name,
            },
            unseeded=tuple(fidelity.unseeded(model)),
            recording=recording_of(path, bundle, global_seed(model, bundle)),
        )


def _checked(path: Path, options: OpenOptions) -> Bundle:
    bundle = open_bundle(path)
    if options.model is None:
        if not isinstance(bundle.model, dict):
            raise _no_model(path, bundle)
        whole = config_of(bundle)
        check_config(path, whole, trust=options.trust)
        check_sizes(path, whole, sum(variable.nbytes for variable in bundle.variables))
    if not any(variable.role == "weight" for variable in bundle.variables):
        raise CheckpointError(
            "no-weights",
            f"{clean(path.name)} holds no weights",
            why=why_dropped(bundle)
            or "they were left out when it was written (manifest.json says why)",
            fix="replay an earlier bundle; reason.json and the batch in this one are whole",
        )
    return bundle


def _no_model(path: Path, bundle: Bundle) -> CheckpointError:
    why = part(bundle, "model").get("why")
    main = part(bundle, "user_code").get("main")
    script = clean(Path(str(main)).name, 80) if main else "SCRIPT.py"
    return CheckpointError(
        "model-needed",
        f"{clean(path.name)} holds the weights, but not what the model is made of",
        why=clean(str(why), 200) if why else "the model's config could not be written",
        fix="give a function that returns the compiled model, as the training script builds it:"
        f" --model {script}:FUNCTION",
    )


def _tell(bundle: Bundle, options: OpenOptions, fidelity: Fidelity) -> None:
    if bundle.manifest.get("salvaged"):
        fidelity.note("The bundle was salvaged from an interrupted one: it may lack parts.")
    for lack in lacking(bundle):
        fidelity.note(f"{lack[0].upper()}{lack[1:]}.")
    dropped = why_dropped(bundle)
    if dropped:
        fidelity.note(f"When the bundle was written, this was left out: {dropped}.")
    commit = bundle.manifest.get("git")
    if isinstance(commit, str) and commit:
        fidelity.note(f"The code was at git commit {clean(commit, 60)}.")
    code = part(bundle, "user_code")
    for spec in options.custom_objects:
        file = Path(spec)
        same = file.is_file() and file.name == Path(str(code.get("main"))).name
        if same and code.get("sha256") not in (None, _digest(file)):
            fidelity.note(f"{clean(file.name)} is not what it was when the run died.")


def _digest(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()
