"""Which variable of the model does each stored array belong to? By order, by path, or not at all.

Where every path is found, the paths decide. But the same code makes the same variables in the same
order, and not always of the same names: Keras numbers layers and generators through the whole
process. So else the order decides, where it fits in every shape, dtype and last word of the name.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._fidelity import listed

if TYPE_CHECKING:
    from collections.abc import Sequence

    from divergence_doctor.checkpoints._fidelity import Fidelity

_NUMBER: Final = re.compile(r"_\d+(?=$|[/_])")


@final
@dataclass(eq=False)
class Pairs:
    """What was put back, and what found no counterpart.

    Attributes:
        filled: variables that hold now what was stored.
        missing: variables for which nothing was stored.
        left: stored arrays for which the model has no variable.
        renamed: how a stored array and the variable that took it are called, where they differ.
    """

    filled: list[Any] = field(default_factory=list)
    missing: list[Any] = field(default_factory=list)
    left: list[Any] = field(default_factory=list)
    renamed: list[str] = field(default_factory=list)

    def extend(self, other: Pairs) -> None:
        """Add what another role came to."""
        self.filled += other.filled
        self.missing += other.missing
        self.left += other.left
        self.renamed += other.renamed


def put_back(stored: Sequence[Any], variables: Sequence[Any], *, root: str) -> Pairs:
    """Assign stored arrays to the variables that they belong to.

    Args:
        stored: arrays of one role in the order of the training process, each with ``path``,
            ``shape``, ``dtype`` and ``load()``.
        variables: variables of that role in the order of the model.
        root: name of the model, which Keras puts before a path or not.

    Raises:
        DoctorError: an array is damaged.
    """
    pairs = Pairs()
    for array, variable in _paired(stored, variables, root, pairs):
        variable.assign(array.load())
        pairs.filled.append(variable)
    return pairs


def _paired(
    stored: Sequence[Any], variables: Sequence[Any], root: str, pairs: Pairs
) -> list[tuple[Any, Any]]:
    by_path = {_bare(v.path, root): v for v in variables}
    found = [(one, by_path.get(_bare(one.path, root))) for one in stored]
    known = [(one, v) for one, v in found if v is not None and _fits(one, v)]
    distinct = len(by_path) == len(variables)
    if distinct and len(known) == len(stored) == len(variables):
        return known
    in_order = list(zip(stored, variables, strict=False))
    if len(stored) == len(variables) and all(_fits(one, v) for one, v in in_order):
        pairs.renamed += [
            f"{clean(v.path, 60)} took {clean(one.path, 60)}"
            for one, v in in_order
            if _stem(one.path, root) != _stem(v.path, root)
        ]
        return in_order
    if not distinct:
        known = []
    taken = {id(v) for _, v in known}
    gone = {id(one) for one, _ in known}
    pairs.missing += [v for v in variables if id(v) not in taken]
    pairs.left += [one for one in stored if id(one) not in gone]
    return known


def _fits(array: Any, variable: Any) -> bool:
    return (
        tuple(array.shape) == tuple(variable.shape)
        and str(array.dtype) == str(np.dtype(variable.value.dtype.as_numpy_dtype))
        and _last(array.path) == _last(variable.path)
    )


def _bare(path: str, root: str) -> str:
    """Return a path without the model's name, also within the name of an optimizer's slot.

    What a slot's optimizer is wrapped in stands before it, and says nothing of the slot.
    """
    path = path.rpartition("_optimizer/")[2]
    name = re.escape(_NUMBER.sub("", root)) + r"(?:_\d+)?"
    head, slash, tail = re.sub(f"^{name}/", "", path).rpartition("/")
    return head + slash + re.sub(f"^{name}_(?=.)", "", tail)


def _stem(path: str, root: str) -> str:
    """Return a path without the model's name and the numbers that Keras counts by."""
    return _NUMBER.sub("", _bare(path, root))


def _last(path: str) -> str:
    """Return the last word of a name: ``kernel``, or ``momentum`` of a slot."""
    return _NUMBER.sub("", path).rpartition("/")[2].rpartition("_")[2]


def tell(pairs: Pairs, what: str, fidelity: Fidelity) -> None:
    """Say which variables found nothing, and what was left over."""
    if pairs.missing:
        fidelity.note(
            f"The bundle holds no value for the {what}"
            f" {listed(v.path for v in pairs.missing)}: the replay starts from what the model's"
            " code puts there."
        )
    if pairs.left:
        fidelity.note(
            f"The bundle holds the {what} {listed(one.path for one in pairs.left)}, for which the"
            " model has no place."
        )
    if pairs.renamed:
        fidelity.note(
            f"By their order: {listed(pairs.renamed)}. The code may not be that of the training."
        )
