"""Do two traces part where they truly do, and is what differs before told apart from it?"""

from __future__ import annotations

import math

import numpy as np
import pytest

from divergence_doctor.comparison import TOLERANCE, Gap, compare
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.synthetic import tensor, training_trace

LAYERS = ("one", "two", "three")
RNG = np.random.default_rng(0)
VALUES = RNG.normal(size=(4, 8)).astype("float32")


def run(*, factor: float = 1.0, at: tuple[int, str] = (0, ""), **changed) -> Trace:
    """Return a trace of two steps, the output of one layer in one step multiplied."""
    builder = TraceBuilder()
    for step in range(2):
        builder.add("steps", step=step, loss=1.0, loss_finite=True)
        for order, layer in enumerate(LAYERS):
            values = VALUES * (factor if (step, layer) == at else 1.0)
            key = {"step": step, "order": order, "layer": layer, "call": 0, "time": -1}
            builder.add("activations", **key, role="output", **tensor(values))
        for order, layer in enumerate(reversed(LAYERS)):
            key = {"step": step, "order": order, "layer": layer, "call": 0, "time": -1}
            builder.add("gradients", **key, **tensor(VALUES))
    for table, rows in changed.items():
        for row in rows:
            builder.add(table, **row)
    return builder.build()


def test_a_trace_does_not_part_from_itself():
    found = compare(run(), run())

    assert found.same
    assert found.parting is None
    assert found.parted == ()
    assert found.counts["activations"] == 6


def test_the_first_tensor_in_the_order_of_execution_that_differs_is_named():
    found = compare(run(), run(factor=1.5, at=(1, "two")))

    assert not found.same
    assert (found.parting.step, found.parting.what, found.parting.phase) == (1, "two", "forward")
    assert found.parting.figure == "absmax"
    assert found.parting.b == pytest.approx(1.5 * found.parting.a, rel=1e-6)
    assert [gap.what for gap in found.parted] == ["two"]
    assert found.breaking is None


def test_what_rounding_makes_is_no_difference():
    assert compare(run(), run(factor=1 + 1e-6, at=(0, "one"))).same
    assert not compare(run(), run(factor=1 + 1e-6, at=(0, "one")), tolerance=0).same
    assert TOLERANCE == 1e-5


def test_a_mean_near_zero_is_as_exact_as_what_it_is_the_mean_of():
    values = np.array([1.0, -1.0, 1.0, -1.0])
    a, b = tensor(values), {**tensor(values), "mean": 1e-9}
    key = {"step": 0, "layer": "x", "call": 0, "time": -1, "role": "output"}
    assert compare(run(activations=[{**key, **a}]), run(activations=[{**key, **b}])).same


def test_within_a_step_the_forward_pass_comes_before_the_backward_pass():
    key = {"step": 0, "layer": "late", "call": 0, "time": -1}
    one, other = tensor([1.0]), tensor([2.0])
    a = run(gradients=[{**key, **one}], activations=[{**key, "role": "output", **one}])
    b = run(gradients=[{**key, **other}], activations=[{**key, "role": "output", **other}])

    assert [gap.phase for gap in compare(a, b).parted] == ["forward", "backward"]


def test_the_steps_come_before_the_phases():
    early = {"step": 0, "layer": "z", "call": 0, "time": -1}
    late = {"step": 1, "layer": "a", "call": 0, "time": -1, "role": "output"}
    one, other = tensor([1.0]), tensor([2.0])
    a = run(gradients=[{**early, **one}], activations=[{**late, **one}])
    b = run(gradients=[{**early, **other}], activations=[{**late, **other}])

    found = compare(a, b)
    assert (found.parting.step, found.parting.what, found.parting.phase) == (0, "z", "backward")
    assert [gap.what for gap in found.parted] == ["z"]


def test_where_only_one_is_finite_is_told_beside_where_they_part():
    a, b = run(factor=2.0, at=(0, "one")), run(factor=math.inf, at=(1, "two"))
    found = compare(a, b)

    assert (found.parting.step, found.parting.what) == (0, "one")
    assert (found.breaking.step, found.breaking.what) == (1, "two")
    assert found.breaking.figure in ("posinf", "neginf")
    assert found.breaking.a == 0


def test_a_loss_that_is_not_a_number_in_one_breaks():
    a = run(losses=[{"step": 0, "name": "mse", "value": 1.0}])
    b = run(losses=[{"step": 0, "name": "mse", "value": math.nan}])

    found = compare(a, b)
    assert (found.breaking.phase, found.breaking.what) == ("loss", "mse")
    assert compare(b, b).same


def test_what_differs_before_the_first_step_is_told_apart():
    a = training_trace(losses=(1.0, 0.9), learning_rate=0.001, weight_l2=1.0, x=np.ones((4, 2)))
    b = training_trace(losses=(1.0, 0.9), learning_rate=0.1, weight_l2=2.0, x=np.zeros((4, 2)))

    found = compare(a, b)
    assert {gap.what for gap in found.weights} == {"dense/kernel", "dense_1/kernel"}
    assert [gap.what for gap in found.batch] == ["x"]
    assert not found.same


def test_hyper_parameters_are_told_once_with_the_step_in_which_they_first_differ():
    def rates(*values):
        return [
            {
                "step": step,
                "optimizer": 0,
                "optimizer_class": "SGD",
                "name": "learning_rate",
                "value": value,
            }
            for step, value in enumerate(values)
        ]

    always = compare(run(hyperparameters=rates(0.1, 0.1)), run(hyperparameters=rates(0.5, 0.5)))
    assert [(gap.what, gap.step) for gap in always.hyperparameters] == [("learning_rate", 0)]

    found = compare(run(hyperparameters=rates(0.1, 0.1)), run(hyperparameters=rates(0.1, 0.5)))

    assert [(gap.what, gap.step, gap.a, gap.b) for gap in found.hyperparameters] == [
        ("learning_rate", 1, 0.1, 0.5)
    ]


def test_another_optimizer_and_other_versions_are_told():
    rate = {"step": 0, "optimizer": 0, "name": "learning_rate", "value": 0.1}
    a = run(hyperparameters=[{**rate, "optimizer_class": "SGD"}])
    b = run(hyperparameters=[{**rate, "optimizer_class": "Adam"}])
    a.context["run"] = {"versions": {"keras": "3.14"}, "seed": 0}
    b.context["run"] = {"versions": {"keras": "3.15"}, "seed": 0}

    found = compare(a, b)
    assert [(gap.a, gap.b) for gap in found.hyperparameters] == [("SGD", "Adam")]
    assert [(gap.what, gap.a, gap.b) for gap in found.setup] == [("keras version", "3.14", "3.15")]


def test_layers_that_only_one_has_are_told():
    a, b = training_trace(layers=("one", "two")), training_trace(layers=("one", "three"))

    found = compare(a, b)
    assert (found.only_a, found.only_b) == (("two",), ("three",))


def test_another_shape_is_the_figure_that_is_told():
    key = {"step": 0, "layer": "x", "call": 0, "time": -1, "role": "output"}
    a = run(activations=[{**key, **tensor(np.ones((2, 3)))}])
    b = run(activations=[{**key, **tensor(np.ones((3, 3)))}])

    gap = compare(a, b).parting
    assert (gap.figure, gap.a, gap.b) == ("shape", "2x3", "3x3")


def test_an_empty_trace_can_be_compared():
    found = compare(Trace({}, {}), run())
    assert found.parting is None
    assert found.b.steps == 2


@pytest.mark.parametrize(
    ("a", "b", "relative"),
    [
        (1.0, 2.0, 0.5),
        (0.0, 0.0, 0.0),
        (1.7e308, -1.7e308, 2.0),
        (1.0, math.inf, math.inf),
        ("2", "3", math.inf),
    ],
)
def test_the_relative_difference_never_overflows(a, b, relative):
    assert Gap("x", "", "absmax", a, b).relative == relative
