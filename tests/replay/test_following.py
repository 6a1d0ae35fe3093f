"""Does the way back lead through the element that made the value? Compared with a blunt twin.

The twin knows nothing of any op: it changes one cell of the inputs after the other, runs the op
again and sees which change moved the output most.
"""

import numpy as np
import pytest

from divergence_doctor.replay.following import FOLLOWED, Danger, follow, turned

pytestmark = pytest.mark.usefixtures("keras")
GENERATOR = np.random.default_rng(3)


def normal(*shape):
    return GENERATOR.normal(size=shape).astype("float32")


def made_by(call, *arrays):
    """Return the last op that a call on tensors runs, and a function that runs it anew."""
    import tensorflow as tf

    from divergence_doctor.replay import _seams as seams
    from divergence_doctor.replay.ops import Place
    from divergence_doctor.replay.recording import Made

    def run(values):
        seen = []

        def see(kind, inputs, attrs, outputs, *_rest):
            name = kind.decode() if isinstance(kind, bytes) else kind
            pairs = dict(zip(attrs[::2], attrs[1::2], strict=True)) if attrs else {}
            seen.append(Made(name, tuple(inputs), pairs, tuple(outputs), Place(), None))

        tensors = [tf.constant(value) for value in values]
        with seams.op_callback(see):
            call(*tensors)
        return seen[-1]

    return run(arrays), run


def blunt(run, arrays, index, output=0):
    """Return (array, cell) whose being set to 0 (or 1) moves the output element most."""
    base = np.asarray(run(arrays).outputs[output])[index].astype("float64")
    moved = {}
    for position, array in enumerate(arrays):
        if array.dtype.kind != "f":
            continue
        for cell in np.ndindex(array.shape):
            changed = [value.copy() for value in arrays]
            changed[position][cell] = 0.0 if array[cell] else 1.0
            value = np.asarray(run(changed).outputs[output])[index].astype("float64")
            moved[position, cell] = abs(value - base)
    return moved


def cases():
    import tensorflow as tf

    x, y = normal(3, 4), normal(4, 5)
    yield "relu", tf.nn.relu, [np.abs(x)]
    yield "broadcast sum", tf.add, [x, normal(4)]
    yield "sum over an axis", lambda a: tf.reduce_sum(a, axis=1), [x]
    yield "mean over all", tf.reduce_mean, [x]
    yield "sum, axes kept", lambda a: tf.reduce_sum(a, axis=0, keepdims=True), [x]
    yield "largest", lambda a: tf.reduce_max(a, axis=-1), [x]
    yield "smallest", lambda a: tf.reduce_min(a, axis=0), [x]
    yield "norm of squares", tf.nn.l2_loss, [x]
    yield "running sum", lambda a: tf.cumsum(a, axis=1, exclusive=True), [x]
    yield "running sum backwards", lambda a: tf.cumsum(a, axis=0, reverse=True), [x]
    yield "matrices", tf.matmul, [x, y]
    yield "turned left", lambda a, b: tf.raw_ops.MatMul(a=a, b=b, transpose_a=True), [x.T.copy(), y]
    yield "turned right", lambda a, b: tf.matmul(a, b, transpose_b=True), [x, y.T.copy()]
    yield "stacks of matrices", tf.matmul, [normal(2, 3, 4), normal(1, 4, 2)]
    yield "turned stack", lambda a, b: tf.matmul(a, b, adjoint_b=True), [
        normal(2, 3, 4), normal(2, 2, 4)]  # fmt: skip
    yield "heads", lambda a, b: tf.raw_ops.Einsum(inputs=[a, b], equation="abc,cde->abde"), [
        normal(2, 3, 4), normal(4, 2, 3)]  # fmt: skip
    yield "scores", lambda a, b: tf.raw_ops.Einsum(inputs=[a, b], equation="aecd,abcd->acbe"), [
        normal(2, 3, 2, 4), normal(2, 3, 2, 4)]  # fmt: skip
    image, kernel = normal(2, 5, 6, 2), normal(3, 2, 2, 3)
    for padding in ("SAME", "VALID"):
        yield f"convolution {padding}", lambda a, b, p=padding: tf.nn.conv2d(a, b, 2, p), [
            image, kernel]  # fmt: skip
    yield "spread out", lambda a, b: tf.nn.conv2d(a, b, 1, "SAME", dilations=2), [image, kernel]
    yield "padded by hand", lambda a, b: tf.nn.conv2d(
        a, b, 1, [[0, 0], [2, 1], [0, 1], [0, 0]]), [image, kernel]  # fmt: skip
    yield "in groups", lambda a, b: tf.nn.conv2d(a, b, 1, "SAME"), [
        normal(1, 4, 4, 4), normal(3, 3, 2, 6)]  # fmt: skip
    yield "by depth", lambda a, b: tf.nn.depthwise_conv2d(a, b, [1, 1, 1, 1], "SAME"), [
        image, normal(3, 3, 2, 2)]  # fmt: skip
    yield "in space", lambda a, b: tf.nn.conv3d(a, b, [1, 1, 1, 1, 1], "SAME"), [
        normal(1, 3, 3, 3, 2), normal(2, 2, 2, 2, 2)]  # fmt: skip
    yield "largest of a window", lambda a: tf.nn.max_pool2d(a, 2, 2, "SAME"), [image]
    yield "mean of a window", lambda a: tf.nn.avg_pool2d(a, 2, 2, "VALID"), [image]
    yield "segments", lambda a: tf.math.unsorted_segment_sum(a, [0, 1, 0], 2), [x]
    yield "bias", tf.nn.bias_add, [x, normal(4)]
    yield "bias gradient", lambda a: tf.raw_ops.BiasAddGrad(out_backprop=a), [normal(3, 2, 2)]
    yield "chosen", lambda a, b: tf.where([[True], [False], [True]], a, b), [x, normal(3, 4)]
    yield "the larger", tf.maximum, [x, normal(3, 4)]
    yield "clipped", lambda a: tf.raw_ops.ClipByValue(
        t=a, clip_value_min=-9.0, clip_value_max=9.0), [x]  # fmt: skip


MOVES = {
    "turned": (lambda tf, a: tf.transpose(a, [2, 0, 1]), 1),
    "shaped": (lambda tf, a: tf.reshape(a, [4, 6]), 1),
    "grown": (lambda tf, a: a[:, tf.newaxis], 1),
    "squeezed": (lambda tf, a: tf.squeeze(a[:1], 0), 1),
    "cut": (lambda _tf, a: a[::-1, 1:, ..., 0], 1),
    "sliced": (lambda tf, a: tf.slice(a, [1, 0, 1], [1, 2, 2]), 1),
    "gathered": (lambda tf, a: tf.gather(a, [1, 0, 1], axis=1), 1),
    "gathered by cell": (lambda tf, a: tf.gather_nd(a, [[0, 1], [1, 2]]), 1),
    "gathered by batch": (lambda tf, a: tf.gather(a, [[0], [2]], axis=1, batch_dims=1), 1),
    "tiled": (lambda tf, a: tf.tile(a, [1, 2, 1]), 1),
    "spread": (lambda tf, a: tf.broadcast_to(a, [3, 2, 3, 4]), 1),
    "turned round": (lambda tf, a: tf.reverse(a, [0, 2]), 1),
    "rolled": (lambda tf, a: tf.roll(a, 1, axis=2), 1),
    "padded": (lambda tf, a: tf.pad(a, [[0, 0], [1, 1], [2, 0]]), 1),
    "padded with ones": (lambda tf, a: tf.pad(a, [[0, 0], [1, 1], [2, 0]], constant_values=1.0), 1),
    "mirrored": (lambda tf, a: tf.pad(a, [[1, 1], [1, 1], [1, 1]], "REFLECT"), 1),
    "joined": (lambda tf, a, b: tf.concat([a, b], axis=1), 2),
    "stacked": (lambda tf, a, b: tf.stack([a, b], axis=-1), 2),
    "split": (lambda tf, a: tf.split(a, 2, axis=2), 1),
    "split unevenly": (lambda tf, a: tf.split(a, [1, 3], axis=2), 1),
    "unstacked": (lambda tf, a: tf.unstack(a, axis=1), 1),
    "a band": (lambda tf, a: tf.linalg.band_part(a, 0, 1), 1),
}


@pytest.mark.parametrize("number", range(32))
def test_the_element_that_is_followed_is_the_one_that_matters_most(number):
    found = list(cases())
    assert len(found) == 32
    name, call, arrays = found[number]
    made, run = made_by(call, *arrays)
    assert made.op_type in FOLLOWED, name
    keys = [id(tensor) for tensor in made.inputs]
    assert len(keys) == len(made.inputs)
    out = np.asarray(made.outputs[0])
    for index in list(np.ndindex(out.shape))[:: max(out.size // 2, 1)]:
        step = follow(made, 0, index, Danger.LARGE)
        moved = blunt(run, arrays, index)
        if step is None:
            assert not any(moved.values()), (name, index)
            continue
        # Inputs of the op that are no arrays of ours (axes) do not count.
        values = [np.asarray(tensor) for tensor in made.inputs]
        where = next(
            p for p, array in enumerate(arrays)
            if array.shape == values[step.position].shape
            and np.array_equal(array, values[step.position])
        )  # fmt: skip
        assert moved[where, step.index] == pytest.approx(max(moved.values()), rel=1e-4, abs=1e-5), (
            name, index, step)  # fmt: skip


@pytest.mark.parametrize("name", MOVES)
def test_an_element_that_was_moved_is_the_same_number(name):
    import tensorflow as tf

    call, count = MOVES[name]
    arrays = [normal(2, 3, 4) for _ in range(count)]
    made, _ = made_by(lambda *tensors: call(tf, *tensors), *arrays)
    assert made.op_type in FOLLOWED, made.op_type
    for output, tensor in enumerate(made.outputs):
        values = np.asarray(tensor)
        for index in np.ndindex(values.shape):
            step = follow(made, output, index, Danger.LARGE)
            if step is None:
                assert values[index] in (0.0, 1.0)  # the rim that was put around
            else:
                assert np.asarray(made.inputs[step.position])[step.index] == values[index]


def test_a_zero_is_followed_through_the_factor_that_is_zero():
    import tensorflow as tf

    a, b = np.array([2.0, 5.0], "float32"), np.array([0.0, 3.0], "float32")
    assert follow(made_by(tf.multiply, a, b)[0], 0, (0,), Danger.SMALL).position == 1
    x = np.ones((2, 3), "float32")
    w = np.ones((3, 2), "float32")
    x[1] = 0.0
    step = follow(made_by(tf.matmul, x, w)[0], 0, (1, 0), Danger.SMALL)
    assert (step.position, step.index[0]) == (0, 1)
    assert step.through == "all 3 terms of the sum of products are 0"
    w[:, 1] = 0.0
    step = follow(made_by(tf.matmul, x, w)[0], 0, (0, 1), Danger.SMALL)
    assert (step.position, step.index[1]) == (1, 1)


def test_a_quotient_is_followed_through_what_makes_it_large():
    import tensorflow as tf

    def position(a, b):
        made, _ = made_by(tf.divide, np.array([a], "float32"), np.array([b], "float32"))
        return follow(made, 0, (0,), Danger.LARGE).position

    assert position(1.0, 1e-30) == 1
    assert position(1e30, 1.0) == 0
    assert position(1e30, 0.5) == 0
    assert position(1.0, 0.0) == 1


def test_what_cancelled_is_followed_through_the_data():
    import tensorflow as tf

    made, _ = made_by(tf.subtract, np.array([1.0], "float32"), np.array([0.9], "float32"))
    step = follow(made, 0, (0,), Danger.SMALL, from_batch=lambda position: position == 1)
    assert step.position == 1
    assert follow(made, 0, (0,), Danger.LARGE).position == 0


def test_what_is_dangerous_turns_where_an_op_turns_large_into_small():
    import tensorflow as tf

    softmax, _ = made_by(tf.nn.softmax, np.array([[1.0, 400.0]], "float32"))
    assert turned(softmax, 0, Danger.SMALL) is Danger.LARGE
    quotient, _ = made_by(tf.divide, np.array([1.0], "float32"), np.array([1e-9], "float32"))
    assert turned(quotient, 1, Danger.LARGE) is Danger.SMALL
    assert turned(quotient, 0, Danger.LARGE) is Danger.LARGE


def test_what_is_bad_already_is_followed_first():
    import tensorflow as tf

    x = np.ones((2, 3), "float32")
    x[1, 2] = np.nan
    w = np.full((3, 2), 1e20, "float32")
    step = follow(made_by(tf.matmul, x, w)[0], 0, (1, 0), Danger.BAD)
    assert (step.position, step.index) == (0, (1, 2))
    made, _ = made_by(lambda a: tf.reduce_sum(a, axis=1), x)
    assert follow(made, 0, (1,), Danger.BAD).index == (1, 2)


def test_a_softmax_leads_to_the_logit_that_outweighs_the_others():
    import tensorflow as tf

    logits = np.array([[1.0, 400.0, -2.0]], "float32")
    step = follow(made_by(tf.nn.softmax, logits)[0], 0, (0, 0), Danger.SMALL)
    assert (step.index, step.through) == ((0, 1), "the largest logit; its own is 1")


def test_a_row_of_an_embedding_is_a_cell_of_the_variable():
    import tensorflow as tf

    table = tf.Variable(normal(6, 3))
    made, _ = made_by(table.sparse_read, np.array([[4, 1]]))
    step = follow(made, 0, (0, 1, 2), Danger.LARGE)
    assert (step.position, step.index, step.through) == (0, (1, 2), "row 1")


def test_an_op_that_is_not_known_is_not_followed():
    import tensorflow as tf

    made, _ = made_by(tf.linalg.cholesky, np.eye(2, dtype="float32"))
    assert follow(made, 0, (0, 0), Danger.LARGE) is None
