"""How is the state of a crash bundle put back? Every variable by what it is, in its place."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor.checkpoints import _restoring
from divergence_doctor.checkpoints._bundle_parts import batches_of, holds_optimizer, why_dropped
from divergence_doctor.checkpoints._first_call import step_once
from divergence_doctor.checkpoints._optimizers import innermost, optimizers_of
from divergence_doctor.checkpoints._seams import layer_states

if TYPE_CHECKING:
    from divergence_doctor.bundle import Bundle
    from divergence_doctor.checkpoints._fidelity import Fidelity

#: Last part of the path of an optimizer's first variable.
_COUNTER: Final = "iteration"


def _seeds(model: Any) -> list[Any]:
    """Return what the model holds beside weights and metrics: the states of its generators."""
    apart = {id(variable) for variable in (*model.weights, *model.metrics_variables)}
    return [variable for variable in model.variables if id(variable) not in apart]


def makes_slots_late(model: Any) -> bool:
    """Say whether optimizers of the model's own make their slots at their first step only."""
    held = optimizers_of(model)
    return len(held) > 1 and any(not one.built for one in held)


def step_for_slots(model: Any, bundle: Bundle) -> None:
    """Take a step, for what makes variables at its first one; what was there holds what it held."""
    steps = batches_of(bundle)
    if not steps:
        return
    before = {id(v): (v, np.asarray(v.value).copy()) for v in _every(model)}
    step_once(model, steps[0].read())
    for variable in _every(model):
        _, value = before.get(id(variable), (None, None))
        variable.assign(np.zeros(variable.shape) if value is None else value)


def _every(model: Any) -> list[Any]:
    slots = (v for one in optimizers_of(model) for v in one.variables)
    found = _unique([*model.variables, *model.metrics_variables, *slots])
    return [variable for variable in found if str(variable.dtype) != "string"]


def global_seed(model: Any, bundle: Bundle) -> list[int] | None:
    """Return the state behind unseeded ``keras.random`` calls, which follows those of the model."""
    stored = [one for one in bundle.variables if one.role == "seed"]
    if len(stored) != len(_seeds(model)) + 1 or stored[-1].shape != (2,):
        return None
    return [int(word) for word in stored[-1].load()]


def fill(model: Any, bundle: Bundle, fidelity: Fidelity) -> None:
    """Put every variable back by what it is, its place, its shape and its dtype."""
    extra = global_seed(model, bundle) is not None
    for role, variables, what in (
        ("weight", model.weights, "weight"),
        ("seed", _seeds(model), "random state"),
        ("other", _unique(layer_states(model)), "state"),
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
    held = optimizers_of(model)
    if not held:
        return
    inner = _unique(innermost(one) for one in held)
    inside = {id(variable) for one in inner for variable in one.variables}
    scale = [v for v in _unique(v for one in held for v in one.variables) if id(v) not in inside]
    if not holds_optimizer(bundle):
        fidelity.optimizer_state = "missing"
        fidelity.note(
            "The optimizer starts fresh: the bundle holds none of its state"
            + (f" ({why_dropped(bundle)})." if why_dropped(bundle) else ".")
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


def _unique(variables: Any) -> list[Any]:
    return list({id(variable): variable for variable in variables}.values())
