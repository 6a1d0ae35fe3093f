"""How is JSON written and read so that anything reads it, and nothing in it is a surprise?

Strict: no NaN or Infinity tokens (they are the strings ``"NaN"``, ``"Infinity"`` and
``"-Infinity"``, which ``float`` reads), no member twice, ASCII only, bounded depth and size.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from pathlib import PurePath
from typing import Any, Final

import numpy as np

MAX_DEPTH: Final = 200
#: The only member of an object that stands for a number that is not finite.
FLOAT: Final = "$float"
_NONFINITE: Final = frozenset({"NaN", "Infinity", "-Infinity"})
_LONGEST_REPR: Final = 400


def encode(value: Any, *, exact: bool = False) -> bytes:
    """Return the value as JSON, on lines of their own, with a line feed at the end.

    Args:
        value: dicts, lists, strings, numbers; NumPy's and paths, too.
        exact: refuse what JSON cannot hold, instead of telling it by its ``repr``; and write a
            number that is not finite as ``{"$float": "NaN"}``, which :func:`restored` tells from
            a text.

    Raises:
        TypeError: ``exact``, and the value holds something else.
        ValueError: it is nested deeper than ``MAX_DEPTH`` levels.
    """
    plain = _plain(value, exact=exact, depth=0)
    text = json.dumps(plain, indent=1, allow_nan=False, ensure_ascii=True)
    return text.encode("ascii") + b"\n"


def _plain(value: Any, *, exact: bool, depth: int) -> Any:
    if depth > MAX_DEPTH:
        raise ValueError(f"nested deeper than {MAX_DEPTH} levels")
    if isinstance(value, np.generic | np.ndarray):
        value = _python(value)
    if isinstance(value, Mapping):
        if exact and FLOAT in value:
            raise TypeError(f"a member called {FLOAT} would be taken for a number")
        return {
            _key(key, exact=exact): _plain(item, exact=exact, depth=depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple):
        return [_plain(item, exact=exact, depth=depth + 1) for item in value]
    return _scalar(value, exact=exact)


def _scalar(value: Any, *, exact: bool) -> Any:
    if value is None or isinstance(value, bool):
        return value
    # Subclasses, as members of an Enum are, have a form of their own that JSON must not see.
    if isinstance(value, str):
        return str.__str__(value)
    if isinstance(value, int):
        return int(value)
    if isinstance(value, float):
        told = _finite(float(value))
        return {FLOAT: told} if exact and isinstance(told, str) else told
    if isinstance(value, PurePath):
        return str(value)
    if exact:
        raise TypeError(f"{type(value).__name__} has no place in JSON")
    return repr(value)[:_LONGEST_REPR]


def _python(value: np.generic | np.ndarray[Any, Any]) -> Any:
    if isinstance(value, np.ndarray):
        return value.tolist()
    if isinstance(value, np.bool_ | np.integer | np.str_):
        return value.item()
    # float16, float32, longdouble and those of ml_dtypes alike; what is no number raises.
    return float(value)


def _finite(value: float) -> float | str:
    if math.isfinite(value):
        return value
    return "NaN" if math.isnan(value) else "Infinity" if value > 0 else "-Infinity"


def _key(key: Any, *, exact: bool) -> str:
    if isinstance(key, str):
        return str(key)
    if exact and not isinstance(key, int):
        raise TypeError(f"a key of type {type(key).__name__} has no place in JSON")
    return str(key)


def decode(text: bytes) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        ValueError: it is no strict JSON, no object, or nested too deeply; says so in a few words.
    """
    try:
        value = json.loads(
            text,
            object_pairs_hook=_members,
            parse_constant=_no_constant,
            parse_float=_no_overflow,
        )
    except RecursionError:
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels") from None
    if not isinstance(value, dict):
        raise ValueError("it is no JSON object")  # noqa: TRY004 - what is wrong is the file
    if _deeper(value):
        raise ValueError(f"it is nested deeper than {MAX_DEPTH} levels")
    return value


def restored(value: Any) -> Any:
    """Return what was encoded exactly, with its numbers that are not finite.

    Raises:
        ValueError: an object that is to be such a number is none.
    """
    if isinstance(value, dict):
        if FLOAT not in value:
            return {key: restored(item) for key, item in value.items()}
        told = value[FLOAT]
        if len(value) > 1 or not isinstance(told, str):
            raise ValueError(f"an object with {FLOAT} in it is no number")
        return number(told)
    if isinstance(value, list):
        return [restored(item) for item in value]
    return value


def number(value: Any) -> float:
    """Return a number that JSON holds, or one of the three strings that stand for one.

    Raises:
        ValueError: it is neither.
    """
    if isinstance(value, int | float) and not isinstance(value, bool):
        return float(value)
    if isinstance(value, str) and value in _NONFINITE:
        return float(value)
    raise ValueError(f"{value!r:.40} is no number")


def _members(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    found = dict(pairs)
    if len(found) < len(pairs):
        raise ValueError("one of its objects holds a member twice")
    return found


def _no_constant(token: str) -> None:
    raise ValueError(f"it holds the token {token}, which is no JSON")


def _no_overflow(token: str) -> float:
    value = float(token)
    if not math.isfinite(value):
        raise ValueError(f"it holds the number {token:.20}, which is beyond float64")
    return value


def _deeper(value: Any) -> bool:
    """Say whether containers are nested deeper than ``MAX_DEPTH``."""
    level, current = 0, [value]
    while current and level <= MAX_DEPTH:
        current = [
            child
            for item in current
            if isinstance(item, dict | list)
            for child in (item.values() if isinstance(item, dict) else item)
        ]
        level += 1
    return bool(current)
