"""How is a ``.keras`` archive opened? As Keras does, under the policy it was trained with."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._archive import Archive, holds_model, read_archive
from divergence_doctor.checkpoints._checkpoint import Checkpoint, Opened, OpenOptions
from divergence_doctor.checkpoints._comparison import compare_hdf5
from divergence_doctor.checkpoints._compile import (
    build_optimizer,
    compile_arguments,
    has_loss_scaling,
    settle,
)
from divergence_doctor.checkpoints._config import (
    Reference,
    check_config,
    check_sizes,
    references,
    trained_policy,
)
from divergence_doctor.checkpoints._custom import collect, unknown_objects
from divergence_doctor.checkpoints._fidelity import Fidelity, tell_policy
from divergence_doctor.checkpoints._loading import (
    heed,
    loading,
    policy,
    sha256,
    suffixed,
)
from divergence_doctor.checkpoints._user_code import call_factory
from divergence_doctor.checkpoints._weights import Survey, survey
from divergence_doctor.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

_INNER = "optimizer/inner_optimizer/vars"
#: What ``Model.compile`` takes. A model with others (a GAN's ``d_optimizer``) brings its own
#: ``get_compile_config`` and ``compile_from_config``.
_COMPILE = frozenset(
    {
        *("optimizer", "loss", "loss_weights", "metrics", "weighted_metrics"),
        *("run_eagerly", "steps_per_execution", "jit_compile", "auto_scale_loss"),
    }
)


@final
class KerasArchive(Checkpoint):
    """``model.save("model.keras")``: config, weights, optimizer, and how it was compiled."""

    name: ClassVar[str] = ".keras archive"
    order: ClassVar[int] = 10

    @classmethod
    def can_open(cls, path: Path) -> bool:
        """Say whether the path is a zip archive with a Keras model in it."""
        return holds_model(path)

    @classmethod
    def preflight(cls, path: Path, options: OpenOptions) -> None:
        """Check the zip archive, its check sums and its config; see the base class."""
        _checked(path, options)

    @classmethod
    def open(cls, path: Path, options: OpenOptions) -> Opened:
        """Open the archive; see the base class."""
        archive = _checked(path, options)
        weights = survey(path)
        fidelity = Fidelity()
        trained = _trained_policy(archive, weights)
        with policy(trained):
            model = (
                _load(path, archive, weights, options, fidelity)
                if options.model is None
                else _fill(path, options.model, fidelity)
            )
            compare_hdf5(path, weights, model, fidelity)
            tell_policy(trained, model, fidelity)
            settle(path, model, options, fidelity)
        return Opened(
            model=model,
            fidelity=fidelity.report(model),
            source={
                "file": str(path),
                "format": cls.name,
                "sha256": sha256(path),
                "keras_version": archive.keras_version,
                "dtype_policy": trained or "",
            },
            unseeded=tuple(fidelity.unseeded(model)),
        )


def _checked(path: Path, options: OpenOptions) -> Archive:
    archive = read_archive(path)
    if options.model is None:
        check_config(path, archive.config, trust=options.trust)
        check_sizes(path, archive.config, archive.weights_bytes)
    return archive


def _compiled_with(archive: Archive) -> dict[str, Any]:
    compiled = archive.config.get("compile_config")
    return compiled if isinstance(compiled, dict) else {}


def _trained_policy(archive: Archive, weights: Survey) -> str | None:
    """Return the global policy under which the model was compiled.

    A Functional model does not store it; that the optimizer scaled the loss although the config
    names a plain one says that it was mixed_float16.
    """
    optimizer = _compiled_with(archive).get("optimizer")
    plain = isinstance(optimizer, dict) and optimizer.get("class_name") != "LossScaleOptimizer"
    if plain and weights.under(_INNER):
        return "mixed_float16"
    return trained_policy(archive.config)


def _load(
    path: Path, archive: Archive, weights: Survey, options: OpenOptions, fidelity: Fidelity
) -> Any:
    custom, unknown = collect(references(archive.config), options)
    blocking = [reference for reference in unknown if not _dispensable(reference, options)]
    if blocking:
        raise unknown_objects(path, blocking, options)
    import keras

    compiled = _without(_compiled_with(archive), unknown)
    nameless = bool(compiled) and not compiled.get("optimizer") and _COMPILE.issuperset(compiled)
    if nameless:
        compiled["optimizer"] = _named_optimizer(path, options)
    with suffixed(path, ".keras") as named:
        with loading(path) as said:
            model = keras.saving.load_model(
                named,
                custom_objects=custom,
                compile=not unknown and not nameless,
                safe_mode=not options.trust,
            )
        skipped = heed(said, fidelity)
        if unknown or nameless:
            names = ", ".join(clean(reference.key, 60) for reference in unknown)
            if names:
                fidelity.note(f"Left out, because nothing defines it: {names}.")
            skipped = _compile(named, model, compiled, custom, fidelity)
        if skipped and has_loss_scaling(model) and not weights.under(_INNER):
            _without_loss_scaling(named, model, fidelity)
    return model


def _named_optimizer(path: Path, options: OpenOptions) -> str:
    """Return the optimizer that the user names for an archive that names none.

    ``model.save("m.h5")`` takes the optimizer out of the model's compile config; what is saved as
    ``.keras`` after that lacks it, and Keras puts rmsprop in its place without a word.
    """
    if options.optimizer is None:
        raise CheckpointError(
            "not-compiled",
            f"{clean(path.name)} does not say which optimizer the model was trained with",
            why="Keras leaves it out when the same model was saved as .h5 before",
            fix="pass --optimizer NAME, the one of the training script; its state is in the file",
        )
    return options.optimizer


def _dispensable(reference: Reference, options: OpenOptions) -> bool:
    """Say whether the step can do without: metrics always, the loss when another one is given."""
    part = reference.path[1] if reference.path[:1] == ("compile_config",) else ""
    return part in ("metrics", "weighted_metrics") or (
        part in ("loss", "loss_weights") and options.loss is not None
    )


def _without(compiled: dict[str, Any], unknown: tuple[Reference, ...]) -> dict[str, Any]:
    """Return how the model was compiled, less what nothing defines."""
    gone = {str(reference.path[1]) for reference in unknown}
    if "loss" in gone:
        gone.add("loss_weights")
    return {part: value for part, value in compiled.items() if part not in gone}


def _compile(
    named: Path, model: Any, compiled: dict[str, Any], custom: dict[str, Any], fidelity: Fidelity
) -> bool:
    """Compile the model, load the optimizer's state, and say whether it was left out."""
    import keras

    with loading(named) as said:
        with keras.saving.CustomObjectScope(custom):
            model.compile_from_config(compiled)
        build_optimizer(model)
        model.load_weights(named)
    return heed(said, fidelity)


def _without_loss_scaling(named: Path, model: Any, fidelity: Fidelity) -> None:
    """Undo the wrapping that Keras adds under mixed_float16, where the file holds none of it."""
    arguments = compile_arguments(model)
    arguments["optimizer"] = model.optimizer.inner_optimizer
    model.compile(**arguments, auto_scale_loss=False)
    build_optimizer(model)
    with loading(named) as said:
        model.load_weights(named)
    fidelity.notes[:] = [note for note in fidelity.notes if "Skipping variable" not in note]
    heed(said, fidelity)
    fidelity.note("The model was trained in mixed_float16 without loss scaling.")


def _fill(path: Path, factory: str, fidelity: Fidelity) -> Any:
    """Return the factory's model with the weights of the archive in it."""
    model = call_factory(factory)
    build_optimizer(model)
    with suffixed(path, ".keras") as named, loading(path) as said:
        model.load_weights(named)
    heed(said, fidelity)
    fidelity.note(f"The model comes from --model {clean(factory)}, its weights from the archive.")
    return model
