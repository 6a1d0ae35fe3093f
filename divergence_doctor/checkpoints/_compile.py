"""Is the model compiled as it was trained, and as the user asked?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._optimizers import innermost, optimizers_of
from divergence_doctor.checkpoints._user_code import (
    describe_error,
    import_user_code,
    meaningful_line,
)
from divergence_doctor.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path

    from divergence_doctor.checkpoints._checkpoint import OpenOptions
    from divergence_doctor.checkpoints._fidelity import Fidelity


def settle(file: Path, model: Any, options: OpenOptions, fidelity: Fidelity) -> None:
    """Put in place what ``--loss``, ``--optimizer`` and ``--learning-rate`` ask for.

    Args:
        file: the checkpoint, for the messages.
        model: the model; compiled anew where the options say so.
        options: what the user asked for.
        fidelity: takes a note for each thing that differs from the checkpoint.

    Raises:
        CheckpointError: the model cannot be trained as it is, or a name is unknown.
    """
    if options.loss is not None or options.optimizer is not None:
        _compile_anew(model, options, fidelity)
    _check_trainable(file, model)
    build_optimizer(model)
    if options.learning_rate is not None:
        _set_learning_rate(model, options.learning_rate, fidelity)


def own_step(model: Any) -> bool:
    """Say whether the model brings its own ``train_step``."""
    import keras

    return type(model).train_step is not keras.Model.train_step


def build_optimizer(model: Any) -> None:
    """Make the optimizer's variables where the model is built and they are not there yet."""
    optimizer = getattr(model, "optimizer", None)
    if optimizer is not None and model.built and not optimizer.built:
        optimizer.build(model.trainable_variables)


def has_loss_scaling(model: Any) -> bool:
    """Say whether the model's optimizer scales the loss."""
    import keras

    return isinstance(getattr(model, "optimizer", None), keras.optimizers.LossScaleOptimizer)


def compile_arguments(model: Any) -> dict[str, Any]:
    """Return the arguments that the model was compiled with; empty when it was not."""
    stored = getattr(model, "_compile_config", None)
    return dict(stored.config) if model.compiled and stored is not None else {}


def _compile_anew(model: Any, options: OpenOptions, fidelity: Fidelity) -> None:
    arguments = compile_arguments(model)
    if getattr(model, "optimizer", None) is not None:
        arguments["optimizer"] = model.optimizer
    if options.loss is not None:
        # Weights and metrics belong to the outputs as the old loss saw them.
        arguments = {"optimizer": arguments.get("optimizer")}
        arguments["loss"] = _known_loss(options.loss, options)
        fidelity.note(f"The loss is {clean(options.loss)}, as --loss says.")
    if options.optimizer is not None:
        _choose_optimizer(arguments, options, fidelity)
    if arguments.get("optimizer") is None:
        arguments.pop("optimizer", None)
        if not optimizers_of(model):
            return
    try:
        model.compile(**arguments)
    except (TypeError, ValueError) as error:
        raise CheckpointError(
            "not-compiled",
            f"the model cannot be compiled as asked: {describe_error(error)}",
            why="its compile() did not take the loss and the optimizer",
            fix="give a factory that returns the compiled model: --model MODULE_OR_FILE:FUNCTION",
        ) from error


def _choose_optimizer(arguments: dict[str, Any], options: OpenOptions, fidelity: Fidelity) -> None:
    """Put the named optimizer in place, unless the checkpoint's is of that kind already."""
    name = options.optimizer or ""
    given, held = _known_optimizer(name, options), arguments.get("optimizer")
    if type(given) is type(innermost(held)):
        fidelity.note(f"The optimizer is the checkpoint's own {clean(name)}, with its slots.")
        return
    arguments["optimizer"] = given
    fidelity.optimizer_state = "missing"
    fidelity.note(
        f"The optimizer is a fresh {clean(name)}, as --optimizer says;"
        " the checkpoint's slots are not used."
    )


def _known_loss(name: str, options: OpenOptions) -> Any:
    import keras

    try:
        return keras.losses.get(_users(name, options) or name)
    except (ValueError, TypeError, KeyError) as error:
        known = "mse, binary_crossentropy or sparse_categorical_crossentropy"
        raise _unknown("loss", name, known, error) from error


def _known_optimizer(name: str, options: OpenOptions) -> Any:
    import keras

    mine = _users(name, options)
    try:
        return keras.optimizers.get(mine() if isinstance(mine, type) else mine or name)
    except (ValueError, TypeError, KeyError) as error:
        raise _unknown("optimizer", name, "sgd, adam or rmsprop", error) from error


def _users(name: str, options: OpenOptions) -> Any:
    """Return what the imported code calls so, or None."""
    modules = [import_user_code(spec) for spec in reversed(options.custom_objects)]
    return next((vars(module)[name] for module in modules if name in vars(module)), None)


def _unknown(what: str, name: str, known: str, error: BaseException) -> CheckpointError:
    return CheckpointError(
        f"unknown-{what}",
        f"there is no {what} {clean(name)!r}",
        why=meaningful_line(error) or f"Keras knows no {what} of this name",
        fix=f"use a Keras name such as {known}, or define it in --custom-objects",
    )


def _check_trainable(file: Path, model: Any) -> None:
    missing = [] if optimizers_of(model) else ["optimizer"]
    if not _has_loss(model):
        missing.insert(0, "loss")
    if not missing:
        return
    custom = _custom_compile(model)
    raise CheckpointError(
        "not-compiled",
        f"the model in {clean(file.name)} has no {' and no '.join(missing)}",
        why="its compile() is custom, and Keras does not call it on loading"
        if custom
        else "it was saved without being compiled",
        fix="pass --loss NAME --optimizer NAME [--learning-rate X]"
        + (
            ", override compile_from_config, or give --model MODULE_OR_FILE:FUNCTION"
            if custom
            else ""
        ),
    )


def _has_loss(model: Any) -> bool:
    import keras

    if getattr(model, "loss", None) is not None or own_step(model):
        return True
    if type(model).compute_loss is not keras.Model.compute_loss:
        return True
    # Without a compiled loss the sum of add_loss() is trained on. Whether a layer of the user's
    # calls it shows only when it runs.
    layers = model._flatten_layers(include_self=True, recursive=True)  # noqa: SLF001 - Keras has no public walk through nested layers
    return model.compiled and any(
        not type(layer).__module__.startswith("keras.")
        or isinstance(layer, keras.layers.ActivityRegularization)
        or bool(layer.losses)
        for layer in layers
    )


def _custom_compile(model: Any) -> bool:
    import keras

    return type(model).compile is not keras.Model.compile


def _set_learning_rate(model: Any, rate: float, fidelity: Fidelity) -> None:
    import keras

    for optimizer in optimizers_of(model):
        inner = innermost(optimizer)
        schedule = getattr(inner, "_learning_rate", None)
        if isinstance(schedule, keras.optimizers.schedules.LearningRateSchedule) or (
            callable(schedule) and not hasattr(schedule, "assign")
        ):
            _replace_schedule(model, optimizer, rate)
            fidelity.note(
                f"The learning rate is {rate:g}, as --learning-rate says, in place of"
                f" {type(schedule).__name__}."
            )
        else:
            before = float(inner.learning_rate)
            inner.learning_rate = rate
            fidelity.note(
                f"The learning rate is {rate:g}, as --learning-rate says; it was {before:g}."
            )


def _replace_schedule(model: Any, optimizer: Any, rate: float) -> None:
    """Put the same optimizer with a constant rate in its place, its slots kept."""
    config = optimizer.get_config()
    if "inner_optimizer" in config:
        config["inner_optimizer"]["config"]["learning_rate"] = rate
    else:
        config["learning_rate"] = rate
    fresh = type(optimizer).from_config(config)
    if optimizer.built:
        fresh.build(model.trainable_variables)
        held = {variable.path: variable for variable in optimizer.variables}
        for variable in fresh.variables:
            if variable.path in held:
                variable.assign(held[variable.path])
    for name, value in list(vars(model).items()):
        if value is optimizer:
            setattr(model, name, fresh)
