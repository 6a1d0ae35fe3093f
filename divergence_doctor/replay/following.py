"""From which element of which input did this element of an op's output come?

For every kind of op that can be followed: the cell of an input that dominated the output's cell -
the term of a dot product that was largest, the zero that made a product 0, the row that was
gathered. Ops that only move elements about are run once more on the numbers of the cells.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from enum import Enum
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np

from divergence_doctor.replay._seams import execute_op, view

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from numpy.typing import NDArray

    from divergence_doctor.replay.recording import Made

Index = tuple[int, ...]


class Danger(Enum):
    """What made the number at the end of the chain dangerous."""

    #: 0 or as good as 0, where it is logged, divided by or its root's slope is taken.
    SMALL = "small"
    #: So large that a product, a sum or an exponential leaves the dtype.
    LARGE = "large"
    #: Outside the domain of the op: below 0 under a root, 1 in an acos.
    OUTSIDE = "outside"
    #: NaN or Inf already.
    BAD = "bad"


@final
@dataclass(frozen=True, slots=True)
class Step:
    """One step back: the input, the element of it, and how the output came from it, in words."""

    position: int
    index: Index
    through: str = ""


#: Ops that take one number to one number; further inputs, if any, are parameters.
_UNARY: Final = frozenset(
    {
        *("Abs", "Acos", "Acosh", "Asin", "Asinh", "Atan", "Atanh", "Bitcast", "Cast", "Ceil"),
        *("ComplexAbs", "Conj", "Cos", "Cosh", "Digamma", "Elu", "Erf", "Erfc", "Erfinv", "Exp"),
        *("Expm1", "Floor", "Imag", "Inv", "IsFinite", "IsInf", "IsNan", "LeakyRelu", "Lgamma"),
        *("Log", "Log1p", "LogicalNot", "Ndtri", "Neg", "Real", "Reciprocal", "Relu", "Relu6"),
        *("Rint", "Round", "Rsqrt", "Selu", "Sigmoid", "Sign", "Sin", "Sinh", "Softplus"),
        *("Softsign", "Sqrt", "Square", "Tan", "Tanh", "Angle"),
    }
)
_SUMS: Final = frozenset({"Add", "AddV2", "AddN", "AccumulateNV2", "Sub", "SquaredDifference"})
_PRODUCTS: Final = frozenset({"Mul", "MulNoNan", "RsqrtGrad", "ReciprocalGrad", "InvGrad"})
#: Quotients, with the place of the denominator.
_QUOTIENTS: Final = {
    **dict.fromkeys(("RealDiv", "Div", "DivNoNan", "Xdivy", "FloorDiv", "FloorMod"), 1),
    "SqrtGrad": 0,
}
#: Ops that put out 0 for a large input, and ops that turn large into small and back.
_SATURATING: Final = frozenset({"Softmax", "Sigmoid", "Exp", "Erfc", "Softplus"})
_INVERTING: Final = frozenset({"Reciprocal", "Inv", "Rsqrt"})
_CHOICES: Final = frozenset({"Maximum", "Minimum"})
_OTHER_PAIRS: Final = frozenset(
    {
        *("Pow", "Xlogy", "Xlog1py", "Atan2", "Less", "LessEqual", "Greater", "GreaterEqual"),
        *("Equal", "NotEqual", "LogicalAnd", "LogicalOr", "Complex"),
    }
)
#: Derivatives of activations with a bounded slope: what comes in is what goes out.
_SLOPES: Final = {
    **dict.fromkeys(("ReluGrad", "Relu6Grad", "LeakyReluGrad", "EluGrad", "SeluGrad"), 0),
    **dict.fromkeys(("SoftplusGrad", "SoftsignGrad"), 0),
    **dict.fromkeys(("TanhGrad", "SigmoidGrad"), 1),
}
#: Ops that move elements without changing them, with the inputs that hold elements (None: all,
#: -1: all but the last).
_MOVES: Final[dict[str, tuple[int, ...] | None]] = {
    **dict.fromkeys(("Reshape", "Squeeze", "ExpandDims", "Transpose", "StridedSlice"), (0,)),
    **dict.fromkeys(("Slice", "GatherV2", "Gather", "GatherNd", "Tile", "BroadcastTo"), (0,)),
    **dict.fromkeys(("ReverseV2", "Roll", "Pad", "PadV2", "MirrorPad", "Unpack", "SplitV"), (0,)),
    **dict.fromkeys(("SpaceToBatchND", "BatchToSpaceND", "SpaceToDepth", "DepthToSpace"), (0,)),
    **dict.fromkeys(("MatrixBandPart", "MatrixDiagPartV3", "MatrixDiagV3", "DiagPart"), (0,)),
    **dict.fromkeys(("Pack", "ConcatV2"), None),
    "Split": (1,),
}
_REDUCTIONS: Final = frozenset({"Sum", "Mean", "Max", "Min", "Prod", "EuclideanNorm", "All", "Any"})
_CONVOLUTIONS: Final = frozenset({"Conv2D", "Conv3D", "DepthwiseConv2dNative"})
_POOLS: Final = frozenset({"MaxPool", "AvgPool", "MaxPool3D", "AvgPool3D"})


def follow(
    made: Made,
    output: int,
    index: Index,
    danger: Danger,
    *,
    from_batch: Callable[[int], bool] = lambda _position: False,
) -> Step | None:
    """Return the element that an element of an op's output came from; None where it cannot be told.

    Args:
        made: the op with its tensors.
        output: which of its outputs.
        index: the element of that output.
        danger: what is looked for: it decides between several inputs.
        from_batch: whether an input was computed from the batch; breaks ties.
    """
    look = _LOOKS.get(made.op_type)
    if look is None:
        return None
    try:
        with np.errstate(all="ignore"):
            return look(_Case(made, output, index, danger, from_batch))
    except (IndexError, KeyError, TypeError, ValueError):
        # A form of the op that is not known here is an op that cannot be followed.
        return None


@final
@dataclass(frozen=True, slots=True)
class _Case:
    made: Made
    output: int
    index: Index
    danger: Danger
    from_batch: Callable[[int], bool]

    def array(self, position: int) -> NDArray[Any]:
        return view(self.made.inputs[position])

    @property
    def out(self) -> NDArray[Any]:
        return view(self.made.outputs[self.output])

    @property
    def value(self) -> float:
        return number(self.out[self.index])


#: Keeps a division by a variance of 0 finite; it then outweighs everything.
_TINY: Final = 1e-300


def number(value: Any) -> float:
    """Return one cell as a float; the real part of a complex one, 0 and 1 for a truth value."""
    return float(np.real(value))


def wide(values: Any) -> NDArray[np.float64]:
    """Return a few values in float64, the magnitude of complex ones."""
    array = np.asarray(values)
    array = np.abs(array) if array.dtype.kind == "c" else array
    result: NDArray[np.float64] = array.astype(np.float64)
    return result


def _broadcast(index: Index, shape: tuple[int, ...]) -> Index:
    """Return the element of an operand that belongs to an output element, by broadcasting."""
    own = index[len(index) - len(shape) :]
    return tuple(0 if size == 1 else at for at, size in zip(own, shape, strict=True))


def turned(made: Made, position: int, danger: Danger) -> Danger:
    """Return what is dangerous about an input, given what is about the output.

    Args:
        made: the op.
        position: the input that is followed.
        danger: of the output. 0 comes out of a softmax because of large logits, and a large
            quotient of a small denominator.
    """
    if danger is Danger.SMALL and made.op_type in _SATURATING:
        return Danger.LARGE
    inverts = made.op_type in _INVERTING or _QUOTIENTS.get(made.op_type) == position
    if inverts and danger in {Danger.SMALL, Danger.LARGE}:
        return Danger.LARGE if danger is Danger.SMALL else Danger.SMALL
    return danger


# ---------------------------------------------------------------------- one number to one


def _unary(case: _Case) -> Step:
    return Step(0, case.index)


def _slope(case: _Case) -> Step:
    return Step(_SLOPES[case.made.op_type], case.index)


def _bias_add(case: _Case) -> Step:
    first = case.made.attrs.get("data_format") in (b"NCHW", "NCHW")
    cells = [case.index, (case.index[1 if first else -1],)]
    return _best(case, [(0, cells[0]), (1, cells[1])], _magnitude)


def _select(case: _Case) -> Step:
    chosen = _broadcast(case.index, case.array(0).shape) if case.array(0).ndim else ()
    if case.made.op_type == "Select" and case.array(0).ndim == 1:
        chosen = case.index[:1]
    position = 1 if case.array(0)[chosen] else 2
    return Step(position, _broadcast(case.index, case.array(position).shape), "selected")


def _clip(case: _Case) -> Step:
    cells = [(p, _broadcast(case.index, case.array(p).shape)) for p in range(3)]
    return _best(case, cells, lambda case, _p, value: float(value == case.value))


# ---------------------------------------------------------------------- several numbers to one


def _elementwise(case: _Case) -> Step:
    kind = case.made.op_type
    cells = [
        (position, _broadcast(case.index, view(tensor).shape))
        for position, tensor in enumerate(case.made.inputs)
    ]
    if kind in _PRODUCTS:
        return _best(case, cells, _factor)
    if kind in _QUOTIENTS:
        return _best(case, cells, _part_of_quotient)
    if kind in _CHOICES:
        return _best(case, cells, lambda case, _p, value: float(value == case.value))
    if kind in _SUMS:
        return _best(case, cells, _summand)
    return _best(case, cells, lambda _case, _p, value: 0.0 if math.isfinite(value) else 1.0)


def _best(
    case: _Case,
    cells: Sequence[tuple[int, Index]],
    score: Callable[[_Case, int, float], float],
) -> Step:
    """Return the cell that scores highest; of equals one that was computed from the batch."""

    def rank(cell: tuple[int, Index]) -> tuple[float, float, bool, int]:
        position, index = cell
        value = number(case.array(position)[index])
        bad = _badness(value) if case.danger is Danger.BAD else 0.0
        scored = score(case, position, value)
        scored = -math.inf if math.isnan(scored) else scored
        return bad, scored, case.from_batch(position), -position

    position, index = max(cells, key=rank)
    return Step(position, index)


def _badness(value: float) -> float:
    return 2.0 if math.isnan(value) else 1.0 if math.isinf(value) else 0.0


def _magnitude(_case: _Case, _position: int, value: float) -> float:
    return abs(value)


def _summand(case: _Case, position: int, value: float) -> float:
    """Score a summand: the larger, but of what cancelled the one that the data decide."""
    data = case.danger is not Danger.LARGE and case.from_batch(position)
    return math.inf if data else abs(value)


def _factor(case: _Case, _position: int, value: float) -> float:
    return -abs(value) if case.danger is Danger.SMALL or case.value == 0 else abs(value)


def _part_of_quotient(case: _Case, position: int, value: float) -> float:
    size = math.log2(abs(value)) if value and math.isfinite(value) else math.nan
    size = (-math.inf if value == 0 else math.inf) if math.isnan(size) else size
    below = position == _QUOTIENTS[case.made.op_type]
    growing = case.danger is not Danger.SMALL and case.value != 0
    return size if growing != below else -size


# ---------------------------------------------------------------------- many numbers to one


def _dominant(values: NDArray[Any], danger: Danger, kind: str = "Sum") -> Index:
    """Return which of many values made their sum, product, maximum or minimum what it is."""
    flat = wide(values)
    if danger is Danger.BAD and not np.isfinite(flat).all():
        score = np.where(np.isnan(flat), 2.0, np.where(np.isinf(flat), 1.0, 0.0))
    elif kind == "Max":
        score = flat
    elif kind in {"Min", "All"} or (danger is Danger.OUTSIDE and kind in {"Sum", "Mean"}):
        score = -flat
    elif kind == "Prod" and (danger is Danger.SMALL or (flat == 0).any()):
        score = -np.abs(flat)
    else:
        score = np.abs(flat)
    score = np.where(np.isnan(score), -np.inf, score)
    return tuple(int(at) for at in np.unravel_index(int(np.argmax(score)), flat.shape))


def _told(kind: str, values: NDArray[Any], chosen: Index) -> str:
    """Say which of how many it was."""
    words = {"Max": "the maximum", "Min": "the minimum", "Prod": "the product"}
    what = words.get(kind, "the mean" if "Mean" in kind or "Avg" in kind else "the sum")
    if values.size == 1:
        return ""
    if kind in {"Max", "Min"}:
        return f"{what} of {values.size:,}"
    if not wide(values).any():
        return f"all {values.size:,} terms of {what} are 0"
    size = abs(number(values[chosen]))
    word = "smallest" if kind == "Prod" and size < 1 else "largest"
    return f"the {word} of {values.size:,} terms of {what}"


def _reduction(case: _Case) -> Step | None:
    values = case.array(0)
    kind = case.made.op_type
    axes = np.atleast_1d(case.array(1)) if len(case.made.inputs) > 1 else np.arange(values.ndim)
    reduced = {int(axis) % values.ndim for axis in axes} if values.ndim else set()
    keep = bool(case.made.attrs.get("keep_dims", False))
    kept = iter(case.index)
    where: list[Any] = []
    for axis in range(values.ndim):
        at = next(kept) if keep or axis not in reduced else None
        where.append(slice(None) if axis in reduced else at)
    part = values[tuple(where)]
    if not part.size:
        return None
    chosen = _dominant(part, case.danger, kind)
    found = iter(chosen)
    index = tuple(next(found) if isinstance(at, slice) else int(at) for at in where)
    return Step(0, index, _told(kind, part, chosen))


def _whole(case: _Case) -> Step:
    """Follow an op that sums over everything it takes in (`L2Loss`)."""
    chosen = _dominant(case.array(0), case.danger)
    return Step(0, chosen, _told("Sum", case.array(0), chosen))


def _bias_gradient(case: _Case) -> Step:
    part = case.array(0)[..., case.index[0]]
    chosen = _dominant(part, case.danger)
    return Step(0, (*chosen, case.index[0]), _told("Sum", part, chosen))


def _cumulative(case: _Case) -> Step | None:
    values = case.array(0)
    axis = int(case.array(1)) % values.ndim
    at, attrs = case.index[axis], case.made.attrs
    less = 1 if attrs.get("exclusive") else 0
    span = slice(at + less, None) if attrs.get("reverse") else slice(0, at + 1 - less)
    where = tuple(span if k == axis else place for k, place in enumerate(case.index))
    part = values[where]
    if not part.size:
        return None
    kind = "Prod" if case.made.op_type == "Cumprod" else "Sum"
    (chosen,) = _dominant(part, case.danger, kind)
    index = tuple(
        (span.start or 0) + chosen if k == axis else place for k, place in enumerate(case.index)
    )
    return Step(0, index, _told(kind, part, (chosen,)))


def _segments(case: _Case) -> Step | None:
    ids = case.array(1)
    rows = np.flatnonzero(ids.reshape(-1) == case.index[0]) if ids.ndim == 1 else np.array([])
    if not rows.size:
        return None
    part = case.array(0)[(rows, *case.index[1:])]
    chosen = _dominant(part, case.danger, _SEGMENTS[case.made.op_type])
    told = _told(_SEGMENTS[case.made.op_type], part, chosen)
    return Step(0, (int(rows[chosen[0]]), *case.index[1:]), told)


_SEGMENTS: Final = {
    **dict.fromkeys(("UnsortedSegmentSum", "SegmentSum", "SegmentSumV2", "SegmentMean"), "Sum"),
    **dict.fromkeys(("UnsortedSegmentMax", "SegmentMax", "SegmentMaxV2"), "Max"),
    **dict.fromkeys(("UnsortedSegmentMin", "SegmentMin", "SegmentMinV2"), "Min"),
    **dict.fromkeys(("UnsortedSegmentProd", "SegmentProd", "SegmentProdV2"), "Prod"),
}


def _transform(case: _Case) -> Step | None:
    """Follow a Fourier transform to the largest sample of the row that it is taken over."""
    axes = int(case.made.op_type.endswith("2D")) + 1
    fixed = case.index[: len(case.index) - axes]
    part = case.array(0)[fixed]
    if not part.size:
        return None
    chosen = _dominant(part, case.danger)
    return Step(0, (*fixed, *chosen), _told("Sum", part, chosen))


# ---------------------------------------------------------------------- sums of products


def _term(case: _Case, left: NDArray[Any], right: NDArray[Any]) -> tuple[Index, int, str]:
    """Return the term of a sum of products that dominates, its telling factor, and words.

    Args:
        case: the op.
        left: the first factor of every term.
        right: the second, of the same shape.
    """
    a, b = wide(left), wide(right)
    terms = a * b
    if case.danger is not Danger.BAD and not terms.any():
        at = _dominant(np.abs(a) + np.abs(b), Danger.LARGE)
        words = f"all {terms.size:,} terms of the sum of products are 0"
    else:
        at = _dominant(terms, case.danger)
        words = f"term {_flat(at, terms.shape) + 1:,} of {terms.size:,}: {a[at]:.4g} * {b[at]:.4g}"
    pair = (float(a[at]), float(b[at]))
    if case.danger is Danger.BAD:
        ranks = [(_badness(value), abs(value)) for value in pair]
    elif case.danger is Danger.SMALL or pair[0] * pair[1] == 0:
        ranks = [(0.0, -abs(value)) for value in pair]
    else:
        ranks = [(0.0, abs(value)) for value in pair]
    first, second = ((*rank, case.from_batch(p)) for p, rank in enumerate(ranks))
    return at, int(second > first), words


def _flat(at: Index, shape: tuple[int, ...]) -> int:
    return int(np.ravel_multi_index(at, shape)) if shape else 0


def _contraction(case: _Case, labels: tuple[str, str], out: str) -> Step | None:
    """Follow a sum of products given by labels, as Einstein wrote it."""
    summed = sorted(set(labels[0] + labels[1]) - set(out))
    fixed = dict(zip(out, case.index, strict=True))
    factors: list[Any] = []
    for position, names in enumerate(labels):
        values = case.array(position)
        where = tuple(
            (0 if values.shape[axis] == 1 else fixed[name]) if name in fixed else slice(None)
            for axis, name in enumerate(names)
        )
        own = [name for name in names if name not in fixed]
        part = values[where]
        part = part.transpose([own.index(name) for name in summed if name in own])
        factors.append(part[tuple(slice(None) if n in own else None for n in summed)])
    shape = np.broadcast_shapes(factors[0].shape, factors[1].shape)
    left, right = (np.broadcast_to(part, shape) for part in factors)
    if not left.size:
        return None
    at, position, words = _term(case, left, right)
    found = {**fixed, **dict(zip(summed, at, strict=True))}
    values = case.array(position)
    index = tuple(
        0 if values.shape[axis] == 1 else found[name] for axis, name in enumerate(labels[position])
    )
    return Step(position, index, words)


def _matmul(case: _Case) -> Step | None:
    attrs, ranks = case.made.attrs, (case.array(0).ndim, case.array(1).ndim)
    flipped = [
        bool(attrs.get(name) or attrs.get(other))
        for name, other in (("transpose_a", "adj_x"), ("transpose_b", "adj_y"))
    ]
    batch = "abcdefgh"[: max(ranks) - 2]
    left = "ji"[:: 1 if flipped[0] else -1]
    right = "kj"[:: 1 if flipped[1] else -1]
    labels = tuple(
        batch[len(batch) - (rank - 2) :] + names
        for rank, names in zip(ranks, (left, right), strict=True)
    )
    return _contraction(case, (labels[0], labels[1]), batch + "ik")


def _einsum(case: _Case) -> Step | None:
    equation = case.made.attrs.get("equation", b"")
    text = equation.decode() if isinstance(equation, bytes) else str(equation)
    sides, _, out = text.replace(" ", "").partition("->")
    labels = sides.split(",")
    plain = all(len(set(names)) == len(names) for names in (*labels, out))
    if len(labels) != 2 or "." in text or not plain:
        return None
    return _contraction(case, (labels[0], labels[1]), out)


# ---------------------------------------------------------------------- windows


def _window(case: _Case, sizes: Sequence[int]) -> tuple[list[NDArray[Any]], list[Any]] | None:
    """Return for each spatial axis the offsets inside the window and the places they look at."""
    attrs, values = case.made.attrs, case.array(0)
    layout = attrs.get("data_format") or b"NHWC"
    if (layout.decode() if isinstance(layout, bytes) else layout) not in {"NHWC", "NDHWC"}:
        return None
    padding = attrs.get("padding") or b"VALID"
    padding = padding.decode() if isinstance(padding, bytes) else padding
    explicit = list(attrs.get("explicit_paddings") or [])
    strides, spread = list(attrs["strides"]), list(attrs.get("dilations") or [])
    offsets, places = [], []
    for axis, size in enumerate(sizes, start=1):
        stride, gap = strides[axis], (spread[axis] if spread else 1)
        reach = (size - 1) * gap + 1
        before = 0
        if padding == "SAME":
            total = (case.out.shape[axis] - 1) * stride + reach - values.shape[axis]
            before = max(total, 0) // 2
        elif padding == "EXPLICIT":
            before = int(explicit[2 * axis])
        at = case.index[axis] * stride - before + np.arange(size) * gap
        inside = (at >= 0) & (at < values.shape[axis])
        offsets.append(np.flatnonzero(inside))
        places.append(at[inside])
    return offsets, places


def _convolution(case: _Case) -> Step | None:
    kernel = case.array(1)
    spatial = kernel.ndim - 2
    found = _window(case, kernel.shape[:spatial])
    if found is None:
        return None
    offsets, places = found
    sample, channel = case.index[0], case.index[-1]
    if case.made.op_type == "DepthwiseConv2dNative":
        channels = np.array([channel // kernel.shape[-1]])
        own = (channels, np.array([channel % kernel.shape[-1]]))
    else:
        groups = max(case.array(0).shape[-1] // kernel.shape[-2], 1)
        group = channel // max(kernel.shape[-1] // groups, 1)
        channels = np.arange(kernel.shape[-2]) + group * kernel.shape[-2]
        own = (np.arange(kernel.shape[-2]), np.array([channel]))
    seen = case.array(0)[np.ix_(np.array([sample]), *places, channels)].reshape(-1)
    weights = kernel[np.ix_(*offsets, *own)].reshape(-1)
    if not seen.size:
        return None
    (at,), position, words = _term(case, seen, weights)
    shape = (*map(len, places), len(channels))
    inner = np.unravel_index(at, shape)
    if position == 0:
        spots = [int(place[i]) for place, i in zip(places, inner, strict=False)]
        return Step(0, (sample, *spots, int(channels[inner[-1]])), words)
    spots = [int(offset[i]) for offset, i in zip(offsets, inner, strict=False)]
    if case.made.op_type == "DepthwiseConv2dNative":
        return Step(1, (*spots, int(own[0][0]), int(own[1][0])), words)
    return Step(1, (*spots, int(inner[-1]), channel), words)


def _pool(case: _Case) -> Step | None:
    sizes = list(case.made.attrs["ksize"])
    found = _window(case, sizes[1:-1])
    if found is None or sizes[0] != 1 or sizes[-1] != 1:
        return None
    sample, channel = case.index[0], case.index[-1]
    _, places = found
    part = case.array(0)[np.ix_(np.array([sample]), *places, np.array([channel]))][0, ..., 0]
    if not part.size:
        return None
    kind = "Max" if case.made.op_type.startswith("Max") else "AvgPool"
    chosen = _dominant(part, case.danger, kind)
    spots = [int(place[i]) for place, i in zip(places, chosen, strict=True)]
    return Step(0, (sample, *spots, channel), _told(kind, part, chosen))


# ---------------------------------------------------------------------- whole rows


def _softmax(case: _Case) -> Step:
    """Follow a softmax to its own logit, or to the one that outweighs it."""
    row = wide(case.array(0)[case.index[:-1]])
    own = case.index[-1]
    largest = _dominant(row, case.danger, "Max")[0]
    if case.danger is Danger.BAD or abs(row[own]) >= abs(row[largest]) or own == largest:
        chosen = _dominant(row, case.danger)[0] if case.danger is Danger.BAD else own
        return Step(0, (*case.index[:-1], chosen), f"its logit; the largest is {row[largest]:.4g}")
    return Step(0, (*case.index[:-1], largest), f"the largest logit; its own is {row[own]:.4g}")


def _cross_entropy(case: _Case) -> Step:
    row = wide(case.array(0)[case.index[:1]])
    chosen = _dominant(row, case.danger)[0]
    return Step(0, (case.index[0], chosen), f"the largest of {row.size:,} logits in magnitude")


def _normalisation(case: _Case) -> Step | None:
    if case.output != 0:
        return None
    channel = (case.index[-1],)
    cells = [(0, case.index), (1, channel), (2, channel)]
    if not case.made.attrs.get("is_training", True):
        cells.append((4, channel))
    # What is divided by counts where it is small.
    return _best(case, cells, lambda _case, p, v: 1 / (abs(v) + _TINY) if p == 4 else abs(v))


def _embedding(case: _Case) -> Step:
    ids = case.array(1)
    row = int(ids[case.index[: ids.ndim]])
    return Step(0, (row, *case.index[ids.ndim :]), f"row {row:,}")


# ---------------------------------------------------------------------- moved about


def _moved(case: _Case) -> Step | None:
    """Follow an op that only moves elements: it is run on the numbers of the cells instead."""
    made = case.made
    holding = _MOVES[made.op_type]
    last = len(made.inputs) - (1 if made.op_type == "ConcatV2" else 0)
    positions = range(last) if holding is None else holding
    numbered, start = list(made.inputs), 1
    shapes: list[tuple[int, int, tuple[int, ...]]] = []
    for position in positions:
        shape = case.array(position).shape
        size = math.prod(shape)
        numbered[position] = np.arange(start, start + size, dtype=np.int64).reshape(shape)
        shapes.append((position, start, shape))
        start += size
    if made.op_type == "PadV2":
        numbered[2] = np.int64(0)
    ran = execute_op(made.op_type, numbered, made.attrs, len(made.outputs))
    if ran is None:
        return None
    cell = int(ran[case.output][case.index])
    for position, first, shape in reversed(shapes):
        if cell >= first:
            at = np.unravel_index(cell - first, shape) if shape else ()
            return Step(position, tuple(int(place) for place in at))
    return None


def _group(
    kinds: Iterable[str], look: Callable[[_Case], Step | None]
) -> dict[str, Callable[[_Case], Step | None]]:
    return dict.fromkeys(kinds, look)


_LOOKS: Final[dict[str, Callable[[_Case], Step | None]]] = {
    **_group(_UNARY, _unary),
    **_group(_SLOPES, _slope),
    **_group({*_SUMS, *_PRODUCTS, *_QUOTIENTS, *_CHOICES, *_OTHER_PAIRS}, _elementwise),
    **_group(_MOVES, _moved),
    **_group(_REDUCTIONS, _reduction),
    **_group(_CONVOLUTIONS, _convolution),
    **_group(_POOLS, _pool),
    **_group(_SEGMENTS, _segments),
    **_group(("BatchMatMul", "BatchMatMulV2", "BatchMatMulV3", "MatMul"), _matmul),
    **_group(("Select", "SelectV2"), _select),
    **_group(("Softmax", "LogSoftmax"), _softmax),
    **_group(
        ("SparseSoftmaxCrossEntropyWithLogits", "SoftmaxCrossEntropyWithLogits"), _cross_entropy
    ),
    **_group(("FusedBatchNorm", "FusedBatchNormV3"), _normalisation),
    **_group(("Cumsum", "Cumprod"), _cumulative),
    **_group(("FFT", "IFFT", "RFFT", "IRFFT", "FFT2D", "IFFT2D", "RFFT2D", "IRFFT2D"), _transform),
    "BiasAdd": _bias_add,
    "BiasAddGrad": _bias_gradient,
    "ClipByValue": _clip,
    "Einsum": _einsum,
    "L2Loss": _whole,
    "ResourceGather": _embedding,
}

#: Ops that can be followed, for the tests: each of them is tried there.
FOLLOWED: Final = frozenset(_LOOKS)
