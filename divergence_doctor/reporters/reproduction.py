"""How can anyone see the failure without this package? ``reproduce.py``, a script of its own."""

from __future__ import annotations

import math
from importlib import resources
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.reporters._reporter import Reporter

if TYPE_CHECKING:
    from collections.abc import Mapping

    from divergence_doctor.reporters._parts import Document

_TEMPLATE: Final = "reproduce.py.jinja"
#: A loss that grew this much within the replayed steps has run away: no step of an ordinary
#: training makes it so, and it is far below what overflows.
_RUNAWAY: Final = 1e3


@final
class Reproduction(Reporter):
    """A script that loads the checkpoint and the batch with TensorFlow, Keras and NumPy alone.

    What comes from the trace is written into it as Python literals, never as code.
    """

    name: ClassVar[str] = "reproduction"
    filename: ClassVar[str] = "reproduce.py"

    def suits(self, document: Document) -> bool:
        """Say whether the trace holds which checkpoint and which batch were replayed."""
        asked = document.reproduce or {}
        return bool(asked.get("checkpoint")) and bool(asked.get("batch"))

    def render(self, document: Document) -> str:
        """Return the script as ASCII text.

        Raises:
            ValueError: the document does not say what was replayed (see :meth:`suits`).
        """
        if not self.suits(document):
            raise ValueError("the document does not say which checkpoint and batch were replayed")
        from jinja2 import Environment, StrictUndefined

        # No HTML here: every value goes through `literal`, the title through `in_docstring`.
        environment = Environment(  # noqa: S701
            undefined=StrictUndefined, keep_trailing_newline=True
        )
        environment.filters["literal"] = literal
        environment.filters["in_docstring"] = _in_docstring
        text = resources.files(__package__).joinpath(_TEMPLATE).read_text(encoding="utf-8")
        return environment.from_string(text).render(_values(document, document.reproduce or {}))


def literal(value: Any) -> str:
    """Return a JSON value as a Python literal of ASCII characters; NaN and Inf as float calls."""
    if isinstance(value, float) and not math.isfinite(value):
        return f'float("{value}")'
    if isinstance(value, list):
        return f"[{', '.join(literal(item) for item in value)}]"
    if isinstance(value, dict):
        return f"{{{', '.join(f'{literal(k)}: {literal(v)}' for k, v in value.items())}}}"
    if value is None or isinstance(value, bool | int | float):
        return repr(value)
    # Double quotes where it is possible: it is what a reader of Python expects.
    spelled = ascii(str(value))
    inside = spelled[1:-1]
    return (
        f'"{inside}"'
        if spelled[0] == "'" and '"' not in inside and "\\'" not in inside
        else spelled
    )


def _in_docstring(text: str) -> str:
    """Return a title for the docstring: ASCII words only, so that nothing in it ends the string."""
    kept = "".join(c if c.isascii() and (c.isalnum() or c in "-_ ,.") else " " for c in text)
    return " ".join(kept.split())[:80]


def _values(document: Document, asked: Mapping[str, Any]) -> dict[str, Any]:
    x, y, sample_weight = _structures(asked)
    policy = document.run.get("dtype_policy")
    objects = asked.get("objects")
    if not isinstance(objects, dict) or not objects:
        objects = {"model": "model", "optimizer": "optimizer"}
    return {
        "title": document.title,
        "checkpoint": str(asked["checkpoint"]),
        "batches": _texts(asked.get("batches")) or [str(asked["batch"])],
        "objects": {str(name): str(part) for name, part in objects.items()},
        "custom_objects": _texts(asked.get("custom_objects")),
        "model": _text(asked.get("model")),
        "loss": _text(asked.get("loss")),
        "optimizer": _text(asked.get("optimizer")),
        "learning_rate": _float(asked.get("learning_rate")),
        "dtype_policy": policy if isinstance(policy, str) and policy != "float32" else None,
        "trust": bool(asked.get("trust")),
        "seed": int(asked.get("seed") or 0),
        "seeds": _seeds(asked.get("seeds")),
        "reseed": bool(asked.get("reseed")),
        "steps": max(int(asked.get("steps") or 1), 1),
        "eager": not document.execution,
        "jit": asked.get("jit") if isinstance(asked.get("jit"), bool) else None,
        "runaway": None if _nonfinite_seen(document) else _RUNAWAY,
        "x": x,
        "y": y,
        "sample_weight": sample_weight,
        "sparse": _texts(asked.get("sparse")),
    }


def _structures(asked: Mapping[str, Any]) -> tuple[Any, Any, Any]:
    """Return x, y and sample_weight with names in place of arrays, as the model takes them.

    ``names`` holds them as they were fed. Without it they follow from the names alone: names with
    a slash are a dict, several others a list.
    """
    names = asked.get("names")
    if isinstance(names, list) and len(names) == 3:
        return (names[0], names[1], names[2])
    arrays = asked.get("arrays") or {}
    x, y, weight = (_texts(arrays.get(role)) for role in ("x", "y", "sample_weight"))
    kind = asked.get("input_structure")
    x = x or ["x"]
    return (
        {_bare(name): name for name in x} if kind == "dict" else x if kind == "list" else x[0],
        _structure(y),
        _structure(weight),
    )


def _structure(names: list[str]) -> Any:
    if len(names) < 2:
        return names[0] if names else None
    return {_bare(name): name for name in names} if any("/" in n for n in names) else names


def _bare(name: str) -> str:
    return name.partition("/")[2] or name


def _nonfinite_seen(document: Document) -> bool:
    """Say whether anything was not finite: then a large loss alone is not the failure."""
    return any(step.state != "finite" for step in document.steps)


def _text(value: Any) -> str | None:
    return None if value is None else str(value)


def _texts(value: Any) -> list[str]:
    return [str(item) for item in value] if isinstance(value, list) else []


def _seeds(value: Any) -> list[list[int]]:
    """Return the states of random layers; empty where they were not recorded."""
    states = value if isinstance(value, list) else []
    kept = [state for state in states if isinstance(state, list) and len(state) == 2]
    return [[int(word) for word in state] for state in kept] if len(kept) == len(states) else []


def _float(value: Any) -> float | None:
    return None if value is None else float(value)
