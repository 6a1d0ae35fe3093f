"""Did the model take what the file holds? Compared by path and shape, and value by value.

Keras raises where a layer does not find its weights, and says nothing of the rest: a layer of the
file that the model lacks, weights that went to another layer of the same shape, an optimizer that
was given other slots. So what the model holds after loading is laid beside what lies in the file.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._fidelity import listed, slots_of
from divergence_doctor.checkpoints._layout import layout
from divergence_doctor.checkpoints._loading import SKIPPED
from divergence_doctor.checkpoints._optimizers import innermost, optimizers_of
from divergence_doctor.checkpoints._user_code import describe_error
from divergence_doctor.checkpoints._weights import in_memory

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from numpy.typing import NDArray

    from divergence_doctor.checkpoints._fidelity import Fidelity
    from divergence_doctor.checkpoints._weights import Survey

#: Bytes of weights up to which values are compared: a second of reading. Beyond, Keras' own check
#: of the shapes has to do.
MOST_BYTES: Final = 256 << 20


@final
@dataclass(eq=False)
class Comparison:
    """What the file and the model have in common, and what not.

    Attributes:
        taken: variables (or places in the file) that hold what the file holds.
        missing: variables of the model that the file says nothing of.
        differing: variables that hold something else than the file.
        rounded: variables whose dtype holds less than the file's, and hold it rounded.
        left: places in the file that the model has no use for.
    """

    taken: list[Any] = field(default_factory=list)
    missing: list[Any] = field(default_factory=list)
    differing: list[Any] = field(default_factory=list)
    rounded: list[Any] = field(default_factory=list)
    left: list[str] = field(default_factory=list)

    def pair(self, variable: Any, stored: NDArray[Any] | None) -> None:
        """Sort in one variable by the value that the file holds for it."""
        held = np.asarray(getattr(variable, "value", variable))
        if stored is None:
            self.missing.append(variable)
        elif _same(stored, held):
            self.taken.append(variable)
        elif stored.shape == held.shape and _same(_cast(stored, held.dtype), held):
            self.rounded.append(variable)
        else:
            self.differing.append(variable)


def compare_hdf5(path: Path, weights: Survey, model: Any, fidelity: Fidelity) -> None:
    """Compare a ``.keras`` archive or a ``.weights.h5`` with the model that was filled from it.

    Sets ``fidelity.optimizer_state`` and adds a note for each gap.

    Args:
        path: the file.
        weights: what its headers say.
        model: the model, right after loading.
        fidelity: takes what was found.
    """
    try:
        expected = layout(model)
    except Exception as error:  # noqa: BLE001 - the user's own save_own_variables
        fidelity.note(f"The model was not compared with the file: {describe_error(error)}.")
        _take_keras_word(weights, model, fidelity)
        return
    mine = {id(variable) for variable in _variables(model)}
    found = Comparison()
    moved: list[str] = []
    with in_memory(path, MOST_BYTES) as file:
        if file is None:
            fidelity.note(
                f"{clean(path.name)} holds more than {MOST_BYTES >> 20} MiB of weights: that the"
                " model took them is Keras' word, they were not compared value by value."
            )
            _take_keras_word(weights, model, fidelity)
            return
        stored, names = _contents(file)
        fresh = _never_stepped(model, expected.values, stored, file)
        for place, variable in expected.values.items():
            known = place in stored
            if id(variable) in mine or known:
                found.pair(variable, _read(file[place]) if known else None)
        found.left = [place for place in stored if place not in expected.values]
        moved = [
            f"{clean(expected.owners[place], 60)} took what {clean(name, 60)} left"
            for place, name in names.items()
            if place in expected.owners and _renamed(name, expected.owners[place])
        ]
    if fresh:
        tell_fresh(model, found, fidelity)
    else:
        tell(model, found, fidelity)
    _tell_moved(moved, fidelity)


def compare_legacy(group: Any, model: Any, fidelity: Fidelity) -> None:
    """Compare the weights of a legacy ``.h5`` with the model that was filled from it, in order.

    Args:
        group: the open HDF5 group with the attribute ``layer_names``.
        model: the model, right after loading.
        fidelity: takes a note for each gap; the optimizer is not looked at.
    """
    held = [(name, group[name]) for name in names_in(group, "layer_names") if name in group]
    held = [(name, inner) for name, inner in held if names_in(inner, "weight_names")]
    layers = [layer for layer in getattr(model, "layers", ()) if layer.weights]
    found = Comparison()
    moved: list[str] = []
    for (name, inner), layer in zip(held, layers, strict=False):
        # The order of the legacy format: what is trained goes first.
        variables = [*layer.trainable_weights, *layer.non_trainable_weights]
        for place, variable in zip(names_in(inner, "weight_names"), variables, strict=False):
            found.pair(variable, np.asarray(inner[place][()]) if place in inner else None)
        if _renamed(name, str(layer.name)):
            moved.append(f"{clean(str(layer.name), 60)} took what {clean(name, 60)} left")
    found.left = [name for name, _ in held[len(layers) :]]
    tell(model, found, fidelity, optimizer=False)
    _tell_moved(moved, fidelity)


def names_in(group: Any, attribute: str) -> list[str]:
    """Return a list of names kept as an attribute, cut into numbered pieces where it is long."""
    pieces = [attribute, *(f"{attribute}{number}" for number in range(len(group.attrs)))]
    return [
        name.decode("utf-8", "replace") if isinstance(name, bytes) else str(name)
        for piece in pieces
        if piece in group.attrs
        for name in np.atleast_1d(group.attrs[piece])
    ]


def _tell_moved(moved: list[str], fidelity: Fidelity) -> None:
    if moved:
        fidelity.note(
            f"Weights went to layers of other names: {listed(moved)}. The order of the layers may"
            " not be that of the training."
        )


def tell(model: Any, found: Comparison, fidelity: Fidelity, *, optimizer: bool = True) -> None:
    """Put what was found into words, and say how much of the optimizer's state came back."""
    slots = {id(variable) for held in optimizers_of(model) for variable in held.variables}
    moving = {id(variable) for variable in model.non_trainable_weights}
    for part, ids in (
        ("weight", {id(variable) for variable in model.trainable_weights}),
        ("moving statistic or other state", moving),
    ):
        _gap(found, part, ids, fidelity)
    if found.rounded:
        fidelity.note(
            f"The file holds {listed(map(_name, found.rounded))} with more digits than the dtype of"
            " the model keeps: they were rounded."
        )
    left = [place for place in found.left if not _of_optimizer(place)]
    if left:
        fidelity.note(
            f"The file holds {listed(left)}, of which the model took nothing: it is not the model"
            " that was trained, or not all of it."
        )
    if optimizer:
        fidelity.optimizer_state = _restored(model, found, slots, fidelity)


def tell_fresh(model: Any, found: Comparison, fidelity: Fidelity) -> None:
    """Like :func:`tell`, where the file's optimizer had not taken a step and so had no slots."""
    fidelity.optimizer_state = "restored"
    fidelity.note(
        "The optimizer had not taken a step when the file was written: it starts as fresh as it"
        " was."
    )
    fidelity.notes[:] = [note for note in fidelity.notes if SKIPPED not in note]
    tell(model, found, fidelity, optimizer=False)


def _take_keras_word(weights: Survey, model: Any, fidelity: Fidelity) -> None:
    """Say how much of the optimizer's state came back by what Keras said while it loaded it."""
    held = len(optimizers_of(model))
    skipped = sum(SKIPPED in note for note in fidelity.notes)
    if not held or not any(map(_of_optimizer, weights.datasets)) or skipped >= held:
        fidelity.optimizer_state = "missing"
    else:
        fidelity.optimizer_state = "partial" if skipped else "restored"


def _gap(found: Comparison, part: str, ids: set[int], fidelity: Fidelity) -> None:
    missing = [_name(variable) for variable in found.missing if id(variable) in ids]
    if missing:
        fidelity.note(
            f"The file holds no value for the {part} {listed(missing)}: the replay starts from what"
            " the model's code puts there."
        )
    differing = [_name(variable) for variable in found.differing if id(variable) in ids]
    if differing:
        fidelity.note(
            f"The {part} {listed(differing)} does not hold what the file holds for it after"
            " loading."
        )


def _restored(model: Any, found: Comparison, slots: set[int], fidelity: Fidelity) -> Any:
    held = [variable for optimizer in optimizers_of(model) for variable in optimizer.variables]
    taken = {id(variable) for variable in (*found.taken, *found.rounded)} & slots
    lost = [variable for variable in held if id(variable) not in taken]
    # What Keras passed over was compared with what happened to be there.
    skipped = sum(SKIPPED in note for note in fidelity.notes)
    if not held or not taken or skipped >= len(optimizers_of(model)):
        stored = any(_of_optimizer(place) for place in found.left) or any(
            id(variable) in slots for variable in found.differing
        )
        if held and stored:
            fidelity.note(
                "The optimizer starts fresh: the state that the file holds does not fit it."
            )
        elif held:
            fidelity.notes[:] = [note for note in fidelity.notes if SKIPPED not in note]
            fidelity.note("The optimizer starts fresh: the file holds none of its state.")
        return "missing"
    if not lost:
        return "partial" if skipped else "restored"
    fidelity.note(
        f"{len(lost)} of the {len(held)} variables of the optimizer"
        f" ({listed(map(_name, lost))}) are not what the training left."
    )
    return "partial"


def _variables(model: Any) -> list[Any]:
    return [*model.weights, *(v for held in optimizers_of(model) for v in held.variables)]


def _contents(file: Any) -> tuple[dict[str, tuple[int, ...]], dict[str, str]]:
    """Return the datasets with their shapes, and the groups with the names of their owners."""
    import h5py

    stored: dict[str, tuple[int, ...]] = {}
    names: dict[str, str] = {}

    def visit(place: str, item: Any) -> None:
        if isinstance(item, h5py.Dataset):
            stored[place] = tuple(item.shape)
        elif place.endswith("/vars") and isinstance(item.attrs.get("name"), str):
            names[place.removesuffix("/vars")] = item.attrs["name"]

    file.visititems(visit)
    return stored, names


def _never_stepped(
    model: Any, expected: Mapping[str, Any], stored: Mapping[str, Any], file: Any
) -> bool:
    """Say whether the file's optimizer had no slots yet and its step counter stands at 0."""
    held = getattr(model, "optimizer", None)
    inner = innermost(held)
    if inner is None or not inner.built:
        return False
    slots = {id(variable) for variable in slots_of(inner)}
    here = {place: value for place, value in expected.items() if _of_optimizer(place)}
    if not slots or any(id(value) in slots and place in stored for place, value in here.items()):
        return False
    counters = [
        place
        for place, value in here.items()
        if value is inner.iterations and place in stored and stored[place] == ()
    ]
    return bool(counters) and all(int(file[place][()]) == 0 for place in counters)


def _of_optimizer(place: str) -> bool:
    return "optimizer" in place.partition("/")[0].lower()


def _renamed(stored: str, mine: str) -> bool:
    """Say whether two names were both given by hand and differ.

    A name that Keras made up counts the layers of the process: ``dense_3`` here is ``dense`` there.
    """
    return stored != mine and _stem(stored) != _stem(mine)


def _stem(name: str) -> str:
    head, _, tail = name.rpartition("_")
    return head if head and tail.isdigit() else name


def _name(variable: Any) -> str:
    return str(getattr(variable, "path", "") or "an array of a custom layer")


def _read(dataset: Any) -> NDArray[Any]:
    if dataset.attrs.get("dtype") == "bfloat16":
        import ml_dtypes

        return np.array(dataset, dtype=ml_dtypes.bfloat16)
    return np.asarray(dataset[()])


def _cast(value: NDArray[Any], dtype: Any) -> NDArray[Any]:
    with np.errstate(all="ignore"):
        return value.astype(dtype)


def _same(left: NDArray[Any], right: NDArray[Any]) -> bool:
    """Say whether two arrays are alike to the bit, NaN included."""
    if left.dtype != right.dtype or left.shape != right.shape:
        return False
    if left.dtype.hasobject:
        return bool(np.all(left == right))
    return np.array_equal(_bytes(left), _bytes(right))


def _bytes(values: NDArray[Any]) -> NDArray[np.uint8]:
    return np.ascontiguousarray(values).reshape(-1).view(np.uint8)
