"""How does a diagnosis look in a notebook? The verdict, the proof, where, and how to mend it."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from divergence_doctor import _html

if TYPE_CHECKING:
    from collections.abc import Iterable


_SAMPLES: Final = 12
_THEN: Final = {"finite": "failure gone", "still-fails": "still fails", "not-run": "not run"}


def card(diagnosis: Any) -> str:
    """Return a diagnosis as HTML; every text in it is escaped.

    Args:
        diagnosis: a ``Diagnosis``, which stands on the floor above and asks for its own card.
    """
    main = diagnosis.main
    if main is None:
        title = f"{diagnosis.outcome.capitalize()}: no cause to name"
        parts = [_html.paragraph(_sentence(diagnosis.because))] if diagnosis.because else []
    else:
        title = f"Diverged: {diagnosis.headline}"
        parts = [_html.paragraph(main.finding.summary), _where(main)]
    parts += [_proof(diagnosis.trials), *(_mend(main) if main is not None else ())]
    parts += list(_beside(diagnosis))
    return _html.card(diagnosis.outcome, title, *parts)


def _sentence(text: str) -> str:
    return text[:1].upper() + text[1:] + ("" if text.endswith((".", "!", "?")) else ".")


def _where(main: Any) -> str:
    site, samples = main.finding.site, main.finding.samples
    shown = ", ".join(str(sample) for sample in samples[:_SAMPLES])
    more = f" and {len(samples) - _SAMPLES:,} more" if len(samples) > _SAMPLES else ""
    facts = (
        ("step", str(site.step)),
        ("stage", main.finding.stage),
        ("layer", site.layer),
        ("op", site.op),
        ("variable", site.variable),
        ("source", site.source),
        ("samples", shown + more),
    )
    return _html.paragraph(" · ".join(f"{name}: {value}" for name, value in facts if value))


def _proof(trials: Iterable[Any]) -> str:
    rows = [
        (
            trial.changed or "nothing",
            _THEN.get(trial.outcome, trial.outcome),
            trial.detail,
        )
        for trial in sorted(trials, key=lambda trial: trial.breadth > 0)
    ]
    head = ("with this one change", "the step", "seen")
    return _html.table(head, rows, left=head, most=20) if rows else ""


def _mend(main: Any) -> Iterable[str]:
    remedies = main.finding.remedies
    if remedies:
        yield _html.paragraph(f"Fix: {remedies[0]}")
    if len(remedies) > 1:
        others = "".join(_html.paragraph(remedy) for remedy in remedies[1:])
        more = len(remedies) - 1
        yield _html.details(f"{more} more way{'' if more == 1 else 's'} to mend it", others)


def _beside(diagnosis: Any) -> Iterable[str]:
    also = [*diagnosis.contributing, *(one for one in diagnosis.findings if one.symptom)]
    rows = [
        (
            one.finding.cause,
            "symptom" if one.symptom else "contributing cause",
            one.finding.summary,
        )
        for one in also
    ]
    head = ("found too", "which is a", "because")
    if rows:
        yield _html.details(f"{len(rows)} more found", _html.table(head, rows, left=head))
    out = [(one.cause, one.because) for one in diagnosis.ruled_out]
    if out:
        told = _html.table(("ruled out", "because"), out, left=("ruled out", "because"))
        yield _html.details(f"{len(out)} ruled out", told)
