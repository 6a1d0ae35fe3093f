"""Does the step live once one op is kept inside its domain?

The input of the singular op is moved into its domain where it is *made*, by replacing the result of
the op that feeds it: that mends the op's value and its derivative. Replacing the op's own result
would mend its value only.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.replay.source import spell
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from divergence_doctor.replay.bench import Bench
    from divergence_doctor.replay.opstream import Op, OpStream, Spot

#: How far from the singular point a value is moved, by the dtype's resolution: far enough that the
#: derivative (1/x, 1/(2 sqrt x)) is an ordinary number.
_EPSILON: Final = {"float16": 1e-3, "bfloat16": 1e-2, "float32": 1e-6, "float64": 1e-9}
#: Largest exponent that leaves room for what is done with the result: it is squared by a loss, and
#: once more by an optimizer's second moment (exp(10)**4 = 2e17, far inside float32).
_EXPONENT: Final = {"float16": 2.0, "bfloat16": 10.0, "float32": 10.0, "float64": 20.0}


def _at_least(value: float | None = None) -> Callable[[Any], Any]:
    def safe(x: Any) -> Any:
        import tensorflow as tf

        floor = _EPSILON[x.dtype.name] + (0.0 if value is None else value)
        return tf.maximum(x, tf.cast(floor, x.dtype))

    return safe


def _off_zero(x: Any) -> Any:
    import tensorflow as tf

    epsilon = tf.cast(_EPSILON[x.dtype.name], x.dtype)
    return tf.where(tf.abs(x) < epsilon, tf.where(x < 0, -epsilon, epsilon), x)


def _bounded(x: Any) -> Any:
    import tensorflow as tf

    bound = tf.cast(_EXPONENT[x.dtype.name], x.dtype)
    return tf.minimum(x, bound)


def _one_for_less_than(least: float) -> Callable[[Any], Any]:
    """Return what makes 1, of the same sign, of a denominator below ``least``."""

    def safe(x: Any) -> Any:
        import tensorflow as tf

        one = tf.where(x < 0, -tf.ones_like(x), tf.ones_like(x))
        return tf.where(tf.abs(x) <= tf.cast(least, x.dtype), one, x)

    return safe


def _both_bounded(x: Any) -> Any:
    import tensorflow as tf

    bound = tf.cast(_EXPONENT[x.dtype.name], x.dtype)
    return tf.clip_by_value(x, -bound, bound)


def _inside_one(x: Any) -> Any:
    import tensorflow as tf

    edge = tf.cast(1.0 - 10 * _EPSILON[x.dtype.name], x.dtype)
    return tf.clip_by_value(x, -edge, edge)


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
    "Sqrt": (0, _at_least()),
    "Rsqrt": (0, _at_least()),
    "Pow": (0, _at_least()),
    "Lgamma": (0, _at_least()),
    "Digamma": (0, _at_least()),
    "Acosh": (0, _at_least(1.0)),
    "RealDiv": (1, _off_zero),
    "Div": (1, _off_zero),
    "Xdivy": (1, _off_zero),
    "FloorMod": (1, _off_zero),
    "Reciprocal": (0, _off_zero),
    "Inv": (0, _off_zero),
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


@final
class SafeOp(Trial):
    """Keeps one op, wherever that line of code runs it, inside its domain.

    Parameters: ``{"op_type": "Log", "layer": "...", "source": "losses.py:12", ...}``; for a division
    ``"one_below": 1e-6`` puts 1 in place of a denominator that small, its guarding epsilon included.
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
            and (spell(*op.line) if op.line else "") == source
        ]
        if not sites:
            return Outcome.not_run(changed, f"no {kind} runs there in the forward pass")
        least = parameters.get("one_below")
        domain = DOMAINS.get(kind)
        if least is not None:
            domain = (1, _one_for_less_than(float(least)))
            changed = f"denominators of {kind}{place} up to {float(least):g} replaced by 1"
        patches = _at_the_makers(sites, domain, bench.stream)
        if not patches:
            return Outcome.not_run(
                changed, f"the input of {kind} is made by no op that can be changed"
            )
        return Outcome.of(changed, bench.run(patches=patches))


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
            patches[spot, made[1]] = safe
    return patches
