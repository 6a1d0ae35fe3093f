"""Is the table of the losses' domains that of Keras, and does it say what Keras' losses do?"""

from __future__ import annotations

import inspect

import numpy as np
import pytest

from divergence_doctor.rules._losses import DOMAINS, Bounds, bounds, domain_of, slack
from divergence_doctor.rules.bad_labels import BadLabels
from divergence_doctor.trace.synthetic import training_trace


def test_every_loss_of_keras_has_its_domain(keras):
    losses = {
        name
        for name, found in vars(keras.losses).items()
        if inspect.isclass(found)
        and issubclass(found, keras.losses.Loss)
        and found is not keras.losses.Loss
    }
    assert losses == set(DOMAINS)


def test_every_function_among_keras_losses_goes_by_the_name_of_its_class(keras):
    from divergence_doctor.replay.anatomy import _loss_name

    functions = [
        name
        for name, found in vars(keras.losses).items()
        if inspect.isfunction(found) and name not in {"get", "serialize", "deserialize"}
    ]
    assert functions
    for name in functions:
        assert _loss_name(getattr(keras.losses, name)) in DOMAINS, name


def target(loss, *, builtin=True, classes=4):
    return {"loss": loss, "builtin": builtin, "classes": classes}


def test_a_loss_of_ones_own_has_no_domain():
    assert domain_of(target("Poisson", builtin=False)) is None
    assert domain_of(target("my_loss")) is None
    assert domain_of(None) is None
    assert bounds(target("my_loss")) == Bounds()


@pytest.mark.parametrize(
    ("loss", "expected"),
    [
        ("SparseCategoricalCrossentropy", Bounds(0, 3, integral=True)),
        ("BinaryCrossentropy", Bounds(0, 1)),
        ("CategoricalHinge", Bounds(0, 1)),
        ("Poisson", Bounds(0)),
        ("SquaredHinge", Bounds(-1, 1, integral=True)),
        ("MeanAbsolutePercentageError", Bounds(nonzero=True)),
        ("MeanSquaredError", Bounds()),
        ("Circle", Bounds()),
    ],
)
def test_labels_are_clipped_into_the_domain(loss, expected):
    assert bounds(target(loss)) == expected


def test_smoothing_makes_room_as_far_as_the_loss_stays_bounded(keras):
    """A loss of a smoothed label below 0 falls without end as the logits go where it is wrong."""
    smooth = {"from_logits": True, "label_smoothing": 0.2}
    binary, many = keras.losses.BinaryCrossentropy(**smooth), keras.losses.CategoricalCrossentropy(
        **smooth
    )  # fmt: skip
    room = slack({"label_smoothing": 0.2}, 2)
    assert float(binary([[-room]], [[-5e3]])) == pytest.approx(0.0, abs=1e-3)
    assert float(binary([[-room - 0.1]], [[-5e3]])) < -100
    room = slack({"label_smoothing": 0.2}, 4)
    away = [[-5e3, 0.0, 0.0, 0.0]]
    assert float(many([[-room, 1.0, 0.0, 0.0]], away)) == pytest.approx(1.3, abs=0.3)
    assert float(many([[-room - 0.1, 1.0, 0.0, 0.0]], away)) < -100


@pytest.mark.parametrize("config", [{}, {"label_smoothing": 0.0}, {"label_smoothing": None}])
def test_without_smoothing_there_is_no_room(config):
    assert slack(config, 4) == 0


# ------------------------------------------------------------------ what a trace's labels come to


def quiet(y, loss, **fields):
    trace = training_trace(
        y=np.asarray(y), loss_name=loss, losses=(1.0, 90.0, float("inf")), **fields
    )
    return BadLabels().ask(trace).word == "quiet"


@pytest.mark.parametrize("loss", ["SparseCategoricalCrossentropy"])
def test_class_ids_are_cut_towards_zero_before_they_are_judged(loss):
    def wrong(value):
        y = np.array([0.0, 1.0, 2.0, value])
        trace = training_trace(y=y, loss_name=loss, classes=4, losses=(1.0, float("nan")))
        return BadLabels().ask(trace).finding

    assert wrong(-0.5).confidence == BadLabels.TAMED
    assert wrong(3.9).confidence == BadLabels.TAMED
    assert wrong(-1.0).confidence == BadLabels.OUT_OF_RANGE
    assert wrong(4.0).confidence == BadLabels.OUT_OF_RANGE


@pytest.mark.parametrize(
    "loss",
    [name for name, domain in DOMAINS.items() if domain.meaning in {"any", "groups"}],
)
def test_a_loss_that_takes_any_number_blames_none(loss):
    assert quiet([[-5.0], [1e6], [0.5]], loss)


def ctc(y, steps):
    trace = training_trace(
        y=np.asarray(y), loss_name="CTC", classes=6, losses=(709.0,), outcome="diverged",
        rows={"activations": [{"role": "output", "layer": "out", "shape": f"{len(y)}x{steps}x6"}]},
    )  # fmt: skip
    return BadLabels().ask(trace).finding


@pytest.mark.parametrize(
    ("row", "needed"), [([1, 2, 3, 0], 3), ([1, 1, 2, 0], 4), ([1, 1, 1, 1], 7), ([0, 0, 0, 0], 0)]
)
def test_equal_characters_in_a_row_need_a_step_for_the_blank_between(row, needed):
    others = [1, 2, 0, 0]
    assert ctc([others, row], max(needed, 2)) is None
    if needed > 2:
        finding = ctc([others, row], needed - 1)
        assert f"up to {needed} steps are needed" in finding.summary
        assert finding.samples == (1,)
        assert finding.proofs[-1].parameters["steps"] == needed - 1


def test_ctc_labels_are_neither_negative_nor_beyond_the_classes():
    negative = ctc([[1, 2, 0], [1, -1, -1]], 8)
    assert negative.samples == (1,)
    assert "Pad the labels with 0" in negative.remedies[0]
    assert "beyond the 6 classes" in ctc([[1, 2, 0], [1, 6, 0]], 8).summary
    assert "cut short" in ctc([[1, 2, 0], [1, 0, 5]], 8).summary
