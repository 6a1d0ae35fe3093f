"""Which variables were broken as they were loaded, in what pattern, and what does that mean?"""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any, Final

import numpy as np

from divergence_doctor.rules._rule import Evidence

if TYPE_CHECKING:
    from collections.abc import Iterable

    from divergence_doctor.trace import Trace
    from divergence_doctor.trace.table import Table

#: Optimizers of Keras 3.15 whose slots of these names are means (or sums, or maxima) of squares or
#: magnitudes. A custom optimizer may call a signed mean its velocity.
_SQUARES: Final = {
    **dict.fromkeys(
        ("Adam", "AdamW", "Nadam", "RMSprop", "Lamb", "Adafactor", "Muon", "ScheduleFreeAdamW"),
        ("_velocity", "_velocity_hat"),
    ),
    **dict.fromkeys(("Adagrad", "Ftrl"), ("_accumulator",)),
    "Adadelta": ("_accumulated_grad", "_accumulated_delta_var"),
    "Adamax": ("_norm",),
}

#: Defects that a finding tells one by one.
_SHOWN: Final = 6

#: What a pattern within one variable means, to end a sentence.
_MEANING: Final = {
    "cell": "a value written by hand, or a flipped bit",
    "row": "tokens or inputs whose gradient was bad",
    "column": "units or classes whose gradient was bad",
    "block": "a part that was written by hand, or cut from another checkpoint",
    "scattered": "elements that an update, or a division by their own zero, made bad one by one",
    "whole": "its initialiser, or one bad update",
}


def may_be_negative(owner: str, path: str, optimizer: str = "") -> bool:
    """Say whether a variable may hold numbers below zero.

    Args:
        owner: ``weights`` or ``slots``.
        path: path of the variable.
        optimizer: class of the optimizer that owns a slot, the one inside a loss scale.
    """
    if owner == "weights":
        return not path.endswith("moving_variance")
    return not path.endswith(_SQUARES.get(optimizer, ()) or "\0")


def of(trace: Trace, owner: str) -> Table:
    """Return the rows of table ``defects`` that are about weights or about slots."""
    return trace.table("defects").select(owner=owner)


def described(defects: Table) -> tuple[Evidence, ...]:
    """Return where the bad elements lie, for the first few variables."""
    return tuple(
        Evidence(f"{row['variable']}: {place(row)}", row["count"], "/defects")
        for row in list(defects.rows())[:_SHOWN]
    )


def place(row: dict[str, Any]) -> str:
    """Return where the bad elements of one variable lie, e.g. ``NaN in row 17 of 2,000x64``."""
    kind = {"nan": "NaN", "inf": "Inf", "negative": "below zero"}[row["kind"]]
    of_shape = f" of {row['shape']}" if row["shape"] else ""
    if row["pattern"] == "whole":
        return f"{kind} everywhere"
    if row["pattern"] == "cell":
        return f"{kind} in the one cell [{row['index'].replace(',', ', ')}]{of_shape}"
    if row["pattern"] in {"row", "column"}:
        axis = 0 if row["pattern"] == "row" else -1
        indices, many = json.loads(row["indices"])[axis], json.loads(row["axes"])[axis]
        return f"{kind} in {row['pattern']}{_numbers(indices, many)}{of_shape}"
    first = f"the first at [{row['index'].replace(',', ', ')}]"
    return f"{kind} in {row['count']:,} of {row['size']:,} elements, {first}"


def meaning(row: dict[str, Any]) -> str:
    """Return what the pattern within the only bad variable says of its origin."""
    return _MEANING.get(row["pattern"], _MEANING["scattered"])


def last_good(trace: Trace) -> tuple[str | None, Evidence | None]:
    """Return the remedy and the figure for the last sound checkpoint beside the one replayed.

    The pair is (None, None) where there was none to look at.
    """
    told = trace.context.get("last_good")
    if not isinstance(told, dict) or not told.get("of"):
        return None, None
    looked = f"{told['read']} of {told['of']} read"
    if not told.get("file"):
        return (
            (
                f"None of the {told['of']} earlier checkpoints in the folder is sound "
                f"({looked}): begin before {told.get('oldest')}, or from pretrained weights."
            ),
            Evidence(f"sound checkpoints among the earlier ones ({looked})", 0, "context"),
        )
    bad = f"; {told['next']} is the first that is not" if told.get("next") else ""
    return (
        (
            f"Go back to {told['file']}, the last sound one of the {told['of']} earlier "
            f"checkpoints in the folder{bad}, and replay the steps after it."
        ),
        Evidence(f"last sound checkpoint of the folder ({looked})", told["file"], "context"),
    )


def _numbers(indices: Iterable[int], many: int) -> str:
    shown = [int(index) for index in indices][:5]
    more = f", ... ({many} in all)" if many > len(shown) else ""
    return f"{'s' if many > 1 else ''} {', '.join(map(str, shown))}{more}"


def nonfinite(table: Table) -> Any:
    """Return how many NaN and Inf each row of a table of tensors counts."""
    return table["nan"] + table["posinf"] + table["neginf"]


def as_mask(values: Iterable[bool]) -> Any:
    """Return a mask over the rows of a table."""
    return np.asarray(list(values), dtype=bool)
