"""Can the result of an op be NaN or infinite at all? Told from the size of what went into it.

A sum of two numbers below 1e30 is finite, whatever they are, and so is a product of 512 terms of
them. Where that is certain, the result need not be looked at: most of a step's time under watch
would go into reading tensors that cannot hold anything bad. A bound is a magnitude that no element
of a tensor exceeds. It grows with every op that it is told through; when it is of no more use, the
tensor is looked at and gets a close one again.

Ops that can leave the real numbers at ordinary inputs (divisions by a tensor, logarithms, roots,
powers, exponentials) have no rule here, nor has what is not plainly a sum, a product or a choice.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, Final, TypeAlias, final

from divergence_doctor.replay._seams import dtype_number, elements, view
from divergence_doctor.stats import bound as bound_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

#: Below this a float32 or float64 is finite, with room for any order of summation and for
#: convolutions that compute with sums of their inputs (Winograd's): the largest float32 is 3.4e38.
_SURE: Final = 1e36
#: Magnitude of the largest 64-bit integer, for casts.
_INTEGER: Final = 1.9e19
#: Constants with up to so many elements are looked at here.
_SMALL: Final = 64

#: Ops that add to what a variable holds.
_ADDING: Final = frozenset({"AssignAddVariableOp", "AssignSubVariableOp"})

#: Given the bounds of an op's inputs (infinity where there is none) and the inputs: the result's.
Growth: TypeAlias = "Callable[[Sequence[float], Sequence[Any]], float]"


def _same(position: int) -> Growth:
    return lambda bounds, _: bounds[position]


def _below_one(bounds: Sequence[float], _: Sequence[Any]) -> float:
    # The bound of the input says that it is finite: a NaN is passed on.
    return 1.0 if bounds[0] < math.inf else math.inf


def _sum_of_two(bounds: Sequence[float], _: Sequence[Any]) -> float:
    return bounds[0] + bounds[1]


def _larger_of_two(bounds: Sequence[float], _: Sequence[Any]) -> float:
    return max(bounds[0], bounds[1])


def _product(bounds: Sequence[float], _: Sequence[Any]) -> float:
    return bounds[0] * bounds[1]


def _average(bounds: Sequence[float], inputs: Sequence[Any]) -> float:
    # That of nothing is NaN.
    return bounds[0] if elements(inputs[0]) else math.inf


def _quotient(bounds: Sequence[float], inputs: Sequence[Any]) -> float:
    """By a constant: a mean's own gradient is divided by how many there were."""
    below = inputs[1]
    if bounds[0] == math.inf or elements(below) != 1:
        return math.inf
    return bounds[0] / (abs(float(view(below).reshape(-1)[0])) or math.nan)


def _sum_of_all(bounds: Sequence[float], inputs: Sequence[Any]) -> float:
    return elements(inputs[0]) * bounds[0]


def _sum_of_products(left: int, right: int, *, counted: Sequence[int]) -> Growth:
    """A sum of no more products than the smallest of the counted inputs has elements."""

    def growth(bounds: Sequence[float], inputs: Sequence[Any]) -> float:
        terms = min(elements(inputs[position]) for position in counted)
        return terms * bounds[left] * bounds[right]

    return growth


def _cast(bounds: Sequence[float], inputs: Sequence[Any]) -> float:
    dtype = inputs[0].dtype
    return _INTEGER if dtype.is_integer or dtype.is_bool else bounds[0]


_GROWTH: Final[dict[str, Growth]] = {
    **dict.fromkeys(("Identity", "Reshape", "Squeeze", "ExpandDims", "Transpose"), _same(0)),
    **dict.fromkeys(("Relu", "Relu6", "ReluGrad", "Relu6Grad", "Neg", "Abs", "Pad"), _same(0)),
    **dict.fromkeys(("Slice", "StridedSlice", "Tile", "BroadcastTo"), _same(0)),
    **dict.fromkeys(("Tanh", "Sigmoid"), _below_one),
    **dict.fromkeys(("Add", "AddV2", "Sub", "BiasAdd"), _sum_of_two),
    **dict.fromkeys(("Maximum", "Minimum"), _larger_of_two),
    "AddN": lambda bounds, _: sum(bounds),
    "Mul": _product,
    "RealDiv": _quotient,
    "Square": lambda bounds, _: bounds[0] * bounds[0],
    "SquaredDifference": lambda bounds, _: (bounds[0] + bounds[1]) ** 2,
    "Sum": _sum_of_all,
    "BiasAddGrad": _sum_of_all,
    "Mean": _average,
    "MatMul": _sum_of_products(0, 1, counted=(0, 1)),
    "BatchMatMulV2": _sum_of_products(0, 1, counted=(0, 1)),
    "BatchMatMulV3": _sum_of_products(0, 1, counted=(0, 1)),
    "Conv2D": _sum_of_products(0, 1, counted=(1,)),
    "Conv2DBackpropInput": _sum_of_products(1, 2, counted=(1,)),
    "Conv2DBackpropFilter": _sum_of_products(0, 2, counted=(2,)),
    "Cast": _cast,
}


@final
class Bounds:
    """What is known of the size of the tensors and variables of one step.

    Args:
        wide: numbers of the dtypes that hold all that is below 1e36.
    """

    def __init__(self, wide: frozenset[int]) -> None:
        self._wide = wide
        self._tensors: dict[int, float] = {}
        self._variables: dict[int, float] = {}
        #: Tensors that were not looked at, as their op cannot have made them bad.
        self.unseen: set[int] = set()

    def seen(self, key: int, bound: float) -> None:
        """Note a tensor that was looked at: it is finite, and no element exceeds ``bound``."""
        if bound < _SURE:
            self._tensors[key] = bound

    def same(self, old: int, new: int) -> None:
        """Note that a tensor is another one seen anew."""
        if old in self._tensors:
            self._tensors[new] = self._tensors[old]
        if old in self.unseen:
            self.unseen.add(new)

    def holds(self, handle: int, bound: float) -> None:
        """Note what a variable holds: finite numbers, none of which exceeds ``bound``."""
        if bound < _SURE:
            self._variables[handle] = bound

    def read(self, handle: int, out: int) -> None:
        """Note that a variable was read that was known to be finite."""
        bound = self._variables.get(handle)
        if bound is not None:
            self._tensors[out] = bound

    def first_read(self, handle: int, out: int) -> None:
        """Note that a variable was read and what came out looked at."""
        self.holds(handle, self._tensors.get(out, math.inf))

    def write(self, kind: str, handle: int, value: int) -> bool:
        """Note what an op writes to a variable; say whether it is finite for certain after that."""
        before = self._variables.pop(handle, math.inf)
        bound = self._tensors.get(value, math.inf)
        if kind in _ADDING:
            bound += before
        elif kind != "AssignVariableOp":
            return False
        if bound < _SURE:
            self._variables[handle] = bound
        return bound < _SURE

    def prove(
        self, kind: str, ins: Sequence[int], inputs: Sequence[Any], out: int, dtype: int
    ) -> bool:
        """Say whether an op's only result is finite for certain, and note its bound.

        Args:
            kind: the op's type.
            ins: identities of its inputs.
            inputs: its inputs.
            out: identity of its result.
            dtype: number of the result's dtype.
        """
        growth = _GROWTH.get(kind)
        if growth is None or dtype not in self._wide:
            return False
        known = self._tensors
        bounds = [known.get(key, math.inf) for key in ins]
        for position, tensor in enumerate(inputs):
            if bounds[position] == math.inf and dtype_number(tensor) in self._wide:
                bounds[position] = self._of_constant(ins[position], tensor)
        bound = growth(bounds, inputs)
        # Infinity times nothing is no number, and no number is below the limit.
        if not bound < _SURE:
            return False
        known[out] = bound
        self.unseen.add(out)
        return True

    def _of_constant(self, key: int, tensor: Any) -> float:
        """Return the bound of a small tensor that no op of the step may have made."""
        bound = bound_of(view(tensor)) if elements(tensor) <= _SMALL else None
        if bound is None:
            return math.inf
        self._tensors[key] = bound
        return bound
