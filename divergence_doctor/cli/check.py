"""``doctor check``: what a batch alone gives away."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Final

import typer

if TYPE_CHECKING:
    from divergence_doctor.cli._batch_review import Remark, Review
    from divergence_doctor.cli._screen import Screen

_SCHEMA: Final = "divergence-doctor/check/1"
_MARKS: Final = {
    "problem": ("✗", "bold red"),
    "suspicious": ("!", "yellow"),
    "note": ("·", ""),
}
_MOST_CLASSES: Final = 20


def check(
    batches: Annotated[
        list[str], typer.Argument(metavar="BATCH...", help="Batches (.npz), or folders of them.")
    ],
    *,
    json: Annotated[bool, typer.Option("--json", help="Print JSON to standard output.")] = False,
) -> None:
    """Look at a batch alone: NaN, Inf, ranges, labels, weights."""
    from divergence_doctor.batches import read_batches
    from divergence_doctor.cli._batch_review import review
    from divergence_doctor.cli._screen import Screen, say

    reviews = [review(batch) for batch in read_batches([Path(batch) for batch in batches])]
    if json:
        say(_as_json(reviews))
        return
    screen = Screen()
    for one in reviews:
        _show(one, screen)
    screen.show()


def _show(review: Review, screen: Screen) -> None:
    from divergence_doctor.reporters._text import measured, number

    count = review.batch.samples
    screen.heading(f"{review.batch.source}: {count:,} sample{'' if count == 1 else 's'}")
    screen.table(
        ("array", "role", "dtype", "shape", "min", "max", "mean", "std", "NaN", "Inf"),
        [
            (
                row["name"],
                row["role"],
                row["dtype"],
                row["shape"] or "scalar",
                *(measured(row[column]) for column in ("min", "max", "mean", "std")),
                number(row["nan"]),
                number(row["posinf"] + row["neginf"]),
            )
            for row in review.arrays
        ],
        left=("array", "role", "dtype", "shape"),
    )
    for name, counts in review.classes.items():
        screen.text(_class_counts(name, counts))
    screen.text("")
    for remark in review.remarks:
        _remark(remark, screen)
    if review.sound:
        screen.text("✓ No NaN or Inf, and nothing else that breaks every model.", "green")


def _class_counts(name: str, counts: dict[int, int]) -> str:
    first = ", ".join(f"{label}: {often}" for label, often in list(counts.items())[:_MOST_CLASSES])
    more = f", and {len(counts) - _MOST_CLASSES} more" if len(counts) > _MOST_CLASSES else ""
    units = max(counts) + 1
    needs = f"; a last layer for them needs {units:,} units" if units > 1 else ""
    return f"{name} as class ids (id: how often): {first}{more}{needs}"


def _remark(remark: Remark, screen: Screen) -> None:
    mark, style = _MARKS[remark.level]
    page = f" [{remark.cause}]" if remark.cause else ""
    screen.text(f"{mark} {remark.says}{page}", style)
    if remark.fix:
        screen.text(f"  fix: {remark.fix}")


def _as_json(reviews: list[Review]) -> str:
    import json

    told = {
        "schema": _SCHEMA,
        "sound": all(review.sound for review in reviews),
        "batches": [
            {
                "path": review.batch.source,
                "sha256": review.batch.sha256,
                "samples": review.batch.samples,
                "sound": review.sound,
                "arrays": [_array(row) for row in review.arrays],
                "classes": review.classes,
                "remarks": [
                    {
                        "level": remark.level,
                        "array": remark.array or None,
                        "says": remark.says,
                        "cause": remark.cause,
                        "samples": list(remark.samples),
                        "fix": remark.fix or None,
                    }
                    for remark in review.remarks
                ],
            }
            for review in reviews
        ],
    }
    return json.dumps(told, indent=2, allow_nan=False) + "\n"


def _array(row: dict[str, Any]) -> dict[str, Any]:
    """Return a row of the table ``batch`` as strict JSON: no histogram, null for NaN."""
    import math

    return {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in row.items()
        if key not in ("batch", "exponents")
    }
