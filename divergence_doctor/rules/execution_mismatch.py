"""Does the step do one thing op by op, and another the way it was trained?"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.rules._rule import Evidence, Example, Finding, Proof, Rule, Site
from divergence_doctor.trace.synthetic import training_trace

if TYPE_CHECKING:
    from divergence_doctor.trace import Trace
    from divergence_doctor.trace.table import Table

_MODES: Final = {"graph": "as a graph", "xla": "compiled by XLA", "eager": "eagerly"}
#: What was switched off, in words, and what that says.
_SWITCHES: Final = {
    "without-jit": "without XLA (jit_compile=False) they agree",
    "without-remapper": "with grappler's remapper off (no MatMul, BiasAdd and Relu fused into one "
    "kernel) they agree",
}
_ALL_FINITE: Final = {"loss_finite": True, "state_finite": True, "measured": True}
_BAD_LOSS: Final = {"loss": math.nan, "measured": True, "state_finite": False}

_WATCH: Final = (
    "Do not rely on the loss alone: `keras.callbacks.TerminateOnNaN()` sees nothing of this; "
    "look at the weights too, "
    "`all(np.isfinite(v.numpy()).all() for v in model.trainable_variables)`, every few steps."
)
_GUARD: Final = (
    "Check the data where it is made, in the input pipeline, which is never compiled by XLA: "
    '`dataset.map(lambda x, y: (tf.debugging.check_numerics(x, "x"), y))`.'
)
_NO_JIT: Final = "Compile the step without XLA: `model.compile(..., jit_compile=False)`."
_NO_REMAPPER: Final = (
    "Switch the fusing of kernels off until the cause is mended: "
    '`tf.config.optimizer.set_experimental_options({"remapping": False})`.'
)
_EAGER: Final = (
    "Run the step eagerly while looking for it: `model.compile(..., run_eagerly=True)`; look for "
    "Python code in the step that a graph freezes when it is traced (a counter, a random number, "
    "a branch on a Python value)."
)
_ONEDNN: Final = "Tell oneDNN's kernels apart with `TF_ENABLE_ONEDNN_OPTS=0` in a fresh process."


@final
class ExecutionMismatch(Rule):
    """The step fails, or hides its failure, only under the compiled or fused execution.

    Recognised where the same step, from the same start and with the same seeds, comes to something
    else the way it was trained (`train_function`: a graph, with XLA where `jit_compile` says so)
    than op by op: one raises, the loss or the state is finite in one only, or the numbers differ by
    more than rounding.

    Why it diverges: a compiled step is another program. Fused CPU kernels (MatMul or Conv with
    BiasAdd and Relu) turn NaN into 0, so that a NaN feature gives a finite loss while the kernel
    behind it becomes NaN; XLA's reduce_max drops NaN; XLA drops check_numerics, makes NaN out of
    labels that raise elsewhere, and rewrites (a / b) / c to a / (b * c), which overflows where the
    original does not; a trace freezes Python code.

    Evidence: `executions/differs` against `steps`, `executions/layer` (the first layer in execution
    order whose output differs when it alone is fetched), and the same steps with one thing switched
    off. Numbers differ beyond rounding above `executions/tolerance`, the square root of the
    coarsest compute dtype's roundoff (half of its digits; N. Higham, Accuracy and Stability of
    Numerical Algorithms, section 4.2, and a margin for the network's condition), or above ten times
    what a change of every weight by one rounding makes of the step, where that is more; such a
    difference alone is told, not blamed. Where the two draw other random numbers, only what is
    finite is compared.

    Fix: where only the compiled step fails, `model.compile(..., jit_compile=False)` or
    `tf.config.optimizer.set_experimental_options({"remapping": False})`, and a report to TensorFlow
    with the layer. Where it hides a failure, mend that failure and watch the weights, not the loss.

    Mistaken for: a healthy run that "suddenly" dies (the weights were NaN long before), a batch
    that is innocent (the step before it broke the weights), a bad GPU.

    Seen in: tensorflow/tensorflow#117319 and tensorflow/tensorflow#118075 (check_numerics ignored
    under XLA), legacy-rocm-build#6379 in https://github.com/ROCm (NaN with jit, stable without).
    """

    id = "execution-mismatch"
    code = "DD701"
    needs = frozenset({"executions", "steps"})

    #: Op by op the step is healthy, and the way it was trained it fails.
    ONLY_AS_TRAINED: ClassVar[float] = 0.9
    #: It fails op by op only: the run may have died of what the compiled step did not show here.
    ONLY_REFERENCE: ClassVar[float] = 0.6
    #: Both fail, and show it differently: that is seen, not inferred.
    SHOWN_DIFFERENTLY: ClassVar[float] = 0.95
    #: Both are finite and differ, or they draw other random numbers: told, not blamed.
    TOLD: ClassVar[float] = 0.3

    def examine(self, trace: Trace) -> Finding | None:
        """Return how the two executions differ, or None."""
        table = trace.table("executions")
        trained = table.where(table["execution"] == "as-trained")
        differing = trained.where(trained["differs"] != "")
        if not len(differing):
            return None
        row = differing.row(0)
        failing = str(trace.context.get("failing_execution") or "")
        step = trace.table("steps").select(step=row["step"]).row(0)
        switch = _switch(table, row["step"])
        return Finding(
            cause=self.id,
            summary=_sentence(row, step, switch, _hidden(trained, failing)),
            confidence=self._confidence(row, failing),
            stage="execution",
            site=Site(
                step=row["step"], layer=row["layer"] or None, variable=row["variable"] or None
            ),
            evidence=tuple(_evidence(row, step)),
            remedies=_remedies(row, failing, switch),
            proofs=_proofs(row, failing),
            contributes_only=failing == "both",
        )

    def _confidence(self, row: dict[str, Any], failing: str) -> float:
        if row["differs"] == "value" or not row["comparable"] or not failing:
            return self.TOLD
        if failing == "both":
            # With a bad loss in both, the user saw the same of either.
            return self.TOLD if row["differs"] == "state" else self.SHOWN_DIFFERENTLY
        return self.ONLY_AS_TRAINED if failing == "as-trained" else self.ONLY_REFERENCE

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return a hidden NaN, a step that fails under XLA only, and numbers that differ."""
        hidden = {
            "mode": "graph", "loss": 0.065, "loss_finite": True, "measured": True,
            "differs": "loss", "variable": "dense/kernel", "layer": "dense", "layer_class": "Dense",
            "phase": "forward", "reference_nonfinite": 2, "nonfinite": 0, "comparable": True,
        }  # fmt: skip
        bad = {"mode": "xla", "differs": "loss", "comparable": True, "layer": "ratio",
               "layer_class": "Ratio", "phase": "forward", "reference_nonfinite": 0,
               "nonfinite": 8, **_BAD_LOSS}  # fmt: skip
        value = {"mode": "xla", "differs": "value", "difference": 0.02, "tolerance": 3e-4,
                 "comparable": True, "loss": 1.0, **_ALL_FINITE}  # fmt: skip
        return (
            Example(
                "a NaN that the fused kernel turns into 0 while the weights die",
                lambda: training_trace(
                    losses=(math.nan,),
                    executions=(
                        hidden,
                        {**hidden, "execution": "without-remapper", "step": 0, "differs": "",
                         "loss_finite": False, **_BAD_LOSS},
                    ),
                    context={"failing_execution": "both"},
                ),
            ),
            Example(
                "a step that overflows under XLA only",
                lambda: training_trace(
                    losses=(1.0,),
                    outcome="diverged",
                    executions=(
                        bad,
                        {**bad, "execution": "without-jit", "step": 0, "differs": "", "loss": 1.0,
                         **_ALL_FINITE},
                    ),
                    context={"failing_execution": "as-trained"},
                ),
            ),
            Example(
                "both healthy, and the numbers differ by two percent",
                lambda: training_trace(executions=(value,), context={"failing_execution": ""}),
            ),
        )  # fmt: skip

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return runs whose executions agree: healthy, and failing alike."""
        return (
            Example("no other execution was run", training_trace),
            Example(
                "the same loss in both",
                lambda: training_trace(
                    executions=({"mode": "graph", "loss": 1.0, **_ALL_FINITE},),
                    context={"failing_execution": ""},
                ),
            ),
            Example(
                "both fail alike",
                lambda: training_trace(
                    losses=(math.nan,),
                    executions=({"mode": "graph", **_BAD_LOSS},),
                    context={"failing_execution": "both"},
                ),
            ),
        )


def _switch(table: Table, step: int) -> str:
    """Return the execution that agrees with the reference up to this step, or empty."""
    for way in _SWITCHES:
        rows = table.where(table["execution"] == way)
        until = rows.where(rows["step"] <= step)
        if len(rows.select(step=step)) and not (until["differs"] != "").any():
            return way
    return ""


def _hidden(trained: Table, failing: str) -> int:
    """Return in how many steps in a row the loss was finite while the state was not."""
    if failing != "both" or trained["differs"][0] == "value":
        return 0
    return int((trained["loss_finite"] & ~trained["state_finite"]).sum())


def _went(row: dict[str, Any], variable: str = "") -> str:
    """Say what a step came to, in one execution."""
    if row["raised"]:
        return f"raises {row['raised_type']}"
    loss = f"has a loss of {row['loss']:.4g}" if row.get("measured", True) else "logs no loss"
    if row["state_finite"]:
        return loss
    return f"{loss} and leaves {variable or 'the state'} not finite"


def _sentence(row: dict[str, Any], step: dict[str, Any], switch: str, hidden: int) -> str:
    how = _MODES.get(row["mode"], row["mode"])
    said = f"Step {row['step']} as it was trained, {how}, {_went(row, row['variable'])}"
    said += f", where op by op it {_went(step)}"
    if row["differs"] == "value":
        where = f" in the update of {row['variable']}" if row["variable"] else ""
        said += (
            f"; a relative difference of {row['difference']:.2g}{where}, and rounding explains "
            f"{row['tolerance']:.1g}"
        )
    said += _place(row)
    said += f"; {_SWITCHES[switch]}" if switch else "; no single switch was found to be the reason"
    if hidden:
        times = "one step" if hidden == 1 else f"{hidden} steps in a row"
        said += f"; a guard that watches the loss sees nothing in {times}"
    if not row["comparable"]:
        said += "; the two draw other random numbers, so that alone may be the reason"
    return said + "."


def _place(row: dict[str, Any]) -> str:
    if row["layer"] and row["reference_nonfinite"] >= 0:
        name = f"layer '{row['layer']}' ({row['layer_class']})"
        if row["reference_nonfinite"] == row["nonfinite"]:
            return f"; they part in {name}"
        return (
            f"; they part in {name}, whose output holds {row['reference_nonfinite']:,} NaN or Inf "
            f"op by op and {row['nonfinite']:,} as trained"
        )
    if row["layer"]:
        return f"; they part in layer '{row['layer']}'"
    phase = {"backward": "backward pass or the update"}.get(row["phase"], row["phase"])
    return f"; they part in the {phase}" if phase else ""


def _figure(value: float) -> float | str:
    """Return a number as JSON can hold it."""
    return value if math.isfinite(value) else str(value)


def _evidence(row: dict[str, Any], step: dict[str, Any]) -> list[Evidence]:
    found = [
        Evidence("what differs", row["differs"], "/executions/differs"),
        Evidence("loss op by op", _figure(step["loss"]), "/steps/loss"),
    ]
    if row["measured"]:
        found.append(Evidence("loss as trained", _figure(row["loss"]), "/executions/loss"))
    if row["layer"]:
        found.append(Evidence("layer at which they part", row["layer"], "/executions/layer"))
    if math.isfinite(row["difference"]):
        found.append(Evidence("relative difference", row["difference"], "/executions/difference"))
    return found


def _remedies(row: dict[str, Any], failing: str, switch: str) -> tuple[str, ...]:
    found = []
    if failing in {"both", "reference"}:
        found += [_WATCH, _GUARD]
    if row["mode"] == "xla":
        found.append(_NO_JIT)
    if switch == "without-remapper":
        found.append(_NO_REMAPPER)
    if not switch:
        found += [_EAGER, _ONEDNN]
    return tuple(found)


def _proofs(row: dict[str, Any], failing: str) -> tuple[Proof, ...]:
    """Return the execution in which the step should live, the smallest change first."""
    if not row["comparable"] or row["differs"] == "value":
        return ()
    if failing == "as-trained":
        ways = ["without-jit"] if row["mode"] == "xla" else []
        ways += ["without-remapper", "reference"]
        return (Proof("reference-execution", {"executions": ways}),)
    if failing == "reference":
        return (Proof("reference-execution", {"executions": ["as-trained"]}),)
    return ()
