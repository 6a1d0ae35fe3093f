"""What does the missing random state mean for the verdict? Said in sentences, from the trace."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

    from divergence_doctor.trace import Trace


def share_of_seeds(trace: Trace) -> float:
    """Return in which share of the seeds the steps ended as in the replay; 1 where none was tried.

    Args:
        trace: a trace; seeds whose run could not be made do not count.
    """
    ran = [row for row in trace.table("seeds").rows() if row["outcome"] != "not-run"]
    return sum(bool(row["same"]) for row in ran) / len(ran) if len(ran) > 1 else 1.0


def describe_seeds(rows: Sequence[dict[str, Any]]) -> str:
    """Return in a sentence whether the verdict holds with every seed; empty where none was tried.

    Args:
        rows: the rows of the table ``seeds``, that of the replay first.
    """
    ran = [row for row in rows if row["outcome"] != "not-run"]
    if len(ran) < 2:
        return ""
    first = ran[0]
    same = [row for row in ran if row["same"]]
    others = [row for row in ran if not row["same"]]
    seeds = _and([str(row["seed"]) for row in same])
    if first["outcome"] != "diverged":
        if not others:
            return f"The verdict holds over all {len(ran)} seeds tried ({seeds})."
    elif not others:
        return (
            f"The verdict holds over all {len(ran)} seeds tried ({seeds}): each fails the same"
            f" way{_first_in(first)}."
        )
    failed = first["outcome"] == "diverged"
    told = _and([f"with seed {row['seed']} {_how(row, failed=failed)}" for row in others])
    return f"The verdict holds for {len(same)} of {len(ran)} seeds tried ({seeds}): {told}."


def _how(row: dict[str, Any], *, failed: bool) -> str:
    if row["outcome"] != "diverged":
        return "the steps stay finite" if row["outcome"] == "healthy" else "nothing is decided"
    way = "they fail otherwise" if failed else "they diverge"
    return f"{way} ({row['because']}{_first_in(row)})"


def _first_in(row: dict[str, Any]) -> str:
    if not row["op_type"]:
        return ""
    return f", first in {row['op_type']}" + (f" of layer {row['layer']}" if row["layer"] else "")


def _and(parts: list[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
