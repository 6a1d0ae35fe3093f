"""What killed the run? Ask every rule, weigh what the trials said, rank causes before symptoms.

The cause is what, taken away, makes the failure go away, by the smallest change. So a finding whose
own trial mended the step (while the untouched step still fails) goes before one that is only
likely, a change at the point goes before a broad one, and a cause goes before its effects.
"""

from __future__ import annotations

import json
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Final

from divergence_doctor.randomness import share_of_seeds
from divergence_doctor.rules import (
    Evidence,
    Finding,
    Proof,
    Rule,
    Site,
    Verdict,
    all_rules,
    raised_step,
    settled,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping, Sequence

    from divergence_doctor.trace import Trace

UNEXPLAINED: Final = "unexplained"

#: Below this a finding is not offered as the diagnosis. A finding that no trial confirmed needs
#: more than even odds: an honest "unexplained" is better than a coin flip.
MINIMUM_CONFIDENCE: Final = 0.5
#: What is left of the doubt once the smallest change (breadth 1, 2, 3) has mended the step.
DOUBT_LEFT: Final = {1: 0.15, 2: 0.3, 3: 0.6}
#: No verdict claims more than this, however well it is proven.
CERTAIN: Final = 0.99
#: What is left of the confidence once every trial aimed at the cause has failed to mend it.
REFUTED: Final = 0.25


@dataclass(frozen=True, slots=True)
class TrialRecord:
    """One trial as the trace holds it."""

    name: str
    cause: str
    parameters: str
    changed: str
    breadth: int
    outcome: str
    detail: str

    @property
    def mended(self) -> bool:
        """The changed step stayed finite and did not run away."""
        return self.outcome == "finite"


@dataclass(frozen=True, slots=True)
class Assessment:
    """A finding after the trials.

    Attributes:
        finding: what the rule said, with the confidence after the trials.
        code: the rule's code, e.g. ``DD201``.
        symptom: never the diagnosis of a divergence.
        confirmed: a trial aimed at it made the failure go away; the untouched step still fails.
        refuted: trials aimed at it ran, and none of them made the failure go away.
        trials: those trials.
    """

    finding: Finding
    code: str = "–"  # noqa: RUF001 - the contract writes it so
    symptom: bool = False
    confirmed: bool = False
    refuted: bool = False
    trials: tuple[TrialRecord, ...] = ()

    @property
    def confirmed_by(self) -> TrialRecord | None:
        """The smallest change that mended the step."""
        mended = [trial for trial in self.trials if trial.mended]
        return min(mended, key=lambda trial: trial.breadth) if self.confirmed else None


@dataclass(frozen=True, slots=True)
class RuledOut:
    """A cause that was considered and does not hold, and why."""

    cause: str
    because: str


@dataclass(frozen=True, slots=True)
class Diagnosis:
    """The verdict over one trace.

    Attributes:
        outcome: ``diverged``, ``healthy`` or ``inconclusive``.
        because: one sentence that says what the outcome rests on.
        main: the cause; None for a healthy or inconclusive run.
        contributing: causes that made the main one possible, or that hold beside it.
        findings: every finding, ranked.
        ruled_out: causes that were considered and do not hold.
        trials: every trial that ran, the control first.
        verdicts: what each rule said.
    """

    outcome: str
    because: str
    main: Assessment | None = None
    contributing: tuple[Assessment, ...] = ()
    findings: tuple[Assessment, ...] = ()
    ruled_out: tuple[RuledOut, ...] = ()
    trials: tuple[TrialRecord, ...] = ()
    verdicts: tuple[Verdict, ...] = ()

    @property
    def headline(self) -> str:
        """Return the verdict in one line."""
        if self.main is None:
            return f"{self.outcome}: {self.because}"
        proven = "confirmed" if self.main.confirmed else "not confirmed"
        return f"{self.main.finding.cause} ({proven}, {self.main.finding.confidence:.0%})"

    def _repr_html_(self) -> str:
        from html import escape

        text = self.main.finding.summary if self.main else self.because
        return f"<div><b>{escape(self.headline)}</b><p>{escape(text)}</p></div>"


def plan(
    trace: Trace, rules: Sequence[Rule] | None = None, *, runs: Mapping[str, float] | None = None
) -> tuple[tuple[str, Proof], ...]:
    """Return which trials would prove or refute what the rules suspect, most promising first.

    What a trial is expected to tell is the confidence in its suspect, halved for every proof of the
    same suspect that goes before it; it is set against what the trial costs.

    Args:
        trace: a trace, with or without trials in it.
        rules: the rules to ask; all of them by default.
        runs: by trial, how often it runs the steps; once where it is not named.

    Returns:
        Pairs of cause and proof. A healthy trace needs none.
    """
    if trace.outcome != "diverged":
        return ()
    cost = runs or {}
    worth = [
        (finding.confidence / 2**rank / cost.get(proof.trial, 1.0), finding.cause, proof)
        for finding in (verdict.finding for verdict in _ask(trace, rules))
        if finding is not None
        for rank, proof in enumerate(finding.proofs)
    ]
    worth.sort(key=lambda item: -item[0])
    return tuple((cause, proof) for _, cause, proof in worth)


def asked(trace: Trace, rules: Sequence[Rule] | None = None) -> frozenset[str]:
    """Return the tables that the rules want measured before they judge the trace for good.

    Args:
        trace: a trace; a healthy one needs nothing more.
        rules: the rules to ask; all of them by default.
    """
    if trace.outcome != "diverged":
        return frozenset()
    every = rules if rules is not None else all_rules()
    able = [rule for rule in every if all(trace.has(need) for need in rule.needs)]
    return frozenset(table for rule in able for table in rule.asks(trace))


def diagnose(trace: Trace, rules: Sequence[Rule] | None = None) -> Diagnosis:
    """Return the diagnosis of a trace, trials included. Pure: the same trace, the same verdict.

    Args:
        trace: the trace.
        rules: the rules to ask; all of them by default.
    """
    asked = tuple(rules) if rules is not None else all_rules()
    verdicts = _ask(trace, asked)
    trials = tuple(_records(trace))
    control = [trial for trial in trials if trial.breadth == 0]
    reproduced = all(trial.outcome == "still-fails" for trial in control)
    by_id = {rule.id: rule for rule in asked}
    assessed = [
        _assess(verdict.finding, by_id[verdict.rule], trials, reproduced=reproduced)
        for verdict in verdicts
        if verdict.finding is not None
    ]
    share = share_of_seeds(trace)
    assessed = [_as_far_as_it_holds(item, share) for item in assessed]
    effects = _effects(assessed, by_id)
    assessed.sort(key=lambda item: _rank(item, effects))
    outcome = trace.outcome
    because = str(trace.context.get("outcome_because", ""))
    causes = [item for item in assessed if not item.symptom]
    ruled_out = tuple(_ruled_out(causes, [one for one in verdicts if not by_id[one.rule].symptom]))
    if outcome != "diverged":
        return Diagnosis(
            outcome,
            because,
            findings=tuple(assessed),
            ruled_out=ruled_out,
            trials=trials,
            verdicts=verdicts,
        )
    holding = [
        item
        for item in causes
        if not item.refuted and item.finding.confidence >= MINIMUM_CONFIDENCE
    ]
    able = [item for item in holding if not item.finding.contributes_only]
    main = able[0] if able else _unexplained(trace, because, trials)
    final = {
        id(item): replace(item, finding=settled(item.finding, trace, main=item is main))
        for item in (main, *assessed)
    }
    main, holding = final[id(main)], [final[id(item)] for item in holding]
    assessed = [final[id(item)] for item in assessed]
    main_rule = by_id.get(main.finding.cause)
    explained = main_rule.explains if main_rule is not None else frozenset()
    explained |= main.finding.explains
    named = [main, *(item for item in holding if item is not main)] if able else []
    findings = tuple(
        replace(item, finding=replace(item.finding, explained_by=_explanation(item, named)))
        if item.symptom
        else replace(item, finding=replace(item.finding, explained_by=main.finding.cause))
        if item is not main and item.finding.cause in explained
        else item
        for item in assessed
    )
    return Diagnosis(
        outcome,
        because,
        main=main,
        contributing=tuple(
            item
            for item in holding
            if item is not main and not (item.finding.cause in explained and _same(item, main))
        ),
        findings=findings if able else (main, *findings),
        ruled_out=ruled_out,
        trials=trials,
        verdicts=verdicts,
    )


def _explanation(symptom: Assessment, causes: Iterable[Assessment]) -> str | None:
    """Return the first of the causes that may explain a symptom; None where none may."""
    may = symptom.finding.effect_of
    return next(
        (item.finding.cause for item in causes if may is None or item.finding.cause in may), None
    )


def _same(effect: Assessment, cause: Assessment) -> bool:
    """Say whether nothing but the cause's own trials speaks for its effect: it helped nothing."""
    own = {(trial.name, trial.parameters) for trial in cause.trials if trial.mended}
    mended = {(trial.name, trial.parameters) for trial in effect.trials if trial.mended}
    return not effect.finding.contributes_only and mended <= own


def _ask(trace: Trace, rules: Sequence[Rule] | None) -> tuple[Verdict, ...]:
    return tuple(rule.ask(trace) for rule in (rules if rules is not None else all_rules()))


def _records(trace: Trace) -> Iterable[TrialRecord]:
    for row in trace.table("trials").rows():
        yield TrialRecord(
            name=row["name"],
            cause=row["cause"],
            parameters=row["parameters"],
            changed=row["changed"],
            breadth=row["breadth"],
            outcome=row["outcome"],
            detail=row["detail"],
        )


def _assess(
    finding: Finding, rule: Rule, trials: tuple[TrialRecord, ...], *, reproduced: bool
) -> Assessment:
    own = tuple(_aimed_at(finding, trials))
    ran = [trial for trial in own if trial.outcome != "not-run"]
    mended = [trial for trial in ran if trial.mended]
    confirmed = bool(mended) and reproduced
    refuted = bool(ran) and not mended and reproduced
    confidence = finding.confidence
    if confirmed:
        doubt = DOUBT_LEFT[min(max(trial.breadth, 1) for trial in mended)]
        confidence = min(1 - (1 - confidence) * doubt, CERTAIN)
    elif refuted:
        confidence *= REFUTED
    return Assessment(
        replace(finding, confidence=round(confidence, 3)),
        code=rule.code,
        symptom=rule.symptom,
        confirmed=confirmed,
        refuted=refuted,
        trials=own,
    )


def _as_far_as_it_holds(item: Assessment, share: float) -> Assessment:
    """Return a finding with what is left of its confidence where not every seed fails the same way.

    The seed of the run that died is unknown, so the share of the seeds that fail like the replay is
    the chance that the run died of the same. What a trial has mended stays offered at even odds: it
    is proven for the steps that were replayed.
    """
    if share >= 1.0 or item.finding.of_chance:
        return item
    confidence = item.finding.confidence * share
    if item.confirmed:
        confidence = max(confidence, min(item.finding.confidence, MINIMUM_CONFIDENCE))
    return replace(item, finding=replace(item.finding, confidence=round(confidence, 3)))


def _aimed_at(finding: Finding, trials: Iterable[TrialRecord]) -> Iterable[TrialRecord]:
    """Yield the trials of this cause that ran with what the finding asks for *now*.

    A trace may be judged again by newer rules: a trial counts for a finding only if it is one of
    the finding's own proofs, or was run for the same cause.
    """
    wanted = {
        (proof.trial, json.dumps(dict(proof.parameters), sort_keys=True))
        for proof in finding.proofs
    }
    for trial in trials:
        if trial.cause == finding.cause or (trial.name, trial.parameters) in wanted:
            yield trial


def _effects(assessed: list[Assessment], rules: dict[str, Rule]) -> frozenset[str]:
    """Return the causes that another finding, at least as well proven, explains."""
    return frozenset(
        effect.finding.cause
        for cause in assessed
        for effect in assessed
        if effect.finding.cause in rules[cause.finding.cause].explains | cause.finding.explains
        and not cause.symptom
        and not cause.refuted
        and cause.confirmed >= effect.confirmed
        and cause.finding.confidence >= MINIMUM_CONFIDENCE
    )


def _rank(item: Assessment, effects: frozenset[str]) -> tuple[Any, ...]:
    by = item.confirmed_by
    return (
        item.symptom,
        item.refuted,
        item.finding.contributes_only,
        not item.confirmed,
        item.finding.cause in effects,
        by.breadth if by is not None else 9,
        -item.finding.confidence,
        item.code,
    )


def _ruled_out(causes: list[Assessment], verdicts: Iterable[Verdict]) -> Iterable[RuledOut]:
    for item in causes:
        if item.refuted:
            said = "; ".join(
                f"{trial.name}: {trial.changed}, and it still fails"
                for trial in item.trials
                if trial.outcome == "still-fails"
            )
            yield RuledOut(item.finding.cause, said)
    for verdict in verdicts:
        if verdict.skipped is not None:
            yield RuledOut(verdict.rule, f"not examined: {verdict.skipped}")


def _unexplained(trace: Trace, because: str, trials: tuple[TrialRecord, ...]) -> Assessment:
    """Return the honest answer: it diverged, here is the first producer, no cause is proven."""
    site = Site(step=trace.failing_step or 0)
    samples: tuple[int, ...] = ()
    stage = "forward"
    where = because
    events = trace.table("events")
    primary = events.where(events["primary"]) if len(events) else events
    if len(primary):
        row = primary.row(0)
        site = Site(
            step=row["step"],
            layer=row["layer"] or None,
            op=row["op_type"] or None,
            source=row["source"] or None,
        )
        samples = tuple(json.loads(row["samples"] or "[]"))
        stage = {"clipping": "update"}.get(row["phase"], row["phase"]) or stage
        kind = "the derivative of " if row["derivative"] else ""
        where = f"the first non-finite value came from {kind}{row['op_type']}" + (
            f" in layer {row['layer']}" if row["layer"] else ""
        )
    elif (raised := raised_step(trace)) is not None:
        site = Site(
            step=raised["step"],
            layer=raised["raised_layer"] or None,
            op=raised["raised_op"] or None,
            source=raised["raised_source"] or None,
        )
        stage = raised["raised_phase"] or stage
        where = "that op is the first that failed" if site.op else "no op is known that failed"
    told = f"It diverged ({because})" if where == because else f"It diverged ({because}); {where}"
    finding = Finding(
        cause=UNEXPLAINED,
        summary=f"{told}. No known cause could be proven.",
        confidence=0.0,
        stage=stage,  # type: ignore[arg-type]
        site=site,
        samples=samples,
        evidence=(Evidence("first producer", site.op, "/events"),),
        remedies=(
            (
                "Look at the first producer and at the values that went into it; "
                "a replay with an earlier checkpoint or fewer samples narrows it further."
            ),
        ),
    )
    return Assessment(finding, trials=tuple(trial for trial in trials if trial.breadth > 0))
