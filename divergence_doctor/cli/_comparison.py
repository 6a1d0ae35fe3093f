"""How is a comparison of two traces told? On the terminal, or as JSON."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor._clean import clean
from divergence_doctor.reporters._text import NONE, number

if TYPE_CHECKING:
    from collections.abc import Sequence
    from pathlib import Path

    from divergence_doctor.cli._screen import Screen
    from divergence_doctor.comparison import Comparison, Gap, Side
    from divergence_doctor.trace import Trace

SCHEMA: Final = "divergence-doctor/compare/1"
#: Rows of a table; the JSON holds all.
_MOST: Final = 30
#: Characters that are shown of a hash, and that it has.
_HASH: Final = 12
_SHA256: Final = 64
_MARK: Final = "▶"
_STYLES: Final = {"diverged": "bold red", "healthy": "bold green", "inconclusive": "bold yellow"}
_WORDS: Final = {
    "absmax": "largest magnitude",
    "l2": "L2 norm",
    "std": "standard deviation",
    "posinf": "+Inf",
    "neginf": "-Inf",
    "nan": "NaN",
    "value": "value",
}


def show(found: Comparison, paths: Sequence[Path], traces: Sequence[Trace], screen: Screen) -> None:
    """Put a comparison on the screen.

    Args:
        found: the comparison.
        paths: the two files.
        traces: what they hold.
        screen: takes the tables.
    """
    for letter, side, path in zip("AB", (found.a, found.b), paths, strict=True):
        outcome = side.diagnosis.outcome
        screen.text(f"{letter}  {clean(str(path))}: {_verdict(side)}", _STYLES.get(outcome, "bold"))
    screen.text("")
    screen.text(_sentence(found), "bold")
    for sentence in (*_breaking(found), *_before(found)):
        screen.text(sentence)
    _differences(found, screen)
    _steps(traces, screen)
    _parted(found, screen)
    for letter, layers in (("A", found.only_a), ("B", found.only_b)):
        if layers:
            more = f", and {len(layers) - _MOST} more" if len(layers) > _MOST else ""
            screen.text(f"Layers that only {letter} has: {', '.join(layers[:_MOST])}{more}.")


def _verdict(side: Side) -> str:
    steps = f"{side.steps} step{'' if side.steps == 1 else 's'}"
    at = "" if side.failing_step is None else f" at step {side.failing_step}"
    main = side.diagnosis.main
    if main is None:
        return f"{side.diagnosis.outcome}{at}, {steps} replayed"
    return f"{side.diagnosis.outcome}{at}, {side.diagnosis.headline}"


def _sentence(found: Comparison) -> str:
    gap = found.parting
    if gap is None:
        return f"The steps do not part: no figure differs by more than {found.tolerance:g} of it."
    return f"They part at {_place(gap)}: {_both(gap)}."


def _both(gap: Gap) -> str:
    return f"{_word(gap)} is {_value(gap.a)} in A and {_value(gap.b)} in B"


def _place(gap: Gap) -> str:
    """Return where a tensor was seen, e.g. ``step 0, forward, in layer log``."""
    tensor = "" if gap.tensor in ("", "input", "output") else f" ({gap.tensor})"
    what = {"loss": "the loss term", "update": "the update of", "forward": "layer"}.get(
        gap.phase, "the gradient of layer"
    )
    named = "the input" if gap.what == "input" else f"{what} {gap.what}{tensor}"
    return f"step {gap.step}, {gap.phase}, in {named}"


def _breaking(found: Comparison) -> list[str]:
    """Say where one of the two is not finite any more and the other still is."""
    gap = found.breaking
    if gap is None or gap == found.parting:
        return []
    return [f"Only one of them is finite from {_place(gap)} on: {_both(gap)}."]


def _before(found: Comparison) -> list[str]:
    """Say what differs, and what does not, before the first step."""
    parts = {
        "batch": found.batch,
        "weights": found.weights,
        "optimizer's state": found.slots,
        "hyper-parameters": found.hyperparameters,
    }
    tables = dict(zip(parts, ("batch", "weights", "slots", "hyperparameters"), strict=True))
    differ = [f"{name} ({len(gaps)} of {found.counts[tables[name]]})" for name, gaps in
              parts.items() if gaps]  # fmt: skip
    same = [name for name, gaps in parts.items() if not gaps and found.counts[tables[name]]]
    told = []
    if differ:
        told.append(f"Before that differ: {', '.join(differ)}.")
    if same:
        told.append(f"The same in both: {', '.join(same)}.")
    return told


def _differences(found: Comparison, screen: Screen) -> None:
    rows = [
        (kind, gap.what, _figure(gap), _value(gap.a), _value(gap.b), _relative(gap))
        for kind, gaps in (
            ("batch", found.batch),
            ("weights", found.weights),
            ("optimizer's state", found.slots),
            ("hyper-parameter", found.hyperparameters),
            ("setup", found.setup),
        )
        for gap in gaps
    ]
    if not rows:
        return
    screen.heading("What differs before the steps do")
    columns = ("", "of", "figure", "A", "B", "by")
    screen.table(columns, rows[:_MOST], left=("", "of", "figure"), spare=("by", "figure"))
    _more(len(rows), screen)


def _figure(gap: Gap) -> str:
    word = "" if gap.figure in ("value", "fact") else _word(gap)
    return f"{word} at step {gap.step}".strip() if gap.step > 0 else word


def _steps(traces: Sequence[Trace], screen: Screen) -> None:
    rows = [{row["step"]: row for row in trace.table("steps").rows()} for trace in traces]
    steps = sorted({*rows[0], *rows[1]})
    if not steps:
        return
    failing = [trace.failing_step for trace in traces]
    screen.heading("Steps")
    columns = ("loss", "|gradient|", "|update|")
    names = ("loss", "gradient_norm", "update_norm")
    screen.table(
        ("", "step", *(f"{name} {letter}" for name in columns for letter in "AB")),
        [
            (
                _MARK if step in failing else "",
                str(step),
                *(
                    _value(side[step][name]) if step in side else NONE
                    for name in names
                    for side in rows
                ),
            )
            for step in steps[:_MOST]
        ],
        spare=("|update| A", "|update| B", "|gradient| A", "|gradient| B"),
    )
    _more(len(steps), screen)


def _parted(found: Comparison, screen: Screen) -> None:
    if found.parting is None:
        return
    screen.heading(f"What differs in step {found.parting.step}, in the order of execution")
    screen.table(
        ("", "phase", "layer", "tensor", "figure", "A", "B", "by"),
        [
            (
                _MARK if gap in (found.parting, found.breaking) else "",
                gap.phase,
                gap.what,
                gap.tensor,
                _word(gap),
                _value(gap.a),
                _value(gap.b),
                _relative(gap),
            )
            for gap in found.parted[:_MOST]
        ],
        left=("phase", "layer", "tensor", "figure"),
        spare=("by", "figure", "tensor"),
    )
    _more(len(found.parted), screen)


def _more(count: int, screen: Screen) -> None:
    if count > _MOST:
        screen.text(f"{count - _MOST:,} more, see --json", "dim")


def _word(gap: Gap) -> str:
    return _WORDS.get(gap.figure, gap.figure)


def _value(value: float | str) -> str:
    if isinstance(value, str):
        return f"{value[:_HASH]}…" if len(value) == _SHA256 else value or NONE
    # Six digits: two figures that part must not read alike.
    return f"{value:.6g}" if math.isfinite(value) else number(float(value))


def _relative(gap: Gap) -> str:
    counted = gap.figure in ("nan", "posinf", "neginf")
    return NONE if counted or not math.isfinite(gap.relative) else f"{gap.relative:.1e}"


def as_json(found: Comparison, paths: Sequence[Path]) -> str:
    """Return a comparison as strict JSON; a figure that is not finite is the string that names it.

    Args:
        found: the comparison.
        paths: the two files.
    """
    sides = {
        letter: {"path": str(path), **_side(side)}
        for letter, side, path in zip("ab", (found.a, found.b), paths, strict=True)
    }
    told = {
        "schema": SCHEMA,
        "same": found.same,
        "tolerance": found.tolerance,
        **sides,
        "parting": None if found.parting is None else _gap(found.parting),
        "breaking": None if found.breaking is None else _gap(found.breaking),
        "parted": [_gap(gap) for gap in found.parted],
        "batch": [_gap(gap) for gap in found.batch],
        "weights": [_gap(gap) for gap in found.weights],
        "slots": [_gap(gap) for gap in found.slots],
        "hyperparameters": [_gap(gap) for gap in found.hyperparameters],
        "setup": [_gap(gap) for gap in found.setup],
        "only_a": list(found.only_a),
        "only_b": list(found.only_b),
    }
    return json.dumps(told, indent=2, ensure_ascii=True, allow_nan=False) + "\n"


def _side(side: Side) -> dict[str, Any]:
    main = side.diagnosis.main
    return {
        "outcome": side.diagnosis.outcome,
        "cause": None if main is None else main.finding.cause,
        "confirmed": main is not None and main.confirmed,
        "steps": side.steps,
        "failing_step": side.failing_step,
        "layers": side.layers,
    }


def _gap(gap: Gap) -> dict[str, Any]:
    return {
        "what": gap.what,
        "tensor": gap.tensor or None,
        "figure": gap.figure,
        "a": _plain(gap.a),
        "b": _plain(gap.b),
        "step": gap.step if gap.step >= 0 else None,
        "phase": gap.phase or None,
    }


def _plain(value: float | str) -> float | str:
    if isinstance(value, str) or math.isfinite(value):
        return value
    return "nan" if math.isnan(value) else "inf" if value > 0 else "-inf"
