"""What do the answers come to? Counts, no more; how they look is decided in ``_tables.py``."""

from __future__ import annotations

import statistics
from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from tests.accuracy._case import PLACES

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from tests.accuracy._case import Answer

#: From here on a verdict counts as confident.
CONFIDENT = 0.8
#: The bins of the calibration line: a verdict belongs to the last one that begins at or below its
#: confidence.
BINS = (0.0, 0.5, 0.8, 0.95)


@dataclass(frozen=True)
class Share:
    """So many of so many."""

    part: int
    whole: int

    @classmethod
    def of(cls, items: Iterable[bool]) -> Share:
        """Count what is true."""
        found = list(items)
        return cls(sum(found), len(found))

    @property
    def record(self) -> dict[str, Any]:
        """The two numbers and their quotient, as JSON has them."""
        quotient = self.part / self.whole if self.whole else None
        return {"part": self.part, "whole": self.whole, "share": quotient}


@dataclass(frozen=True)
class Cause:
    """How often one cause was there, was said, and was said where it was.

    Recall is ``hits`` of ``cases``, precision is ``hits`` of ``said``.
    """

    cases: int
    said: int
    hits: int

    @property
    def recall(self) -> Share:
        """Of the cases of this cause, those that were given it."""
        return Share(self.hits, self.cases)

    @property
    def precision(self) -> Share:
        """Of the verdicts for this cause, those that were right."""
        return Share(self.hits, self.said)


@dataclass(frozen=True)
class Figures:
    """What is printed of a set of answers.

    Attributes:
        failing: number of cases that diverge.
        controls: number of healthy runs.
        shares: by name: ``outcome`` over all cases; ``cause`` and the places over the failing ones
            that ask for them; ``right causes confirmed``.
        false_causes: healthy runs that were given a cause, of all healthy runs.
        confident_and_wrong: names of the cases that were given another cause than theirs (or one,
            where there is none) with a confidence of at least ``CONFIDENT``.
        causes: by cause, those that were there or were said.
        calibration: of the verdicts in each of ``BINS``, those whose cause was right.
        seconds: median wall time of a case.
        imports: that, over the median time of ``import tensorflow``; None where it was not taken.
    """

    failing: int
    controls: int
    shares: dict[str, Share]
    false_causes: Share
    confident_and_wrong: tuple[str, ...]
    causes: dict[str, Cause]
    calibration: dict[float, Share]
    seconds: float
    imports: float | None

    @property
    def record(self) -> dict[str, Any]:
        """All of it, as JSON has it."""
        return {
            "failing": self.failing,
            "controls": self.controls,
            **{name.replace(" ", "_"): share.record for name, share in self.shares.items()},
            "false_causes_on_controls": self.false_causes.record,
            "confident_and_wrong": list(self.confident_and_wrong),
            "causes": {
                name: {
                    "cases": cause.cases,
                    "said": cause.said,
                    "hits": cause.hits,
                    "recall": cause.recall.record["share"],
                    "precision": cause.precision.record["share"],
                }
                for name, cause in self.causes.items()
            },
            "calibration": [
                {"from": low, **share.record} for low, share in self.calibration.items()
            ],
            "median_seconds": self.seconds,
            "times_import_of_tensorflow": self.imports,
        }


def figures(answers: Sequence[Answer], imports: Sequence[float] = ()) -> Figures:
    """Count a set of answers, of at least one case.

    Args:
        answers: what the doctor said; their order makes no difference.
        imports: seconds that ``import tensorflow`` took, in the same run.
    """
    failing = [answer for answer in answers if not answer.control]
    controls = [answer for answer in answers if answer.control]
    places = {place: [answer.right(place) for answer in failing] for place in PLACES}
    seconds = statistics.median(answer.seconds for answer in answers)
    return Figures(
        len(failing),
        len(controls),
        shares={
            "outcome": Share.of(answer.outcome_right for answer in answers),
            "cause": Share.of(answer.cause_right for answer in failing),
            **{
                place: Share.of(item for item in asked if item is not None)
                for place, asked in places.items()
            },
            "right causes confirmed": Share.of(
                bool(answer.said["confirmed"]) for answer in failing if answer.cause_right
            ),
        },
        false_causes=Share.of(bool(answer.said) for answer in controls),
        confident_and_wrong=tuple(
            sorted(
                answer.name
                for answer in answers
                if answer.said and answer.confidence >= CONFIDENT and not answer.cause_right
            )
        ),
        causes=_causes(answers),
        calibration=_calibration(answers),
        seconds=seconds,
        imports=seconds / statistics.median(imports) if imports else None,
    )


def _causes(answers: Sequence[Answer]) -> dict[str, Cause]:
    expected = Counter(answer.expected.get("cause") for answer in answers)
    said = Counter(answer.said.get("cause") for answer in answers)
    hits = Counter(answer.said.get("cause") for answer in answers if answer.cause_right)
    names = sorted(name for name in expected | said if name is not None)
    return {name: Cause(expected[name], said[name], hits[name]) for name in names}


def _calibration(answers: Sequence[Answer]) -> dict[float, Share]:
    by_bin: dict[float, list[bool]] = {low: [] for low in BINS}
    for answer in answers:
        if answer.said:
            low = max(low for low in BINS if low <= max(answer.confidence, BINS[0]))
            by_bin[low].append(answer.cause_right)
    return {low: Share.of(right) for low, right in by_bin.items()}
