"""What is a rule, and what does it say?

A rule looks at a trace and returns what it found, or None. It never raises, prints or ranks: the
diagnosis asks every rule, has the promising ones proven, and ranks causes before symptoms.
"""

from __future__ import annotations

import inspect
from abc import ABC, abstractmethod
from dataclasses import dataclass, field
from functools import cache
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from divergence_doctor import _plugins

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from divergence_doctor.trace import Trace

Stage = Literal["data", "forward", "loss", "backward", "update", "checkpoint", "execution"]


@dataclass(frozen=True, slots=True)
class Site:
    """Where something was seen.

    Attributes:
        step: replayed step.
        layer: path of the layer, or None outside any layer.
        op: TensorFlow op type of the first producer, or None.
        source: the user's own line that ran it (``file:line``), or None.
        variable: path of the variable, or None.
    """

    step: int = 0
    layer: str | None = None
    op: str | None = None
    source: str | None = None
    variable: str | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """One figure that a claim rests on, and where in the trace it stands."""

    claim: str
    value: float | int | str | bool | None
    where: str


@dataclass(frozen=True, slots=True)
class Proof:
    """A trial that would prove the finding: its name in ``trials/`` and its parameters (JSON)."""

    trial: str
    parameters: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Finding:
    """What one rule says.

    Attributes:
        cause: id of the rule, e.g. ``log-of-zero``.
        summary: one sentence with the figures.
        confidence: 0..1, before any trial.
        stage: where the cause sits.
        site: the place of the first non-finite value (or of the strongest sign).
        samples: indices in the batch that are to blame; empty when the whole batch is.
        evidence: the figures.
        remedies: what to change, with the Keras argument to paste.
        proofs: trials that would prove it, the smallest change first.
        explained_by: for a symptom, the cause that explains it.
        explains: causes that are this one's effects in this trace, beside those that always are.
        each_wrong: each of the samples is wrong by itself, also where the step already lives
            without some of them: their effect on a loss adds up.
        effect_of: for a symptom, the causes that may explain it; None where any may.
        contributes_only: it explains what was seen of a failure that it did not make; it is never
            the diagnosis.
        of_chance: it says that chance decides; that other seeds end otherwise is no doubt of it.
    """

    cause: str
    summary: str
    confidence: float
    stage: Stage
    site: Site = field(default_factory=Site)
    samples: tuple[int, ...] = ()
    evidence: tuple[Evidence, ...] = ()
    remedies: tuple[str, ...] = ()
    proofs: tuple[Proof, ...] = ()
    explained_by: str | None = None
    explains: frozenset[str] = frozenset()
    contributes_only: bool = False
    each_wrong: bool = False
    effect_of: frozenset[str] | None = None
    of_chance: bool = False


@dataclass(frozen=True, slots=True)
class Verdict:
    """What came of asking one rule: found, quiet, or skipped *because*."""

    rule: str
    finding: Finding | None = None
    skipped: str | None = None

    @property
    def word(self) -> str:
        """``found``, ``quiet`` or ``skipped``."""
        if self.finding is not None:
            return "found"
        return "quiet" if self.skipped is None else "skipped"


@dataclass(frozen=True, slots=True)
class Example:
    """A synthetic trace on which the rule must fire, or must keep quiet, and why."""

    what: str
    trace: Callable[[], Trace]


class Rule(ABC):
    """One cause (or symptom). Its docstring is its page (``doctor explain``).

    The docstring answers, in order, under these words at the start of a paragraph: what is
    recognised (the first paragraph); *Why it diverges*; *Evidence* (columns, thresholds and where
    they come from); *Fix* (the Keras argument to paste); *Mistaken for*; *Seen in* (a real report).
    """

    id: ClassVar[str]
    code: ClassVar[str]
    #: Symptoms may be findings; they are never the diagnosis of a divergence.
    symptom: ClassVar[bool] = False
    #: Causes that are this one's effects where both hold: an unscaled input overflows an exp.
    explains: ClassVar[frozenset[str]] = frozenset()
    #: ``table`` or ``table/column`` that the rule cannot do without.
    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def examine(self, trace: Trace) -> Finding | None:
        """Return what this rule finds in the trace, or None."""

    def asks(self, trace: Trace) -> frozenset[str]:
        """Return the tables that are to be measured before this rule judges the trace for good.

        They cost more than a watched step and are made only where a rule suspects its cause.
        """
        del trace
        return frozenset()

    @classmethod
    @abstractmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return traces on which the rule finds its cause (at least one)."""

    @classmethod
    @abstractmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return traces on which the rule must find nothing (at least one)."""

    def ask(self, trace: Trace) -> Verdict:
        """Return the rule's verdict, skipped when the trace lacks what it needs."""
        missing = sorted(need for need in self.needs if not trace.has(need))
        if missing:
            return Verdict(self.id, skipped=f"the trace holds no {', '.join(missing)}")
        return Verdict(self.id, finding=self.examine(trace))

    @classmethod
    def page(cls) -> str:
        """Return the rule's page, dedented."""
        return inspect.cleandoc(cls.__doc__ or "")

    @classmethod
    def title(cls) -> str:
        """Return the page's first line: the pattern in one sentence."""
        return cls.page().splitlines()[0]


@cache
def all_rules() -> tuple[Rule, ...]:
    """Return one instance of every rule, by code."""
    rules: tuple[type[Any], ...] = _plugins.load("divergence_doctor.rules", Rule)
    return tuple(sorted((rule() for rule in rules), key=lambda rule: rule.code))
