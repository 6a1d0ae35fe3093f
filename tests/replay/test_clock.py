"""At which time step does a recurrent layer stand, told from inside its loop?"""

import numpy as np
import pytest

from divergence_doctor.replay.clock import NO_TIME, Clock

SERIES = np.ones((2, 3, 4), "float32")


@pytest.fixture
def clock():
    return Clock(lambda function: function)


def times_of(keras, clock, **options):
    seen = []

    class Cell(keras.layers.SimpleRNNCell):
        def call(self, x, states):
            seen.append(clock.now)
            return super().call(x, states)

    layer = keras.layers.RNN(Cell(2), **options)
    layer.build(SERIES.shape)
    with clock.running():
        layer(SERIES)
    return seen


def test_time_steps_count_as_the_input_has_them(keras, clock):
    assert times_of(keras, clock) == [NO_TIME, 0, 1, 2]
    assert times_of(keras, clock, unroll=True) == [0, 1, 2]
    assert times_of(keras, clock, go_backwards=True) == [NO_TIME, 2, 1, 0]
    assert times_of(keras, clock, go_backwards=True, unroll=True) == [2, 1, 0]
    assert clock.now == NO_TIME


def test_a_loop_inside_a_loop_gives_the_time_back_even_after_an_error(keras, clock):
    seen = []

    class Inner(keras.layers.SimpleRNNCell):
        def call(self, x, states):
            seen.append(("inner", clock.now))
            return super().call(x, states)

    inner = keras.layers.RNN(Inner(4), return_sequences=True)
    inner.build((2, 2, 2))

    class Outer(keras.layers.SimpleRNNCell):
        def call(self, x, states):
            inner(keras.ops.reshape(x, (2, 2, 2)))
            seen.append(("outer", clock.now))
            if clock.now == 1:
                raise RuntimeError
            return super().call(x, states)

    outer = keras.layers.RNN(Outer(2), unroll=True)
    outer.build(SERIES.shape)
    with clock.running(), pytest.raises(RuntimeError):
        outer(SERIES)
    loop = [("inner", NO_TIME), ("inner", 0), ("inner", 1)]
    assert seen == [*loop, ("outer", 0), *loop, ("outer", 1)]
    assert clock.now == NO_TIME


def test_a_time_distributed_layer_is_called_once_per_time_step(keras, clock):
    layer = keras.layers.TimeDistributed(keras.layers.Dense(1))
    layer.build(SERIES.shape)
    seen = []
    clock = Clock(lambda function: lambda *a, **k: (seen.append(clock.now), function(*a, **k))[1])
    with clock.running():
        layer(SERIES)
    assert seen == [0, 1, 2]
    assert "call" not in vars(layer.layer)
