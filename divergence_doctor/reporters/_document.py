"""What does a report say? Decided here once; the reporters only decide how it looks."""

from __future__ import annotations

import re
import shlex
from dataclasses import fields, is_dataclass, replace
from typing import TYPE_CHECKING, Any, Final, TypeVar

from divergence_doctor.diagnosis import UNEXPLAINED
from divergence_doctor.reporters import _tables, _where
from divergence_doctor.reporters._by_step import by_step
from divergence_doctor.reporters._history import history
from divergence_doctor.reporters._parts import (
    Cause,
    Claim,
    Command,
    Document,
    Excluded,
    Fidelity,
    Picture,
    Remedy,
    TrialLine,
)
from divergence_doctor.reporters._text import cleaned, number
from divergence_doctor.trace.redaction import NAMES, VALUES, withheld

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from divergence_doctor.diagnosis import Assessment, Diagnosis, TrialRecord
    from divergence_doctor.trace import Trace

T = TypeVar("T")

_OUTCOMES: Final = ("diverged", "healthy", "inconclusive")
#: A remedy's code to paste: a fenced block, or a span that stands after a colon or ends the text.
_PASTE: Final = (
    re.compile(r"\s*```(?:python)?\n(?P<code>.*?)\n?```", re.DOTALL),
    re.compile(r"(?<=:)\s*`(?P<code>[^`]*[(=][^`]*)`[.;]?(?=\s|$)"),
    re.compile(r"`(?P<code>[^`]*[(=][^`]*)`\.?\s*$"),
)


def document(trace: Trace, diagnosis: Diagnosis) -> Document:
    """Return what every report of this trace says. Pure: the same trace, the same document.

    Args:
        trace: the trace; one without any row gives an (almost empty) document too.
        diagnosis: its diagnosis.
    """
    place = _where.where(trace)
    main = diagnosis.main
    cause = None if main is None else _cause(main, _controls(diagnosis))
    run = _run(trace, diagnosis)
    reproduce = trace.context.get("reproduce")
    blamed = (cause.layer if cause is not None else None) or (place.layer if place else None)
    outcome = diagnosis.outcome if diagnosis.outcome in _OUTCOMES else "inconclusive"
    return _cleaned(
        Document(
            outcome=outcome,  # type: ignore[arg-type]
            title=outcome if cause is None else cause.cause,
            headline=_headline(outcome, cause, trace),
            summary=_summary(outcome, cause, diagnosis, trace),
            because=diagnosis.because,
            cause=cause,
            proof=tuple(_proof(diagnosis)),
            proof_sentence=_proof_sentence(diagnosis),
            where=place,
            who=_where.who(trace, diagnosis),
            steps=_tables.steps(trace),
            layers=_tables.layers(trace, blamed),
            layers_step=_tables.layers_step(trace),
            layers_by_step=by_step(trace, blamed),
            contributing=tuple(_cause(item) for item in diagnosis.contributing),
            findings=tuple(_cause(item) for item in diagnosis.findings),
            ruled_out=tuple(Excluded(item.cause, item.because) for item in diagnosis.ruled_out),
            told=_where.told(trace),
            fidelity=_fidelity(trace),
            run=run,
            environment=tuple(_environment(run)),
            files=tuple(_files(trace)),
            commands=tuple(_commands(trace, cause)),
            pictures=tuple(_pictures(trace)),
            notes=tuple(_notes(trace)),
            reproduce=dict(reproduce) if isinstance(reproduce, dict) else None,
            execution=_needs_compiled(trace, cause),
            history=history(trace),
        )
    )


def _needs_compiled(trace: Trace, cause: Cause | None) -> bool:
    """Say whether the failure shows only in the step as it was trained."""
    failing = trace.context.get("failing_execution")
    if failing:
        return bool(failing == "as-trained")
    return cause is not None and cause.stage == "execution"


def _cleaned(value: T) -> T:
    """Return a value with every string in it clean; what must stay exact is left alone."""
    result: Any = value
    if isinstance(value, str):
        result = cleaned(value)
    elif isinstance(value, tuple) and set(map(type, value)) <= {int, float}:
        pass  # a picture has thousands of them
    elif isinstance(value, tuple | list):
        result = type(value)(_cleaned(item) for item in value)
    elif isinstance(value, dict):
        result = {cleaned(str(key)): _cleaned(item) for key, item in value.items()}
    elif is_dataclass(value) and not isinstance(value, type):
        result = replace(
            value,
            **{
                part.name: _cleaned(getattr(value, part.name))
                for part in fields(value)
                if part.compare and part.name != "reproduce"
            },
        )
    return result  # type: ignore[no-any-return]


def _controls(diagnosis: Diagnosis) -> tuple[TrialRecord, ...]:
    return tuple(trial for trial in diagnosis.trials if trial.breadth == 0)


def _cause(item: Assessment, controls: tuple[TrialRecord, ...] = ()) -> Cause:
    finding, site = item.finding, item.finding.site
    trials = (*controls, *(trial for trial in item.trials if trial not in controls))
    return Cause(
        cause=finding.cause,
        code=item.code,
        confidence=float(finding.confidence),
        confirmed=item.confirmed,
        refuted=item.refuted,
        symptom=item.symptom,
        explained_by=finding.explained_by,
        stage=finding.stage,
        step=int(site.step),
        layer=site.layer,
        op=site.op,
        source=site.source,
        samples=tuple(int(sample) for sample in finding.samples),
        summary=finding.summary,
        evidence=tuple(Claim(e.claim, _plain(e.value), e.where) for e in finding.evidence),
        remedies=tuple(_remedy(text) for text in finding.remedies),
        advice=tuple(finding.remedies),
        trials=tuple(_line(trial, aimed=trial.breadth > 0) for trial in trials),
    )


def _plain(value: Any) -> Any:
    """Return a value that a rule gave as evidence as a plain Python one (NumPy's have item())."""
    if value is None or isinstance(value, bool | int | float | str):
        return value
    return value.item() if hasattr(value, "item") else str(value)


def _remedy(text: str) -> Remedy:
    """Split the code to paste from what is said about it."""
    for pattern in _PASTE:
        found = pattern.search(text)
        if found is not None:
            before, after = text[: found.start()].rstrip(), text[found.end() :].strip()
            return Remedy(before, found["code"].strip(), after)
    return Remedy(text)


def _line(trial: TrialRecord, *, aimed: bool) -> TrialLine:
    control = trial.breadth == 0
    return TrialLine(
        name=trial.name,
        changed=trial.changed or ("nothing" if control else trial.name),
        outcome=trial.outcome,
        detail=trial.detail,
        control=control,
        aimed=aimed,
    )


def _proof(diagnosis: Diagnosis) -> Iterable[TrialLine]:
    """Yield every trial: the control, those aimed at the cause (the proof first), the others."""
    aimed = diagnosis.main.trials if diagnosis.main is not None else ()
    best = diagnosis.main.confirmed_by if diagnosis.main is not None else None

    def place(trial: TrialRecord) -> tuple[bool, bool, bool]:
        return (trial.breadth != 0, trial is not best, trial not in aimed)

    told: dict[tuple[str, str, str], TrialLine] = {}
    for trial in sorted(diagnosis.trials, key=place):
        line = _line(trial, aimed=trial in aimed)
        # One that was run for two causes is told once.
        told.setdefault((line.changed, line.outcome, line.detail), line)
    yield from told.values()


def _proof_sentence(diagnosis: Diagnosis) -> str:
    main = diagnosis.main
    if not diagnosis.trials:
        return "No trial was run, so no cause is proven." if main is not None else ""
    if any(trial.outcome == "finite" for trial in _controls(diagnosis)):
        return "The untouched step did not fail when it was run again, so the trials prove nothing."
    if main is None or main.finding.cause == UNEXPLAINED:
        return "None of the changes that were tried singles out a cause."
    best = main.confirmed_by
    if best is not None:
        return f"The untouched step still fails; with this one change it does not: {best.changed}."
    if main.refuted:
        return f"The changes aimed at {main.finding.cause} did not make the failure go away."
    return f"No trial aimed at {main.finding.cause} was run to its end: it is likely, not proven."


def _headline(outcome: str, cause: Cause | None, trace: Trace) -> str:
    if cause is None and outcome == "healthy":
        count = len(trace.table("steps"))
        return f"Healthy: no divergence in {count} replayed step{'' if count == 1 else 's'}"
    if cause is None:
        return "Diverged: no cause named" if outcome == "diverged" else "Inconclusive"
    if cause.cause == UNEXPLAINED:
        return "Diverged: unexplained, no cause is proven"
    return f"Diverged: {cause.cause} ({cause.code}), {cause.proven}, {cause.confidence:.0%} sure"


def _summary(outcome: str, cause: Cause | None, diagnosis: Diagnosis, trace: Trace) -> str:
    if cause is not None and cause.summary:
        return cause.summary
    if diagnosis.because:
        text = diagnosis.because
        return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")
    if outcome == "healthy":
        return "The loss, the weights and every state variable stayed finite."
    recorded = len(trace.table("steps"))
    return f"What was recorded ({number(recorded)} steps) does not decide whether it diverged."


def _fidelity(trace: Trace) -> Fidelity:
    told: Mapping[str, Any] = _mapping(trace.context.get("fidelity"))
    execution = _mapping(told.get("execution"))
    unknown = [] if told else ["The trace does not say how true the replay is to the run."]
    return Fidelity(
        optimizer_state=str(told.get("optimizer_state") or "missing"),
        random_state=str(told.get("random_state") or "missing"),
        reference=str(execution.get("reference") or ""),
        as_trained=str(execution.get("as_trained") or ""),
        notes=tuple(str(note) for note in [*unknown, *(told.get("notes") or ())]),
    )


def _mapping(value: Any) -> dict[str, Any]:
    return value if isinstance(value, dict) else {}


def _run(trace: Trace, diagnosis: Diagnosis) -> dict[str, Any]:
    """Return the run's facts; what is not known is there as null."""
    told = _mapping(trace.context.get("run"))
    run: dict[str, Any] = {
        "versions": {},
        "device": None,
        "dtype_policy": None,
        "optimizer": trace.context.get("optimizer"),
        "step": None,
        "timings": {},
        **{key: value for key, value in told.items() if value is not None},
    }
    run |= {key: _mapping(run[key]) for key in ("versions", "timings")}
    run["outcome_because"] = diagnosis.because
    if trace.context.get("died"):
        run["died"] = trace.context["died"]
    return run


def _environment(run: Mapping[str, Any]) -> Iterable[tuple[str, str]]:
    names = {"dtype_policy": "dtype policy", "step": "training step"}
    for key, value in run.items():
        if key in {"outcome_because", "died"} or value is None or value in ({}, []):
            continue
        yield names.get(key, key.replace("_", " ")), _words(key, value)


def _words(key: str, value: Any) -> str:
    if key == "optimizer" and isinstance(value, dict) and "class" in value:
        config = _mapping(value.get("config"))
        return f"{value['class']}({', '.join(f'{k}={_words(k, v)}' for k, v in config.items())})"
    if isinstance(value, dict):
        return ", ".join(f"{name} {_words(name, item)}" for name, item in value.items())
    if isinstance(value, list):
        return ", ".join(_words("", item) for item in value)
    return number(value) if isinstance(value, float) else str(value)


def _files(trace: Trace) -> Iterable[tuple[str, str]]:
    checkpoint = _mapping(trace.context.get("checkpoint"))
    for key, name in (("path", "checkpoint"), ("format", "format"), ("sha256", "SHA-256")):
        if checkpoint.get(key):
            yield name, str(checkpoint[key])
    paths = _mapping(trace.context.get("batch")).get("paths") or ()
    for index, path in enumerate(paths):
        yield "batch" if len(paths) == 1 else f"batch {index}", str(path)


def _commands(trace: Trace, cause: Cause | None) -> Iterable[Command]:
    asked = _mapping(trace.context.get("reproduce"))
    checkpoint = asked.get("checkpoint") or _mapping(trace.context.get("checkpoint")).get("path")
    if asked.get("checkpoint") and asked.get("batch"):
        yield Command(
            "Shows it without this package; exit status 1 while it fails", "python reproduce.py"
        )
    if checkpoint:
        batches = [asked["batch"]] if asked.get("batch") else []
        batches = batches or _mapping(trace.context.get("batch")).get("paths") or []
        if asked.get("bundle"):
            checkpoint = asked["bundle"]
        if trace.context.get("recorded"):
            # The batches and how many there are come with the bundle.
            batches, asked = [], {**asked, "steps": None}
        words = ["doctor", "replay", str(checkpoint), *map(str, batches), *_flags(asked)]
        yield Command("Replays the step again", shlex.join(words))
    yield Command("Judges the trace again, without TensorFlow", "doctor report trace.h5")
    if cause is not None and cause.cause != UNEXPLAINED:
        yield Command("Explains the cause", f"doctor explain {shlex.quote(cause.cause)}")


def _flags(asked: Mapping[str, Any]) -> list[str]:
    words: list[str] = []
    for flag, key in (
        ("--custom-objects", "custom_objects"),
        ("--model", "model"),
        ("--loss", "loss"),
        ("--optimizer", "optimizer"),
        ("--learning-rate", "learning_rate"),
        ("--seed", "seed"),
        ("--steps", "steps"),
    ):
        value = asked.get(key)
        for item in value if isinstance(value, list) else [value]:
            words += [] if item is None else [flag, str(item)]
    if asked.get("jit") is not None:
        words.append("--jit" if asked["jit"] else "--no-jit")
    return [*words, "--trust"] if asked.get("trust") else words


def _pictures(trace: Trace) -> Iterable[Picture]:
    from divergence_doctor.figures import all_figures

    for figure in all_figures():
        if figure.suits(trace):
            yield Picture(figure.name, figure.title, figure.caption(trace), figure, trace)


def _notes(trace: Trace) -> Iterable[str]:
    died = _mapping(trace.context.get("died"))
    if died:
        place = f" at {died['place']}" if died.get("place") else ""
        yield (
            f"The replay was stopped ({died.get('how') or 'no reason recorded'}){place}. "
            "What was recorded until then is reported."
        )
    gone = withheld(trace)
    if NAMES in gone:
        yield (
            "Redacted: names stand as `layer_1`, `array_1` and so on, and single values of the "
            "batch are rounded down to a power of two."
        )
    elif VALUES in gone:
        yield (
            "The values of the batch are left out; single ones are rounded down to a power of two."
        )
