"""Is what is taken as finite unseen really finite, however large its operands are?"""

import math

import numpy as np
import pytest

from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.bounds import _GROWTH, Bounds

GENERATOR = np.random.default_rng(0)


@pytest.fixture(scope="module")
def tf():
    return pytest.importorskip("tensorflow")


@pytest.fixture
def ran(tf):
    """Return a function that runs one op and gives (bounds, whether proven, its result)."""

    def run(kind, *arrays, attrs=None, looked=True):
        bounds = Bounds(frozenset({tf.float32.as_datatype_enum, tf.float64.as_datatype_enum}))
        inputs = [tf.constant(array) for array in arrays]
        if looked:
            for tensor in inputs:
                if tensor.dtype.is_floating:
                    largest = float(np.abs(tensor.numpy()).max(initial=0.0))
                    bounds.seen(seams.identity(tensor), largest)
        names = {"AddN": "inputs"}
        raw = getattr(tf.raw_ops, kind)
        import inspect

        parameters = list(inspect.signature(raw).parameters)
        fed = {"inputs": inputs} if kind in names else dict(zip(parameters, inputs, strict=False))
        out = raw(**fed, **(attrs or {}))
        sure = bounds.prove(
            kind, [seams.identity(tensor) for tensor in inputs], inputs, seams.identity(out),
            seams.dtype_number(out),
        )  # fmt: skip
        return bounds, sure, out

    return run


def matrix(scale, *shape):
    """Numbers of one magnitude and of both signs."""
    return (GENERATOR.choice([-scale, scale], size=shape)).astype("float32")


IMAGE, KERNEL = (2, 5, 5, 3), (3, 3, 3, 4)
CONV = {"strides": [1, 1, 1, 1], "padding": "SAME"}
OPERANDS = {
    "Identity": lambda s: [matrix(s, 3, 4)],
    "Reshape": lambda s: [matrix(s, 3, 4), np.array([4, 3])],
    "Squeeze": lambda s: [matrix(s, 3, 1)],
    "ExpandDims": lambda s: [matrix(s, 3), np.array(0)],
    "Transpose": lambda s: [matrix(s, 3, 4), np.array([1, 0])],
    "Relu": lambda s: [matrix(s, 3, 4)],
    "Relu6": lambda s: [matrix(s, 3, 4)],
    "ReluGrad": lambda s: [matrix(s, 3, 4), matrix(1.0, 3, 4)],
    "Relu6Grad": lambda s: [matrix(s, 3, 4), matrix(1.0, 3, 4)],
    "Neg": lambda s: [matrix(s, 3, 4)],
    "Abs": lambda s: [matrix(s, 3, 4)],
    "Pad": lambda s: [matrix(s, 3), np.array([[1, 1]])],
    "Slice": lambda s: [matrix(s, 3), np.array([1]), np.array([2])],
    "StridedSlice": lambda s: [matrix(s, 6), np.array([0]), np.array([6]), np.array([2])],
    "Tile": lambda s: [matrix(s, 3), np.array([2])],
    "BroadcastTo": lambda s: [matrix(s, 3), np.array([2, 3])],
    "Tanh": lambda s: [matrix(s, 3)],
    "Sigmoid": lambda s: [matrix(s, 3)],
    "Add": lambda s: [matrix(s, 3, 4), matrix(s, 4)],
    "AddV2": lambda s: [matrix(s, 3, 4), matrix(s, 4)],
    "Sub": lambda s: [matrix(s, 3, 4), matrix(s, 4)],
    "BiasAdd": lambda s: [matrix(s, 3, 4), matrix(s, 4)],
    "Maximum": lambda s: [matrix(s, 3), matrix(1.0, 3)],
    "Minimum": lambda s: [matrix(s, 3), matrix(1.0, 3)],
    "AddN": lambda s: [matrix(s, 3), matrix(s, 3), matrix(s, 3)],
    "Mul": lambda s: [matrix(s, 3), matrix(s, 3)],
    "RealDiv": lambda s: [matrix(s, 3), np.float32(1 / 64)],
    "Square": lambda s: [matrix(s, 3)],
    "SquaredDifference": lambda s: [matrix(s, 30), matrix(s, 30)],
    "Sum": lambda s: [np.abs(matrix(s, 30)), np.array([0])],
    "BiasAddGrad": lambda s: [np.abs(matrix(s, 9, 4))],
    "Mean": lambda s: [np.abs(matrix(s, 30)), np.array([0])],
    "MatMul": lambda s: [np.abs(matrix(s, 3, 9)), np.abs(matrix(s, 9, 4))],
    "BatchMatMulV2": lambda s: [np.abs(matrix(s, 2, 3, 9)), np.abs(matrix(s, 2, 9, 4))],
    "BatchMatMulV3": lambda s: [np.abs(matrix(s, 2, 3, 9)), np.abs(matrix(s, 2, 9, 4))],
    "Conv2D": lambda s: [np.abs(matrix(s, *IMAGE)), np.abs(matrix(s, *KERNEL))],
    "Conv2DBackpropInput": lambda s: [
        np.array(IMAGE, "int32"), np.abs(matrix(s, *KERNEL)), np.abs(matrix(s, 2, 5, 5, 4)),
    ],
    "Conv2DBackpropFilter": lambda s: [
        np.abs(matrix(s, *IMAGE)), np.array(KERNEL, "int32"), np.abs(matrix(s, 2, 5, 5, 4)),
    ],
    "Cast": lambda s: [matrix(s, 3).astype("float64")],
}  # fmt: skip


def attributes(tf, kind):
    if kind.startswith("Conv2D"):
        return CONV
    return {
        "Cast": {"DstT": tf.float32},
        "BatchMatMulV3": {"Tout": tf.float32},
    }.get(kind, {})


def test_every_op_that_has_a_rule_is_tried_here():
    assert set(OPERANDS) == set(_GROWTH)


@pytest.mark.parametrize("scale", [1e-30, 1.0, 3e9, 1e17, 1e19, 3e35, 3e38])
@pytest.mark.parametrize("kind", sorted(OPERANDS))
def test_what_is_taken_as_finite_is_finite_and_within_its_bound(tf, ran, kind, scale):
    bounds, sure, out = ran(kind, *OPERANDS[kind](scale), attrs=attributes(tf, kind))
    largest = float(np.abs(out.numpy().astype("float64")).max())
    if sure:
        assert largest <= bounds._tensors[seams.identity(out)] * 1.00001
    if scale == 1.0:
        assert sure
    if not math.isfinite(largest):
        assert not sure


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("kind", sorted(OPERANDS))
def test_nothing_is_proven_of_what_holds_bad_numbers(tf, ran, kind, bad):
    for place in range(len(OPERANDS[kind](1.0))):
        operands = OPERANDS[kind](1.0)
        if operands[place].dtype.kind != "f" or np.ndim(operands[place]) == 0:
            continue
        operands[place].flat[0] = bad
        _, sure, out = ran(kind, *operands, attrs=attributes(tf, kind), looked=False)
        # ReLU's gradient does not let the features through, only whether they are positive.
        assert not sure or np.isfinite(out.numpy()).all()


def test_the_mean_of_nothing_is_looked_at(ran):
    _, sure, out = ran("Mean", np.zeros((0,), "float32"), np.array([0]))
    assert math.isnan(float(out))
    assert not sure


def test_a_division_by_nothing_or_by_a_tensor_is_looked_at(ran):
    assert not ran("RealDiv", matrix(1.0, 3), np.float32(0.0))[1]
    assert not ran("RealDiv", matrix(1.0, 3), matrix(1.0, 3))[1]


def test_what_is_added_to_a_variable_adds_to_its_bound():
    bounds = Bounds(frozenset({1}))
    bounds.seen(7, 2.0)
    bounds.holds(1, 3.0)
    assert bounds.write("AssignSubVariableOp", 1, 7)
    bounds.read(1, 8)
    assert bounds._tensors[8] == 5.0
    assert bounds.write("AssignVariableOp", 1, 7)
    bounds.read(1, 9)
    assert bounds._tensors[9] == 2.0
    assert not bounds.write("AssignAddVariableOp", 1, 99)
    bounds.read(1, 10)
    assert 10 not in bounds._tensors


def test_a_kernel_that_is_broken_is_still_found_by_what_came_of_it(tf):
    from divergence_doctor.replay.ops import Place
    from divergence_doctor.replay.opstream import OpStream

    stream = OpStream(
        place=Place, phase=lambda: "forward", names={}, handles={}, samples=3,
    )  # fmt: skip
    x, broken = tf.constant([1.0, 2.0, 3.0]), tf.constant([1.0, math.nan, 3.0])
    stream.name_leaf(x, "batch", "x")
    stream.on_op("Relu", [x], (), [broken])
    assert stream.events == []
    after = tf.constant([1.0, math.nan, 2.0])
    stream.on_op("Sqrt", [broken], (), [after])
    stream.reach([after], "loss")
    chosen = stream.consequences.settle()
    assert stream.ops[chosen.op].op_type == "Relu"
    assert chosen.samples == (1,)


def test_the_result_of_a_broken_kernel_is_found_where_it_reaches_the_loss(tf):
    from divergence_doctor.replay.ops import Place
    from divergence_doctor.replay.opstream import OpStream

    stream = OpStream(place=Place, phase=lambda: "loss", names={}, handles={}, samples=3)
    x, broken = tf.constant([1.0, 2.0, 3.0]), tf.constant([math.nan, -2.0, -3.0])
    stream.on_op("Neg", [x], (), [broken])
    stream.reach([broken], "loss")
    chosen = stream.consequences.settle()
    assert (stream.ops[chosen.op].op_type, chosen.reaches) == ("Neg", "loss")
