"""What does a crash bundle say of itself? Read from its manifest."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._elsewhere import differences
from divergence_doctor.checkpoints._fidelity import listed
from divergence_doctor.checkpoints._recording import RecordedStep, Recording, columns

if TYPE_CHECKING:
    from divergence_doctor.bundle import Bundle

#: Roles of an optimizer's variables.
OPTIMIZER: Final = ("optimizer", "loss-scale")


def config_of(bundle: Bundle) -> dict[str, Any]:
    """Return what Keras would find in the ``config.json`` of an archive."""
    held = bundle.model if isinstance(bundle.model, dict) else {}
    config = held.get("config")
    whole = dict(config) if isinstance(config, dict) else {}
    if isinstance(held.get("compile"), dict):
        whole["compile_config"] = held["compile"]
    return whole


def part(bundle: Bundle, name: str) -> dict[str, Any]:
    """Return a part of the manifest; empty where it is not there, or no object."""
    value = bundle.manifest.get(name)
    return value if isinstance(value, dict) else {}


def why_dropped(bundle: Bundle) -> str:
    """Return what was left out when the bundle was written, and why; or empty."""
    dropped = bundle.manifest.get("dropped")
    return clean("; ".join(map(_words, dropped)), 200) if isinstance(dropped, list) else ""


def _words(dropped: Any) -> str:
    if isinstance(dropped, dict):
        return ": ".join(str(value) for value in dropped.values())
    return str(dropped)


def holds_optimizer(bundle: Bundle) -> bool:
    """Say whether anything of an optimizer's state is there."""
    return any(variable.role in OPTIMIZER for variable in bundle.variables)


def failing_step(bundle: Bundle) -> int:
    """Return the training step at which the recorder saw the failure; -1 when unknown."""
    step = bundle.manifest.get("step")
    return step if isinstance(step, int) else -1


def batches_of(bundle: Bundle) -> tuple[RecordedStep, ...]:
    """Return the batches up to the failing step, as far back as they are without a gap."""
    failing, start = failing_step(bundle), bundle.manifest.get("snapshot_step")
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


def lacking(bundle: Bundle) -> tuple[str, ...]:
    """Say which values the bundle names and does not hold, as a part of a sentence."""
    if not bundle.absent:
        return ()
    return (f"the bundle lacks what {listed(bundle.absent)} held",)


def recording_of(path: Path, bundle: Bundle, seed: list[int] | None) -> Recording:
    manifest, execution = bundle.manifest, part(bundle, "execution")
    snapshot, replicas = manifest.get("snapshot_step"), execution.get("replicas")
    return Recording(
        bundle=path,
        failing=failing_step(bundle),
        snapshot=snapshot if isinstance(snapshot, int) else -1,
        steps=batches_of(bundle),
        history=columns(bundle.history),
        loop=str(manifest.get("loop", "fit")),
        trigger=clean(str(bundle.reason.get("trigger", "")), 60),
        message=clean(str(bundle.reason.get("message", "")), 400),
        generators={**bundle.generators, "keras_global_seed_generator": seed},
        jit=bool(execution.get("jit_resolved")),
        replicas=replicas if isinstance(replicas, int) else 1,
        elsewhere=(*lacking(bundle), *differences(manifest)),
    )
