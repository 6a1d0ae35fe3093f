"""Each private door of TensorFlow and Keras: is it where we go through it, and shut behind us?"""

import os
import subprocess
import sys

import numpy as np
import pytest

from divergence_doctor.replay import _seams as seams

pytestmark = pytest.mark.usefixtures("keras")


@pytest.fixture
def tf():
    return pytest.importorskip("tensorflow")


def test_the_op_callback_sees_every_eager_op_and_is_gone_afterwards(tf):
    seen = []
    with seams.op_callback(lambda kind, *_args, **_kwargs: seen.append(kind)):
        tf.math.log(tf.constant([1.0]) + 1.0)
    tf.math.exp(tf.constant([1.0]))
    assert seen == ["AddV2", "Log"]


def test_assigning_into_the_outputs_replaces_the_result_and_the_gradient_follows(tf):
    def double_sums(kind, _inputs, _attrs, outputs, *_rest):
        if kind == "AddV2":
            outputs[0] = outputs[0] * 2.0

    x = tf.Variable([1.0])
    with seams.op_callback(double_sums), tf.GradientTape() as tape:
        y = tf.math.log(x + 1.0)
    assert float(y[0]) == pytest.approx(np.log(4.0))
    assert float(tape.gradient(y, x)[0]) == pytest.approx(2.0 / 4.0)


def test_the_gradient_function_is_called_with_the_forward_tensors(tf):
    calls = []

    def wrap(original):
        def differentiate(name, attrs, count, inputs, outputs, grads, *rest):
            calls.append((name, [seams.identity(tensor) for tensor in inputs or []]))
            return original(name, attrs, count, inputs, outputs, grads, *rest)

        return differentiate

    x = tf.constant([2.0])
    with seams.gradient_function(wrap), tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.math.log(x)
        tape.gradient(y, x)
    assert calls == [("Log", [seams.identity(x)])]
    calls.clear()
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = tf.math.log(x)
    tape.gradient(y, x)
    assert calls == []


@pytest.mark.parametrize(
    ("owner", "name"),
    [
        (seams.layer_class, "__call__"),
        (seams.operation_class, "__call__"),
        (seams.trainer_class, "_compute_loss"),
        (seams.trainer_class, "_aggregate_additional_loss"),
        (seams.base_loss_class, "__call__"),
        (seams.loss_module, "reduce_weighted_values"),
        (seams.tape_class, "gradient"),
        (seams.optimizer_class, "apply"),
        (seams.loss_scale_class, "apply"),
        (seams.rnn_module, "rnn"),
        (seams.time_distributed_class, "call"),
        (seams.optimizer_class, "_clip_gradients"),
        (seams.record_module, "record_operation"),
    ],
)
def test_what_is_wrapped_is_there_and_put_back_even_after_an_error(owner, name):
    before = vars(owner())[name]
    with pytest.raises(RuntimeError), seams.patched(owner(), name, lambda original: original):
        raise RuntimeError
    assert vars(owner())[name] is before


def test_the_functions_that_clip_are_there_and_put_back():
    for owner, name in seams.clipping_functions():
        before = getattr(owner, name)
        with seams.patched(owner, name, lambda _original: lambda: "clipped"):
            assert getattr(owner, name)() == "clipped"
        assert getattr(owner, name) is before


def test_a_gradient_of_the_users_own_goes_on_the_tape_through_record_operation(tf):
    ran = []

    def marked(original):
        def record(kind, outputs, inputs, backward, *rest):
            def seen(*gradients):
                ran.append(kind)
                return backward(*gradients)

            return original(kind, outputs, inputs, seen, *rest)

        return record

    @tf.custom_gradient
    def double(x):
        return 2.0 * x, lambda upstream: 2.0 * upstream

    x = tf.constant(3.0)
    with seams.patched(seams.record_module(), "record_operation", marked):
        with tf.GradientTape() as tape:
            tape.watch(x)
            y = double(x)
        assert float(tape.gradient(y, x)) == 2.0
    assert ran == ["double"]


def test_an_inherited_attribute_is_taken_away_again():
    class Base:
        value = 1

    class Child(Base):
        pass

    with seams.patched(Child, "value", lambda old: old + 1):
        assert Child.value == 2
    assert "value" not in vars(Child)


def test_a_view_shares_the_memory_of_a_tensor_on_the_host(tf):
    tensor = tf.constant([1.0, 2.0])
    assert np.shares_memory(seams.view(tensor), np.asarray(memoryview(tensor)))


def test_a_view_of_bfloat16_keeps_its_dtype(tf):
    assert str(seams.view(tf.constant([1.0], dtype=tf.bfloat16)).dtype) == "bfloat16"


def test_the_handle_of_a_keras_variable_is_what_its_reads_take_in(keras, tf):
    variable = keras.Variable([1.0])
    inputs = []
    with seams.op_callback(lambda _kind, ins, *_rest: inputs.extend(ins)):
        tf.identity(variable.value)
    assert seams.identity(seams.handle_of(variable)) in [seams.identity(t) for t in inputs]


def test_what_runs_unrecorded_is_on_no_tape(tf):
    x = tf.Variable(2.0)
    with tf.GradientTape() as tape, seams.unrecorded():
        y = x * x
    assert tape.gradient(y, x) is None


def test_a_mask_survives_being_put_on_another_tensor(keras, tf):
    tensor, mask = tf.ones((1, 2)), tf.constant([[True, False]])
    seams.set_keras_mask(tensor, mask)
    assert seams.keras_mask(tensor) is mask


def test_the_global_seed_generator_starts_again_once_forgotten(keras):
    keras.utils.set_random_seed(3)
    seams.forget_global_seed_generator()
    first = np.asarray(keras.random.normal((3,)))
    keras.utils.set_random_seed(3)
    seams.forget_global_seed_generator()
    np.testing.assert_array_equal(np.asarray(keras.random.normal((3,))), first)


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_scaled_rate_is_scaled_for_a_while(keras, scheduled):
    rate = 0.1
    if scheduled:
        rate = keras.optimizers.schedules.PiecewiseConstantDecay([5], [0.1, 0.01])
    optimizer = keras.optimizers.SGD(rate)
    optimizer.build([keras.Variable([1.0])])
    with seams.scaled_rate(optimizer, 0.1):
        assert float(optimizer.learning_rate) == pytest.approx(0.01)
    if scheduled:
        assert float(optimizer.learning_rate) == pytest.approx(0.1)


@pytest.mark.parametrize("scheduled", [False, True])
def test_a_bounded_rate_stands_in_for_one_that_is_none(keras, scheduled):
    class Worse(keras.optimizers.schedules.LearningRateSchedule):
        def __call__(self, step):
            return [0.1, -0.1, float("nan")][int(step)]

    optimizer = keras.optimizers.SGD(Worse() if scheduled else float("nan"))
    optimizer.build([keras.Variable([1.0])])
    found = []
    with seams.bounded_rate(optimizer, 0.5):
        for step in (0, 1, 2):
            optimizer.iterations.assign(step)
            found.append(float(optimizer.learning_rate))
    assert found == pytest.approx([0.1, 0.5, 0.5] if scheduled else [0.5, 0.5, 0.5])
    if scheduled:
        assert np.isnan(float(optimizer.learning_rate))


def test_an_op_that_moves_elements_runs_on_their_numbers(tf):
    seen = []
    with seams.op_callback(lambda kind, ins, attrs, *_rest: seen.append((kind, ins, attrs))):
        tf.transpose(tf.ones((2, 3)), [1, 0])
    kind, inputs, attrs = seen[-1]
    named = dict(zip(attrs[::2], attrs[1::2], strict=True))
    numbers = np.arange(6).reshape(2, 3)
    name = kind.decode() if isinstance(kind, bytes) else kind
    (moved,) = seams.execute_op(name, [numbers, inputs[1]], named, 1)
    np.testing.assert_array_equal(moved, numbers.T)
    assert seams.execute_op("Cholesky", [numbers], {"T": named["T"]}, 1) is None


@pytest.fixture
def traced(tf):
    """Return the graph of a function that adds one to a variable and squares its argument."""
    variable = tf.Variable(0.0)

    @tf.function
    def step(x):
        variable.assign_add(1.0)
        doubled = x * 2.0
        step.doubled, step.graph = doubled, seams.graph_in_the_making()
        return {"square": doubled * doubled}

    step(tf.constant(3.0))
    return step.graph, step.doubled, variable


def test_a_graph_in_the_making_is_known_and_outside_there_is_none(traced, tf):
    graph, doubled, _ = traced
    assert doubled.graph is graph
    assert seams.graph_in_the_making() is None


@pytest.mark.parametrize("jit", [False, True])
def test_a_traced_graph_runs_again_with_one_of_its_tensors_fetched(traced, tf, jit):
    graph, doubled, variable = traced
    logs, fetched = seams.function_of(graph, [doubled], jit=jit)(tf.constant(5.0))
    assert float(logs["square"]) == 100.0
    assert [float(tensor) for tensor in fetched] == [10.0]
    assert float(variable) == 2.0
    assert len(graph.outputs) == 1


def test_the_remapper_is_off_inside_and_as_it_was_afterwards(tf):
    before = tf.config.optimizer.get_experimental_options()
    with seams.remapper(on=False):
        assert tf.config.optimizer.get_experimental_options()["remapping"] is False
    assert tf.config.optimizer.get_experimental_options() == before
    with seams.remapper(on=True):
        assert tf.config.optimizer.get_experimental_options() == before


@pytest.mark.parametrize("asked", ["0", "1"])
def test_whether_onednn_is_on_is_what_the_environment_says(asked):
    code = "from divergence_doctor.replay._seams import onednn_on; print(onednn_on())"
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "TF_ENABLE_ONEDNN_OPTS": asked}, capture_output=True, text=True,
        check=True,
    )  # fmt: skip
    # A build without oneDNN has it off whatever is asked.
    assert done.stdout.strip() in ({"False"} if asked == "0" else {"True", "False"})


def test_what_is_wrapped_is_wrapped_on_this_thread_alone():
    import threading

    class Owner:
        def name(self):
            return "original"

    seen = []
    with seams.patched(Owner, "name", lambda _original: lambda _self: "changed"):
        seen.append(Owner().name())
        thread = threading.Thread(target=lambda: seen.append(Owner().name()))
        thread.start()
        thread.join()
    assert [*seen, Owner().name()] == ["changed", "original", "original"]


def test_an_attribute_of_one_object_is_taken_away_again(keras):
    layer = keras.layers.Dense(1)
    with seams.own_attribute(layer, "call", lambda: 3):
        assert layer.call() == 3
    assert "call" not in vars(layer)
    assert layer.call.__func__ is keras.layers.Dense.call


def test_a_cross_entropy_reads_the_logits_that_keras_keeps_on_a_softmax(keras, tf):
    logits = tf.constant([[0.0, 200.0]])
    probabilities = keras.activations.softmax(logits)
    assert seams.keras_logits(probabilities) is logits
    labels = tf.constant([0])
    loss = keras.losses.sparse_categorical_crossentropy(labels, probabilities)
    assert float(loss[0]) == pytest.approx(200.0)
    plain = tf.identity(probabilities)
    assert seams.keras_logits(plain) is None
    seams.set_keras_logits(plain, logits)
    loss = keras.losses.sparse_categorical_crossentropy(labels, plain)
    assert float(loss[0]) == pytest.approx(200.0)


def test_the_compiled_losses_carry_the_names_of_their_outputs(keras):
    inputs = keras.layers.Input((2,))
    outputs = {name: keras.layers.Dense(1, name=name)(inputs) for name in ("a", "b")}
    model = keras.Model(inputs, outputs)
    assert seams.compiled_losses(model) == []
    model.compile("sgd", {"a": "mse", "b": "mae"})
    zeros = np.zeros((3, 1))
    model.train_on_batch(np.zeros((3, 2)), {"a": zeros, "b": zeros})
    assert [(name, loss.name) for name, loss in seams.compiled_losses(model)] == [
        ("a", "mse"),
        ("b", "mae"),
    ]


@pytest.mark.parametrize(("unroll", "calls"), [(False, 4), (True, 3)])
def test_a_recurrent_layer_calls_its_cell_once_before_the_first_time_step(keras, unroll, calls):
    seen = []

    def rnn(original):
        def wrapped(step, *args, **kwargs):
            return original(lambda *a: seen.append(a) or step(*a), *args, **kwargs)

        return wrapped

    layer = keras.layers.GRU(2, unroll=unroll)
    layer.build((1, 3, 2))
    with seams.patched(seams.rnn_module(), "rnn", rnn):
        layer(np.zeros((1, 3, 2), "float32"))
    assert len(seen) == calls


@pytest.mark.parametrize("mode", ["eager", "graph", "xla"])
@pytest.mark.parametrize("write", ["assign", "assign_sub", "scatter_sub"])
def test_what_was_read_from_a_variable_stays_when_the_variable_changes(keras, tf, mode, write):
    variable = keras.Variable(np.ones((64, 8), "float32"))
    read = seams.values_of(variable)
    twice = seams.values_of(variable)
    values = np.full((64, 8), 3.0, "float32")

    def change():
        if write == "scatter_sub":
            variable.value.scatter_sub(
                tf.IndexedSlices(tf.constant(values[:2]), tf.constant([0, 5]))
            )
        else:
            getattr(variable.value, write)(values)

    run = change if mode == "eager" else tf.function(change, jit_compile=mode == "xla")
    for _ in range(3):
        run()
    assert (read == 1.0).all()
    assert (twice == 1.0).all()
    assert seams.values_of(variable)[0, 0] == {"assign": 3.0}.get(write, -8.0)


def test_a_variable_holds_another_dtype_for_a_while_and_its_optimizer_knows_it(keras, tf):
    keras.config.set_dtype_policy("float16")
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    optimizer = keras.optimizers.SGD(1.0)
    kernel = model.layers[0].kernel
    optimizer.build([kernel])
    kernel.assign([[1.0], [2.0]])
    with seams.retyped(kernel, "float32"):
        assert (kernel.dtype, seams.held_dtype(kernel)) == ("float32", "float32")
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(kernel * 1e-8)
        optimizer.apply([tape.gradient(loss, kernel)], [kernel])
        assert kernel.numpy().dtype == np.float32
        assert kernel.numpy()[0, 0] == np.float32(1.0) - np.float32(1e-8)
    assert seams.held_dtype(kernel) == "float16"
    np.testing.assert_array_equal(kernel.numpy(), [[1.0], [2.0]])


def test_a_layer_computes_by_another_policy_for_a_while(keras):
    layer = keras.layers.Dense(1, dtype="mixed_float16")
    with seams.other_policy(layer, keras.DTypePolicy("float32")):
        assert layer.compute_dtype == "float32"
        assert seams.policy_of(layer).name == "float32"
        assert layer(np.ones((1, 2), "float32")).dtype == "float32"
    assert seams.policy_of(layer).name == "mixed_float16"


def test_a_loss_is_computed_in_another_dtype_for_a_while(keras):
    loss = keras.losses.MeanSquaredError(dtype="float16")
    with seams.loss_in(loss, "float32"):
        assert float(loss(np.array([[300.0]]), np.array([[0.0]]))) == 90000.0
    assert np.isinf(float(loss(np.array([[300.0]]), np.array([[0.0]]))))


def test_a_loss_scaling_optimizer_takes_a_bad_step_for_a_while(keras, tf):
    weight = keras.Variable(1.0)
    optimizer = keras.optimizers.LossScaleOptimizer(keras.optimizers.SGD(1.0))
    optimizer.build([weight])
    with seams.never_skipping(optimizer):
        optimizer.apply([tf.constant(np.inf)], [weight])
    assert not np.isfinite(float(weight))
    weight.assign(1.0)
    optimizer.apply([tf.constant(np.inf)], [weight])
    assert float(weight) == 1.0


def test_what_unseeded_draws_of_keras_come_from_is_found_and_can_be_put_back(keras):
    seams.forget_global_seed_generator()
    assert seams.global_seed_state() is None
    state = seams.make_global_seed_state()
    assert seams.global_seed_state() is state
    before = np.asarray(state.value).copy()
    first = np.asarray(keras.random.normal((3,)))
    assert not np.array_equal(np.asarray(state.value), before)
    state.assign(before)
    assert np.array_equal(np.asarray(keras.random.normal((3,))), first)


def test_the_seed_of_tensorflow_and_what_eager_ops_draw_by_it_can_be_put_back():
    import tensorflow as tf

    tf.random.set_seed(12)
    tf.random.normal((2,))
    seed, state = seams.tensorflow_seed()
    assert seed == 12
    first = tf.random.normal((3,)).numpy()
    tf.random.set_seed(99)
    seams.set_tensorflow_seed(seed, state)
    assert np.array_equal(tf.random.normal((3,)).numpy(), first)
