"""Kinds that walk through time."""

from tests.replay.kinds._kind import chain, kind, normal

SERIES, Y = normal(3, 5, 2), normal(3, 1, seed=1)
MOVIE = normal(2, 4, 5, 5, 1)


def _of(name, make, **arrays):
    @kind(name, **({"x": SERIES, "y": Y} | arrays))
    def build(keras):
        shape = arrays.get("x", SERIES).shape[1:]
        return chain(keras, keras.layers.Input(shape), *make(keras.layers))

    return build


_of("SimpleRNN", lambda k: [k.SimpleRNN(3, name="rnn"), k.Dense(1)])
_of("LSTM", lambda k: [k.LSTM(3, dropout=0.1, recurrent_dropout=0.1, name="rnn"), k.Dense(1)])
_of("GRU", lambda k: [k.GRU(3, name="rnn"), k.Dense(1)])
_of("GRU, reset before", lambda k: [k.GRU(3, reset_after=False, name="rnn"), k.Dense(1)])
_of("LSTM, unrolled", lambda k: [k.LSTM(3, unroll=True, name="rnn"), k.Dense(1)])
_of("SimpleRNN, backwards", lambda k: [k.SimpleRNN(3, go_backwards=True, name="rnn"), k.Dense(1)])
_of("LSTM, bidirectional", lambda k: [k.Bidirectional(k.LSTM(2), name="both"), k.Dense(1)])
_of(
    "GRU, bidirectional, summed, in sequence",
    lambda k: [
        k.Bidirectional(k.GRU(2, return_sequences=True), merge_mode="sum", name="both"),
        k.LSTM(2, name="rnn"),
        k.Dense(1),
    ],
)
_of(
    "stacked cells",
    lambda k: [k.RNN([k.LSTMCell(3), k.GRUCell(2), k.SimpleRNNCell(2)], name="rnn"), k.Dense(1)],
)
_of("masked series", lambda k: [k.Masking(0.0), k.LSTM(3, name="rnn"), k.Dense(1)],
    x=SERIES * (SERIES[..., :1] > 0))  # fmt: skip
_of(
    "TimeDistributed",
    lambda k: [k.TimeDistributed(k.Dense(2, name="each"), name="spread"), k.LSTM(2), k.Dense(1)],
)
_of(
    "ConvLSTM",
    lambda k: [k.ConvLSTM2D(2, 3, name="rnn"), k.GlobalAveragePooling2D(), k.Dense(1)],
    x=MOVIE, y=Y[:2],
)  # fmt: skip


@kind("stateful LSTM", x=SERIES, y=Y, steps=2)
def stateful(keras):
    return chain(
        keras,
        keras.layers.Input(batch_shape=(3, 5, 2)),
        keras.layers.LSTM(3, stateful=True, name="rnn"),
        keras.layers.Dense(1),
    )


@kind("encoder and decoder share states", x__a=SERIES, x__b=normal(3, 4, 2, seed=3),
      y=normal(3, 4, 1))  # fmt: skip
def seq2seq(keras):
    a, b = keras.layers.Input((5, 2), name="a"), keras.layers.Input((4, 2), name="b")
    _, h, c = keras.layers.LSTM(3, return_state=True, name="encoder")(a)
    seen = keras.layers.LSTM(3, return_sequences=True, name="decoder")(b, initial_state=[h, c])
    model = keras.Model({"a": a, "b": b}, keras.layers.Dense(1, name="out")(seen))
    model.compile("adam", "mse")
    return model


@kind("a cell of one's own", x=SERIES, y=Y)
def own_cell(keras):
    class Minimal(keras.layers.Layer):
        state_size = 3

        def build(self, shape):
            self.kernel = self.add_weight(shape=(shape[-1], 3), name="kernel")
            self.forget = keras.layers.Dense(3, activation="sigmoid", name="forget")
            self.forget.build((None, 3))

        def call(self, x, states):
            gate = self.forget(states[0])
            state = gate * states[0] + (1 - gate) * keras.ops.tanh(x @ self.kernel)
            return state, [state]

    return chain(
        keras,
        keras.layers.Input((5, 2)),
        keras.layers.RNN(Minimal(name="minimal"), name="rnn"),
        keras.layers.Dense(1),
    )
