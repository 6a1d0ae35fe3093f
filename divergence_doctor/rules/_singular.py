"""At which inputs does an op, or its derivative, stop being finite? Plain facts about TF's ops."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

if TYPE_CHECKING:
    from collections.abc import Callable

    from divergence_doctor.rules._producer import Operand, Producer

#: Logarithms: which input is logged, and the value at which the logarithm is minus infinity.
LOGARITHMS: Final = {"Log": (0, 0.0), "Log1p": (0, -1.0), "Xlogy": (1, 0.0), "Xlog1py": (1, -1.0)}

#: Divisions: which input is the denominator.
DIVISIONS: Final = {
    **dict.fromkeys(("RealDiv", "Div", "FloorDiv", "TruncateDiv", "Xdivy"), 1),
    **dict.fromkeys(("Mod", "FloorMod", "TruncateMod"), 1),
    **dict.fromkeys(("Reciprocal", "Inv", "Rsqrt"), 0),
}

#: Exponentials, and the input at which each one leaves the range of a dtype: ln(max), for
#: sinh and cosh ln(max) + ln 2.
EXPONENTIALS: Final = frozenset({"Exp", "Expm1", "Sinh", "Cosh"})
LARGEST: Final = {
    "float16": 65504.0,
    "bfloat16": 3.3895313892515355e38,
    "float32": 3.4028234663852886e38,
    "float64": 1.7976931348623157e308,
}

#: Ops on whole matrices that need an invertible, positive definite or well separated one.
LINEAR_ALGEBRA: Final = frozenset(
    {
        *("Cholesky", "MatrixInverse", "MatrixSolve", "MatrixTriangularSolve", "MatrixSolveLs"),
        *("LogMatrixDeterminant", "MatrixDeterminant", "MatrixSquareRoot", "MatrixLogarithm"),
        *("SelfAdjointEigV2", "Eig", "Svd", "Qr", "BandedTriangularSolve", "TridiagonalSolve"),
    }
)

#: Ops whose output can only be too large: sums and products of finite numbers.
GROWING: Final = frozenset(
    {
        *("MatMul", "_FusedMatMul", "BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "Einsum"),
        *("Conv1D", "Conv2D", "_FusedConv2D", "Conv3D", "DepthwiseConv2dNative", "Conv"),
        *("Conv2DBackpropInput", "Conv3DBackpropInputV2", "SparseTensorDenseMatMul"),
        *("Conv2DBackpropFilter", "Conv3DBackpropFilterV2"),
        *("Add", "AddV2", "AddN", "AccumulateNV2", "BiasAdd", "BiasAddGrad", "Sub", "Mul"),
        *("Square", "SquaredDifference", "L2Loss", "Sum", "Mean", "Cumsum", "EuclideanNorm"),
        *("SegmentSum", "SegmentSumV2", "UnsortedSegmentSum", "Prod", "Cumprod", "Pow"),
        *("RealDiv", "Div", "AvgPool", "FusedBatchNormV3", "Cast"),
    }
)

#: A denominator below this divides any ordinary float32 number out of range: 1 / sqrt(max).
NEGLIGIBLE: Final = {"float16": 1 / 256, "float64": 7.5e-155}
_NEGLIGIBLE_FLOAT32: Final = 5.5e-20
#: Within this distance of 1 the derivatives of acos, asin, acosh and atanh are useless in float32:
#: one unit in the last place of 1.0.
_EDGE: Final = 1.2e-7
#: rsqrt'(x) = -x**-1.5 / 2 leaves float32 below this.
_RSQRT_SMALL: Final = 1e-25
#: Below this sqrt' and the fractional powers' derivatives are of no use to a float32 step.
_ROOT_SMALL: Final = 1e-30


@final
@dataclass(frozen=True, slots=True)
class Domain:
    """The inputs for which a real function of one variable is finite.

    Attributes:
        low, high: the ends.
        open_low, open_high: the end itself is not allowed.
        position: which input of the op it is about.
    """

    low: float = -math.inf
    high: float = math.inf
    open_low: bool = False
    open_high: bool = False
    position: int = 0

    def excludes(self, value: float) -> bool:
        """Say whether a value lies outside."""
        return (
            value < self.low
            or value > self.high
            or (self.open_low and value == self.low)
            or (self.open_high and value == self.high)
        )

    def __str__(self) -> str:
        left = "(" if self.open_low or math.isinf(self.low) else "["
        right = ")" if self.open_high or math.isinf(self.high) else "]"
        return f"{left}{self.low:g}, {self.high:g}{right}"


#: Functions with a bounded domain. Rsqrt at 0 is a division and stands there.
DOMAINS: Final = {
    "Sqrt": Domain(low=0.0),
    "Rsqrt": Domain(low=0.0),
    "Acos": Domain(low=-1.0, high=1.0),
    "Asin": Domain(low=-1.0, high=1.0),
    "Acosh": Domain(low=1.0),
    "Atanh": Domain(low=-1.0, high=1.0, open_low=True, open_high=True),
    "Erfinv": Domain(low=-1.0, high=1.0, open_low=True, open_high=True),
    "Ndtri": Domain(low=0.0, high=1.0, open_low=True, open_high=True),
}


def exponent_limit(op_type: str, dtype: str) -> float:
    """Return the largest input for which an exponential stays finite in ``dtype``."""
    limit = math.log(LARGEST.get(dtype, LARGEST["float32"]))
    return limit + math.log(2) if op_type in {"Sinh", "Cosh"} else limit


def negligible(dtype: str) -> float:
    """Return the magnitude below which a denominator is as good as zero in ``dtype``."""
    return NEGLIGIBLE.get(dtype, _NEGLIGIBLE_FLOAT32)


@final
@dataclass(frozen=True, slots=True)
class Singularity:
    """Where a derivative has no finite value.

    Attributes:
        at: the point in words, e.g. ``"0"`` or ``"an input of 102"``.
        because: why, as the end of a sentence.
        value: the input that was met there.
    """

    at: str
    because: str
    value: float


#: Such an op with a bad derivative, and its operands not on record.
UNSEEN: Final = Singularity("an unrecorded input", "its slope is not bounded", math.nan)


def derivative_singularity(producer: Producer) -> Singularity | None:
    """Return where the derivative of an op is not finite, if its operands stand there.

    Args:
        producer: the op, with its own inputs and outputs (not those of the gradient) as operands.

    Returns:
        The singular point, or None when the op is smooth where it was used: then the gradient
        that came in was what was too large.
    """
    op_type = producer.op_type
    for kinds, look in _LOOKS:
        if op_type in kinds:
            return look(producer) if producer.all("input") else _by_output(producer)
    return None


def _by_output(producer: Producer) -> Singularity | None:
    """Judge by what the op put out: TensorFlow drops inputs that a derivative does not need."""
    outputs = producer.all("output")
    if not outputs:
        return UNSEEN
    value = outputs[0].nearest(0.0)
    if producer.op_type == "Sqrt":
        if not value * value <= _ROOT_SMALL:
            return None
        return Singularity(_zero(value), "1 / (2 sqrt(x)) has no finite value there", value)
    if outputs[0].nonfinite:
        return Singularity("an overflow", "0 times its infinite value is NaN", math.nan)
    return None if producer.op_type in EXPONENTIALS else UNSEEN


def _root(producer: Producer) -> Singularity | None:
    operand = producer.input(0)
    if operand is None:
        return None
    value = operand.nearest(0.0)
    if not abs(value) <= _ROOT_SMALL:
        return None
    return Singularity(_zero(value), "1 / (2 sqrt(x)) has no finite value there", value)


def _power(producer: Producer) -> Singularity | None:
    base, exponent = producer.input(0), producer.input(1)
    if base is None:
        return None
    value = base.nearest(0.0)
    power = exponent.smallest() if exponent is not None else math.nan
    if not abs(value) <= _ROOT_SMALL or power >= 1:
        return None
    named = f"{power:g}" if math.isfinite(power) else "p"
    less = f"{power - 1:g}" if math.isfinite(power) else "(p - 1)"
    return Singularity(
        _zero(value), f"{named} x**{less} has no finite value there for an exponent below 1", value
    )


def _logarithm(producer: Producer) -> Singularity | None:
    position, edge = LOGARITHMS[producer.op_type]
    operand = producer.input(position)
    if operand is None:
        return None
    value = operand.smallest()
    if value - edge > negligible(operand.dtype):
        return None
    return Singularity(f"{value:g}", f"1 / {'(1 + x)' if edge else 'x'} multiplies it", value)


def _quotient(producer: Producer) -> Singularity | None:
    operand = producer.input(DIVISIONS[producer.op_type])
    if operand is None:
        return None
    value = operand.nearest(0.0)
    small = _RSQRT_SMALL if producer.op_type == "Rsqrt" else negligible(operand.dtype)
    if not abs(value) <= small:
        return None
    return Singularity(f"a denominator of {value:g}", "its square is divided by", value)


def _edge(producer: Producer) -> Singularity | None:
    operand = producer.input(0)
    if operand is None:
        return None
    ends = (1.0,) if producer.op_type == "Acosh" else (-1.0, 1.0)
    value = min((operand.nearest(end) for end in ends), key=lambda met: abs(abs(met) - 1))
    if not abs(abs(value) - 1) <= _EDGE:
        return None
    return Singularity(f"{value:g}", "the slope is infinite at the edge of the domain", value)


def _overflowed(producer: Producer) -> Singularity | None:
    operand = producer.input(0)
    spilt = any(output.nonfinite for output in producer.all("output"))
    if operand is None:
        return None
    value = operand.largest()
    if not spilt and not value > exponent_limit(producer.op_type, operand.dtype):
        return None
    return Singularity(
        f"an input of {value:g}", "its value there is infinite, and 0 times infinity is NaN", value
    )


def _matrix(producer: Producer) -> Singularity | None:
    operand = producer.input(0)
    value = operand.absmax if operand is not None else math.nan
    return Singularity(
        "this matrix", "it divides by eigenvalues, or by their differences, that vanish", value
    )


def _origin(producer: Producer) -> Singularity | None:
    inputs = producer.all("input")
    if inputs and not all(abs(operand.nearest(0.0)) <= _ROOT_SMALL for operand in inputs):
        return None
    return Singularity("0", "it is 0/0 there", 0.0)


def _zero(value: float) -> str:
    return "0" if value == 0 else f"{value:g}"


_LOOKS: Final[tuple[tuple[frozenset[str], Callable[[Producer], Singularity | None]], ...]] = (
    (frozenset({"Sqrt", "SqrtGrad"}), _root),
    (frozenset({"Pow"}), _power),
    (frozenset(LOGARITHMS), _logarithm),
    (frozenset(DIVISIONS), _quotient),
    (frozenset({"Acos", "Asin", "Acosh", "Atanh"}), _edge),
    (EXPONENTIALS, _overflowed),
    (LINEAR_ALGEBRA, _matrix),
    (frozenset({"Atan2", "EuclideanNorm", "Cumprod", "ComplexAbs", "Angle"}), _origin),
)


def met(operand: Operand, domain: Domain) -> float | None:
    """Return the value of ``operand`` that lies outside ``domain``, or None."""
    for value in (operand.value, operand.low, operand.high):
        if math.isfinite(value) and domain.excludes(value):
            return value
    return None
