"""Which shape has the context of a trace? Checked once as a file is read, so that no reader must.

A key may be left out, or be null: not known. Keys that are not named here may hold anything; a
reader that begins to rely on one names it here.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

#: How JSON, which has neither, writes Infinity.
_INFINITE: Final = ("inf", "-inf")


def _object(value: Any) -> bool:
    return isinstance(value, dict)


def _list(value: Any) -> bool:
    return isinstance(value, list)


def _text(value: Any) -> bool:
    return isinstance(value, str)


def _whole(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def _number(value: Any) -> bool:
    return _whole(value) or isinstance(value, float) or value in _INFINITE


def _texts(value: Any) -> bool:
    return _list(value) and all(map(_text, value))


def _wholes(value: Any) -> bool:
    return _list(value) and all(map(_whole, value))


def _named_texts(value: Any) -> bool:
    return _object(value) and all(map(_text, value.values()))


#: What each key must hold, and in words for who reads that it does not.
_SHAPES: Final[Mapping[str, tuple[Callable[[Any], bool], str]]] = {
    **dict.fromkeys(
        (
            *("run", "run/timings", "fidelity", "fidelity/execution", "checkpoint", "batch"),
            *("died", "optimizer", "optimizer/config", "reproduce", "reproduce/arrays"),
            *("minimal_batch", "culprits", "last_good"),
        ),
        (_object, "an object"),
    ),
    **dict.fromkeys(
        (
            *("outcome_because", "failing_execution", "run/device", "died/how", "died/place"),
            *("fidelity/optimizer_state", "fidelity/random_state", "optimizer/class"),
            *("fidelity/execution/reference", "fidelity/execution/as_trained"),
            *("checkpoint/path", "checkpoint/format", "checkpoint/sha256"),
            *("reproduce/checkpoint", "reproduce/batch", "culprits/outcome", "culprits/because"),
        ),
        (_text, "a text"),
    ),
    **dict.fromkeys(
        (
            *("run/step", "reproduce/seed", "reproduce/steps", "culprits/batch"),
            *("minimal_batch/copy", "minimal_batch/replays", "last_good/of", "last_good/read"),
        ),
        (_whole, "a whole number"),
    ),
    **dict.fromkeys(
        ("minimal_batch/samples", "culprits/samples", "culprits/removed", "culprits/minimal"),
        (_wholes, "a list of whole numbers"),
    ),
    **dict.fromkeys(
        (
            *("fidelity/notes", "batch/paths"),
            *("reproduce/batches", "reproduce/custom_objects", "reproduce/sparse"),
        ),
        (_texts, "a list of texts"),
    ),
    "culprits/refuted": (_list, "a list"),
    "run/versions": (_named_texts, "an object of texts"),
    "reproduce/objects": (_named_texts, "an object of texts"),
    "reproduce/learning_rate": (_number, "a number"),
}


def misshapen(context: Mapping[str, Any]) -> str:
    """Return in words what a reader cannot take in a context; empty when all is well."""
    for path, (fits, words) in _SHAPES.items():
        value: Any = context
        for key in path.split("/"):
            value = value.get(key) if isinstance(value, dict) else None
        if value is not None and not fits(value):
            return f"{path} that is not {words}"
    return ""
