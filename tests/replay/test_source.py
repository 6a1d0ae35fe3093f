"""Is the line of an op the user's own, also where the way to it is not walked anew?"""

import pytest

from divergence_doctor.replay.opstream import OpStream
from divergence_doctor.replay.source import UsersLines, users_line
from tests.replay.kinds._comparison import watched
from tests.replay.kinds._kind import all_kinds

SOME = ("vae", "gan", "lstm", "attention", "accum", "map_fn", "while", "clip", "adam", "shared")


@pytest.mark.parametrize(
    "made",
    [made for made in all_kinds() if any(word in made.name.lower() for word in SOME)],
    ids=lambda made: made.name,
)
def test_every_op_has_the_line_that_a_walk_from_scratch_finds(keras, made, monkeypatch):
    seen = []
    of_op = UsersLines.of_op

    def both(lines, depth=1, outer=None):
        found = of_op(lines, depth + 1, outer)
        seen.append((found, users_line(depth + 1, outer)))
        return found

    monkeypatch.setattr(UsersLines, "of_op", both)
    watched(made.build(keras), made.arrays, made.steps)
    assert seen
    assert [pair for pair in seen if pair[0] != pair[1]] == []


def test_the_calls_of_a_step_are_let_go_of_when_it_is_over(keras, replayed, monkeypatch):
    import numpy as np

    streams = []
    made = OpStream.__init__

    def noted(stream, **options):
        made(stream, **options)
        streams.append(stream)

    monkeypatch.setattr(OpStream, "__init__", noted)
    model = keras.Sequential([keras.layers.Input((2,)), keras.layers.Dense(1)])
    model.compile("adam", "mse")
    replayed(model, x=np.ones((2, 2), "float32"), y=np.ones((2, 1), "float32"))
    assert [stream._lines._call for stream in streams] == [None] * len(streams)
