"""What can a report say? Its parts, in the order in which a reader wants them."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from divergence_doctor.figures import Figure
    from divergence_doctor.reporters._by_step import StepLayers
    from divergence_doctor.trace import Trace

Scalar = float | int | str | bool | None


@dataclass(frozen=True, slots=True)
class Claim:
    """One figure that the verdict rests on, and where in the trace it stands."""

    claim: str
    value: Scalar
    where: str


@dataclass(frozen=True, slots=True)
class Remedy:
    """What to change, the code to paste, and what is said after it (empty when there is none)."""

    text: str
    code: str = ""
    after: str = ""


@dataclass(frozen=True, slots=True)
class TrialLine:
    """One row of the proof: the same step with one thing changed.

    Attributes:
        name: name of the trial.
        changed: what was changed, in words.
        outcome: ``finite``, ``still-fails`` or ``not-run``.
        detail: what was seen.
        control: nothing was changed.
        aimed: it was run for the cause that the report names.
    """

    name: str
    changed: str
    outcome: str
    detail: str
    control: bool = False
    aimed: bool = False

    @property
    def then(self) -> str:
        """The outcome in the reader's words."""
        words = {"finite": "failure gone", "still-fails": "still fails", "not-run": "not run"}
        return words.get(self.outcome, self.outcome)


@dataclass(frozen=True, slots=True)
class Cause:
    """One finding, the main one or another; the fields are those of ``report.json``."""

    cause: str
    code: str
    confidence: float
    confirmed: bool
    refuted: bool
    symptom: bool
    explained_by: str | None
    stage: str
    step: int
    layer: str | None
    op: str | None
    source: str | None
    samples: tuple[int, ...]
    summary: str
    evidence: tuple[Claim, ...]
    remedies: tuple[Remedy, ...]
    advice: tuple[str, ...]
    trials: tuple[TrialLine, ...]

    @property
    def proven(self) -> str:
        """``confirmed``, ``refuted`` or ``not confirmed``."""
        return "confirmed" if self.confirmed else "refuted" if self.refuted else "not confirmed"

    @property
    def kind(self) -> str:
        """``cause`` or ``symptom``, and the cause that explains it."""
        word = "symptom" if self.symptom else "cause"
        return f"{word} of {self.explained_by}" if self.symptom and self.explained_by else word


@dataclass(frozen=True, slots=True)
class Operand:
    """One tensor around the first producer; ``value`` is its value at the first bad element."""

    role: str
    position: int
    origin: str
    dtype: str
    shape: str
    value: float
    low: float
    high: float
    nonfinite: int
    zero: int
    size: int


@dataclass(frozen=True, slots=True)
class Link:
    """One link of the chain that made the producer's input dangerous.

    Attributes:
        link: distance from the failure, from 0.
        what: ``op``, ``variable``, ``batch`` or ``constant``.
        name: op type, path of the variable or name of the array.
        layer, phase, source: where the op ran.
        dtype, shape: of the tensor.
        followed: one element of it lies on the way; ``element`` is its index, ``value`` its value.
        through: how the next nearer link came from it, in words.
        departed: nearest the source of those beyond the ordinary range.
        ordinary_low, ordinary_high: that range, as magnitudes.
        low, high: smallest and largest finite value of the whole tensor.
        nonfinite: its elements that are NaN or Inf.
    """

    link: int
    what: str
    name: str
    layer: str
    phase: str
    source: str
    dtype: str
    shape: str
    element: str
    followed: bool
    value: float
    through: str
    departed: bool
    ordinary_low: float
    ordinary_high: float
    low: float
    high: float
    nonfinite: int

    @property
    def cell(self) -> str:
        """The element as people write it, e.g. ``[5, 0]``; empty for a scalar, or where none is."""
        return f"[{self.element}]" if self.element else ""

    @property
    def tensor(self) -> str:
        """Dtype and shape in one word or two."""
        return " ".join(part for part in (self.dtype, self.shape) if part)


@dataclass(frozen=True, slots=True)
class Chain:
    """How the dangerous number came about.

    Attributes:
        sentence: the way from the source to the failure; empty when no element could be followed.
        links: the links, nearest first; of a long chain the telling ones.
        left_out: how many links are not among them.
    """

    sentence: str = ""
    links: tuple[Link, ...] = ()
    left_out: int = 0


@dataclass(frozen=True, slots=True)
class Where:
    """The place of the first non-finite value, or of the exception that ended the step."""

    sentence: str
    step: int
    phase: str
    op: str
    layer: str
    source: str
    message: str = ""
    stack: str = ""
    operands: tuple[Operand, ...] = ()
    chain: Chain = Chain()


@dataclass(frozen=True, slots=True)
class Cell:
    """One value of the batch that is NaN or Inf."""

    array: str
    index: str
    value: float


@dataclass(frozen=True, slots=True)
class SampleArray:
    """One array of one sample."""

    array: str
    low: float
    high: float
    nonfinite: int
    zero: int
    size: int


@dataclass(frozen=True, slots=True)
class Excerpt:
    """What one array of one sample holds: a small picture, or its first values.

    Attributes:
        array, dtype, shape: of the sample's array; the shape is empty for a scalar.
        size: its elements.
        values: its first values, flattened; of a picture its levels from 0 to 255 row by row, -1
            for what is not finite.
        height, width, channels: of the picture; 0 where it is none.
        low, high: what the levels 0 and 255 stand for.
    """

    array: str
    dtype: str
    shape: str
    size: int
    values: tuple[float, ...]
    height: int = 0
    width: int = 0
    channels: int = 0
    low: float = math.nan
    high: float = math.nan


@dataclass(frozen=True, slots=True)
class Offender:
    """A sample that is to blame, with what it holds."""

    sample: int
    arrays: tuple[SampleArray, ...]
    cells: tuple[Cell, ...]
    loss: float | None
    excerpts: tuple[Excerpt, ...] = ()


@dataclass(frozen=True, slots=True)
class BatchArray:
    """One array of the batch."""

    array: str
    dtype: str
    shape: str
    low: float
    high: float
    mean: float
    std: float
    nonfinite: int


@dataclass(frozen=True, slots=True)
class Who:
    """What in the batch is to blame.

    Attributes:
        sentence: the answer.
        offenders: the samples (the first of them; ``total`` counts all).
        total: how many samples are to blame.
        arrays: the arrays of the failing batch.
        cells: non-finite cells of that batch that lie in no offending sample.
    """

    sentence: str
    offenders: tuple[Offender, ...]
    total: int
    arrays: tuple[BatchArray, ...]
    cells: tuple[Cell, ...]


@dataclass(frozen=True, slots=True)
class StepRow:
    """One replayed step."""

    step: int
    loss: float
    learning_rate: float
    loss_scale: float
    gradient_norm: float
    update_norm: float
    weight_norm: float
    state: str
    failing: bool


@dataclass(frozen=True, slots=True)
class LayerRow:
    """One layer at the failing step; NaN where nothing was measured."""

    order: int
    layer: str
    layer_class: str
    dtype: str
    parameters: int
    forward_absmax: float
    forward_std: float
    forward_nonfinite: int
    gradient_absmax: float
    gradient_l2: float
    gradient_nonfinite: int
    weight_absmax: float
    weight_nonfinite: int
    update_ratio: float
    blamed: bool


@dataclass(frozen=True, slots=True)
class Told:
    """Non-finite values that reached neither loss, gradient nor state: told, not blamed.

    Attributes:
        what: ``op``, ``batch``, ``variable`` or ``constant``.
        name: op type, name of the array or path of the variable.
        layer, phase, source: where they arose.
        steps, times: in how many steps, and how often in all.
        nan, inf: how many.
        ended: where they ended: op and layer.
        because: the mechanism, in words.
    """

    what: str
    name: str
    layer: str
    phase: str
    source: str
    steps: int
    times: int
    nan: int
    inf: int
    ended: str
    because: str


@dataclass(frozen=True, slots=True)
class Excluded:
    """A cause that was considered and does not hold, and why."""

    cause: str
    because: str


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How true the replay is to the run that died."""

    optimizer_state: str
    random_state: str
    reference: str
    as_trained: str
    notes: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class HistoryRow:
    """One training step before the failure.

    Attributes:
        step, epoch: counted from 0; the epoch is -1 when unknown.
        recorded, rolled: the logged loss in training, and when the step ran again; None where
            none was.
        again: how the two compare, in words; empty where the step did not run again.
        learning_rate, loss_scale, gradient_norm: NaN where unknown.
        bad_variable: first variable that was not finite after it; empty if none.
        failing: the first step that went wrong.
    """

    step: int
    epoch: int
    recorded: float | None
    rolled: float | None
    again: str
    learning_rate: float
    loss_scale: float
    gradient_norm: float
    bad_variable: str
    failing: bool


@dataclass(frozen=True, slots=True)
class History:
    """How the recorded run went up to the failure, and how it came again.

    Attributes:
        sentences: what there is to say, in this order.
        lost: where it went wrong first, in a sentence; empty where it did not come again.
        rows: the last training steps.
        total: how many there are in the trace.
        losses: how the losses compare with the recorded ones (JSON values); empty when nothing
            ran again.
        told: what the bundle said, and what was watched of it (JSON values).
    """

    sentences: tuple[str, ...]
    lost: str
    rows: tuple[HistoryRow, ...]
    total: int
    losses: dict[str, Any]
    told: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Command:
    """One command to paste, and what it does."""

    does: str
    command: str


@dataclass(frozen=True)
class Picture:
    """One figure of the report, drawn when first asked for."""

    name: str
    title: str
    caption: str
    figure: Figure = field(repr=False, compare=False)
    trace: Trace = field(repr=False, compare=False)

    @property
    def svg(self) -> str:
        """The figure as an ``<svg>`` element."""
        return self._both[1]

    @property
    def png(self) -> bytes:
        """The figure as a PNG file."""
        return self._both[0]

    @cached_property
    def _both(self) -> tuple[bytes, str]:
        from divergence_doctor.figures import render_both

        return render_both(self.figure, self.trace)


@dataclass(frozen=True, slots=True)
class Document:
    """Everything that a report says; a reporter only decides how it looks.

    Every string in it is clean (no control or bidirectional characters, at most 4,000 characters),
    except in ``reproduce``, whose paths and names must stay exact.

    Attributes:
        outcome: ``diverged``, ``healthy`` or ``inconclusive``.
        title: the verdict in a few words: the cause's id, or the outcome.
        headline: the verdict in one line.
        summary: one sentence with the figures.
        cause: the main cause; None for a healthy or inconclusive run.
        proof: every trial, the control first, then those aimed at the cause.
        proof_sentence: what the trials prove, or that nothing was proven.
        where: the place of the first non-finite value; None when there was none.
        who: what in the batch is to blame; None when nothing was recorded of the batch.
        steps, layers: one row per replayed step, per layer at ``layers_step``.
        layers_by_step: every layer in each replayed step, or in as many as a page can hold.
        contributing, findings, ruled_out: the other causes; the findings hold the symptoms too.
        told: non-finite values that do no harm.
        fidelity: how true the replay is to the run that died.
        run: versions, device, dtype policy, optimizer, step, timings (JSON values).
        environment: the same as (name, value) lines.
        files: checkpoint and batches as (name, value) lines.
        commands: how to see it again.
        pictures: the figures.
        notes: what the reader must know about this report itself.
        reproduce: what ``reproduce.py`` is made from (JSON values); None when it cannot be made.
        execution: the failure needs the compiled execution.
        history: how training went up to the failure; None but for a crash bundle.
    """

    outcome: Literal["diverged", "healthy", "inconclusive"]
    title: str
    headline: str
    summary: str
    because: str
    cause: Cause | None
    proof: tuple[TrialLine, ...]
    proof_sentence: str
    where: Where | None
    who: Who | None
    steps: tuple[StepRow, ...]
    layers: tuple[LayerRow, ...]
    layers_step: int
    layers_by_step: tuple[StepLayers, ...]
    contributing: tuple[Cause, ...]
    findings: tuple[Cause, ...]
    ruled_out: tuple[Excluded, ...]
    told: tuple[Told, ...]
    fidelity: Fidelity
    run: dict[str, Any]
    environment: tuple[tuple[str, str], ...]
    files: tuple[tuple[str, str], ...]
    commands: tuple[Command, ...]
    pictures: tuple[Picture, ...]
    notes: tuple[str, ...]
    reproduce: dict[str, Any] | None
    execution: bool
    history: History | None = None

    @property
    def symptoms(self) -> tuple[Cause, ...]:
        """What else does not work, told of a healthy run as well, and never the diagnosis."""
        return tuple(finding for finding in self.findings if finding.symptom)

    @property
    def considered(self) -> tuple[Cause, ...]:
        """The findings that could be a diagnosis."""
        return tuple(finding for finding in self.findings if not finding.symptom)
