"""Does the chain of origin read as a sentence, from its source to the failure?"""

from __future__ import annotations

import math
from typing import Any

import pytest

from divergence_doctor.reporters._chain import chain
from divergence_doctor.trace import TraceBuilder

LOG = {
    "op_type": "Log", "produced": True, "derivative": False, "nan": 0, "posinf": 0, "neginf": 3,
}  # fmt: skip


def told(*links: dict[str, Any], event: dict[str, Any] | None = None) -> Any:
    """Return the chain of these links, given from the source on."""
    builder = TraceBuilder()
    for place, link in enumerate(reversed(links)):
        row = {"what": "op", "followed": True, "ordinary_high": 65536.0, **link}
        builder.add("chain", step=0, op=0, link=place, **row)
    return chain(builder.build().table("chain"), event or LOG)


SILENT = (
    {"what": "batch", "name": "x", "index": "5,0", "value": 0.0, "departed": True,
     "ordinary_low": 2.0**-24, "through": "all 64 terms of the sum are 0"},
    {"name": "RFFT", "layer": "stft", "index": "5,0,0", "value": 0.0},
    {"name": "Reshape", "layer": "stft", "index": "5,0", "value": 0.0},
    {"name": "Square", "source": "custom.py:8", "index": "5,0", "value": 0.0},
)  # fmt: skip


def test_a_row_of_zeros_that_is_logged_reads_as_one_sentence() -> None:
    assert told(*SILENT).sentence == (
        "`x[5, 0]` is 0, so `RFFT` in `stft` makes 0 (all 64 terms of the sum are 0), `Square` at "
        "`custom.py:8` makes 0, and `Log` of it is -Inf. It is as good as 0 (below 5.96e-08) from "
        "`x[5, 0]` on."
    )


def test_growth_names_where_it_left_the_ordinary_range() -> None:
    grown = told(
        {"what": "variable", "name": "d1/kernel", "index": "3,1", "value": 8.0},
        {"name": "MatMul", "layer": "d1", "index": "0,1", "value": 1e6, "departed": True},
        {"name": "MatMul", "layer": "d2", "index": "0,2", "value": 1e30},
        event={**LOG, "op_type": "Exp", "posinf": 1, "neginf": 0},
    )
    assert grown.sentence == (
        "The weight `d1/kernel[3, 1]` is 8, so `MatMul` in `d1` makes 1e+06, `MatMul` in `d2` "
        "makes 1e+30, and `Exp` of it is Inf. It left the ordinary range (up to 6.554e+04) at "
        "`MatMul` in `d1`."
    )


def test_a_singular_derivative_and_a_gradient_that_grew_are_told_apart() -> None:
    event = {**LOG, "op_type": "Sqrt", "derivative": True, "posinf": 1, "neginf": 0}
    link = {"name": "Sum", "layer": "sum", "value": 0.0, "departed": True, "ordinary_low": 2.0**-24}
    assert "and the derivative of `Sqrt` there is Inf." in told(link, event=event).sentence
    back = {"name": "Mul", "phase": "backward", "value": 1e30, "departed": True}
    event = {**event, "op_type": "MatMul"}
    assert "and Inf comes out of the derivative of `MatMul`." in told(back, event=event).sentence


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_was_bad_from_the_start_says_so(value: float) -> None:
    came = told(
        {"what": "batch", "name": "x", "index": "6,5", "value": value, "departed": True},
        event={**LOG, "op_type": "MatMul", "produced": False},
    )
    assert came.sentence.endswith("took it in. It was not finite from `x[6, 5]` on.")


def test_where_nothing_is_unusual_the_op_itself_is_told() -> None:
    assert told({"name": "Add", "value": 7.0}).sentence.endswith("the op itself made it.")


def test_a_chain_without_an_element_says_nothing_and_keeps_its_links() -> None:
    lost = told({"name": "Cholesky", "followed": False, "value": math.nan})
    assert lost.sentence == ""
    assert [link.name for link in lost.links] == ["Cholesky"]


def test_a_long_chain_names_few_links_and_shows_the_telling_ones() -> None:
    links = [{"name": "MatMul", "layer": f"d{i}", "value": 2.0**i} for i in range(100)]
    links[17]["departed"] = True
    long = told(*links)
    assert long.sentence.count("makes") <= 6
    assert "at `MatMul` in `d17`." in long.sentence
    assert "links on `MatMul` in `d" in long.sentence
    assert len(long.links) + long.left_out == 100
    assert len(long.links) < 30
    assert [link.layer for link in long.links if link.departed] == ["d17"]
