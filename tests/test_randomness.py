"""Is it said plainly with how many seeds the verdict holds?"""

from divergence_doctor.randomness import describe_seeds, share_of_seeds
from divergence_doctor.trace import TraceBuilder


def row(seed, outcome="diverged", *, same=True, op="Log", layer="log", because="the loss is nan"):
    return {
        "seed": seed,
        "outcome": outcome,
        "same": same,
        "failing_step": 0,
        "op_type": op,
        "layer": layer,
        "because": because,
        "seconds": 0.0,
    }


def share(*rows):
    builder = TraceBuilder()
    for one in rows:
        builder.add("seeds", **one)
    return share_of_seeds(builder.build())


def test_nothing_is_said_where_no_other_seed_was_tried():
    assert describe_seeds([]) == ""
    assert describe_seeds([row(0)]) == ""
    assert describe_seeds([row(0), row(1, "not-run", same=False)]) == ""


def test_all_alike():
    assert describe_seeds([row(0), row(1), row(2)]) == (
        "The verdict holds over all 3 seeds tried (0, 1 and 2): each fails the same way, first in"
        " Log of layer log."
    )
    healthy = [row(n, "healthy", op="", layer="") for n in range(3)]
    assert describe_seeds(healthy) == "The verdict holds over all 3 seeds tried (0, 1 and 2)."


def test_some_otherwise():
    rows = [row(0), row(1, "healthy", same=False), row(2, same=False, op="Exp", layer="")]
    assert describe_seeds(rows) == (
        "The verdict holds for 1 of 3 seeds tried (0): with seed 1 the steps stay finite and with"
        " seed 2 they fail otherwise (the loss is nan, first in Exp)."
    )


def test_the_share_leaves_out_what_could_not_run():
    assert share() == 1.0
    assert share(row(0), row(1), row(2)) == 1.0
    assert share(row(0), row(1, same=False), row(2)) == 2 / 3
    assert share(row(0), row(1, "not-run", same=False), row(2, same=False)) == 0.5
