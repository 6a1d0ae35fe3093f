"""Did an op drop a NaN, so that neither loss nor state shows it?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.rules._rule import Evidence, Example, Finding, Rule, Site
from divergence_doctor.rules._symptoms import MOST_SHOWN, listed
from divergence_doctor.trace.synthetic import training_trace

if TYPE_CHECKING:
    from divergence_doctor.trace import Trace

#: Mechanisms (``harmless/reason``) by which a NaN is lost where nobody asked for that. A `where`
#: that does not select it, a target that is replaced, a part that is left out: those are asked for.
_LOST: Final = frozenset({"max-pooling", "comparison", "other"})
#: Whatever else is done with the NaN: cast to an integer it is a number like any other.
_CASTS: Final = frozenset({"Cast", "Bitcast"})


@final
class SwallowedNan(Rule):
    """A NaN was made or fed in, and an op further on put out ordinary numbers in its place.

    A symptom. Max-pooling, a minimum or maximum, a clipping, a cast to integers: they take a NaN in
    and put finite numbers out.

    Why it diverges: it has not, yet. The loss is finite because the NaN is lost on the way, not
    because it was dealt with. Max-pooling drops a NaN only while another value stands in the same
    window, other hardware and XLA keep it or put -3.4e38 in its place, and a kernel that sees it
    in the backward pass turns NaN while the loss stays finite.

    Evidence: `harmless`: NaN that reached neither loss nor gradient nor state, and the op that they
    ended in; told where that is a comparison, a pooling, a cast, or an op that is not known to bear
    a NaN. NaN that the code itself leaves out (`where`, `divide_no_nan`, a slice), an infinity in a
    mask and a step that loss scaling skips are not told here.

    Fix: mend it where it is made, or where it is loaded:
    `x = np.nan_to_num(x)`, `keras.ops.where(keras.ops.isnan(x), 0.0, x)`; drop such samples.

    Mistaken for: a healthy run, which it is for as long as the op goes on dropping it.

    Seen in: tensorflow/tensorflow#2501 and keras-team/keras#16158 (max-pooling of NaN gives
    -3.4e38), tensorflow/tensorflow#40072 (ReLU drops NaN on one device and keeps it on another),
    tensorflow/tensorflow#12659 (so does `maximum`).
    """

    id = "swallowed-nan"
    code = "DD805"
    symptom = True
    needs = frozenset({"harmless"})

    #: It was seen, op by op.
    SEEN: ClassVar[float] = 0.9

    def examine(self, trace: Trace) -> Finding | None:
        """Return where a NaN was lost, the places with most of them first, or None."""
        lost = _places(trace)
        if not lost:
            return None
        worst = lost[0]
        parts = [_told(place) for place in lost]
        return Finding(
            cause=self.id,
            summary=f"NaN went in and ordinary numbers came out: {listed(parts)}.",
            confidence=self.SEEN,
            stage="data" if worst["what"] == "batch" else _stage(worst["phase"]),
            site=Site(
                step=worst["step"],
                layer=worst["layer"] or worst["ended_layer"] or None,
                op=worst["name"] if worst["what"] == "op" else None,
                source=worst["source"] or None,
            ),
            samples=_samples(trace, worst),
            evidence=tuple(
                Evidence(f"NaN of {_of(place)} lost in {place['ended_in']}", place["nan"], _WHERE)
                for place in lost[:MOST_SHOWN]
            ),
            remedies=(
                (
                    "Mend it where it is loaded, as no op further on can be relied on: "
                    "`x = np.nan_to_num(x)`, or drop the sample."
                    if worst["what"] == "batch"
                    else "Mend it where it is made: keep the op's input in its domain, e.g. "
                    "`keras.ops.sqrt(keras.ops.maximum(x, 0.0))`."
                ),
                (
                    "Have the step say so: `tf.debugging.check_numerics(x, 'x')` before "
                    f"`{worst['ended_in']}`."
                ),
            ),
            effect_of=frozenset(
                {"bad-input", "bad-labels", "bad-sample-weight", "corrupt-weights"}
                | {"execution-mismatch", "invalid-domain", "division-by-zero", "log-of-zero"}
            ),
        )

    @classmethod
    def fires_on(cls) -> tuple[Example, ...]:
        """Return a NaN pixel that is pooled away, and one that is cast."""
        return (
            Example("a NaN pixel that max-pooling drops", _trace),
            Example(
                "a NaN that becomes an integer",
                lambda: _trace(what="op", name="Sqrt", reason="only-looked-at", ended_in="Cast"),
            ),
        )

    @classmethod
    def quiet_on(cls) -> tuple[Example, ...]:
        """Return what the code leaves out on purpose, and infinities."""
        return (
            Example("nothing was lost", training_trace),
            Example(
                "a branch that is not selected",
                lambda: _trace(reason="not-selected", ended_in="SelectV2"),
            ),
            Example(
                "a mask of minus infinity",
                lambda: _trace(nan=0, neginf=3, reason="mask", ended_in="Softmax"),
            ),
            Example(
                "a step that loss scaling skipped",
                lambda: _trace(what="op", name="Mul", reason="skipped-step", ended_in=""),
            ),
        )


_WHERE: Final = "/harmless"


def _places(trace: Trace) -> list[dict[str, Any]]:
    """Return the places where NaN was lost, each once over all steps, those with most first."""
    found: dict[tuple[str, ...], dict[str, Any]] = {}
    for row in trace.table("harmless").rows():
        lost = row["reason"] in _LOST or row["ended_in"] in _CASTS
        if row["nan"] <= 0 or not lost:
            continue
        columns = ("what", "name", "layer", "source", "ended_in", "ended_layer")
        key = tuple(str(row[column]) for column in columns)
        known = found.setdefault(key, {**row, "nan": 0, "steps": 0})
        known["nan"] = max(known["nan"], row["nan"])
        known["steps"] += 1
    return sorted(found.values(), key=lambda row: -row["nan"])


def _of(place: dict[str, Any]) -> str:
    where = f" in {place['layer']!r}" if place["layer"] else ""
    return f"{place['what']} {place['name']}{where}"


def _told(place: dict[str, Any]) -> str:
    steps = f" in each of {place['steps']} steps" if place["steps"] > 1 else ""
    ended = f" in {place['ended_layer']!r}" if place["ended_layer"] else ""
    return f"{place['nan']:,} NaN of {_of(place)}{steps} ended in {place['ended_in']}{ended}"


def _stage(phase: str) -> Any:
    return phase if phase in {"forward", "loss", "backward"} else "forward"


def _samples(trace: Trace, place: dict[str, Any]) -> tuple[int, ...]:
    """Return the samples whose cells of the array are NaN; empty when all are, or none can be."""
    if place["what"] != "batch":
        return ()
    rows = trace.table("samples").select(name=place["name"], batch=0)
    bad = tuple(int(one) for one in rows["sample"][rows["nonfinite"] > 0])
    return bad if len(bad) < len(rows) else ()


def _trace(**fields: Any) -> Trace:
    row = {
        "step": 0,
        "what": "batch",
        "name": "x",
        "layer": "",
        "phase": "forward",
        "source": "",
        "times": 1,
        "nan": 1,
        "posinf": 0,
        "neginf": 0,
        "reason": "max-pooling",
        "because": "max-pooling dropped it",
        "ended_in": "MaxPool",
        "ended_layer": "pool",
        "ended_source": "",
    }
    return training_trace(rows={"harmless": [row | fields]})
