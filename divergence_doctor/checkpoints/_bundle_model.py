"""How does the model of a crash bundle come to be? From its config, by the path of an archive."""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._bundle_parts import batches_of, config_of, holds_optimizer, part
from divergence_doctor.checkpoints._compile import (
    build_optimizer,
    compile_arguments,
    has_loss_scaling,
)
from divergence_doctor.checkpoints._config import Reference, references
from divergence_doctor.checkpoints._custom import collect, unknown_objects
from divergence_doctor.checkpoints._first_call import call_once
from divergence_doctor.checkpoints._loading import heed, loading, policy
from divergence_doctor.checkpoints._seams import shared_objects
from divergence_doctor.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

    from divergence_doctor.bundle import Bundle
    from divergence_doctor.checkpoints._checkpoint import OpenOptions
    from divergence_doctor.checkpoints._fidelity import Fidelity

#: Parts of a compile config that can be done without, always or where another is given.
_METRICS: Final = ("metrics", "weighted_metrics")
_LOSS: Final = ("loss", "loss_weights")


@contextmanager
def policy_kept() -> Iterator[None]:
    """Put the global dtype policy back, which the user's own script may set when it is imported."""
    import keras

    before = keras.config.dtype_policy()
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


def rebuilt(
    path: Path, bundle: Bundle, options: OpenOptions, fidelity: Fidelity, stack: ExitStack
) -> Any:
    """Return the model that the config describes, compiled, under the policy of the training."""
    import keras

    whole = config_of(bundle)
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
    argument = part(bundle, "user_code").get("argument")
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
    steps = batches_of(bundle)
    if steps:
        call_once(model, steps[0].read())


def _unscale(model: Any, bundle: Bundle, fidelity: Fidelity) -> None:
    """Undo the loss scaling that Keras adds under mixed_float16, where the training had none."""
    scaled = any(variable.role == "loss-scale" for variable in bundle.variables)
    if not has_loss_scaling(model) or scaled or not holds_optimizer(bundle):
        return
    arguments = compile_arguments(model)
    arguments["optimizer"] = model.optimizer.inner_optimizer
    model.compile(**arguments, auto_scale_loss=False)
    build_optimizer(model)
    fidelity.note("The model was trained in mixed_float16 without loss scaling.")


def execute_as_recorded(model: Any, bundle: Bundle, fidelity: Fidelity) -> None:
    """Have the step run eagerly, as a graph or compiled by XLA, as it did."""
    execution = part(bundle, "execution")
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
