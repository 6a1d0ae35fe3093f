"""When do finite losses count as a divergence, and when not?"""

import pytest

from divergence_doctor.replay.outcome import of_both, runaway, wrecked


@pytest.mark.parametrize(
    ("losses", "what"),
    [
        ((1.0, 30.0, 900.0, 27_000.0), "a loss multiplied step after step"),
        ((0.04, 7e3, 2e5, 3e7, 1.6e7, 7.7e7, 1.9e6, 9.5e7), "a loss far up that comes not back"),
        ((-0.7, -9.7, -150.0, -9e3), "a loss that falls without bound"),
        ((1.6, 1_618.0, 1.609, 1.609, 1.609, 1.609), "an output that collapsed to a constant"),
    ],
)
def test_it_is_a_runaway(losses, what):
    assert runaway(losses) is not None, what


@pytest.mark.parametrize(
    ("losses", "what"),
    [
        ((1.0, 0.5, 0.3), "a loss that falls"),
        ((1e6, 5e5, 2e5), "a huge loss that falls"),
        ((1.0, 40.0, 20.0, 5.0, 1.0, 0.3), "a catapult that recovers"),
        ((1.0, 4e4, 2e4, 9e3, 4e3), "a catapult on its way back"),
        ((1e-9, 1e-5, 2e-4), "noise about zero"),
        ((0.69, 0.69, 0.69, 0.69), "a loss that stands still"),
        ((1.0, 1.4, 0.9, 1.3), "the edge of stability"),
    ],
)
def test_it_is_none(losses, what):
    assert runaway(losses) is None, what


def test_the_step_and_the_growth_are_told():
    step, why = runaway((1.0, 5.0, 25.0, 125.0, 625.0, 3_125.0))
    assert step == 2
    assert "x5 a step" in why


THROWN = (4.4, 8_340.0, 59_300.0, 990.0, 594.0, 66.0, 37.0, 365.0)


def test_a_loss_that_stays_up_after_a_step_that_replaced_the_weights_is_a_wreck():
    step, why = wrecked(THROWN, (4.7, 0.7, 0.5, 0.4, 0.3, 0.2, 0.2, 0.1))
    assert step == 1
    assert "4.7 times as long as the weights" in why


@pytest.mark.parametrize(
    ("losses", "ratio", "what"),
    [
        (THROWN, 0.4, "steps that left most of the weights where they were"),
        ((4.4, 8_340.0, 59_300.0, 36.0, 20.0), 4.7, "a loss that came back"),
        ((4.4, 200.0, 300.0, 90.0), 4.7, "a loss that did not rise a hundredfold"),
        ((1e-9, 1e-2, 5e-3), 4.7, "noise about zero"),
        (THROWN, float("nan"), "weights of zero, whose ratio is unknown"),
    ],
)
def test_it_is_no_wreck(losses, ratio, what):
    assert wrecked(losses, [ratio] * len(losses)) is None, what


HEALTHY = {"outcome": "healthy", "outcome_because": "all finite", "failing_step": None}
FAILED = {"outcome": "diverged", "outcome_because": "the loss is nan", "failing_step": 2}


def test_a_run_that_fails_as_trained_only_diverged_and_the_sentence_says_where():
    said = of_both(HEALTHY, (1, "step 1 has a loss of nan"), mode="graph", finite=True)
    assert (said["outcome"], said["failing_step"]) == ("diverged", 1)
    assert said["failing_execution"] == "as-trained"
    assert "as trained, graph, step 1 has a loss of nan" in said["outcome_because"]
    assert "in the reference execution" in said["outcome_because"]


def test_a_run_that_fails_op_by_op_only_stays_diverged_and_says_so():
    said = of_both(FAILED, None, mode="graph", finite=False)
    assert "outcome" not in said
    assert said["failing_execution"] == "reference"
    assert "as trained, graph, the loss and the state stay finite" in said["outcome_because"]


@pytest.mark.parametrize(
    ("reference", "failed", "finite", "where"),
    [
        (FAILED, (2, "step 2 has a loss of nan"), False, "both"),
        (FAILED, None, True, "both"),
        (HEALTHY, None, True, ""),
    ],
)
def test_otherwise_the_reference_stands(reference, failed, finite, where):
    said = of_both(reference, failed, mode="graph", finite=finite)
    assert said == {"failing_execution": where}
