"""Does TensorBoard read what was exported, as its own reader reads it?"""

from __future__ import annotations

import math
import re
from pathlib import Path

import markdown
import numpy as np
import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
from tensorboard.util import tensor_util

from divergence_doctor.exports import all_exports, write_export
from divergence_doctor.exports.tensorboard import FILENAME
from divergence_doctor.trace import TraceBuilder
from divergence_doctor.trace.schema import EXPONENT_BINS
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

TABLE = ("table", "thead", "tbody", "tr", "th", "td")
HOSTILE = "x![a](http://tracker/x.png)<script>`b`|c<img src=http://tracker/x.png>"


def trace(**fields):
    event = SyntheticEvent("Log", layer="dense_1", inputs=([0.0],), outputs=([-np.inf],))
    return training_trace(**{"losses": (0.9, 0.8, math.nan), "events": (event,), **fields})


@pytest.fixture(scope="module")
def read(tmp_path_factory):
    folder = tmp_path_factory.mktemp("logs")
    write_export(all_exports()["tensorboard"], trace(), folder)
    accumulator = EventAccumulator(str(folder), size_guidance={"tensors": 0})
    accumulator.Reload()
    return accumulator


def rendered(text):
    """Return Markdown as TensorBoard renders it, before it is sanitized."""
    return markdown.markdown(text, extensions=["tables", "fenced_code"])


def series(read, tag):
    return [(e.step, tensor_util.make_ndarray(e.tensor_proto)) for e in read.Tensors(tag)]


def plugin(read, tag):
    return read.SummaryMetadata(tag).plugin_data.plugin_name


def test_the_loss_is_a_scalar_over_the_steps(read):
    assert plugin(read, "steps/loss") == "scalars"
    steps, losses = zip(*series(read, "steps/loss"), strict=True)
    assert steps == (0, 1, 2)
    np.testing.assert_allclose(losses, [0.9, 0.8, math.nan], rtol=1e-6)


def test_a_curve_of_nothing_is_left_out(read):
    assert "steps/learning_rate" in read.Tags()["tensors"]
    assert "steps/loss_scale" not in read.Tags()["tensors"]


@pytest.mark.parametrize(
    "tag",
    [
        "outputs_absmax/dense",
        "outputs_nonfinite/dense_1",
        "gradients_l2/dense/kernel",
        "weights_absmax/dense/kernel",
        "updates_ratio/dense/kernel",
    ],
)
def test_every_layer_and_variable_has_its_curves(read, tag):
    assert plugin(read, tag) == "scalars"
    assert [step for step, _ in series(read, tag)] == [0, 1, 2]


def test_the_figures_of_a_curve_are_those_of_the_trace(read):
    gradients = trace().table("gradients").select(variable="dense/kernel")
    found = [value for _, value in series(read, "gradients_l2/dense/kernel")]
    np.testing.assert_allclose(found, gradients["l2"], rtol=1e-6)


def test_a_histogram_has_a_bar_for_each_binade(read):
    outputs = trace().table("activations").select(layer="dense", step=0)
    counts = outputs["exponents"][0]
    assert plugin(read, "outputs_log2/dense") == "histograms"

    _, bars = series(read, "outputs_log2/dense")[0]
    used = np.flatnonzero(counts)
    assert bars.shape == (used[-1] - used[0] + 1, 3)
    assert bars[:, 2].sum() == counts.sum()
    assert (bars[:, 1] - bars[:, 0] == 1).all()
    assert bars[0, 0] == used[0] - 150
    assert len(counts) == EXPONENT_BINS


def test_the_figures_are_pictures_with_their_size(read):
    tags = [tag for tag in read.Tags()["tensors"] if tag.startswith("figures/")]
    assert "figures/loss" in tags
    for tag in tags:
        assert plugin(read, tag) == "images"
        _, (width, height, png) = series(read, tag)[0]
        assert png.startswith(b"\x89PNG")
        assert (int.from_bytes(png[16:20]), int.from_bytes(png[20:24])) == (int(width), int(height))
        assert read.SummaryMetadata(tag).summary_description


def test_the_report_is_text(read):
    assert plugin(read, "diagnosis/report") == "text"
    _, text = series(read, "diagnosis/report")[0]
    html = rendered(text.item().decode())
    assert "log-of-zero" in html


def test_the_same_trace_gives_the_same_bytes(read):
    (content,) = all_exports()["tensorboard"].render(trace()).values()
    assert content == Path(read.path, FILENAME).read_bytes()


def test_what_is_beyond_float32_is_infinite_and_no_warning(tmp_path):
    builder = TraceBuilder()
    builder.add("steps", step=0, loss=1e200)
    write_export(all_exports()["tensorboard"], builder.build(), tmp_path)
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    assert series(accumulator, "steps/loss")[0][1] == math.inf


def test_neither_a_description_nor_the_report_is_markup(tmp_path):
    event = SyntheticEvent(HOSTILE, layer=HOSTILE, source=HOSTILE, outputs=([-np.inf],))
    trials = (
        {"name": "control", "breadth": 0, "outcome": "still-fails", "changed": HOSTILE},
        {"name": "safe-op", "cause": "log-of-zero", "outcome": "finite", "detail": HOSTILE},
    )
    hostile = trace(
        layers=("dense", HOSTILE),
        losses=(math.nan,),
        gradient_l2=(0.1, 5.0),
        events=(event,),
        trials=trials,
    )
    write_export(all_exports()["tensorboard"], hostile, tmp_path)
    accumulator = EventAccumulator(str(tmp_path))
    accumulator.Reload()
    told = [
        accumulator.SummaryMetadata(tag).summary_description
        for tag in accumulator.Tags()["tensors"]
        if tag.startswith("figures/")
    ]
    _, report = series(accumulator, "diagnosis/report")[0]
    named = [text for text in (*told, report.item().decode()) if "tracker" in text]
    assert len(named) >= 2
    for text in named:
        html = rendered(text)
        assert set(re.findall(r"<(\w+)", html)) <= {"p", "h2", "h3", "pre", "code", *TABLE}
        assert "tracker/x.png" in html
