"""Which rows of the batch are to blame, and which few of them fail alone? By delta debugging.

Two questions that have two answers (Zeller and Hildebrandt, "Simplifying and isolating
failure-inducing input", IEEE TSE 28(2), 2002): the smallest part of the batch that *still fails*,
which is the batch to hand on, and the smallest part whose *removal mends* the step, which holds the
rows to blame. Where every row stands for itself they are alike. Where rows influence one another
(BatchNormalization, in-batch negatives, a mean over masked rows) they are not: a row that is to
blame may need company to fail, and its company is not to blame.

A part still fails only if it fails as the whole batch does: the same kind of failure and, where
that can be told, at the same op. A part that the model refuses, or that fails in another way, says
nothing either way.
"""

from __future__ import annotations

import time
from dataclasses import dataclass
from itertools import pairwise
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor.errors import DoctorError
from divergence_doctor.replay.bench import RUNAWAY, Fault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from divergence_doctor.replay.bench import Bench, Rerun
    from divergence_doctor.trace import TraceBuilder

#: What a run on a part of the batch can come to.
FINITE: Final = "finite"
SAME: Final = "same-failure"
OTHER: Final = "other-failure"
REFUSED: Final = "refused"
NOT_RUN: Final = "not-run"

#: Runs for one question. Halving 65,536 rows down to one takes 2 x 16; to make sure of each of a
#: few named rows takes about two for each.
_SEARCH: Final = 40
_REFINE: Final = 8
#: Runs for all questions together.
_RUNS: Final = 48
#: Sets of rows that each fail by themselves; where there are more, it is the batch.
_SETS: Final = 8
#: Named suspects that are tried before the batch is halved.
_SEEDS: Final = 3
#: Rows of a smallest batch up to which each is tried for whether it, too, is to blame.
_COMPANY: Final = 4
#: A batch of more rows of which no quarter can be spared fails as a whole.
_SMALL: Final = 16


@dataclass(frozen=True, slots=True)
class Tried:
    """One run on a part of the batch.

    Attributes:
        kept: rows that were there.
        copy: row whose copies stood in place of the others; -1 where those were left out.
        outcome: ``finite``, ``same-failure``, ``other-failure``, ``refused`` or ``not-run``.
        detail: what was seen.
        seconds: wall time; 0 for a run that another trial had done already.
    """

    kept: tuple[int, ...]
    copy: int
    outcome: str
    detail: str
    seconds: float


@dataclass(frozen=True, slots=True)
class Culprits:
    """What the search came to.

    Attributes:
        outcome: ``rows`` (some rows are to blame), ``whole`` (no rows in particular) or ``open``.
        because: the sentence it rests on.
        batch: index of the failing step's batch in the sequence.
        rows: rows to blame: the removed ones, and those that might have been instead.
        removed: smallest set of rows found whose removal mends the step.
        minimal: smallest set of rows found that still fails; empty where none smaller does.
        copy: row whose copies stood in place of the others; -1 where those were left out.
        refuted: sets of rows that were suspected and whose removal does not mend the step.
        tried: every run, in order.
    """

    outcome: str
    because: str
    batch: int
    rows: tuple[int, ...] = ()
    removed: tuple[int, ...] = ()
    minimal: tuple[int, ...] = ()
    copy: int = -1
    refuted: tuple[tuple[int, ...], ...] = ()
    tried: tuple[Tried, ...] = ()

    @property
    def replays(self) -> int:
        """Return how many runs it took, those of other trials not counted."""
        return sum(run.seconds > 0 for run in self.tried)


def reference(bench: Bench, builder: TraceBuilder) -> Fault | None:
    """Return how the untouched step fails; None where it does not fail again.

    The kind is that of the bench's own run of it, the place that of the watched replay.
    """
    rerun = bench.untouched or bench.run()
    if rerun.fault is None:
        return None
    last = builder.rows("steps")[-1]
    place = None
    if last["raised"] and last["raised_op"] != "CheckNumerics":
        place = last["raised_op"], last["raised_layer"], last["raised_source"], False
    for event in builder.rows("events"):
        if event["primary"] and event["step"] == rerun.fault.step:
            place = event["op_type"], event["layer"], event["source"], event["derivative"]
    return Fault(rerun.fault.kind, rerun.fault.step, place)


def ddmin(
    items: Sequence[int], holds: Callable[[tuple[int, ...]], bool], *, most: int = _SEARCH
) -> tuple[int, ...]:
    """Return a small part of the items for which a test still holds (the algorithm ddmin).

    Parts first, halves before quarters, then what is left without one part. With tests enough, no
    single item of the result can be spared; with fewer, it is the smallest part found.

    Args:
        items: the items, for all of which together the test holds.
        holds: the test; an unresolved one does not hold.
        most: tests to run at most.
    """
    rest, pieces, left = tuple(items), 2, most
    while len(rest) > 1 and left > 0:
        parts = _parts(rest, pieces)
        others = [tuple(row for row in rest if row not in set(part)) for part in parts]
        reduced = None
        for number, part in enumerate([*parts, *(others if pieces > 2 else ())]):
            if left <= 0:
                return rest
            left -= 1
            if holds(part):
                reduced = part, 2 if number < len(parts) else max(pieces - 1, 2)
                break
        if reduced is not None:
            rest, pieces = reduced
        elif pieces >= len(rest) or (pieces >= 4 and len(rest) == len(items) > _SMALL):
            break
        else:
            pieces = min(2 * pieces, len(rest))
    return rest


def _parts(items: tuple[int, ...], count: int) -> list[tuple[int, ...]]:
    """Return the items in ``count`` parts of about one size."""
    count = min(count, len(items))
    ends = [len(items) * part // count for part in range(count + 1)]
    return [items[start:end] for start, end in pairwise(ends)]


def search(
    bench: Bench,
    fault: Fault,
    suspects: Iterable[Sequence[int]],
    *,
    mostly: Sequence[int] = (),
    seconds: float,
) -> Culprits:
    """Return which rows of the failing step's batch are to blame, and which few still fail.

    Where the suspects are the answer it takes one run more than the trial that left them out.

    Args:
        bench: the failing step.
        fault: how the untouched step fails.
        suspects: sets of rows to try first, the most suspected first.
        mostly: the rows that are bad where the first bad value was made, where that is most of the
            batch: then it is the whole batch once one of them and one of the others fail alone.
        seconds: time after which no further run is started.
    """
    return _Search(bench, fault, suspects, mostly=mostly, seconds=seconds).culprits()


@final
class _Search:
    def __init__(
        self,
        bench: Bench,
        fault: Fault,
        suspects: Iterable[Sequence[int]],
        *,
        mostly: Sequence[int],
        seconds: float,
    ) -> None:
        self._bench, self._fault, self._mostly = bench, fault, tuple(mostly)
        self._all = tuple(range(bench.subsets.batch.samples))
        known = [tuple(sorted({int(r) for r in rows} & set(self._all))) for rows in suspects]
        some = [rows for rows in dict.fromkeys(known) if 0 < len(rows) < len(self._all)]
        self._suspects = some[:_SEEDS]
        self._until = time.perf_counter() + seconds
        #: The row whose copies take the place of others; None while these are left out.
        self._copy: int | None = None
        self._tried: list[Tried] = []
        self._refuted: list[tuple[int, ...]] = []
        self._cut_short = False

    def culprits(self) -> Culprits:
        if len(self._all) < 2:
            return self._whole("the batch is a single sample", minimal=self._all)
        for suspect in self._suspects:
            outcome = self._without(suspect)
            if outcome == REFUSED and self._copy is None:
                outcome = self._with_copies(suspect)
            if outcome == FINITE:
                return self._proven(suspect)
            if outcome in {SAME, OTHER}:
                self._refuted.append(suspect)
        if self._refuted and (found := self._followed(self._refuted[-1])):
            return self._proven(found)
        if self._fault.kind == RUNAWAY:
            return self._open("the steps stay finite and run away: that is no row's doing")
        return self._unsuspected()

    # ------------------------------------------------------------------ the two tests

    def _without(self, rows: Sequence[int]) -> str:
        """Return what comes of the step when some rows are taken away."""
        kept = tuple(row for row in self._all if row not in set(rows))
        if not kept:
            return NOT_RUN
        copy = self._copy if self._copy is None or self._copy in kept else kept[0]
        return self._run(kept, copy, self._bench.enough, watched=False)

    def _alone(self, rows: Sequence[int]) -> str:
        """Return what comes of the step with nothing but some rows."""
        runaway = self._fault.kind == RUNAWAY
        steps = self._bench.enough if runaway else self._bench.failing_step + 1
        return self._run(tuple(sorted(rows)), self._copy, steps, watched=not runaway)

    def _fails(self, rows: tuple[int, ...]) -> bool:
        return self._alone(rows) == SAME

    def _mends(self, rows: tuple[int, ...]) -> bool:
        return self._without(rows) == FINITE

    def _run(self, kept: tuple[int, ...], copy: int | None, steps: int, *, watched: bool) -> str:
        subsets = self._bench.subsets
        seconds, how = 0.0, -1 if copy is None else copy
        known = subsets.known(kept, copy=copy, steps=steps, watched=watched)
        ran = sum(run.seconds > 0 for run in self._tried)
        if known is None and (ran >= _RUNS or time.perf_counter() > self._until):
            self._cut_short = True
            return NOT_RUN
        try:
            rerun = known or subsets.run(kept, copy=copy, steps=steps, watched=watched)
        except DoctorError as error:
            said = f"{error.message}: {error.why}"
            return self._note(Tried(kept, how, REFUSED, said, seconds))
        seconds = 0.0 if known is not None else rerun.seconds
        return self._note(Tried(kept, how, self._judged(rerun), rerun.why, seconds))

    def _note(self, run: Tried) -> str:
        """Keep a run, unless it only says again what one before it said."""
        said = {(other.kept, other.copy, other.outcome) for other in self._tried}
        if run.seconds or (run.kept, run.copy, run.outcome) not in said:
            self._tried.append(run)
        return run.outcome

    def _judged(self, rerun: Rerun) -> str:
        fault = rerun.fault
        if fault is None:
            return FINITE
        if fault.raised and not self._fault.raised:
            # What the whole batch does not raise comes from the size of the part.
            return REFUSED
        late = fault.step > self._bench.failing_step and fault.kind != RUNAWAY
        return SAME if fault.like(self._fault) and not late else OTHER

    # ------------------------------------------------------------------ from suspects

    def _followed(self, suspect: tuple[int, ...]) -> tuple[int, ...]:
        """Return the rows that mend the step with a suspect; none where they cannot be told.

        Without the suspect the step may break on other rows, at the same op or behind it: what
        the watched step then shows of them is taken away as well, and so on.
        """
        taken, copy = set(suspect), self._copy
        for _ in range(_SETS):
            kept = tuple(row for row in self._all if row not in taken)
            if copy is not None or 2 * len(taken) > len(self._all):
                return ()
            enough = self._bench.enough
            outcome = self._run(kept, copy, enough, watched=True)
            if outcome == FINITE:
                return tuple(sorted(taken))
            rerun = self._bench.subsets.known(kept, copy=copy, steps=enough, watched=True)
            if outcome not in {SAME, OTHER} or rerun is None or rerun.fault is None:
                return ()
            more = {kept[row] for row in rerun.fault.rows}
            if not more:
                return ()
            taken |= more
        return ()

    def _with_copies(self, suspect: tuple[int, ...]) -> str:
        """Take copies of a row beyond suspicion from now on, and try the suspect with them."""
        suspected = {row for rows in self._suspects for row in rows}
        sound = [row for row in self._all if row not in suspected]
        sound = sound or [row for row in self._all if row not in set(suspect)]
        outcome = REFUSED
        for row in dict.fromkeys((sound[0], sound[-1])):
            self._copy = row
            outcome = self._without(suspect)
            if outcome == FINITE:
                return outcome
        return outcome

    def _proven(self, found: tuple[int, ...], *, minimal: tuple[int, ...] = ()) -> Culprits:
        """Return the answer, given some rows whose removal mends the step."""
        removed = found
        if len(found) > 1:
            removed = tuple(sorted(ddmin(found, self._mends, most=_REFINE)))
        minimal = minimal or self._smallest(removed, found)
        # Rows that fail without the others are to blame; nearly the whole batch is no such part.
        few = 2 * len(minimal) <= len(self._all)
        alone = bool(minimal) and few and set(minimal) <= set(found)
        if not alone and self._mended_by_others(removed):
            return self._whole(
                f"without {_named(removed)} the step lives, and without as many others as well",
                minimal=minimal,
            )
        together = self._company(minimal, removed)
        rows = tuple(sorted({*removed, *together}))
        return self._answer(
            "rows", self._said(rows, removed, minimal), rows=rows, removed=removed, minimal=minimal
        )

    def _smallest(self, removed: tuple[int, ...], found: tuple[int, ...]) -> tuple[int, ...]:
        """Return the smallest part that still fails: of the culprits, or of them and others."""
        for candidate in dict.fromkeys((removed[:1], removed, found)):
            if self._fails(candidate):
                return tuple(sorted(ddmin(candidate, self._fails, most=_REFINE)))
        if self._copy is not None:
            return ()
        others = tuple(row for row in self._all if row not in set(removed))
        company = tuple(sorted(ddmin((*removed, *others), self._fails)))
        return company if len(company) < len(self._all) else ()

    def _mended_by_others(self, removed: tuple[int, ...]) -> bool:
        """Say whether taking away as many other rows mends the step as well."""
        others = [row for row in self._all if row not in set(removed)]
        count = min(len(removed), len(others) - 1)
        spread = tuple(others[len(others) * place // count] for place in range(max(count, 0)))
        return bool(spread) and self._mends(spread)

    def _company(self, minimal: tuple[int, ...], removed: tuple[int, ...]) -> tuple[int, ...]:
        """Return the rows of a smallest batch that could be taken away in place of its culprit."""
        inside = set(minimal) & set(removed)
        if len(minimal) > _COMPANY or not inside:
            return ()
        rest = set(removed) - inside
        return tuple(
            row
            for row in minimal
            if row not in removed and self._mends(tuple(sorted({*rest, row})))
        )

    def _said(
        self, rows: tuple[int, ...], removed: tuple[int, ...], minimal: tuple[int, ...]
    ) -> str:
        how = "left out" if self._copy is None else f"replaced by a copy of sample {self._copy}"
        said = f"with {_named(removed)} {how} the step lives"
        if set(rows) != set(removed):
            said += f", and so it does with another of {_named(rows)}: they fail together"
        if not minimal:
            return f"{said}; no smaller part of the batch was seen to fail in the same way"
        if set(minimal) <= set(rows):
            verb = "fails" if len(minimal) == 1 else "fail"
            alone = "alone" if self._copy is None else f"among copies of sample {self._copy}"
            return f"{said}, and {_named(minimal)} {verb} {alone} in the same way"
        return (
            f"{said}; alone they do not fail in the same way, {_named(minimal)} together do: "
            "rows of this batch influence one another"
        )

    # ------------------------------------------------------------------ without suspects

    def _unsuspected(self) -> Culprits:
        if self._copy is not None:
            return self._by_copies()
        others = [row for row in self._all if row not in set(self._mostly)]
        spread = [0, len(self._all) // 2, len(self._all) - 1]
        singles = [self._mostly[0], *others[:1]] if self._mostly else list(dict.fromkeys(spread))
        # A row that was not bad at the first producer may well fail, but at a later op.
        also = {SAME, OTHER} if self._mostly else {SAME}
        if self._fails((singles[0],)) and all(self._alone((row,)) in also for row in singles[1:]):
            verb = "each fail" if len(singles) > 1 else "fails"
            said = f"{_named(singles)} {verb} alone"
            return self._whole(said, minimal=(singles[0],))
        if self._mostly and others and self._mends(self._mostly):
            return self._proven(self._mostly)
        first, second = _parts(self._all, 2)
        halves = [self._alone(first), self._alone(second)]
        if set(halves) == {REFUSED}:
            self._copy = 0
            return self._by_copies()
        dynamic = bool(self._mostly) or self._bench.failing_step > 0
        if dynamic and set(halves) <= {SAME, OTHER}:
            small = next((half for half in (first, second) if self._fails(half)), ())
            return self._whole("both halves of it fail by themselves", minimal=small)
        return self._by_halves()

    def _by_halves(self) -> Culprits:
        """Find one set after another that fails by itself, until what is left lives."""
        rest: tuple[int, ...] = self._all
        sets: list[tuple[int, ...]] = []
        while len(sets) < _SETS and 2 * sum(len(one) for one in sets) < len(self._all):
            one = ddmin(rest, self._fails)
            if len(one) == len(self._all):
                return self._whole("no smaller part of the batch was seen to fail in the same way")
            sets.append(one)
            rest = tuple(row for row in rest if row not in set(one))
            if self._fails(rest):
                continue
            taken = tuple(sorted(row for rows in sets for row in rows))
            if self._mends(taken):
                return self._proven(taken, minimal=tuple(sorted(sets[0])))
            return self._open(
                f"{_named(sets[0])} will do to fail in the same way; what is left without "
                f"{_named(taken)} neither fails in that way nor lives",
                minimal=tuple(sorted(sets[0])),
            )
        sets.sort(key=len)
        return self._whole(
            "one part after another fails alone in the same way", minimal=tuple(sorted(sets[0]))
        )

    def _by_copies(self) -> Culprits:
        """Find rows to blame in a batch that must keep its size."""
        last = len(self._all) - 1
        for row in dict.fromkeys((0, len(self._all) // 2, last)):
            self._copy = row
            others = tuple(other for other in self._all if other != row)
            if self._mends(others):
                return self._proven(tuple(sorted(ddmin(others, self._mends))))
        if all(run.outcome == REFUSED for run in self._tried):
            return self._open("the model takes neither a part of the batch nor copies of its rows")
        return self._whole("copies of any one sample fail as well")

    # ------------------------------------------------------------------ answers

    def _whole(self, because: str, *, minimal: tuple[int, ...] = ()) -> Culprits:
        return self._answer("whole", because, minimal=minimal)

    def _open(self, because: str, *, minimal: tuple[int, ...] = ()) -> Culprits:
        return self._answer("open", because, minimal=minimal)

    def _answer(self, outcome: str, because: str, **found: Any) -> Culprits:
        if self._cut_short:
            late = time.perf_counter() > self._until
            spent = "the time for trials (--budget)" if late else f"{_RUNS} runs"
            because += f"; the search ended early, {spent} used up"
            outcome = "open" if outcome == "whole" else outcome
        return Culprits(
            outcome,
            because,
            self._bench.subsets.number,
            copy=-1 if self._copy is None else self._copy,
            refuted=tuple(self._refuted),
            tried=tuple(self._tried),
            **found,
        )


def _named(rows: Sequence[int]) -> str:
    """Return rows in words: ``sample 3``, ``samples 1, 2, ... (40 in all)``."""
    shown = ", ".join(str(row) for row in rows[:8])
    more = f", ... ({len(rows)} in all)" if len(rows) > 8 else ""
    return f"sample{'s' * (len(rows) != 1)} {shown}{more}"
