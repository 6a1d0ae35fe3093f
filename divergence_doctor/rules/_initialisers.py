"""How large does a layer's own initialiser make its variables?"""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

#: Arguments of Keras' layers that name the initialiser of a variable, by the variable's own name.
_ARGUMENTS: Final = {
    "recurrent_kernel": "recurrent_initializer",
    **{
        name: f"{name}_initializer"
        for name in ("kernel", "bias", "embeddings", "gamma", "beta", "alpha")
    },
    "depthwise_kernel": "depthwise_initializer",
    "pointwise_kernel": "pointwise_initializer",
}
#: Variance times fan (Glorot & Bengio 2010; He et al. 2015; LeCun et al. 1998).
_SCALED: Final = {
    "GlorotUniform": (1.0, "fan_avg"),
    "GlorotNormal": (1.0, "fan_avg"),
    "HeUniform": (2.0, "fan_in"),
    "HeNormal": (2.0, "fan_in"),
    "LecunUniform": (1.0, "fan_in"),
    "LecunNormal": (1.0, "fan_in"),
}


def root_mean_square(config: str, variable: str, shape: str) -> float:
    """Return the root mean square that a layer's initialiser gives one of its variables.

    Args:
        config: the layer's config as JSON (``layers/config``).
        variable: path of the variable, e.g. ``dense/kernel``.
        shape: its shape, e.g. ``8x16``.

    Returns:
        The root mean square; NaN where the layer does not say, or says it by a class that is not
        known here.
    """
    argument = _ARGUMENTS.get(variable.rpartition("/")[2])
    try:
        given = (json.loads(config or "{}") or {}).get(argument or "")
    except ValueError:
        return math.nan
    if not isinstance(given, dict):
        return math.nan
    sides = [int(side) for side in shape.split("x") if side]
    return _of(str(given.get("class_name", "")), given.get("config") or {}, sides)


def _of(kind: str, config: Mapping[str, Any], sides: Sequence[int]) -> float:
    def number(name: str, otherwise: float) -> float:
        value = config.get(name, otherwise)
        return float(value) if isinstance(value, int | float) else math.nan

    if kind == "VarianceScaling":
        return _scaled(number("scale", 1.0), str(config.get("mode", "fan_in")), sides)
    if kind in _SCALED:
        return _scaled(*_SCALED[kind], sides)
    flat = max(math.prod(sides[:-1]), sides[-1]) if sides else 1
    low, high = number("minval", -0.05), number("maxval", 0.05)
    normal = math.hypot(number("mean", 0.0), number("stddev", 0.05))
    square = abs(number("gain", 1.0)) / math.sqrt(flat)
    return {
        "Zeros": 0.0,
        "Ones": 1.0,
        "Constant": abs(number("value", 0.0)),
        "RandomNormal": normal,
        "TruncatedNormal": normal,
        "RandomUniform": math.sqrt((low * low + low * high + high * high) / 3),
        "Orthogonal": square,
        "OrthogonalInitializer": square,
        "Identity": square,
    }.get(kind, math.nan)


def _scaled(scale: float, mode: str, sides: Sequence[int]) -> float:
    if not sides:
        return math.sqrt(scale)
    field = math.prod(sides[:-2])
    fan_in = sides[-2] * field if len(sides) > 1 else sides[0]
    fan_out = sides[-1] * field
    fan = {"fan_in": fan_in, "fan_out": fan_out}.get(mode, (fan_in + fan_out) / 2)
    return math.sqrt(scale / max(fan, 1))
