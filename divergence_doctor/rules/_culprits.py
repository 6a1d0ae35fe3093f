"""Which samples does a finding name once the search over the batch has spoken?

A rule claims the rows that hold bad elements where the first bad value was made. The search took
rows away and ran the step again; what it has proven goes before what was claimed, and a claim that
it has refuted is dropped.
"""

from __future__ import annotations

import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.rules._batch import named
from divergence_doctor.rules._rule import Evidence, Finding

if TYPE_CHECKING:
    from collections.abc import Iterable

    from divergence_doctor.trace import Trace

#: Stages of causes that sit in the state of the run, not in what the step was fed.
_NOT_FED: Final = frozenset({"update", "checkpoint", "execution"})
#: Cells listed one by one among the evidence.
_CELLS: Final = 4


def settled(finding: Finding, trace: Trace, *, main: bool) -> Finding:
    """Return a finding with the samples that the search over the batch leaves to it.

    Args:
        finding: what the rule said.
        trace: the trace; without a search in it the finding stays as it is.
        main: it is the diagnosis, whose samples were what the search set out from.
    """
    told = trace.context.get("culprits")
    if not isinstance(told, dict):
        return finding
    proven = tuple(int(row) for row in told.get("samples") or ())
    samples = _left(finding, told, proven, main=main)
    if not main:
        return replace(finding, samples=samples)
    because = str(told.get("because") or "")
    summary = finding.summary
    if finding.samples and not samples:
        summary += f" No sample of the batch is to blame by itself: {because}."
    elif set(finding.samples) != set(samples):
        summary += f" Of the batch, {named(samples)} proved to be to blame: {because}."
    shown = tuple(_evidence(trace, because)) if samples and samples == proven else ()
    return replace(finding, samples=samples, summary=summary, evidence=(*finding.evidence, *shown))


def _left(
    finding: Finding, told: dict[str, Any], proven: tuple[int, ...], *, main: bool
) -> tuple[int, ...]:
    claimed = finding.samples
    if finding.each_wrong and set(proven) <= set(claimed) and told.get("outcome") == "rows":
        return claimed
    if told.get("outcome") == "rows":
        fed = main and finding.stage not in _NOT_FED
        return proven if fed or (claimed and set(claimed) >= set(proven)) else claimed
    if main and told.get("outcome") == "whole":
        return ()
    return () if list(claimed) in list(told.get("refuted") or ()) else claimed


def _evidence(trace: Trace, because: str) -> Iterable[Evidence]:
    rows = trace.table("culprits")
    samples = rows.where(rows["array"] == "")
    yield Evidence(f"samples to blame: {because}", len(samples), "/culprits")
    cells = rows.where(rows["array"] != "")
    for row in list(cells.rows())[:_CELLS]:
        value = row["value"]
        yield Evidence(
            f"cell `{cell(row)} = {value:.6g}`",
            value if math.isfinite(value) else None,
            "/culprits",
        )


def cell(row: dict[str, Any]) -> str:
    """Return the cell of a row of table ``culprits`` as one would write it: ``x[5, 2]``."""
    return f"{row['array']}[{', '.join(str(row['index']).split(','))}]"
