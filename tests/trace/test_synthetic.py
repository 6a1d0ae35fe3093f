"""Do made-up traces look like what was asked for?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from divergence_doctor.trace.schema import EXPONENT_MIN, STATISTICS
from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace


def test_a_tensor_has_every_statistic() -> None:
    found = tensor(np.array([[1.5, -4.0], [0.0, math.inf]], np.float32))
    assert set(found) == {column.name for column in STATISTICS} | {"dtype", "shape"}
    assert (found["size"], found["posinf"], found["zero"], found["negative"]) == (4, 1, 1, 1)
    assert (found["min"], found["max"], found["absmax"]) == (-4.0, 1.5, 4.0)
    assert found["l2"] == pytest.approx(4.272001872658765)
    assert found["exponents"][0 - EXPONENT_MIN] == 1
    assert found["exponents"][2 - EXPONENT_MIN] == 1
    assert (found["dtype"], found["shape"]) == ("float32", "2x2")


def test_a_tensor_without_finite_elements_has_no_moments() -> None:
    found = tensor([math.nan])
    assert math.isnan(found["mean"])
    assert found["l2"] == 0.0


def test_a_healthy_run_is_healthy() -> None:
    trace = training_trace()
    assert trace.outcome == "healthy"
    assert trace.failing_step is None
    assert trace.table("steps")["loss"].tolist() == [1.0, 0.9]
    assert trace.table("activations").select(step=0)["layer"].tolist() == ["dense", "dense_1"]


def test_the_first_loss_that_is_not_finite_is_the_failing_step() -> None:
    trace = training_trace(losses=(1.0, 9e9, math.inf, math.nan))
    assert trace.outcome == "diverged"
    assert trace.failing_step == 2
    assert trace.table("steps")["loss_finite"].tolist() == [True, True, False, False]


def test_figures_can_be_given_per_layer() -> None:
    trace = training_trace(gradient_l2=(0.5, 8.0), activation_absmax=(1.0, 100.0))
    gradients = trace.table("gradients").select(step=0, call=0)
    assert gradients["l2"] == pytest.approx([0.5, 8.0])
    activations = trace.table("activations").select(step=0)
    assert activations["absmax"] == pytest.approx([1.0, 100.0])


def test_cells_that_are_not_finite_are_listed() -> None:
    x = np.zeros((3, 2))
    x[2, 1] = math.nan
    cells = training_trace(x=x).table("cells")
    assert cells["index"].tolist() == ["2,1"]
    assert cells["sample"].tolist() == [2]
    assert math.isnan(cells["value"][0])


def test_an_event_comes_with_its_operands() -> None:
    event = SyntheticEvent("Log", inputs=([0.0, 1.0],), outputs=([-math.inf, 0.0],), samples=(4,))
    trace = training_trace(losses=(math.inf,), events=(event,))
    row = trace.table("events").row(0)
    assert (row["op_type"], row["neginf"], row["samples"]) == ("Log", 1, "[4]")
    operands = trace.table("operands")
    assert operands["role"].tolist() == ["input", "output"]
    assert operands["min"].tolist() == [0.0, 0.0]


def test_an_exception_ends_the_last_step() -> None:
    trace = training_trace(raised="bad label", raised_op="SparseSoftmax", losses=(1.0, math.nan))
    assert trace.table("steps")["raised"].tolist() == ["", "bad label"]
    assert trace.failing_step == 1
