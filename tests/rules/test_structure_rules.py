"""Do the rules about outputs, normalisations and masks find the root and leave rivals alone?"""

from __future__ import annotations

import math

import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.rules.degenerate_normalization import DegenerateNormalization
from divergence_doctor.rules.loss_activation_mismatch import LossActivationMismatch
from divergence_doctor.rules.masked_softmax import MaskedSoftmax
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

MISMATCH, NORMALIZATION, MASKED = (
    LossActivationMismatch(),
    DegenerateNormalization(),
    MaskedSoftmax(),
)
INF = math.inf


def lost(*events, **fields):
    return training_trace(losses=(math.nan,), events=events, **fields)


def link(name, value, layer="dense_1", **fields):
    return {"name": name, "layer": layer, "value": value, **fields}


def in_loss(name, value):
    return link(name, value, "", phase="loss")


def log(value, *chain, op_type="Log"):
    return SyntheticEvent(op_type, inputs=([value, 0.9],), input_values=(value,), chain=chain)


def outcome(name, cause, said, **fields):
    return {"name": name, "cause": cause, "outcome": said, "breadth": 1, **fields}


CONTROL = {"name": "control", "cause": "", "outcome": "still-fails", "breadth": 0}


# ---------------------------------------------------------------------- loss-activation-mismatch


@pytest.mark.parametrize(
    ("made", "value", "fires"),
    [
        ("Tanh", -0.1, True),
        ("BiasAdd", -0.1, True),
        ("LeakyRelu", -0.1, True),
        ("Elu", -0.1, True),
        ("Relu", 0.0, True),
        # A linear output of exactly 0 is a row of zeros or dead weights, not its activation.
        ("BiasAdd", 0.0, False),
        ("Sigmoid", 0.0, False),
        ("Softmax", 0.0, False),
        ("Exp", 0.0, False),
        ("Softplus", 0.0, False),
    ],
)
def test_what_an_activation_can_put_out_decides(made, value, fires):
    assert (MISMATCH.examine(lost(log(value, link(made, value)))) is not None) == fires


@pytest.mark.parametrize(
    ("chain", "fires"),
    [
        ([in_loss("AddV2", -0.1), link("BiasAdd", -0.1000001)], True),
        ([in_loss("AddV2", -0.1), link("BiasAdd", -1.1)], True),
        ([in_loss("RealDiv", -0.1), link("BiasAdd", -0.7)], True),
        ([in_loss("StridedSlice", -0.1), link("ConcatV2", -0.1), link("BiasAdd", -0.1)], True),
        ([in_loss("Sub", -0.1), link("BiasAdd", 1.1)], True),
        # Something else was added, or the negative side of the product is not the output.
        ([in_loss("AddV2", -0.1), link("BiasAdd", -0.6)], False),
        ([in_loss("Sub", -0.1), link("BiasAdd", 0.4)], False),
        ([in_loss("Mul", -0.1), link("BiasAdd", 0.7)], False),
        ([in_loss("Mul", -0.1), in_loss("AddV2", 0.7), link("BiasAdd", -0.3)], False),
        ([in_loss("Softplus", -0.1), link("BiasAdd", -0.1)], False),
        # 1 - p of a sigmoid is at its edge by saturation.
        ([in_loss("Sub", -0.1), link("Sigmoid", 1.1)], False),
        ([{"what": "variable", "name": "w", "value": -0.1}], False),
    ],
)
def test_the_operand_is_followed_through_what_hands_it_on(chain, fires):
    assert (MISMATCH.examine(lost(log(-0.1, *chain))) is not None) == fires


def test_log1p_of_minus_p_is_the_log_of_its_complement():
    event = log(-3.0, in_loss("Neg", -3.0), link("BiasAdd", 3.0), op_type="Log1p")
    finding = MISMATCH.examine(lost(event))
    assert finding is not None
    assert "takes 1 - p of it" in finding.summary


def test_a_gelu_of_several_ops_is_known_by_its_name():
    assert MISMATCH.examine(lost(log(-0.1, link("Mul", -0.1)), activation="gelu")) is not None
    assert MISMATCH.examine(lost(log(-0.1, link("Mul", -0.1)))) is None


def test_the_root_goes_before_the_logarithm_that_the_safe_op_mends_as_well():
    trials = (
        CONTROL,
        outcome("output-activation", MISMATCH.id, "finite"),
        outcome("safe-op", "log-of-zero", "finite"),
    )
    trace = lost(log(-0.4, link("Tanh", -0.4)), trials=trials)
    main = diagnose(trace).main
    assert main is not None
    assert (main.finding.cause, main.confirmed) == (MISMATCH.id, True)


def test_the_logarithm_stays_where_another_activation_does_not_mend_it():
    trials = (
        CONTROL,
        outcome("output-activation", MISMATCH.id, "still-fails"),
        outcome("safe-op", "log-of-zero", "finite"),
    )
    main = diagnose(lost(log(-0.4, link("Tanh", -0.4)), trials=trials)).main
    assert main is not None
    assert main.finding.cause == "log-of-zero"


def test_a_root_of_a_negative_output_is_left_to_the_domain_where_both_are_proven():
    event = SyntheticEvent(
        "Sqrt", inputs=([-0.1],), input_values=(-0.1,), chain=(link("BiasAdd", -0.1),)
    )
    trials = (
        CONTROL,
        outcome("output-activation", MISMATCH.id, "finite"),
        outcome("safe-op", "invalid-domain", "finite"),
    )
    main = diagnose(lost(event, trials=trials)).main
    assert main is not None
    assert main.finding.cause == "invalid-domain"


def test_raw_scores_as_probabilities_are_no_diagnosis_without_a_proof():
    diverged = training_trace(losses=(4.0, math.nan), loss_name="CategoricalCrossentropy")
    assert MISMATCH.examine(diverged).confidence < 0.5
    for other in ({"from_logits": True}, {"activation": "softmax"}, {"loss_name": "Hinge"}):
        fields = {"loss_name": "CategoricalCrossentropy", **other}
        assert MISMATCH.examine(training_trace(losses=(4.0, math.nan), **fields)) is None


def test_the_arithmetic_of_a_built_in_loss_on_raw_scores_is_the_losss_own():
    quotient = SyntheticEvent("RealDiv", inputs=([0.0], [0.0]), input_values=(0.0, 0.0))
    finding = MISMATCH.examine(
        lost(quotient, loss_name="CategoricalCrossentropy", activation="relu")
    )
    assert finding is not None
    assert (finding.confidence, "division-by-zero" in finding.explains) == (0.85, True)


# ---------------------------------------------------------------------- degenerate-normalization


def rsqrt(value, **fields):
    given = {"layer_class": "LayerNormalization", "phase": "forward", "layer": "norm"}
    return SyntheticEvent("Rsqrt", inputs=([value],), input_values=(value,), **{**given, **fields})


def normalised(event, epsilon, **fields):
    given = {
        "layers": ("dense", "norm"),
        "layer_class": "LayerNormalization",
        "configs": {"norm": {"epsilon": epsilon}},
    }
    return lost(event, **{**given, **fields})


@pytest.mark.parametrize(("value", "fires"), [(0.0, True), (1e-30, True), (1e-9, False)])
def test_a_divisor_counts_as_zero_where_it_is_as_good_as_that(value, fires):
    assert (NORMALIZATION.examine(normalised(rsqrt(value), 0.0)) is not None) == fires


def test_half_precision_is_left_to_its_own_rule_unless_the_epsilon_is_zero_itself():
    assert NORMALIZATION.examine(normalised(rsqrt(0.0), 1e-8, dtype="float16")) is None
    assert NORMALIZATION.examine(normalised(rsqrt(0.0), 0.0, dtype="float16")) is not None


def by_hand(*names, numerator="Sub", sizes=(1, 1, 8, 8), **fields):
    chain = [
        link(name, 0.0, "norm", size=size)
        for name, size in zip(names, (*sizes, *sizes), strict=False)
    ]
    given = {"phase": "forward", "layer": "norm", "layer_class": "Mine", "chain": chain}
    return SyntheticEvent(
        "RealDiv",
        inputs=([0.0], [0.0]),
        input_values=(0.0, 0.0),
        input_makers=(numerator, names[0]),
        **{**given, **fields},
    )


@pytest.mark.parametrize(
    ("names", "fires"),
    [
        (("Sqrt", "Mean", "Square", "Sub"), True),
        (("Sqrt", "Mean", "SquaredDifference"), True),
        (("Pow", "AddV2", "Mean", "Mul", "Sub"), True),
        (("Sqrt", "RealDiv", "Sum", "Square", "Sub"), True),
        (("Sqrt", "Sub", "Mean", "Square"), True),
        (("Sqrt", "Sub", "Square", "Mean"), True),
        # A norm, a distance, a range and a maximum are no deviations.
        (("Sqrt", "Sum", "Square"), False),
        (("Sqrt", "Sum", "Square", "Sub"), False),
        (("Sub", "Max", "BiasAdd"), False),
        (("Max", "Abs"), False),
    ],
)
def test_a_deviation_by_hand_is_known_by_the_ops_that_make_it(names, fires):
    assert (NORMALIZATION.examine(lost(by_hand(*names))) is not None) == fires


def test_what_is_divided_must_be_what_was_centred():
    names = ("Sqrt", "Mean", "Square", "Sub")
    assert NORMALIZATION.examine(lost(by_hand(*names, numerator="Mean"))) is None


def test_a_normalisation_over_one_value_says_so():
    finding = NORMALIZATION.examine(
        lost(by_hand("Sqrt", "Mean", "Square", "Sub", sizes=(8, 8, 8, 8)))
    )
    assert finding is not None
    assert "normalises over one value" in finding.summary
    assert finding.remedies[0].startswith("One value has no deviation")


def test_a_normalisation_goes_before_the_division_that_it_is():
    trials = (
        CONTROL,
        outcome("enlarge-epsilon", NORMALIZATION.id, "finite"),
        outcome("safe-op", "division-by-zero", "finite"),
    )
    main = diagnose(lost(by_hand("Sqrt", "Mean", "Square", "Sub"), trials=trials)).main
    assert main is not None
    assert main.finding.cause == NORMALIZATION.id


def test_the_trial_with_moving_statistics_is_for_layers_that_keep_them():
    def names(kind):
        event = rsqrt(0.0, layer_class=kind)
        finding = NORMALIZATION.examine(normalised(event, 0.0, layer_class=kind))
        assert finding is not None
        return [proof.trial for proof in finding.proofs]

    assert names("LayerNormalization") == ["enlarge-epsilon"]
    assert names("BatchNormalization") == ["enlarge-epsilon", "inference-normalization"]


# ---------------------------------------------------------------------- masked-softmax


def softmax(scores, value=-INF, **fields):
    given = {"phase": "forward", "layer": "attention", "outputs": ([math.nan],)}
    return SyntheticEvent("Softmax", inputs=(scores,), input_values=(value,), **{**given, **fields})


@pytest.mark.parametrize(
    ("scores", "fires"),
    [([-INF, -INF, 0.3], True), ([-INF, INF], False), ([-INF, math.nan], False)],
)
def test_only_minus_infinity_among_the_scores_is_a_mask(scores, fires):
    assert (MASKED.examine(lost(softmax(scores))) is not None) == fires


def test_a_row_left_out_of_the_loss_is_told_as_such_and_sits_in_the_forward_pass():
    event = softmax([-INF, -INF], reaches="gradient", samples=(2,))
    trace = training_trace(losses=(0.4,), outcome="diverged", events=(event,))
    finding = MASKED.examine(trace)
    assert finding is not None
    assert finding.stage == "forward"
    assert "the loss leaves that row out" in finding.summary


def subtracted(largest, maker, size):
    return SyntheticEvent(
        "Sub",
        inputs=([-INF, -INF], largest),
        input_makers=("SelectV2", maker),
        outputs=([math.nan] * size,),
    )


@pytest.mark.parametrize(
    ("largest", "maker", "fires"),
    [
        ([-INF], "Max", True),
        ([-INF], "Mul", False),
        ([-INF, -INF], "Log", False),
        ([INF], "Max", False),
    ],
)
def test_only_the_largest_score_of_a_row_makes_a_difference_a_softmax(largest, maker, fires):
    assert (MASKED.examine(lost(subtracted(largest, maker, 2))) is not None) == fires


def test_two_lowest_numbers_in_half_precision_are_an_overflow_of_the_precision():
    lowest = -65504.0
    added = SyntheticEvent(
        "AddV2", inputs=([lowest], [lowest]), input_values=(lowest, lowest), outputs=([-INF],)
    )
    later = softmax([-INF], produced=False, primary=False, origin_name="AddV2")
    assert MASKED.examine(lost(added, later, dtype="float16")) is None


def test_a_mask_in_scores_goes_before_the_division_that_it_leads_to():
    trials = (
        CONTROL,
        outcome("finite-mask", MASKED.id, "finite"),
        outcome("safe-op", "division-by-zero", "finite"),
    )
    (example,) = [item for item in MASKED.fires_on() if "sum of exponentials of" in item.what]
    quotient = example.trace()
    assert MASKED.examine(quotient) is not None
    event = SyntheticEvent(
        "RealDiv",
        phase="forward",
        layer="attention",
        inputs=([0.0], [0.0]),
        input_values=(0.0, 0.0),
        chain=[link(n, v, "attention") for n, v in (("Sum", 0.0), ("Exp", 0.0), ("AddV2", -1e9))],
    )
    main = diagnose(lost(event, trials=trials)).main
    assert main is not None
    assert main.finding.cause == MASKED.id
