"""Do the rules about batches and checkpoints name what is wrong, where it broke the step?"""

from __future__ import annotations

import json
import math
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest

from divergence_doctor.rules import Proof, Site
from divergence_doctor.rules.bad_input import BadInput
from divergence_doctor.rules.bad_labels import BadLabels
from divergence_doctor.rules.bad_sample_weight import BadSampleWeight
from divergence_doctor.rules.corrupt_weights import CorruptWeights
from divergence_doctor.rules.unscaled_input import UnscaledInput
from divergence_doctor.trace import Trace
from divergence_doctor.trace.builder import TraceBuilder
from divergence_doctor.trace.schema import TABLES
from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace
from divergence_doctor.trace.table import Table

if TYPE_CHECKING:
    from divergence_doctor.rules import Finding

NAN = math.nan
INF = math.inf


def amended(trace: Trace, name: str, **columns: list[Any]) -> Trace:
    """Return a trace in which some columns of one table hold other values."""
    tables = {key: trace.table(key) for key in TABLES}
    table = tables[name]
    arrays = {column: table[column] for column in table.columns}
    for column, values in columns.items():
        array = np.empty(len(values), dtype=arrays[column].dtype)
        array[:] = values
        arrays[column] = array
    tables[name] = Table.from_arrays(name, arrays)
    return Trace(tables, trace.context)


def carried(name: str, *, origin: str = "batch", **fields: Any) -> SyntheticEvent:
    fields = {"phase": "forward", "layer": "dense", "produced": False, **fields}
    return SyntheticEvent("MatMul", origin=origin, origin_name=name, **fields)


def found(rule: Any, trace: Trace) -> Finding:
    finding = rule().ask(trace).finding
    assert finding is not None
    return finding


def quiet(rule: Any, trace: Trace) -> bool:
    return rule().ask(trace).word == "quiet"


def one_bad(value: float = NAN, *, row: int = 3, column: int = 2) -> np.ndarray:
    x = np.ones((8, 4))
    x[row, column] = value
    return x


# ---------------------------------------------------------------------------------- bad-input


def test_a_nan_cell_that_reaches_the_loss_is_named_with_its_place() -> None:
    finding = found(BadInput, training_trace(x=one_bad(), losses=(NAN,), events=(carried("x"),)))
    assert finding.summary == (
        "x holds 1 NaN among 32 values in 1 of 8 samples, first at [3,2]; they entered through "
        "MatMul in layer 'dense' and are the first bad values of the step."
    )
    assert finding.confidence == 0.97
    assert finding.stage == "data"
    assert finding.site == Site(step=0)
    assert finding.samples == (3,)
    assert finding.proofs == (
        Proof("replace-values", {"where": "batch", "names": ["x"]}),
        Proof("drop-samples", {"samples": [3]}),
    )


@pytest.mark.parametrize("value", [INF, -INF])
def test_an_infinite_cell_counts_as_well(value) -> None:
    finding = found(
        BadInput, training_trace(x=one_bad(value), losses=(NAN,), events=(carried("x"),))
    )
    assert "1 Inf among 32 values" in finding.summary


def test_when_every_sample_is_bad_none_is_to_blame_and_none_can_be_dropped() -> None:
    finding = found(
        BadInput, training_trace(x=np.full((8, 4), NAN), losses=(NAN,), events=(carried("x"),))
    )
    assert finding.samples == ()
    assert [proof.trial for proof in finding.proofs] == ["replace-values"]


def test_a_nan_that_max_pooling_drops_is_told_and_not_blamed() -> None:
    finding = found(
        BadInput,
        training_trace(
            x=one_bad(), outcome="healthy", events=(carried("x", reaches="", primary=False),)
        ),
    )
    assert finding.confidence == 0.2
    assert finding.summary.endswith("but they reached neither loss nor state: told, not blamed.")


def test_a_swallowed_nan_is_not_blamed_for_a_log_of_zero() -> None:
    finding = found(
        BadInput,
        training_trace(
            x=one_bad(),
            losses=(NAN,),
            events=(carried("x", reaches="", primary=False), SyntheticEvent("Log")),
        ),
    )
    assert finding.confidence == 0.3
    assert "stopped on the way" in finding.summary


def test_a_nan_that_no_op_carried_is_not_blamed_for_an_op_with_finite_inputs() -> None:
    finding = found(
        BadInput, training_trace(x=one_bad(), losses=(NAN,), events=(SyntheticEvent("Log"),))
    )
    assert finding.confidence == 0.4


def test_a_nan_beside_bad_weights_stays_a_suspect() -> None:
    event = carried("head/kernel", origin="variable")
    finding = found(BadInput, training_trace(x=one_bad(), losses=(NAN,), events=(event,)))
    assert finding.confidence == 0.6


def test_a_nan_that_reaches_a_gradient_later_counts_though_another_op_broke_first() -> None:
    events = (SyntheticEvent("Log"), carried("x", primary=False, reaches="gradient"))
    finding = found(BadInput, training_trace(x=one_bad(), losses=(NAN,), events=events))
    assert finding.confidence == 0.85


def test_only_the_batch_of_the_failing_step_is_judged() -> None:
    builder = TraceBuilder()
    for batch, array in enumerate((one_bad(), np.ones((8, 4)))):
        row = {"batch": batch, "name": "x", "role": "x", "integral": False}
        builder.add("batch", **row, **tensor(array))
        builder.add("steps", step=batch, batch=batch, loss=1.0)
    builder.describe(outcome="diverged", failing_step=1)
    assert quiet(BadInput, builder.build())


def test_two_bad_inputs_are_named_together() -> None:
    builder = TraceBuilder()
    builder.add("steps", step=0, batch=0, loss=NAN)
    for name in ("x/image", "x/tabular"):
        builder.add("batch", batch=0, name=name, role="x", **tensor(one_bad()))
        for sample in range(8):
            bad = int(sample == 3)
            builder.add("samples", batch=0, sample=sample, name=name, role="x", nonfinite=bad)
    builder.describe(outcome="diverged", failing_step=0)
    finding = found(BadInput, builder.build())
    assert "(and x/tabular too)" in finding.summary
    assert finding.samples == (3,)
    assert finding.proofs[0].parameters["names"] == ["x/image", "x/tabular"]


def lookup_trace(message: str, x: Any, **fields: Any) -> Trace:
    fields = {"raised_op": "GatherV2", "raised_layer": "embedding", **fields}
    return training_trace(
        x=x, outcome="diverged", raised=message, raised_type="InvalidArgumentError", **fields
    )


def test_an_index_beyond_the_embedding_is_read_from_what_the_op_said() -> None:
    tokens = np.arange(32).reshape(8, 4)
    tokens[3, 0] = tokens[6, 1] = 500
    said = "Exception encountered\n\x1b[1mindices[3,0] = 500 is not in [0, 100) [Op:GatherV2]"
    finding = found(BadInput, lookup_trace(said, tokens))
    assert finding.summary == (
        "x asks layer 'embedding' for index 500 in samples 3, 6, but it can look up only 0 to 99."
    )
    assert finding.site.layer == "embedding"
    assert finding.site.op == "GatherV2"
    assert finding.samples == (3, 6)
    assert finding.proofs == (
        Proof("valid-indices", {"array": "x", "high": 99}),
        Proof("drop-samples", {"samples": [3, 6]}),
    )
    assert "input_dim=501" in finding.remedies[0]


def test_a_negative_index_is_told_apart_from_one_that_is_too_large() -> None:
    tokens = np.arange(32).reshape(8, 4)
    tokens[2, 2] = -101
    finding = found(BadInput, lookup_trace("indices[2,2] = -1 is not in [0, 100)", tokens))
    assert finding.samples == (2,)
    assert finding.proofs[0] == Proof("valid-indices", {"array": "x", "high": 99})
    assert "mask_zero=True" in finding.remedies[0]


def test_gather_nd_words_its_message_differently() -> None:
    tokens = np.arange(8)
    tokens[5] = 300
    said = "indices[5] = [300] does not index into param shape [100,3]"
    finding = found(BadInput, lookup_trace(said, tokens, raised_op="GatherNd"))
    assert finding.samples == (5,)


def test_an_index_in_no_array_of_the_batch_is_still_named() -> None:
    finding = found(
        BadInput, lookup_trace("indices[3,0] = 500 is not in [0, 100)", np.zeros((8, 4)))
    )
    assert "the batch asks layer 'embedding' for index 500 in sample 3" in finding.summary


def test_a_lookup_that_raises_in_the_loss_is_left_to_the_labels() -> None:
    y = np.array([0, 1, 2, 3, 4, 5, 0, 1])
    trace = amended(
        lookup_trace("indices[5] = 5 is not in [0, 5)", None, y=y, raised_layer=""),
        "steps",
        raised_phase=["", "loss"],
    )
    assert quiet(BadInput, trace)
    assert found(BadLabels, trace).samples == (5,)


def test_an_index_that_the_device_swallows_is_a_hint_and_no_diagnosis() -> None:
    tokens = np.arange(32).reshape(8, 4)
    trace = training_trace(
        x=tokens, layers=("embedding",), layer_class="Embedding", losses=(1.0, NAN)
    )
    trace = amended(trace, "layers", config=[json.dumps({"input_dim": 20})])
    finding = found(BadInput, trace)
    assert finding.confidence == 0.4
    assert finding.samples == (5, 6, 7)
    assert "index 31" in finding.summary
    assert "input_dim is 20" in finding.summary


# ----------------------------------------------------------------------------- unscaled-input


PIXELS = np.linspace(0.0, 255.0, 32).reshape(8, 4)
RUNAWAY = (1.0, 9e3, INF)


def test_raw_pixels_that_run_away_are_unscaled() -> None:
    finding = found(UnscaledInput, training_trace(x=PIXELS, losses=RUNAWAY))
    assert finding.confidence == 0.5
    assert finding.summary == (
        "x reaches 255 (standard deviation 75.9) where initialisers and learning rates assume "
        "about 1, and the loss went from 1 to inf in 3 replayed steps."
    )
    assert finding.proofs == (Proof("standardise", {"arrays": ["x"]}),)
    assert any("Rescaling(1/127.5, offset=-1)" in remedy for remedy in finding.remedies)


@pytest.mark.parametrize(
    ("magnitude", "confidence"), [(255.0, 0.5), (1e3, 0.6), (1e4, 0.8), (1e6, 0.9), (1e30, 0.9)]
)
def test_confidence_grows_with_the_magnitude(magnitude, confidence) -> None:
    x = np.linspace(-magnitude, magnitude, 32).reshape(8, 4)
    assert found(UnscaledInput, training_trace(x=x, losses=RUNAWAY)).confidence == confidence


def test_ordinary_inputs_are_not_blamed_for_a_runaway() -> None:
    x = np.linspace(-99.0, 99.0, 32).reshape(8, 4)
    assert quiet(UnscaledInput, training_trace(x=x, losses=RUNAWAY))


def test_one_sample_a_million_times_the_others_is_left_out_first() -> None:
    x = np.ones((8, 4))
    x[5, 1] = -1e6
    finding = found(UnscaledInput, training_trace(x=x, losses=RUNAWAY))
    assert finding.samples == (5,)
    assert finding.confidence == 0.9
    assert "x of sample 5 reaches 1e+06, 1e+06 times the median of the samples" in finding.summary
    assert finding.proofs == (
        Proof("drop-samples", {"samples": [5]}),
        Proof("standardise", {"arrays": ["x"]}),
    )


def test_a_sample_among_zeros_is_measured_against_one() -> None:
    x = np.zeros((8, 4))
    x[5, 1] = 100.0
    finding = found(UnscaledInput, training_trace(x=x, losses=RUNAWAY))
    assert finding.samples == (5,)
    assert finding.confidence == 0.6


def test_an_overflow_in_the_first_step_counts_without_a_runaway() -> None:
    event = SyntheticEvent("Exp", "forward", layer="sampling", inputs=([200.0],))
    finding = found(UnscaledInput, training_trace(x=PIXELS, losses=(NAN,), events=(event,)))
    assert finding.site == Site(step=0, layer="sampling", op="Exp")


@pytest.mark.parametrize("op", ["Log", "RealDiv", "Sqrt", "Rsqrt", "Acos"])
def test_a_singular_op_fed_with_small_numbers_is_no_overflow(op) -> None:
    event = SyntheticEvent(op, inputs=([0.0, 1.0],))
    assert quiet(UnscaledInput, training_trace(x=PIXELS, losses=(INF,), events=(event,)))


def test_a_singular_op_fed_with_huge_numbers_is_an_overflow() -> None:
    event = SyntheticEvent("RealDiv", inputs=([1e30], [1e30]))
    found(UnscaledInput, training_trace(x=PIXELS, losses=(NAN,), events=(event,)))


def test_bad_values_from_elsewhere_are_not_the_scale_s_doing() -> None:
    event = carried("head/kernel", origin="variable")
    assert quiet(UnscaledInput, training_trace(x=PIXELS, losses=(NAN,), events=(event,)))


def test_a_step_that_raised_did_not_overflow() -> None:
    assert quiet(UnscaledInput, lookup_trace("indices[3,0] = 500 is not in [0, 100)", PIXELS))


def test_a_healthy_run_on_raw_pixels_is_left_alone() -> None:
    assert quiet(UnscaledInput, training_trace(x=PIXELS))


@pytest.mark.parametrize("layer_class", ["Rescaling", "Normalization", "BatchNormalization"])
def test_inputs_behind_a_normaliser_are_not_unscaled(layer_class) -> None:
    trace = training_trace(x=PIXELS, losses=RUNAWAY, layers=("first",), layer_class=layer_class)
    assert quiet(UnscaledInput, trace)


def test_a_normaliser_that_lets_large_numbers_through_does_not_count() -> None:
    trace = training_trace(
        x=PIXELS * 1e6,
        losses=RUNAWAY,
        layers=("first",),
        layer_class="Rescaling",
        activation_absmax=1e6,
    )
    assert found(UnscaledInput, trace).confidence == 0.9


def test_a_normaliser_behind_a_layer_with_weights_comes_too_late() -> None:
    trace = training_trace(x=PIXELS, losses=RUNAWAY, layers=("dense", "batch_normalization"))
    trace = amended(trace, "layers", layer_class=["Dense", "BatchNormalization"])
    found(UnscaledInput, trace)


def saturated(size: float, *, logit: float = 2e4, ends_in: str = "batch") -> Trace:
    """Return a log of zero whose zero a softmax made of logits that come from an input."""
    chain = (
        {"name": "Softmax", "value": 0.0},
        {"name": "MatMul", "value": logit},
        {"name": "x" if ends_in == "batch" else "out/kernel", "what": ends_in, "value": size},
    )
    log = SyntheticEvent("Log", "loss", inputs=([0.0, 1.0],), chain=chain, outputs=([-np.inf],))
    x = np.linspace(-size, size, 32).reshape(8, 4)
    return training_trace(x=x, losses=(math.inf,), events=(log,))


def test_a_zero_that_inputs_in_the_thousands_made_of_a_softmax_is_theirs() -> None:
    finding = found(UnscaledInput, saturated(2.2e4))
    assert finding.explains == {"log-of-zero", "division-by-zero"}
    assert finding.proofs == (Proof("standardise", {"arrays": ["x"]}),)


@pytest.mark.parametrize(
    "trace",
    [
        saturated(255.0, logit=400.0),
        saturated(2.2e4, logit=1e8),
        saturated(2.2e4, ends_in="variable"),
    ],
    ids=["pixels", "weights that enlarge", "a weight"],
)
def test_a_zero_that_other_things_made_is_not_put_down_to_the_inputs(trace: Trace) -> None:
    assert quiet(UnscaledInput, trace)


def test_token_ids_are_not_unscaled() -> None:
    ids = np.arange(3200).reshape(8, 400)
    trace = training_trace(x=ids, losses=RUNAWAY, layers=("embedding",), layer_class="Embedding")
    assert quiet(UnscaledInput, trace)


def test_float16_overflows_from_ordinary_inputs() -> None:
    event = SyntheticEvent("MatMul", "forward", layer="dense", inputs=([200.0],))
    half = {"losses": (NAN,), "events": (event,), "dtype": "float16"}
    assert quiet(UnscaledInput, training_trace(x=PIXELS, **half))
    found(UnscaledInput, training_trace(x=PIXELS * 100, **half))


PRICES = np.linspace(1e5, 9e5, 8)[:, None]


def test_regression_targets_can_be_unscaled_too() -> None:
    finding = found(UnscaledInput, training_trace(y=PRICES, losses=RUNAWAY))
    assert finding.summary.startswith("y reaches 9e+05")
    assert finding.proofs == (Proof("standardise", {"arrays": ["y"]}),)


def test_inputs_and_targets_are_standardised_one_first_then_both() -> None:
    finding = found(UnscaledInput, training_trace(x=PIXELS, y=PRICES, losses=RUNAWAY))
    assert finding.proofs == (
        Proof("standardise", {"arrays": ["y"]}),
        Proof("standardise", {"arrays": ["x"]}),
        Proof("standardise", {"arrays": ["y", "x"]}),
    )


def test_class_ids_are_no_targets_to_scale() -> None:
    trace = training_trace(
        y=np.arange(8) * 100,
        loss_name="SparseCategoricalCrossentropy",
        classes=1000,
        losses=RUNAWAY,
    )
    assert quiet(UnscaledInput, trace)


def test_integer_labels_of_a_custom_loss_are_taken_for_class_ids() -> None:
    trace = training_trace(y=np.arange(8) * 100, loss_name="my_loss", losses=RUNAWAY)
    assert quiet(UnscaledInput, amended(trace, "targets", builtin=[False]))


# --------------------------------------------------------------------------------- bad-labels


def labels_trace(y: Any, loss: str, **fields: Any) -> Trace:
    fields = {"losses": (NAN,), "outcome": "diverged", **fields}
    return training_trace(y=np.asarray(y), loss_name=loss, **fields)


def sparse_trace(*labels: float, **fields: Any) -> Trace:
    fields = {"classes": 5, **fields}
    return labels_trace(labels, "SparseCategoricalCrossentropy", **fields)


def test_a_missing_target_that_reaches_the_loss_is_named() -> None:
    y = np.ones((8, 3))
    y[2, 1] = NAN
    event = SyntheticEvent("Sub", produced=False, origin="batch", origin_name="y")
    finding = found(BadLabels, labels_trace(y, "MeanSquaredError", events=(event,)))
    assert finding.summary == (
        "y holds 1 NaN among 24 labels in 1 of 8 samples, first at [2,1]; "
        "they are the first bad values of the step."
    )
    assert finding.confidence == 0.97
    assert finding.site == Site(step=0)
    assert finding.samples == (2,)
    assert finding.proofs == (
        Proof("drop-samples", {"samples": [2]}),
        Proof("valid-labels", {"array": "y", "low": None, "high": None, "integral": False}),
    )


def test_missing_targets_that_are_replaced_before_use_are_not_blamed() -> None:
    y = np.ones((8, 3))
    y[2, 1] = NAN
    finding = found(BadLabels, training_trace(y=y))
    assert finding.confidence == 0.2
    assert finding.summary.endswith("told, not blamed.")


def test_missing_targets_are_not_blamed_for_an_op_with_finite_inputs() -> None:
    y = np.ones((8, 3))
    y[2, 1] = NAN
    trace = labels_trace(y, "MeanSquaredError", events=(SyntheticEvent("Log"),))
    assert found(BadLabels, trace).confidence == 0.4


def test_a_letter_beyond_the_alphabet_is_proven_by_its_sample_and_not_by_shorter_labels() -> None:
    trace = labels_trace(
        np.array([[1, 2, 3], [4, 15, 6], [7, 8, 9]]),
        "ctc",
        raised="Saw a non-null label (index >= num_classes - 1) following a null label, "
        "batch: 1 num_classes: 13 labels: 3,14,5 labels seen so far: 3",
        raised_type="InvalidArgumentError",
        raised_op="CTCLoss",
    )
    finding = found(BadLabels, trace)
    assert finding.samples == (1,)
    assert finding.proofs == (Proof("drop-samples", {"samples": [1]}),)
    assert "one unit per character" in finding.remedies[0]


def custom_loss(y: Any, op_type: str, **fields: Any) -> Trace:
    """Return a trace of a loss that nobody knows, in which an op broke on its first input."""
    given = {"inputs": (y,), "input_arrays": ("y",), **fields}
    return labels_trace(y, "divergence_by_hand", events=(SyntheticEvent(op_type, **given),))


@pytest.mark.parametrize("op_type", ["Log", "Sqrt"])
def test_a_negative_label_that_a_custom_loss_takes_the_log_or_root_of_is_a_bad_label(
    op_type: str,
) -> None:
    y = np.linspace(0.1, 0.9, 8)[:, None]
    y[6] = -0.25
    finding = found(BadLabels, custom_loss(y, op_type))
    assert finding.samples == (6,)
    assert "in sample 6 that are below zero (-0.25)" in finding.summary
    assert finding.site.op == op_type
    assert finding.confidence == BadLabels.OUTSIDE
    assert finding.proofs == (Proof("drop-samples", {"samples": [6]}),)
    assert {"log-of-zero", "invalid-domain"} <= BadLabels.explains


def given_a_sum(y: Any, total: Any) -> Trace:
    """Return a trace of a loss that takes the log of a sum of labels and something else."""

    def link(what: str, name: str, values: Any) -> dict[str, Any]:
        low = float(values.min())
        return {"what": what, "name": name, "value": low, "min": low,
                "max": float(values.max()), "mean": float(values.mean())}  # fmt: skip

    chain = (link("op", "AddV2", total), link("op", "Identity", y), link("batch", "y", y))
    given = {"inputs": (total,), "input_arrays": (), "input_makers": ("AddV2",), "chain": chain}
    return labels_trace(y, "divergence_by_hand", events=(SyntheticEvent("Log", **given),))


def test_a_label_below_minus_one_before_log1p_by_hand_is_a_bad_label() -> None:
    y = np.linspace(-0.5, 2.0, 8)[:, None]
    y[3] = -999
    finding = found(BadLabels, given_a_sum(y, y + 1))
    # Those between -1 and 0 are proper ones here.
    assert finding.samples == (3,)
    assert "below -1 (-999), and Log in the loss takes them with 1 added" in finding.summary
    assert "(y > -1)" in finding.remedies[0]


def test_a_label_that_a_prediction_was_added_to_is_not_blamed_for_their_sum() -> None:
    y = np.linspace(-0.5, 2.0, 8)[:, None]
    y[3] = -999
    assert BadLabels().examine(given_a_sum(y, y + np.linspace(0.9, 1.1, 8)[:, None])) is None


def test_a_label_of_zero_in_a_log_is_no_bad_label() -> None:
    y = np.linspace(0.1, 0.9, 8)[:, None]
    y[6] = 0.0
    assert quiet(BadLabels, custom_loss(y, "Log"))


def test_labels_that_are_negative_in_most_samples_are_what_the_loss_is_not_made_for() -> None:
    assert quiet(BadLabels, custom_loss(np.linspace(-0.9, 0.5, 8)[:, None], "Log"))


@pytest.mark.parametrize(
    "fields", [{"input_arrays": ()}, {"input_arrays": ("x",)}, {"phase": "forward"}]
)
def test_a_negative_label_is_not_blamed_for_the_root_of_something_else(
    fields: dict[str, Any],
) -> None:
    y = np.linspace(0.1, 0.9, 8)[:, None]
    y[6] = -0.25
    assert quiet(BadLabels, custom_loss(y, "Sqrt", **fields))


def test_an_op_that_takes_negative_numbers_says_nothing_of_the_labels() -> None:
    y = np.linspace(0.1, 0.9, 8)[:, None]
    y[6] = -0.25
    assert quiet(BadLabels, custom_loss(y, "Exp"))


def test_a_negative_class_id_is_named_as_such() -> None:
    finding = found(BadLabels, sparse_trace(0, 1, 2, -1, 4, 3))
    assert finding.summary == (
        "y holds labels in sample 3 that are negative (-1): only 0 to 4 are classes; "
        "the loss is SparseCategoricalCrossentropy."
    )
    assert finding.samples == (3,)
    assert finding.confidence == 0.95


def test_a_class_id_beyond_the_classes_is_named_as_such() -> None:
    finding = found(BadLabels, sparse_trace(0, 1, 2, 3, 4, 5))
    assert finding.summary == (
        "y holds labels in sample 5 that are beyond the 5 classes (5): only 0 to 4 are classes; "
        "the loss is SparseCategoricalCrossentropy."
    )
    assert finding.proofs == (
        Proof("drop-samples", {"samples": [5]}),
        Proof("valid-labels", {"array": "y", "low": 0, "high": 4, "integral": True}),
    )


def test_a_label_that_is_no_integer_is_named_but_keras_cuts_it_down() -> None:
    finding = found(BadLabels, sparse_trace(0, 1, 2, 1.5, 4, 3))
    assert finding.summary == (
        "y holds labels in sample 3 that are not integers: the loss cuts 1.5 down to 1 without a "
        "word; the loss is SparseCategoricalCrossentropy."
    )
    assert finding.confidence == 0.35
    assert finding.proofs[-1].parameters["integral"] is True


def test_every_thing_wrong_with_the_labels_is_in_the_evidence() -> None:
    finding = found(BadLabels, sparse_trace(0, 1, 2, 1.5, -1, 7))
    assert len(finding.evidence) == 3


@pytest.mark.parametrize("ignored", [255, -1])
def test_the_ignored_class_is_a_valid_label(ignored) -> None:
    trace = sparse_trace(0, 1, 2, ignored, 4, 3)
    config = [json.dumps({"ignore_class": ignored})]
    assert quiet(BadLabels, amended(trace, "targets", ignore_class=[ignored], config=config))


def test_what_an_ignored_class_stands_beside_in_a_sample_is_judged_too() -> None:
    masks = np.array([[0, 1, 255], [0, 128, 255], [1, 1, 1], [255, 255, 255], [0, 0, 1]])
    trace = training_trace(
        y=masks,
        loss_name="SparseCategoricalCrossentropy",
        classes=2,
        losses=(NAN,),
        events=(SyntheticEvent("SparseSoftmaxCrossEntropyWithLogits"),),
    )
    finding = found(BadLabels, amended(trace, "targets", ignore_class=[255]))
    assert finding.samples == (1,)
    assert "np.unique" in finding.remedies[0]


def test_beside_an_ignored_class_other_labels_are_still_judged() -> None:
    trace = amended(sparse_trace(0, 1, 2, 255, 128, 3), "targets", ignore_class=[255])
    assert found(BadLabels, trace).samples == (4,)


def test_a_step_that_raised_names_its_label_and_every_sample_like_it() -> None:
    trace = sparse_trace(
        0,
        5,
        2,
        3,
        4,
        7,
        losses=(1.0,),
        raised="Received a label value of 5 which is outside the valid range of [0, 5).  Label",
        raised_op="SparseSoftmaxCrossEntropyWithLogits",
    )
    finding = found(BadLabels, trace)
    assert finding.summary == (
        "y holds label 5 in samples 1, 5, beyond the 5 classes (only 0 to 4 are classes); "
        "SparseSoftmaxCrossEntropyWithLogits raised."
    )
    assert finding.confidence == 0.98
    assert finding.site.op == "SparseSoftmaxCrossEntropyWithLogits"
    assert finding.samples == (1, 5)
    assert finding.proofs[-1] == Proof(
        "valid-labels", {"array": "y", "low": 0, "high": 4, "integral": True}
    )


def test_a_nan_label_that_was_cast_to_an_integer_is_recognised() -> None:
    trace = sparse_trace(
        0,
        1,
        NAN,
        3,
        losses=(1.0,),
        raised="Received a label value of -9223372036854775808 which is outside the valid range "
        "of [0, 5).",
        raised_op="SparseSoftmaxCrossEntropyWithLogits",
    )
    finding = found(BadLabels, trace)
    assert "a NaN cast to an integer" in finding.summary
    assert finding.samples == (2,)


@pytest.mark.parametrize(
    "labels", [[-1.0, 1.0, -1.0, 1.0], [0.0, 255.0, 255.0, 0.0], [-2.0, 2.0, 1.0, 0.0]]
)
@pytest.mark.parametrize("loss", ["BinaryCrossentropy", "BinaryFocalCrossentropy"])
def test_targets_outside_0_1_make_binary_cross_entropy_fall_without_end(labels, loss) -> None:
    y = np.array(labels)[:, None]
    finding = found(BadLabels, labels_trace(y, loss, losses=(0.44, -3.0, -80.0)))
    assert finding.confidence == 0.92
    assert "outside [0, 1]" in finding.summary
    assert "is at -80" in finding.summary
    assert finding.proofs == (
        Proof("valid-labels", {"array": "y", "low": 0, "high": 1, "integral": False}),
    )


@pytest.mark.parametrize(
    ("loss", "value", "confidence"),
    [
        ("CategoricalCrossentropy", 2.0, 0.7),
        ("KLDivergence", 2.0, 0.35),
        ("Dice", 255.0, 0.55),
        ("Poisson", -1.0, 0.55),
        ("MeanSquaredLogarithmicError", -3.0, 0.35),
        ("Hinge", 255.0, 0.55),
        ("SquaredHinge", 0.5, 0.35),
        ("MeanAbsolutePercentageError", 0.0, 0.55),
    ],
)
def test_each_loss_has_its_domain_and_how_much_leaving_it_explains(loss, value, confidence) -> None:
    y = np.ones((8, 1))
    y[6] = value
    finding = found(BadLabels, labels_trace(y, loss, losses=(1.0, 90.0, INF)))
    assert finding.confidence == confidence
    assert finding.samples == (6,)


@pytest.mark.parametrize(
    ("loss", "values"),
    [
        ("MeanSquaredError", [-5.0, 1e3]),
        ("Huber", [-5.0, 5.0]),
        ("CosineSimilarity", [-5.0, 5.0]),
        ("Poisson", [0.0, 900.0]),
        ("MeanSquaredLogarithmicError", [0.0, 900.0]),
        ("BinaryCrossentropy", [0.0, 0.5, 1.0]),
        ("KLDivergence", [0.0, 0.5]),
        ("Hinge", [-1.0, 1.0]),
        ("Hinge", [0.0, 1.0]),
        ("MeanAbsolutePercentageError", [-1.0, 1.0]),
    ],
)
def test_labels_in_the_domain_are_not_blamed(loss, values) -> None:
    assert quiet(BadLabels, labels_trace(np.array(values)[:, None], loss))


def test_a_custom_loss_is_not_judged_by_the_range_of_its_labels() -> None:
    trace = amended(sparse_trace(0, 1, 2, -1, 9), "targets", builtin=[False])
    assert quiet(BadLabels, trace)


def test_two_classes_at_once_are_not_one_hot_but_no_disaster() -> None:
    y = np.eye(3)[[0, 1, 2, 0]]
    y[1] = 1.0
    finding = found(BadLabels, labels_trace(y, "CategoricalCrossentropy", classes=3))
    assert "not one-hot" in finding.summary
    assert finding.confidence == 0.35
    assert finding.samples == (1,)


def test_one_hot_masks_are_read_pixel_by_pixel() -> None:
    mask = np.eye(3)[np.zeros((4, 2, 2), dtype=int)]
    assert quiet(BadLabels, labels_trace(mask, "CategoricalCrossentropy", classes=3))


def test_a_label_longer_than_the_time_axis_is_infeasible_for_ctc() -> None:
    y = np.array([[1, 1, 2, 2, 3], [1, 2, 0, 0, 0], [1, 2, 3, 0, 0]])
    trace = labels_trace(y, "CTC", losses=(709.0,))
    shapes = ["3x4x6"] * len(trace.table("activations"))
    finding = found(BadLabels, amended(trace, "activations", shape=shapes))
    assert "up to 7 steps are needed" in finding.summary
    assert "the time axis has only 4 steps" in finding.summary
    assert finding.samples == (0,)


def test_a_label_as_long_as_the_time_axis_is_feasible_for_ctc() -> None:
    trace = labels_trace([[1, 2, 3, 4], [1, 2, 0, 0]], "CTC", losses=(9.0,))
    shapes = ["2x4x6"] * len(trace.table("activations"))
    assert quiet(BadLabels, amended(trace, "activations", shape=shapes))


def test_labels_are_not_blamed_for_a_first_forward_pass_that_never_saw_them() -> None:
    trace = sparse_trace(
        0, 1, 2, 3, 4, 5, events=(SyntheticEvent("Exp", "forward", layer="dense"),)
    )
    assert found(BadLabels, trace).confidence == 0.3


def test_wrong_labels_in_a_healthy_run_are_told_and_not_blamed() -> None:
    finding = found(BadLabels, sparse_trace(0, 1, 9, losses=(1.0, 0.9), outcome="healthy"))
    assert finding.confidence == 0.2
    assert finding.summary.endswith("the run is healthy: told, not blamed.")


# --------------------------------------------------------------------------- bad-sample-weight


def test_a_nan_weight_is_named_with_its_sample() -> None:
    weight = np.ones(8)
    weight[3] = NAN
    event = carried("sample_weight", phase="loss", layer="")
    finding = found(
        BadSampleWeight, training_trace(sample_weight=weight, losses=(NAN,), events=(event,))
    )
    assert finding.summary == (
        "sample_weight holds 1 NaN among 8 weights, first at [3]; "
        "they are the first bad values of the step."
    )
    assert finding.confidence == 0.97
    assert finding.samples == (3,)
    assert finding.proofs == (
        Proof("drop-samples", {"samples": [3]}),
        Proof("unit-weights", {"names": ["sample_weight"]}),
    )


def test_when_every_weight_is_bad_no_sample_is_to_blame() -> None:
    finding = found(BadSampleWeight, training_trace(sample_weight=np.full(8, INF), losses=(NAN,)))
    assert finding.samples == ()
    assert [proof.trial for proof in finding.proofs] == ["unit-weights"]


def test_negative_weights_drive_the_loss_below_zero() -> None:
    weight = np.array([1.0, 1.0, 1.0, -10.0] * 2)
    finding = found(
        BadSampleWeight,
        training_trace(sample_weight=weight, losses=(-6.7, -82.0), outcome="diverged"),
    )
    assert finding.confidence == 0.85
    assert finding.samples == (3, 7)
    assert "the loss is at -82" in finding.summary


def test_negative_weights_without_a_negative_loss_need_a_trial() -> None:
    weight = np.array([1.0, 1.0, 1.0, -10.0] * 2)
    finding = found(BadSampleWeight, training_trace(sample_weight=weight, losses=(NAN,)))
    assert finding.confidence == 0.5


def test_weights_that_are_all_zero_divide_by_zero_in_a_loss_that_divides() -> None:
    event = SyntheticEvent("RealDiv", inputs=([0.0], [0.0]), origin_name="sample_weight")
    finding = found(
        BadSampleWeight,
        training_trace(sample_weight=np.zeros(8), losses=(NAN,), events=(event,)),
    )
    assert finding.confidence == 0.92
    assert finding.site.op == "RealDiv"
    assert finding.proofs == (Proof("unit-weights", {"names": ["sample_weight"]}),)


def test_weights_that_are_all_zero_are_harmless_in_a_loss_of_keras() -> None:
    finding = found(BadSampleWeight, training_trace(sample_weight=np.zeros(8)))
    assert finding.confidence == 0.2
    assert "learned nothing" in finding.summary


def test_weights_that_are_all_zero_are_not_blamed_for_a_log() -> None:
    trace = training_trace(
        sample_weight=np.zeros(8), losses=(NAN,), events=(SyntheticEvent("Log"),)
    )
    assert found(BadSampleWeight, trace).confidence == 0.2


# ----------------------------------------------------------------------------- corrupt-weights


def weights_trace(weights: dict[str, Any], **fields: Any) -> Trace:
    fields = {"losses": (NAN,), "weights": weights, **fields}
    return training_trace(**fields)


def table(rows: int, columns: int, bad: Any) -> np.ndarray:
    values = np.ones((rows, columns))
    values[bad] = NAN
    return values


@pytest.mark.parametrize(
    ("weights", "pattern"),
    [
        ({"head/kernel": table(4, 3, (1, 1))}, "a single cell is hit"),
        ({"embedding/embeddings": table(9, 3, 4)}, "the count fits 1 whole row of 3"),
        ({"head/kernel": table(4, 3, ...)}, "the whole variable is hit and no other"),
        ({"head/kernel": table(4, 3, (0, [0, 1]))}, "part of one variable is hit"),
        (
            {"head/kernel": table(4, 3, ...), "head/bias": np.full(3, NAN)},
            "the whole layer is hit and no other",
        ),
        (
            {"a/kernel": table(4, 3, ...), "b/kernel": table(4, 3, ...)},
            "2 layers are hit: the update of an earlier step spread a NaN gradient",
        ),
        (
            {"bn/moving_mean": np.full(3, INF), "bn/moving_variance": np.full(3, NAN)},
            "only moving statistics are hit",
        ),
    ],
)
def test_the_pattern_says_where_the_bad_weights_came_from(weights, pattern) -> None:
    assert pattern in found(CorruptWeights, weights_trace(weights)).summary


def test_a_checkpoint_saved_after_the_divergence_is_bad_everywhere() -> None:
    builder = TraceBuilder()
    for name in ("a/kernel", "b/kernel"):
        row = {"step": 0, "when": "before", "variable": name, "trainable": True}
        builder.add("weights", **row, layer=name[0], **tensor(np.full(3, NAN)))
    builder.describe(outcome="diverged", failing_step=0)
    summary = found(CorruptWeights, builder.build()).summary
    assert summary == (
        "a/kernel holds 3 NaN or Inf among 3 values as loaded, the first of 2 such variables of 2; "
        "every variable is hit: the checkpoint was saved after the divergence."
    )


def test_bad_weights_that_the_first_bad_op_read_are_the_cause() -> None:
    trace = weights_trace(
        {"head/kernel": table(4, 3, ...)}, events=(carried("head/kernel", origin="variable"),)
    )
    finding = found(CorruptWeights, trace)
    assert finding.confidence == 0.97
    assert finding.stage == "checkpoint"
    assert finding.site == Site(step=0, layer="head", variable="head/kernel")
    assert finding.proofs == (
        Proof("replace-values", {"where": "weights", "names": ["head/kernel"]}),
    )


def test_bad_weights_beside_a_bad_batch_are_both_named() -> None:
    trace = weights_trace({"head/kernel": table(4, 3, ...)}, x=one_bad(), events=(carried("x"),))
    assert found(CorruptWeights, trace).confidence == 0.9
    assert found(BadInput, trace).confidence == 0.97


@pytest.mark.parametrize("read", [(), (carried("mask/table", origin="variable", reaches=""),)])
def test_a_stored_mask_of_minus_infinity_is_not_blamed_for_a_log(read) -> None:
    events = (SyntheticEvent("Log"), *(replace(event, primary=False) for event in read))
    trace = weights_trace({"mask/table": np.array([0.0, -INF])}, events=events)
    assert found(CorruptWeights, trace).confidence == 0.4


def test_bad_weights_that_nothing_reads_are_told_and_not_blamed() -> None:
    trace = weights_trace({"unused/kernel": table(4, 3, ...)}, losses=(1.0, 0.9))
    assert found(CorruptWeights, trace).confidence == 0.3


def test_a_negative_moving_variance_is_impossible() -> None:
    trace = weights_trace(
        {"bn/moving_variance": np.array([1.0, -0.5, 2.0])},
        events=(SyntheticEvent("Rsqrt", "forward", layer="bn"),),
    )
    finding = found(CorruptWeights, trace)
    assert finding.confidence == 0.97
    assert finding.summary == (
        "bn/moving_variance holds 1 of 3 variances below zero as loaded (down to -0.5), "
        "which no training step can produce."
    )


def test_a_negative_moving_variance_that_no_op_took_the_root_of_is_less_sure() -> None:
    trace = weights_trace({"bn/moving_variance": np.array([1.0, -0.5, 2.0])})
    assert found(CorruptWeights, trace).confidence == 0.7


def test_negative_kernels_and_means_are_fine() -> None:
    weights = {"bn/moving_mean": np.array([-1.0, 1.0]), "head/kernel": np.array([[-1.0]])}
    assert quiet(CorruptWeights, weights_trace(weights))


def test_weights_that_a_replayed_step_broke_are_that_step_s_doing() -> None:
    builder = TraceBuilder()
    row = {"variable": "a/kernel", "layer": "a", "trainable": True}
    builder.add("weights", step=0, when="before", **row, **tensor(np.ones(3)))
    builder.add("weights", step=0, when="after", **row, **tensor(np.full(3, NAN)))
    builder.add("weights", step=1, when="before", **row, **tensor(np.full(3, NAN)))
    builder.describe(outcome="diverged", failing_step=0)
    assert quiet(CorruptWeights, builder.build())


def test_standardising_tells_which_array_was_out_of_scale() -> None:
    trials = [
        {"name": "standardise", "parameters": json.dumps({"arrays": arrays}), "outcome": outcome}
        for arrays, outcome in ((["y"], "still-fails"), (["x"], "finite"), (["y", "x"], "finite"))
    ]
    trace = training_trace(x=PIXELS, y=PRICES, losses=RUNAWAY, trials=trials)
    assert found(UnscaledInput, trace).summary.startswith("x reaches 255")


def test_labels_that_no_path_spells_are_bad_labels_whoever_wrote_the_loss() -> None:
    event = SyntheticEvent(
        "CTCLoss", samples=(5,), inputs=([0.3, -0.2],), outputs=([INF, 2.0],), layer=""
    )
    finding = found(BadLabels, training_trace(losses=(INF,), events=(event,), x=np.ones((8, 2))))
    assert (finding.stage, finding.samples, finding.site.op) == ("data", (5,), "CTCLoss")
    assert "pool less" in finding.remedies[0]


def test_a_label_that_needs_more_frames_names_its_sample() -> None:
    said = "Not enough time for target transition sequence (required: 8, available: 6)2You can turn"
    trace = training_trace(
        losses=(1.0,), outcome="diverged", x=np.ones((4, 2)), y=np.ones((4, 2)), raised=said,
        raised_op="CTCLoss",
    )  # fmt: skip
    finding = found(BadLabels, trace)
    assert finding.samples == (2,)
    assert finding.summary.endswith("in sample 2: Not enough time for target transition sequence "
                                    "(required: 8, available: 6).")  # fmt: skip
