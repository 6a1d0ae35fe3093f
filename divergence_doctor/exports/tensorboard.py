"""How does a trace look in TensorBoard? An event file, written without TensorFlow.

Scalars for every layer and variable over the steps, histograms of their magnitudes, the figures as
images and the report as text. TensorBoard's own package makes the records.
"""

from __future__ import annotations

import io
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor._optional import optional
from divergence_doctor.exports._export import Export
from divergence_doctor.exports._python_markdown import as_text, verdict
from divergence_doctor.trace.labelled import tensor_labels
from divergence_doctor.trace.schema import EXPONENT_MIN

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from divergence_doctor.trace import Table, Trace

#: TensorBoard finds event files by the word in the middle; the number would be the time.
FILENAME: Final = "events.out.tfevents.0000000000.divergence-doctor"
_VERSION: Final = "brain.Event:2"
_STEPS: Final = (
    "loss", "learning_rate", "loss_scale", "gradient_norm", "update_norm", "weight_norm",
)  # fmt: skip
#: Statistics that become scalars, by table; what the bars of the histograms stand for.
_SCALARS: Final = ("absmax", "l2", "nonfinite")
_LOG2: Final = "log2 of the magnitudes of the finite values other than zero, all in one binade"


@final
class TensorBoard(Export):
    """One event file for a folder of logs."""

    name: ClassVar[str] = "tensorboard"
    title: ClassVar[str] = "an event file: scalars and histograms by layer, figures, the report"

    def render(self, trace: Trace) -> Mapping[str, bytes]:
        """Return the event file. Its times are the seconds since the replay began.

        Raises:
            MissingPackageError: the package ``tensorboard`` is not installed.
        """
        records = _Records(trace)
        for step, value in _everything(trace, records):
            records.add(step, value)
        return {FILENAME: records.content()}


@final
class _Records:
    """The records of one event file, and TensorBoard's makers of what stands in them."""

    def __init__(self, trace: Trace) -> None:
        def need(module: str) -> Any:
            return optional(f"tensorboard.{module}", pip="tensorboard", to="to write event files")

        self._event = need("compat.proto.event_pb2").Event
        self._summary = need("compat.proto.summary_pb2").Summary
        self._tensor = need("util.tensor_util").make_tensor_proto
        self._scalar = need("plugins.scalar.summary_v2").scalar_pb
        self.text: Final = need("plugins.text.summary_v2").text_pb
        self._histogram = need("plugins.histogram.metadata")
        self._image = need("plugins.image.metadata")
        steps = trace.table("steps")
        seconds = np.nan_to_num(np.asarray(steps["seconds"], dtype=np.float64), nan=0.0)
        self._times = dict(zip(steps["step"].tolist(), np.cumsum(seconds).tolist(), strict=True))
        self._stream = io.BytesIO()
        self._writer = need("summary.writer.record_writer").RecordWriter(self._stream)
        self._writer.write(self._event(file_version=_VERSION).SerializeToString())

    def add(self, step: int, summary: Any) -> None:
        """Append a summary that was seen in a step."""
        event = self._event(step=step, wall_time=self._times.get(step, 0.0), summary=summary)
        self._writer.write(event.SerializeToString())

    def scalar(self, tag: str, value: float) -> Any:
        """Return a scalar. TensorBoard holds them in float32: what is beyond it is Inf there."""
        with np.errstate(over="ignore"):
            return self._scalar(tag, value)

    def histogram(self, tag: str, counts: NDArray[np.uint32]) -> Any:
        """Return a histogram whose bars are the binades of the counts, the empty ends left out."""
        used = np.flatnonzero(counts)
        bins = np.arange(used[0], used[-1] + 1)
        left = (bins + EXPONENT_MIN).astype(np.float64)
        rows = np.stack([left, left + 1, counts[bins].astype(np.float64)], axis=1)
        meta = self._histogram.create_summary_metadata(display_name=None, description=_LOG2)
        return self._one(tag, meta, self._tensor(rows, dtype=np.float64))

    def image(self, tag: str, png: bytes, width: int, height: int, description: str) -> Any:
        """Return a picture that is a PNG already."""
        meta = self._image.create_summary_metadata(
            display_name=None, description=description, converted_to_tensor=True
        )
        strings = np.array([str(width).encode(), str(height).encode(), png], dtype=np.object_)
        return self._one(tag, meta, self._tensor(strings, dtype=np.object_))

    def _one(self, tag: str, metadata: Any, tensor: Any) -> Any:
        summary = self._summary()
        summary.value.add(tag=tag, metadata=metadata, tensor=tensor)
        return summary

    def content(self) -> bytes:
        """Return the bytes of the file."""
        return self._stream.getvalue()


def _everything(trace: Trace, make: _Records) -> Iterator[tuple[int, Any]]:
    yield from _texts(trace, make)
    yield from _steps(trace, make)
    for group, table, labels in _tensors(trace):
        yield from _of_tensors(group, table, labels, make)
    updates = trace.table("updates")
    for row, ratio in enumerate(updates["ratio"].tolist()):
        tag = f"updates_ratio/{updates['variable'][row]}"
        yield int(updates["step"][row]), make.scalar(tag, ratio)
    yield from _pictures(trace, make)


def _texts(trace: Trace, make: _Records) -> Iterator[tuple[int, Any]]:
    from divergence_doctor.diagnosis import diagnose
    from divergence_doctor.reporters import document

    told = document(trace, diagnose(trace))
    yield told.layers_step, make.text("diagnosis/report", verdict(told))


def _steps(trace: Trace, make: _Records) -> Iterator[tuple[int, Any]]:
    steps = trace.table("steps")
    for name in _STEPS:
        values = steps[name].tolist()
        # What was never known (a scale without loss scaling) has no curve.
        known = name == "loss" or not np.isnan(steps[name]).all()
        for step, value in zip(steps["step"].tolist(), values, strict=True):
            if known:
                yield step, make.scalar(f"steps/{name}", value)


def _tensors(trace: Trace) -> Iterator[tuple[str, Table, NDArray[Any]]]:
    """Yield the tables of tensors with what their curves are called and the name of each row."""
    outputs, gradients = trace.table("activations"), trace.table("gradients")
    yield "outputs", outputs, tensor_labels(outputs)
    of_layers = gradients.where(gradients["variable"] == "")
    yield "gradients_of_outputs", of_layers, tensor_labels(of_layers)
    of_variables = gradients.where(gradients["variable"] != "")
    yield "gradients", of_variables, of_variables["variable"]
    weights = trace.table("weights").select(when="before")
    yield "weights", weights, weights["variable"]
    yield "updates", trace.table("updates"), trace.table("updates")["variable"]


def _of_tensors(
    group: str, table: Table, labels: NDArray[Any], make: _Records
) -> Iterator[tuple[int, Any]]:
    bad = table["nan"].clip(0) + table["posinf"].clip(0) + table["neginf"].clip(0)
    columns = {"absmax": table["absmax"], "l2": table["l2"], "nonfinite": bad}
    for row, (step, label) in enumerate(zip(table["step"].tolist(), labels.tolist(), strict=True)):
        for name in _SCALARS:
            yield step, make.scalar(f"{group}_{name}/{label}", float(columns[name][row]))
        counts = table["exponents"][row]
        if counts.any():
            yield step, make.histogram(f"{group}_log2/{label}", counts)


def _pictures(trace: Trace, make: _Records) -> Iterator[tuple[int, Any]]:
    from divergence_doctor.figures import render_png, suited_figures

    step = trace.failing_step if trace.failing_step is not None else 0
    for figure in suited_figures(trace):
        png = render_png(figure, trace)
        # A PNG says its size in the two words after the header of its first chunk.
        width, height = (int.from_bytes(png[at : at + 4]) for at in (16, 20))
        told = as_text(figure.caption(trace))
        yield step, make.image(f"figures/{figure.name}", png, width, height, told)
