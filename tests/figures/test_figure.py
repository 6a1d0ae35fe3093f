"""Does every figure keep what all figures promise?"""

from __future__ import annotations

import hashlib
import json
import math
import subprocess
import sys
import unicodedata
import xml.etree.ElementTree as ET
from pathlib import Path

import numpy as np
import pytest

from divergence_doctor.errors import OutputError
from divergence_doctor.figures import (
    Figure,
    all_figures,
    render_png,
    render_svg,
    suited_figures,
    write_figures,
)
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.synthetic import SyntheticEvent, tensor, training_trace

HOSTILE = (
    "$\\frac{$",
    "a\x1b[31m\x00b\nc",
    'id="x"><script>alert(1)</script>&amp;',
    "层/卷积_1" * 8,
    "_under",
    "decoder/" + "very_long_block_name/" * 400 + "dense_2",
    "\u202eevil\ud800",
    "]]> -- \N{GRINNING FACE}",
)


def with_sample_losses(trace: Trace, values: list[float]) -> Trace:
    builder = TraceBuilder()
    for table in ("steps", "activations", "gradients", "updates", "batch", "samples", "events"):
        for row in trace.table(table).rows():
            builder.add(table, **row)
    step = trace.failing_step or 0
    for sample, value in enumerate(values):
        builder.add("sample_losses", step=step, name="y$\x1b", sample=sample, value=value)
    for at in range(len(trace.table("steps"))):
        builder.add("losses", step=at, name="_term$", value=1.0)
        builder.add("losses", step=at, name="\x1bother", value=math.inf)
    for link, (name, value) in enumerate((("Log$", 0.0), ("x/\x1b", -3.0))):
        builder.add(
            "chain", step=step, op=0, link=link, what="op", name=name, layer=HOSTILE[3],
            index="1,0", followed=True, value=value, departed=link == 0, ordinary_low=2.0**-24,
            ordinary_high=math.inf, **tensor([value, 2.0]),
        )  # fmt: skip
    along(builder, step, [2.0, 1.5, math.inf, 1e9])
    went(builder, [2.0, 0.5, math.inf])
    for breadth, outcome in enumerate(("still-fails", "finite", "not-run", "\x1b$")):
        builder.add(
            "trials", name="lower-rate", changed=f"{HOSTILE[breadth]} kept", breadth=breadth,
            outcome=outcome, detail=HOSTILE[-breadth], steps=breadth,
        )  # fmt: skip
    builder.describe(**trace.context)
    return builder.build()


def along(builder: TraceBuilder, step: int, losses: list[float]) -> None:
    """Add the loss at a tenth of the update, at the whole of it, and beyond."""
    for place, loss in enumerate(losses):
        builder.add("along_update", step=step, scale=10.0 ** (place - 1), loss=loss)
    builder.add("directions", step=step, loss=losses[0], learning_rate=losses[-1], longest=0.3)
    builder.add(
        "attempts", trial="lower-rate", setting="divisor", value=30.0, outcome="finite", detail="$"
    )


def went(builder: TraceBuilder, losses: list[float]) -> None:
    """Add what was recorded of so many training steps, and what came of them again."""
    for place, loss in enumerate(losses):
        for source in ("recorded", "rolled", "watched"):
            builder.add(
                "history", step=7 + place, source=source, loss=loss, measured=True,
                learning_rate=loss, loss_scale=loss, gradient_norm=loss,
            )  # fmt: skip
    builder.describe(recorded={"first_bad": 8, "failing": 9})


def healthy() -> Trace:
    return with_sample_losses(training_trace(), [0.5, 0.25, 1.0])


def diverged() -> Trace:
    event = SyntheticEvent("Log$\\frac{$\x1b", layer=HOSTILE[4], samples=(1, 2))
    run = training_trace(
        layers=HOSTILE,
        losses=(1.0, 3e5, math.nan),
        activation_absmax=[1.0, 30.0, 900.0, 27000.0, math.nan],
        gradient_l2=[math.nan, 1e20, 1.0],
        dtype="float16",
        x=[[1.0, math.nan], [2.0, 3e6], [0.0, 1.0]],
        events=[event],
    )
    return with_sample_losses(run, [0.5, math.nan, 3e9])


ENDS = (1e308, -1e308, 5e-324, 0.0, math.inf, math.nan)


def extreme() -> Trace:
    """Return a trace in which every number is one of the ends of float64, NaN or Inf."""
    builder = TraceBuilder()
    with np.errstate(over="ignore", invalid="ignore"):
        row = tensor(np.array(ENDS))
    for index, value in enumerate(ENDS):
        seen = {"step": index // 2, "order": index, "layer": f"dense_{index}"}
        moved = {**row, "l2": abs(value), "min": -abs(value), "max": value}
        if math.isfinite(value):
            moved |= dict.fromkeys(("nan", "posinf", "neginf"), 0)
        builder.add("steps", step=index, batch=0, loss=value, gradient_norm=abs(value))
        builder.add("losses", step=index, name="a", value=value)
        builder.add("losses", step=index, name="b", value=-value)
        builder.add("activations", **seen, role="output", call=0, **row)
        builder.add("gradients", **seen, variable="", call=0, **row)
        builder.add(
            "gradients",
            **seen,
            variable=f"v{index}",
            call=-1,
            **moved,
        )
        builder.add("updates", **seen, variable=f"v{index}", ratio=abs(value), **moved)
        builder.add("batch", batch=0, name=f"x{index}", role="x", **moved)
        for sample, low in enumerate(ENDS):
            here = {"batch": 0, "name": f"x{index}", "role": "x", "sample": sample, "nonfinite": 0}
            builder.add("samples", **here, min=low, max=value)
        builder.add("sample_losses", step=0, name="y", sample=index, value=value)
        builder.add(
            "trials", changed="a", breadth=index % 5, outcome="finite", detail="b",
            steps=2**63 - 1 if index % 2 else -1,
        )  # fmt: skip
        builder.add(
            "chain", step=0, op=0, link=index, what="batch", name="x", followed=True, value=value,
            ordinary_low=0.0 if index % 2 else abs(value), ordinary_high=abs(value), **moved,
        )  # fmt: skip
    along(builder, 0, list(ENDS))
    went(builder, list(ENDS))
    return builder.build()


@pytest.fixture(scope="module")
def pictures() -> dict[str, tuple[bytes, str]]:
    trace = diverged()
    return {f.name: (render_png(f, trace), render_svg(f, trace)) for f in all_figures()}


def figures() -> pytest.MarkDecorator:
    return pytest.mark.parametrize("figure", all_figures(), ids=lambda figure: figure.name)


def test_the_most_telling_picture_comes_first() -> None:
    assert [figure.name for figure in all_figures()] == [
        "magnitude-spectrum",
        "history",
        "trials",
        "chain",
        "depth",
        "gradient-norm",
        "update-ratio",
        "loss",
        "loss-along-update",
        "batch-values",
        "sample-loss",
    ]


@figures()
def test_one_word_names_the_file_the_class_and_the_figure(figure: Figure) -> None:
    words = figure.name.split("-")
    assert type(figure).__module__ == f"divergence_doctor.figures.{'_'.join(words)}"
    assert type(figure).__name__ == "".join(word.capitalize() for word in words)


@figures()
def test_a_healthy_trace_can_be_drawn(figure: Figure) -> None:
    trace = healthy()
    assert figure.suits(trace)
    assert render_png(figure, trace, dpi=60).startswith(b"\x89PNG")


@figures()
def test_numbers_at_the_ends_of_float64_can_be_drawn(figure: Figure) -> None:
    trace = extreme()
    assert figure.suits(trace)
    assert figure.caption(trace)
    assert render_png(figure, trace, dpi=60).startswith(b"\x89PNG")


@figures()
def test_an_empty_trace_is_declined_politely(figure: Figure) -> None:
    empty = TraceBuilder().build()
    assert not figure.suits(empty)
    with pytest.raises(ValueError, match="nothing to draw"):
        render_svg(figure, empty)


@figures()
def test_a_table_without_a_needed_column_is_declined(figure: Figure) -> None:
    need = min(figure.needs)
    name, _, missing = need.partition("/")
    trace = healthy()
    table = trace.table(name)
    kept = {column: table[column] for column in table.columns if column != missing}
    reduced = Trace({name: type(table).from_arrays(name, kept)}, trace.context)
    assert not figure.suits(reduced)


@figures()
def test_needs_name_columns_that_the_schema_knows(figure: Figure) -> None:
    empty = TraceBuilder().build()
    for need in figure.needs:
        table, _, column = need.partition("/")
        assert column in empty.table(table)


@figures()
def test_a_png_is_small_enough_for_a_ticket(
    figure: Figure, pictures: dict[str, tuple[bytes, str]]
) -> None:
    assert len(pictures[figure.name][0]) < 300_000


@figures()
def test_an_svg_of_hostile_names_is_xml_that_may_stand_in_a_page(
    figure: Figure, pictures: dict[str, tuple[bytes, str]]
) -> None:
    svg = pictures[figure.name][1]
    assert svg.startswith("<svg ")
    root = ET.fromstring(svg)  # noqa: S314 - our own output, which is what is tested
    tags = {element.tag.rpartition("}")[2] for element in root.iter()}
    assert not tags & {"script", "style", "foreignObject", "metadata"}
    ids = [element.get("id") for element in root.iter() if element.get("id")]
    assert len(ids) == len(set(ids))
    assert all(name.startswith(f"{figure.name}-") for name in ids)
    for element in root.iter():
        for attribute, value in element.attrib.items():
            if attribute.endswith("href"):
                assert value.startswith((f"#{figure.name}-", "data:image/png;base64,"))
                assert value.startswith("data:") or value[1:] in ids
            assert not attribute.startswith("on")
            if "url(" in value:
                assert value.partition("url(#")[2].partition(")")[0] in ids


@figures()
def test_the_svg_carries_the_caption_for_those_who_cannot_see_it(
    figure: Figure, pictures: dict[str, tuple[bytes, str]]
) -> None:
    root = ET.fromstring(pictures[figure.name][1])  # noqa: S314 - our own output
    assert root.get("role") == "img"
    assert root.get("aria-label") == figure.caption(diverged())


@figures()
def test_a_caption_is_one_sentence_without_control_characters(figure: Figure) -> None:
    for trace in (healthy(), diverged()):
        caption = figure.caption(trace)
        assert caption.endswith(".")
        assert not [c for c in caption if unicodedata.category(c) in {"Cc", "Cf", "Cs", "Zl", "Zp"}]
        assert 20 < len(caption) < 700


def test_another_process_draws_the_same_bytes_and_never_imports_pyplot(
    pictures: dict[str, tuple[bytes, str]], tmp_path: Path
) -> None:
    script = tmp_path / "draw.py"
    script.write_text(
        "import hashlib, json, sys\n"
        f"sys.path.insert(0, {str(tmp_path)!r})\n"
        "from divergence_doctor.figures import all_figures, render_png, render_svg\n"
        "assert 'matplotlib' not in sys.modules\n"
        "from test_figure_again import diverged\n"
        "trace = diverged()\n"
        "seen = {f.name: [hashlib.sha256(render_png(f, trace)).hexdigest(),\n"
        "        hashlib.sha256(render_svg(f, trace).encode()).hexdigest()]\n"
        "        for f in all_figures()}\n"
        "bad = [m for m in ('matplotlib.pyplot', 'tensorflow', 'keras') if m in sys.modules]\n"
        "print(json.dumps([seen, bad]))\n"
    )
    (tmp_path / "test_figure_again.py").write_bytes(Path(__file__).read_bytes())
    # Settings of the user's own must not show in the picture.
    (tmp_path / "matplotlibrc").write_text("text.usetex: True\nlines.linewidth: 9\n")
    done = subprocess.run(
        [sys.executable, str(script)],
        capture_output=True,
        text=True,
        check=True,
        cwd=tmp_path,
        timeout=120,
    )
    seen, bad = json.loads(done.stdout)
    assert bad == []
    assert seen == {
        name: [hashlib.sha256(png).hexdigest(), hashlib.sha256(svg.encode()).hexdigest()]
        for name, (png, svg) in pictures.items()
    }


def test_only_what_the_trace_holds_is_offered() -> None:
    assert [figure.name for figure in suited_figures(training_trace(losses=(1.0,)))] == [
        "magnitude-spectrum",
        "depth",
        "gradient-norm",
        "update-ratio",
        "batch-values",
    ]


def test_figures_are_written_whole_under_their_names(tmp_path: Path) -> None:
    builder = TraceBuilder()
    for step, loss in enumerate((1.0, 2.0)):
        builder.add("steps", step=step, loss=loss)
    builder.add("batch", batch=0, name="x", role="x", **tensor([1.0, 2.0]))
    written = write_figures(builder.build(), tmp_path / "new" / "figures")
    assert [path.name for path in written] == ["loss.png", "batch-values.png"]
    assert sorted(path.name for path in written[0].parent.iterdir()) == [
        "batch-values.png",
        "loss.png",
    ]
    assert all(path.read_bytes().startswith(b"\x89PNG") for path in written)


def test_a_folder_that_is_a_file_is_refused_with_its_reason(tmp_path: Path) -> None:
    (tmp_path / "figures").write_text("not a folder")
    trace = training_trace()
    with pytest.raises(OutputError, match="cannot be written"):
        write_figures(trace, tmp_path / "figures")


def test_the_callers_matplotlib_settings_are_put_back() -> None:
    import matplotlib as mpl

    before = dict(mpl.rcParams)
    render_png(all_figures()[3], healthy(), dpi=40)
    assert dict(mpl.rcParams) == before
