"""What is this model made of? Its layers in order, and the loss that judges each output."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints import innermost, optimizers_of
from divergence_doctor.replay.feeding import output_names
from divergence_doctor.replay.state import layer_path

if TYPE_CHECKING:
    from collections.abc import Iterator

    from divergence_doctor.replay.feeding import Fed
    from divergence_doctor.trace import TraceBuilder

_CONFIG_CHARACTERS: Final = 2_000
_SHORT: Final = 60


def describe_model(model: Any, fed: Fed, builder: TraceBuilder) -> None:
    """Add the tables ``layers`` and ``targets`` and the optimizer's config to the trace."""
    import keras

    for order, layer in enumerate(_operations(model)):
        builder.add(
            "layers",
            order=order,
            layer=layer_path(layer, model),
            layer_class=type(layer).__name__,
            activation=_activation(layer),
            dtype=str(getattr(getattr(layer, "dtype_policy", None), "name", "")),
            parameters=int(sum(int(_size(v)) for v in getattr(layer, "weights", ()))),
            config=_json(_config(layer)),
        )
    for row in _targets(model, fed):
        builder.add("targets", **row)
    optimizers = optimizers_of(model)
    if optimizers:
        builder.describe(optimizer=_optimizer(optimizers[0]))
    builder.describe(
        optimizers=[_optimizer(optimizer) for optimizer in optimizers],
        model={
            "class": type(model).__name__,
            "name": clean(str(model.name)),
            "own_train_step": type(model).train_step is not keras.Model.train_step,
            "parameters": int(model.count_params()) if model.built else None,
            "steps_per_execution": int(getattr(model, "steps_per_execution", None) or 1),
        },
    )


def _operations(model: Any) -> Iterator[Any]:
    """Yield layers and graph operations, each once: in graph order where there is a graph."""
    seen: set[int] = {id(model)}
    stack = [model]
    while stack:
        layer = stack.pop()
        if id(layer) not in seen:
            seen.add(id(layer))
            yield layer
        children = [*(getattr(layer, "operations", None) or getattr(layer, "_layers", None) or ())]
        stack.extend(child for child in reversed(children) if id(child) not in seen)


def _activation(layer: Any) -> str:
    function = getattr(layer, "activation", None)
    if function is None:
        name = type(layer).__name__
        return name.lower() if name in {"Softmax", "ReLU", "LeakyReLU", "ELU", "PReLU"} else ""
    return clean(str(getattr(function, "__name__", None) or type(function).__name__))


def _size(variable: Any) -> int:
    size = 1
    for axis in variable.shape:
        size *= int(axis or 0)
    return size


def _config(layer: Any) -> Any:
    try:
        return layer.get_config()
    except Exception:  # noqa: BLE001 - a user's layer may have no config at all
        return {}


def _json(value: Any) -> str:
    """Return a config as JSON; one that is too long keeps its plain entries only."""
    text = json.dumps(value, default=str, sort_keys=True)
    if len(text) <= _CONFIG_CHARACTERS:
        return clean(text, _CONFIG_CHARACTERS)
    plain = {
        key: entry
        for key, entry in (value.items() if isinstance(value, dict) else ())
        if isinstance(entry, int | float | bool | None) or len(str(entry)) < _SHORT
    }
    text = json.dumps(plain, default=str, sort_keys=True)
    return clean(text, _CONFIG_CHARACTERS) if len(text) <= _CONFIG_CHARACTERS else "{}"


def _optimizer(optimizer: Any) -> dict[str, Any]:
    inner = innermost(optimizer)
    config = {
        key: value
        for key, value in _config(inner).items()
        if isinstance(value, int | float | str | bool | None)
    }
    schedule = _config(inner).get("learning_rate")
    if isinstance(schedule, dict):
        config["learning_rate_schedule"] = clean(json.dumps(schedule, default=str), 1_000)
    config["learning_rate"] = _rate(inner)
    return {
        "class": type(inner).__name__,
        "wrapper": "" if inner is optimizer else type(optimizer).__name__,
        "config": config,
    }


def _rate(optimizer: Any) -> float | None:
    try:
        return float(optimizer.learning_rate)
    except (AttributeError, TypeError, ValueError):
        return None


# ---------------------------------------------------------------------- losses


def _targets(model: Any, fed: Fed) -> Iterator[dict[str, Any]]:
    """Yield one row per output that a compiled loss judges, where its labels can be told."""
    outputs = output_names(model)
    judged = list(_judged(_compiled_loss(model), outputs))
    for place, (index, name, loss) in enumerate(judged):
        array = _labels_of(fed.names[1], outputs, (index, name), place, alone=len(judged) == 1)
        if array is None:
            continue
        config = _loss_config(loss)
        yield {
            "output": clean(name),
            "array": array,
            "loss": _loss_name(loss),
            "builtin": _is_builtin(loss),
            "from_logits": bool(config.get("from_logits", False)),
            "classes": _classes(model, index),
            "ignore_class": -1
            if config.get("ignore_class") is None
            else int(config["ignore_class"]),
            "activation": _last_activation(model, index),
            "config": _json(config),
        }


def _judged(loss: Any, outputs: list[tuple[str, ...]]) -> Iterator[tuple[int, str, Any]]:
    """Yield (output, its name, its loss) as Keras pairs them: dicts by name, lists by place."""
    names = [known[0] for known in outputs] or ["output/0"]
    if isinstance(loss, dict):
        for place, (key, part) in enumerate(loss.items()):
            index = next((i for i, known in enumerate(outputs) if key in known), place)
            if part is not None:
                yield index, str(key), part
    elif isinstance(loss, list | tuple):
        for index, part in enumerate(loss):
            if part is not None:
                yield index, names[index] if index < len(names) else f"output/{index}", part
    elif loss is not None:
        for index, name in enumerate(names):
            yield index, name, loss


def _labels_of(
    names: Any, outputs: list[tuple[str, ...]], output: tuple[int, str], place: int, *, alone: bool
) -> str | None:
    """Return the array that is fed as an output's labels; None where that cannot be told.

    Args:
        names: the structure of y with array names in it, as the step is fed.
        outputs: the names that each output goes by.
        output: place and name of the output.
        place: the output's place among those that have a loss.
        alone: it is the only one.
    """
    import keras

    index, name = output
    if isinstance(names, str):
        return names if alone or len(outputs) < 2 else None
    if isinstance(names, dict):
        own = (name, *outputs[index]) if index < len(outputs) else (name,)
        found = next((names[key] for key in own if isinstance(names.get(key), str)), None)
        if found is not None:
            return str(found)
    flat = [array for array in keras.tree.flatten(names) if isinstance(array, str)]
    if len(flat) == len(outputs):
        return flat[index]
    return flat[place] if isinstance(names, list | tuple) and place < len(flat) else None


def _compiled_loss(model: Any) -> Any:
    try:
        return (model.get_compile_config() or {}) and model._compile_loss._user_loss  # noqa: SLF001 - not public
    except Exception:  # noqa: BLE001 - a model that compiles itself has no compiled loss
        return None


def _resolve(loss: Any) -> Any:
    """Return the loss object or function that a name stands for."""
    import keras

    if not isinstance(loss, str):
        return loss
    try:
        return keras.losses.get(loss)
    except ValueError:
        return loss


def _loss_name(loss: Any) -> str:
    """Return Keras' class name for a built-in loss or its function, else the user's name."""
    import keras

    found = _resolve(loss)
    name = str(getattr(found, "__name__", None) or type(found).__name__)
    camel = "".join(part.capitalize() for part in name.split("_"))
    known = {"Mse": "MeanSquaredError", "Mae": "MeanAbsoluteError", "KlDivergence": "KLDivergence",
             "Ctc": "CTC", "Kld": "KLDivergence", "LogCosh": "LogCosh"}  # fmt: skip
    camel = known.get(camel, camel)
    if _is_builtin(loss) and hasattr(keras.losses, camel):
        return camel
    return clean(name)


def _is_builtin(loss: Any) -> bool:
    found = _resolve(loss)
    owner = found if hasattr(found, "__name__") else type(found)
    return str(getattr(owner, "__module__", "")).startswith("keras.")


def _loss_config(loss: Any) -> dict[str, Any]:
    config = _config(_resolve(loss))
    return dict(config) if isinstance(config, dict) else {}


def _output(model: Any, index: int) -> Any:
    outputs = getattr(model, "outputs", None) or []
    return outputs[index] if index < len(outputs) else None


def _classes(model: Any, index: int) -> int:
    output = _output(model, index)
    shape: tuple[Any, ...] = tuple(getattr(output, "shape", None) or ())
    return int(shape[-1]) if shape and shape[-1] is not None else -1


def _last_activation(model: Any, index: int) -> str:
    history = getattr(_output(model, index), "_keras_history", None)
    return _activation(history.operation) if history is not None else ""
