"""Does the step live once one op is kept inside its domain?

The input of the singular op is moved into its domain where it is *made*, by replacing the result of
the op that feeds it: that mends the op's value and its derivative. Replacing the op's own result
would mend its value only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.replay.source import spell
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from numpy.typing import NDArray

    from divergence_doctor.batches import Batch
    from divergence_doctor.replay.bench import Bench
    from divergence_doctor.replay.ops import Op, Spot
    from divergence_doctor.replay.opstream import OpStream

#: How far from the singular point a value is moved, by the dtype's resolution: far enough that the
#: derivative (1/x, 1/(2 sqrt x)) is an ordinary number.
_EPSILON: Final = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 1e-6, "float64": 1e-9}
#: A denominator over which every ordinary number is as good as 0, in float16 too.
_VAST: Final = 6e4
#: Largest exponent that leaves room for what is done with the result: it is squared by a loss, and
#: once more by an optimizer's second moment (exp(10)**4 = 2e17, far inside float32).
_EXPONENT: Final = {"float16": 2.0, "bfloat16": 10.0, "float32": 10.0, "float64": 20.0}


def _at_least(value: float | None = None) -> Callable[[Any], Any]:
    def safe(x: Any) -> Any:
        import tensorflow as tf

        floor = _EPSILON[x.dtype.name] + (0.0 if value is None else value)
        return tf.maximum(x, tf.cast(floor, x.dtype))

    return safe


def _no_less_than(value: float) -> Callable[[Any], Any]:
    def safe(x: Any) -> Any:
        import tensorflow as tf

        return tf.maximum(x, tf.cast(value, x.dtype))

    return safe


def _bounded(x: Any) -> Any:
    import tensorflow as tf

    bound = tf.cast(_EXPONENT[x.dtype.name], x.dtype)
    return tf.minimum(x, bound)


def _instead_of_less_than(least: float | None, value: float) -> Callable[[Any], Any]:
    """Return what puts ``value``, with the same sign, in place of a denominator up to ``least``.

    By default what is as good as 0 in the dtype.
    """

    def safe(x: Any) -> Any:
        import tensorflow as tf

        edge = tf.cast(_EPSILON[x.dtype.name] if least is None else least, x.dtype)
        other = tf.where(x < 0, tf.cast(-value, x.dtype), tf.cast(value, x.dtype))
        return tf.where(tf.abs(x) <= edge, other, x)

    return safe


def _both_bounded(x: Any) -> Any:
    import tensorflow as tf

    bound = tf.cast(_EXPONENT[x.dtype.name], x.dtype)
    return tf.clip_by_value(x, -bound, bound)


def _inside_one(x: Any) -> Any:
    import tensorflow as tf

    edge = tf.cast(1.0 - 10 * _EPSILON[x.dtype.name], x.dtype)
    return tf.clip_by_value(x, -edge, edge)


def _zero_for_nan(x: Any) -> Any:
    import tensorflow as tf

    return tf.where(tf.math.is_nan(x), tf.zeros_like(x), x)


def _jittered(x: Any) -> Any:
    """Return a square matrix with its diagonal raised until it is positive definite enough."""
    import tensorflow as tf

    size = tf.shape(x)[-1]
    scale = tf.reduce_max(tf.abs(x), axis=(-2, -1), keepdims=True) + tf.cast(1e-6, x.dtype)
    return x + scale * tf.eye(size, dtype=x.dtype)


#: What is dangerous for an op: which input, and how it is brought into the domain.
DOMAINS: Final[Mapping[str, tuple[int, Callable[[Any], Any]]]] = {
    "Log": (0, _at_least()),
    "Log1p": (0, _at_least(-1.0)),
    "Xlogy": (1, _at_least()),
    "Xlog1py": (1, _at_least(-1.0)),
    "LogSoftmax": (0, _no_less_than(-100.0)),
    "Sqrt": (0, _at_least()),
    "Rsqrt": (0, _at_least()),
    "Pow": (0, _at_least()),
    "Lgamma": (0, _at_least()),
    "Digamma": (0, _at_least()),
    "Acosh": (0, _at_least(1.0)),
    "Exp": (0, _bounded),
    "Expm1": (0, _bounded),
    "Sinh": (0, _both_bounded),
    "Cosh": (0, _both_bounded),
    "Acos": (0, _inside_one),
    "Asin": (0, _inside_one),
    "Atanh": (0, _inside_one),
    "Erfinv": (0, _inside_one),
    "Cholesky": (0, _jittered),
    "MatrixInverse": (0, _jittered),
    "LogMatrixDeterminant": (0, _jittered),
    "MatrixSolve": (0, _jittered),
    "SelfAdjointEigV2": (0, _jittered),
}


#: Which input of a division is below the line.
DIVISIONS: Final[Mapping[str, int]] = {
    **dict.fromkeys(("RealDiv", "Div", "DivNoNan", "Xdivy", "FloorMod"), 1),
    **dict.fromkeys(("Reciprocal", "Inv"), 0),
}

#: Ops whose own result may be replaced, because their derivative stays finite.
RESULTS: Final[Mapping[str, Callable[[Any], Any]]] = {"Mean": _zero_for_nan}


@final
class SafeOp(Trial):
    """Keeps one op, wherever that line of code runs it, inside its domain.

    Parameters: ``{"op_type": "Log", "layer": "...", "source": "losses.py:12", ...}``; without a
    source, wherever the layer runs it. A division
    gets 1 in place of a denominator that vanishes, or where that does not do a quotient of 0; with
    ``"almost": 1e-6`` in place of any denominator that small, its guarding epsilon included. A mean
    over nothing becomes 0.
    """

    name: ClassVar[str] = "safe-op"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps with the op's input moved into its domain."""
        kind = str(parameters["op_type"])
        layer, source = str(parameters.get("layer") or ""), str(parameters.get("source") or "")
        place = f" in {layer}" if layer else (f" at {source}" if source else "")
        changed = f"input of {kind}{place} kept inside its domain"
        if bench.stream is None:
            return Outcome.not_run(changed, "the failing step left no stream of ops")
        sites = [
            op
            for op in bench.stream.ops
            if op.op_type == kind
            and op.derivative_of < 0
            and op.phase in {"forward", "loss"}
            and op.place.layer == layer
            and ("source" not in parameters or (spell(*op.line) if op.line else "") == source)
        ]
        if not sites:
            return Outcome.not_run(changed, f"no {kind} runs there in the forward pass")
        if kind in DIVISIONS:
            return _without_small_denominators(
                bench, sites, parameters.get("almost"), f"{kind}{place}"
            )
        if kind in RESULTS:
            patches = _at_the_ops(sites, RESULTS[kind], bench.stream)
            return Outcome.of(f"{kind}{place} over nothing taken as 0", bench.run(patches=patches))
        patches = _at_the_makers(sites, DOMAINS.get(kind), bench.stream)
        batches = _in_the_batch(sites, DOMAINS.get(kind), bench)
        if not patches and batches is None:
            return Outcome.not_run(
                changed, f"the input of {kind} is made by no op that can be changed"
            )
        return Outcome.of(changed, bench.run(patches=patches, batches=batches))


def _where_known(safe: Callable[[Any], Any]) -> Callable[[Any], Any]:
    """Return the change for real floating numbers only: the same line may also divide others."""
    return lambda x: safe(x) if x.dtype.name in _EPSILON else x


def _without_small_denominators(
    bench: Bench, sites: list[Op], almost: float | None, what: str
) -> Outcome:
    """Return whether the steps live with 1 in place of such denominators, or with quotients of 0.

    The first leaves the numerator to train on; the second is `tf.math.divide_no_nan`. An epsilon
    would not do: a numerator that is not 0 over 1e-6 is no ordinary number either.
    """
    tried: list[str] = []
    least = "as good as 0" if almost is None else f"up to {almost:g}"
    for value, put in ((1.0, "replaced by 1"), (_VAST, "taken to give 0")):
        changed = f"denominators of {what} {least} {put}"
        domain = (DIVISIONS[sites[0].op_type], _instead_of_less_than(almost, value))
        patches = _at_the_makers(sites, domain, bench.stream) if bench.stream is not None else {}
        batches = _in_the_batch(sites, domain, bench)
        if not patches and batches is None:
            return Outcome.not_run(changed, "the denominator is made by no op that can be changed")
        steps = None if almost is None else bench.asked
        rerun = bench.run(patches=patches, batches=batches, steps=steps)
        if rerun.finite:
            return Outcome.of(changed, rerun)
        tried.append(f"{put}: {rerun.why}")
    return Outcome(changed, "still-fails", "; ".join(tried), rerun)


def _at_the_ops(
    sites: list[Op], safe: Callable[[Any], Any], stream: OpStream
) -> dict[tuple[Spot, int], Callable[[Any], Any]]:
    """Return what to replace, at the results of the ops themselves."""
    wanted = {id(op) for op in sites}
    return {
        (spot, 0): safe
        for op, spot in zip(stream.ops, stream.spots(), strict=True)
        if id(op) in wanted and spot is not None
    }


def _in_the_batch(
    sites: list[Op], domain: tuple[int, Callable[[Any], Any]] | None, bench: Bench
) -> tuple[Batch, ...] | None:
    """Return the batches with the arrays moved that the op takes as they are, if it takes any."""
    if domain is None or bench.stream is None:
        return None
    position, safe = domain
    leaves = [bench.stream.leaf(op.inputs[position]) for op in sites if position < len(op.inputs)]
    names = {name for origin, name in leaves if origin == "batch"}

    def change(name: str, values: NDArray[Any]) -> NDArray[Any]:
        import tensorflow as tf

        known = name in names and values.dtype.name in _EPSILON
        return np.asarray(safe(tf.convert_to_tensor(values))) if known else values

    return bench.edited(change) if names else None


def _at_the_makers(
    sites: list[Op], domain: tuple[int, Callable[[Any], Any]] | None, stream: OpStream
) -> dict[tuple[Spot, int], Callable[[Any], Any]]:
    """Return what to replace, at the ops that make the dangerous inputs."""
    if domain is None:
        return {}
    position, safe = domain
    patches: dict[tuple[Spot, int], Callable[[Any], Any]] = {}
    spots = stream.spots()
    for op in sites:
        key = op.inputs[position] if position < len(op.inputs) else -1
        made = stream.output_of(key)
        spot = spots[made[0]] if made is not None else None
        if made is not None and spot is not None:
            patches[spot, made[1]] = _where_known(safe)
    return patches
