"""How does what the recorder kept become a crash bundle, also where the folder is gone by then?"""

from __future__ import annotations

import tempfile
import time
import traceback
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor._clean import clean
from divergence_doctor.capture import manifest
from divergence_doctor.capture.batch import named
from divergence_doctor.capture.telling import tell_bundle, warn

if TYPE_CHECKING:
    from divergence_doctor.bundle import Contents, Recorded, Variable
    from divergence_doctor.capture.recorder import Failure, Recorder
    from divergence_doctor.capture.ring import Step

#: Characters of a traceback; ``reason.json`` stays below 64 KB.
_TRACEBACK: Final = 16_000


@final
class Dump:
    """Writes one bundle.

    Args:
        recorder: what was kept.
    """

    def __init__(self, recorder: Recorder) -> None:
        self._recorder = recorder
        self._options = recorder.options
        self._missing: list[str] = []

    def write(self, failure: Failure) -> Path | None:
        """Write the bundle, beside the others or in the temporary folder, and tell where it is."""
        contents = self._contents(failure)
        path = self._written(contents)
        if path is not None and self._options.verbose:
            tell_bundle(
                failure.message, failure.step, self._recorder.epoch, path,
                code=contents.manifest["user_code"]["argument"],
            )  # fmt: skip
        return path

    def _written(self, contents: Contents) -> Path | None:
        asked = self._options.directory
        try:
            return self._into(asked, contents)
        except (OSError, MemoryError) as error:
            first = error
        try:
            # A folder of this user's own: others may write to the temporary folder as well.
            path = self._into(Path(tempfile.mkdtemp(prefix="divergence_doctor-")), contents)
        except (OSError, MemoryError):
            warn(f"no crash bundle could be written, training goes on: {_why(first)}")
            return None
        warn(f"{clean(str(asked))} cannot be written ({_why(first)}); the bundle is in {path}")
        return path

    def _into(self, folder: Path, contents: Contents) -> Path:
        from divergence_doctor.bundle import write_bundle

        options = self._options
        return write_bundle(
            folder,
            contents,
            worker=manifest.worker(),
            sequence=len(self._recorder.bundles),
            keep=options.keep,
            max_bytes=options.max_bytes,
            data=options.data,
            fs=self._recorder.fs,
        )

    def _contents(self, failure: Failure) -> Contents:
        from divergence_doctor.bundle import Contents

        recorder = self._recorder
        model, why = manifest.model_config(recorder.models, recorder.optimizers, recorder.loss)
        if why:
            self._missing.append(f"model.json: {why}")
        recorded = self._batches() if self._options.data else []
        variables = self._variables()
        generators = recorder.snapshot.generators
        history = recorder.history.columns(recorder.rate)
        return Contents(
            reason=self._reason(failure, history),
            manifest=self._manifest(failure, why),
            history=history,
            batches=recorded,
            model=model,
            variables=variables,
            generators={} if generators is None else generators.as_json(),
        )

    def _batches(self) -> list[Recorded]:
        ring = self._recorder.ring
        if any(step.data is None for step in ring):
            self._missing.append(
                "batches: the model makes its train function itself, and takes them"
            )
        return [self._recorded(step) for step in ring if step.data is not None]

    def _recorded(self, step: Step) -> Recorded:
        from divergence_doctor.bundle import Recorded

        since = self._recorder.snapshot.step
        # Views of the tensors where they lie in host memory; what is copied is one batch.
        found = named(step.data)
        self._missing += [f"batch of step {step.number}, {part}" for part in found.missing]
        return Recorded(
            step=step.number,
            arrays=found.arrays,
            structure=found.structure,
            before_snapshot=since is None or step.number < since,
        )

    def _variables(self) -> list[Variable]:
        from divergence_doctor.bundle import Variable

        snapshot = self._recorder.snapshot
        if snapshot.step is None:
            self._missing.append(
                "state: no sound copy of it was there; the model was built by its first step, or "
                "its state was changed since"
            )
            return []
        return [
            Variable(
                role=one.role,
                path=one.path,
                name=one.name,
                array=snapshot.values(one),
                dtype=one.dtype,
            )
            for one in snapshot.variables
        ]

    def _reason(self, failure: Failure, history: dict[str, list[Any]]) -> dict[str, Any]:
        recorder = self._recorder
        since = recorder.snapshot.step
        losses = history["step_loss"] or [None]
        running = history["loss"] or [None]
        return {
            "trigger": failure.trigger,
            "message": clean(failure.message, 2_000),
            "traceback": _traceback(failure.error),
            "step": max(failure.step, 0),
            "epoch": recorder.epoch,
            "loss": running[-1] if losses[-1] is None else losses[-1],
            "learning_rate": (history["learning_rate"] or [None])[-1],
            "time": time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
            "found_after": None if since is None else max(failure.step - since, 0),
        }

    def _manifest(self, failure: Failure, why: str) -> dict[str, Any]:
        recorder = self._recorder
        model = recorder.models[0] if recorder.models else None
        code = manifest.user_code(recorder.models, [*recorder.optimizers, recorder.loss])
        home = Path(code["main"]).parent if code["main"] else Path.cwd()
        return {
            "step": max(failure.step, 0),
            "snapshot_step": recorder.snapshot.step,
            "steps_per_execution": int(getattr(model, "steps_per_execution", 1) or 1),
            "epoch": recorder.epoch,
            "execution": manifest.execution(model),
            **manifest.numerics(model),
            "loop": recorder.loop,
            "class_weight": recorder.class_weight,
            "user_code": code,
            "git": manifest.commit(home),
            **manifest.machine(),
            "model": {"config": None, "why": why} if why else {"config": "model.json"},
            "missing": self._missing,
            "recorder": {
                "interval": round(recorder.pace.interval, 1),
                "overhead": round(recorder.pace.overhead, 4),
                "budget": self._options.budget,
            },
        }


def _traceback(error: BaseException | None) -> str | None:
    if error is None:
        return None
    from divergence_doctor.capture.frames import without_ours

    lines = traceback.format_exception(type(error), error, without_ours(error.__traceback__))
    return clean("".join(lines), _TRACEBACK, multiline=True)


def _why(error: BaseException) -> str:
    # A note says where the unfinished dump lies, for `doctor salvage`.
    notes = "; ".join(getattr(error, "__notes__", ()))
    return clean(f"{type(error).__name__}: {error}" + (f"; {notes}" if notes else ""), 600)
