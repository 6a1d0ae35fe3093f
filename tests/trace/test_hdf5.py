"""Does a trace come back as it was written, and is everything else refused with its reason?"""

from __future__ import annotations

import json
import math
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import h5py
import numpy as np
import pytest
import xarray as xr
from hypothesis import given, settings
from hypothesis import strategies as st

from divergence_doctor.errors import (
    DoctorError,
    NotFoundError,
    OutputError,
    RefusedError,
    UsageError,
)
from divergence_doctor.trace import Trace, TraceBuilder, hdf5
from divergence_doctor.trace.schema import EXPONENT_BINS, TABLES
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

if TYPE_CHECKING:
    from collections.abc import Callable


def sample() -> Trace:
    """Return a trace with rows in most tables, NaN, infinities and names in several scripts."""
    x = np.random.default_rng(0).normal(size=(8, 4))
    x[3, 1] = math.nan
    return training_trace(
        losses=(2.5, math.inf, math.nan),
        layers=("encodeur/größe", "解码器", "dense 🙂"),
        x=x,
        events=(SyntheticEvent("Log", inputs=([0.0, 1e-40],), source="losses.py:41"),),
        trials=({"name": "lower-rate", "outcome": "finite", "seconds": 1.5},),
        context={"fidelity": {"notes": ["für alle"], "ratio": 0.5, "unknown": None}},
    )


@pytest.fixture
def path(tmp_path: Path) -> Path:
    sample().save(tmp_path / "trace.h5")
    return tmp_path / "trace.h5"


def assert_equal(found: Trace, expected: Trace) -> None:
    assert found.context == expected.context
    for name, spec in TABLES.items():
        one, other = found.table(name), expected.table(name)
        assert len(one) == len(other), name
        for column in spec.all_columns():
            assert one[column.name].dtype == other[column.name].dtype, (name, column.name)
            np.testing.assert_array_equal(one[column.name], other[column.name])


# ---------------------------------------------------------------------- there and back


def test_a_trace_comes_back_as_it_was_written(path: Path) -> None:
    assert_equal(Trace.open(path), sample())
    assert_equal(Trace.open(str(path)), sample())


def test_an_empty_trace_comes_back(tmp_path: Path) -> None:
    Trace({}, {}).save(tmp_path / "trace.h5")
    found = Trace.open(tmp_path / "trace.h5")
    assert found.outcome == "inconclusive"
    assert_equal(found, Trace({}, {}))


NUMBERS = st.floats() | st.just(math.nan)
TEXT = st.text(st.characters(codec="utf-8", categories=["L", "N", "P", "S", "Zs"]), max_size=30)


@given(
    st.lists(st.tuples(st.integers(-(2**63), 2**63 - 1), NUMBERS, st.booleans(), TEXT), max_size=6)
)
@settings(max_examples=10, deadline=None)
def test_any_row_comes_back(rows: list[tuple[int, float, bool, str]]) -> None:
    builder = TraceBuilder()
    for step, loss, skipped, raised in rows:
        builder.add("steps", step=step, loss=loss, skipped=skipped, raised=hdf5.clean(raised))
    place = Path(os.environ["PYTEST_TRACE"])
    builder.build().save(place)
    assert_equal(Trace.open(place), builder.build())


@pytest.fixture(autouse=True)
def _place(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_TRACE", str(tmp_path_factory.mktemp("any") / "trace.h5"))


def test_many_rows_are_packed_and_come_back(tmp_path: Path) -> None:
    trace = training_trace(losses=[1.0] * 100, layers=[f"dense_{i}" for i in range(5)])
    trace.save(tmp_path / "trace.h5")
    with h5py.File(tmp_path / "trace.h5") as file:
        column = file["activations/mean"]
        assert (column.compression, column.shuffle, column.fletcher32) == ("gzip", True, True)
    assert_equal(Trace.open(tmp_path / "trace.h5"), trace)


def test_the_same_trace_gives_the_same_bytes(tmp_path: Path) -> None:
    sample().save(tmp_path / "one.h5")
    sample().save(tmp_path / "two.h5")
    assert (tmp_path / "one.h5").read_bytes() == (tmp_path / "two.h5").read_bytes()


def test_what_was_read_writes_the_same_bytes_again(path: Path, tmp_path: Path) -> None:
    Trace.open(path).save(tmp_path / "again.h5")
    assert (tmp_path / "again.h5").read_bytes() == path.read_bytes()


def test_columns_that_the_schema_does_not_know_come_back(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.add("steps", step=0, temperature=0.5, note="x", tries=3, lucky=True)
    builder.build().save(tmp_path / "trace.h5")
    row = Trace.open(tmp_path / "trace.h5").table("steps").row(0)
    assert (row["temperature"], row["note"], row["tries"], row["lucky"]) == (0.5, "x", 3, True)


# ---------------------------------------------------------------------- other readers


def test_it_opens_in_xarray(path: Path) -> None:
    with xr.open_dataset(path, engine="h5netcdf", group="activations") as data:
        assert dict(data.sizes) == {"row": 9, "exponent": EXPONENT_BINS}
        assert data.layer.values[:3].tolist() == ["encodeur/größe"] * 3
        assert data["l2"].attrs["long_name"].startswith("Euclidean norm")
        assert data.exponents.dims == ("row", "exponent")
    with xr.open_dataset(path, engine="h5netcdf", group="steps") as data:
        assert data.loss_finite.dtype == bool
        assert data.loss_finite.values.tolist() == [True, False, False]
        assert data.loss.values[:2].tolist() == [2.5, math.inf]
        assert data.seconds.attrs["units"] == "s"
    with xr.open_dataset(path, engine="h5netcdf") as data:
        assert data.exponent.values[[0, -1]].tolist() == [-150, 128]
        assert data.attrs["encoding-type"] == "divergence-doctor/trace"


def test_every_group_opens_in_xarray(path: Path) -> None:
    with xr.open_datatree(path, engine="h5netcdf") as tree:
        assert set(tree.children) == set(TABLES)
        for name, spec in TABLES.items():
            columns = {column.name for column in spec.all_columns()}
            assert set(tree[name].variables) - {"row", "exponent"} == columns


def test_any_viewer_can_show_every_dataset(path: Path) -> None:
    """What h5web and its like show: plain numbers and text, with scales for their axes."""

    def check(name: str, item: Any) -> None:
        if not isinstance(item, h5py.Dataset) or name == "context":
            return
        text = h5py.check_string_dtype(item.dtype)
        assert item.dtype.kind in "iuf" or (text is not None and text.encoding == "utf-8"), name
        assert item.dtype.fields is None
        assert item.ndim in (1, 2)
        assert not item.external
        assert not item.is_virtual
        if not item.is_scale:
            assert all(len(dimension) == 1 for dimension in item.dims), name
            assert item.dims[0][0] == item.parent["row"]

    with h5py.File(path) as file:
        file.visititems(check)


def test_it_opens_in_pandas(path: Path) -> None:
    frame = Trace.open(path).activations
    assert len(frame) == 9
    assert frame.layer.unique().tolist() == ["encodeur/größe", "解码器", "dense 🙂"]
    assert frame.exponents[0].sum() == 64


def test_it_opens_in_plain_h5py(path: Path) -> None:
    with h5py.File(path) as file:
        assert dict(file.attrs) == {
            "encoding-type": "divergence-doctor/trace",
            "encoding-version": 1,
            "created-by": f"divergence_doctor {_version()}",
            "outcome": "diverged",
        }
        assert json.loads(file["context"][()])["fidelity"]["notes"] == ["für alle"]
        assert set(file) == {"context", "exponent", *TABLES}
        steps = file["steps"]
        assert steps.attrs["encoding-type"] == "divergence-doctor/table"
        assert steps.attrs["row"] == "one replayed step"
        assert steps["row"].is_scale
        assert steps["loss"].dims[0][0] == steps["row"]
        assert file["weights/exponents"].dims[1][0] == file["exponent"]
        assert {steps[name].dtype.str for name in ("step", "loss", "skipped")} == {
            "<i8",
            "<f8",
            "|i1",
        }


def _version() -> str:
    from divergence_doctor import __version__

    return __version__


def test_the_context_is_strict_json(tmp_path: Path) -> None:
    trace = Trace({}, {"loss": math.nan, "norms": [math.inf, -math.inf, 1.0], "name": "\ud800"})
    trace.save(tmp_path / "trace.h5")
    with h5py.File(tmp_path / "trace.h5") as file:
        context = json.loads(file["context"][()], parse_constant=pytest.fail)
    assert context == {"loss": None, "norms": ["inf", "-inf", 1.0], "name": "\ud800"}
    assert Trace.open(tmp_path / "trace.h5").context["name"] == r"\ud800"


# ---------------------------------------------------------------------- lazy


def test_columns_are_not_read_before_they_are_asked_for(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read = []
    plain = h5py.Dataset.__getitem__

    def watched(dataset: h5py.Dataset, *args: Any, **options: Any) -> Any:
        read.append(dataset.name)
        return plain(dataset, *args, **options)

    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    trace = Trace.open(path)
    assert read == ["/context"]
    trace.table("layers")["layer"]
    trace.table("layers")["layer"]
    assert read == ["/context", "/layers/layer"]


def test_the_file_is_not_held_open(path: Path) -> None:
    trace = Trace.open(path)
    trace.table("steps")["loss"]
    held = [os.path.realpath(name) for name in Path("/proc/self/fd").iterdir()]
    assert str(path.resolve()) not in held


def test_a_trace_may_be_read_from_another_folder(
    path: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(path.parent)
    trace = Trace.open("trace.h5")
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    assert trace.table("steps")["step"].tolist() == [0, 1, 2]


@pytest.mark.parametrize("change", ["deleted", "replaced"])
def test_a_file_that_changed_meanwhile_is_not_mixed_with_another(path: Path, change: str) -> None:
    trace = Trace.open(path)
    loss = trace.table("steps")["loss"]
    path.unlink()
    if change == "replaced":
        training_trace(losses=(1.0, 1.0, 1.0)).save(path)
    assert trace.table("steps")["loss"] is loss
    with pytest.raises(RefusedError, match="not the file any more") as caught:
        trace.table("steps")["learning_rate"]
    assert caught.value.fix == "open the trace again"


# ---------------------------------------------------------------------- whole or absent


@pytest.mark.parametrize("where", ["missing/trace.h5", "a file/trace.h5", "folder", "x" * 300])
def test_a_place_that_cannot_be_written_leaves_nothing_behind(tmp_path: Path, where: str) -> None:
    (tmp_path / "a file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match="cannot be written"):
        sample().save(tmp_path / where)
    assert sorted(item.name for item in tmp_path.iterdir()) == ["a file", "folder"]
    assert list((tmp_path / "folder").iterdir()) == []


LIMITED = """
import resource, signal, sys
from divergence_doctor.errors import OutputError
from divergence_doctor.trace.synthetic import training_trace
trace = training_trace()
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
try:
    trace.save(sys.argv[1])
except OutputError as error:
    print(error)
"""


def test_a_disk_that_fills_up_leaves_the_old_file_and_nothing_else(path: Path) -> None:
    before = path.read_bytes()
    ran = subprocess.run(
        [sys.executable, "-c", LIMITED, str(path)], capture_output=True, text=True, check=True
    )
    assert ran.stdout.startswith("error[cannot-write-trace]:")
    assert "why: File too large" in ran.stdout
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["trace.h5"]


def test_a_write_that_is_interrupted_leaves_nothing_behind(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = path.read_bytes()

    def interrupted(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "fsync", interrupted)
    with pytest.raises(KeyboardInterrupt):
        training_trace().save(path)
    assert path.read_bytes() == before
    assert [item.name for item in path.parent.iterdir()] == ["trace.h5"]


def test_an_older_file_is_replaced(path: Path) -> None:
    training_trace(losses=(7.0,)).save(path)
    assert Trace.open(path).table("steps")["loss"].tolist() == [7.0]


def test_a_written_file_may_be_read_by_whom_the_system_says(tmp_path: Path) -> None:
    old = os.umask(0o027)
    try:
        training_trace().save(tmp_path / "trace.h5")
    finally:
        os.umask(old)
    assert (tmp_path / "trace.h5").stat().st_mode & 0o777 == 0o640


# ---------------------------------------------------------------------- refused


@pytest.mark.parametrize("where", ["nowhere.h5", "", "x" * 5000, "with\0nul"])
def test_what_is_not_there_is_not_found(tmp_path: Path, where: str) -> None:
    with pytest.raises(NotFoundError, match="there is no trace"):
        Trace.open(f"{tmp_path}/{where}")


@pytest.mark.parametrize("content", [b"", b"\x89HDF\r\n\x1a\n", b"PK\x03\x04", b"a" * 10_000])
def test_what_is_no_hdf5_is_refused(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "trace.h5").write_bytes(content)
    with pytest.raises(RefusedError, match="damaged, or no HDF5 file"):
        Trace.open(tmp_path / "trace.h5")


def _external(file: h5py.File) -> None:
    del file["steps/loss"]
    file["steps"].create_dataset(
        "loss", (3,), np.float64, external=[("/etc/hostname", 0, h5py.h5f.UNLIMITED)]
    )


def _virtual(file: h5py.File) -> None:
    del file["steps/loss"]
    layout = h5py.VirtualLayout((3,), np.float64)
    layout[:] = h5py.VirtualSource("/etc/other.h5", "loss", (3,))
    file["steps"].create_virtual_dataset("loss", layout)


def _replace(name: str, data: Any, **options: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        del file[name]
        file.create_dataset(name, data=data, **options)

    return change


def _link(name: str, link: Any) -> Callable[[h5py.File], None]:
    def change(file: h5py.File) -> None:
        if name in file:
            del file[name]
        file[name] = link

    return change


def _attribute(name: str, value: Any) -> Callable[[h5py.File], None]:
    return lambda file: file.attrs.__setitem__(name, value)


def _bomb(file: h5py.File) -> None:
    for name in list(file["steps"]):
        del file["steps"][name]
    file["steps"].create_dataset("loss", (20_000_000,), np.float64, chunks=True, compression="gzip")


def _cycle(file: h5py.File) -> None:
    file["steps/inner"] = file["steps"]


def _many(file: h5py.File) -> None:
    group = file.create_group("more")
    for name in range(100):
        group[str(name)] = file["context"]


def _context(text: str) -> Callable[[h5py.File], None]:
    return _replace("context", text, dtype=h5py.string_dtype())


REFUSED: dict[str, tuple[str, Callable[[h5py.File], None]]] = {
    "a soft link as column": (
        "loss is a link to somewhere else",
        _link("steps/loss", h5py.SoftLink("/exponent")),
    ),
    "a soft link as table": (
        "events is a link to somewhere else",
        _link("events", h5py.SoftLink("/nowhere")),
    ),
    "an external link": (
        "more is a link to somewhere else",
        _link("more", h5py.ExternalLink("/etc/passwd", "/")),
    ),
    "external storage": ("/steps/loss keeps its data in another file", _external),
    "a virtual dataset": ("/steps/loss keeps its data in another file", _virtual),
    "lzf": (
        "/steps/loss is packed with an unusual filter",
        _replace("steps/loss", np.ones(3), chunks=(3,), compression="lzf"),
    ),
    "scaleoffset": (
        "/steps/ops is packed with an unusual filter",
        _replace("steps/ops", np.ones(3, int), chunks=(3,), scaleoffset=4),
    ),
    "more than it holds": ("/steps/loss declares 160,000,000 bytes, and holds 0", _bomb),
    "a group in itself": ("it holds more objects than a trace has", _cycle),
    "many objects": ("it holds more objects than a trace has", _many),
    "a longer column": (
        "the columns of steps differ in length",
        _replace("steps/loss", np.ones(4)),
    ),
    "a histogram of 3 bins": (
        "/weights/exponents is no histogram of 279 bins",
        _replace("weights/exponents", np.ones((9, 3), np.uint32)),
    ),
    "text for numbers": (
        "/steps/loss is no column of kind float",
        _replace("steps/loss", ["a", "b", "c"]),
    ),
    "numbers for text": (
        "/steps/raised is no column of kind str",
        _replace("steps/raised", np.ones(3)),
    ),
    "a matrix for a column": (
        "/steps/step is no column of kind int",
        _replace("steps/step", np.ones((3, 2), np.int64)),
    ),
    "a scalar for a column": (
        "steps holds a column without rows",
        _replace("steps/loss", 1.0),
    ),
    "a cube": ("/steps/loss has the shape (3, 1, 1)", _replace("steps/loss", np.ones((3, 1, 1)))),
    "a column for a table": ("steps is no table", _replace("steps", 1.0)),
    "records": (
        "it is damaged, or no HDF5 file (TypeError)",
        _replace("steps/loss", np.ones(3, [("a", "f8")])),
    ),
    "a named type": (
        "it holds something that is neither table nor column",
        _link("committed", np.dtype("f8")),
    ),
    "another type of file": (
        "it is an HDF5 file, but no trace of the doctor",
        _attribute("encoding-type", "anndata"),
    ),
    "no type": (
        "it is an HDF5 file, but no trace of the doctor",
        lambda file: file.attrs.__delitem__("encoding-type"),
    ),
    "version 0": (
        "it does not say in which version of the format it is",
        _attribute("encoding-version", 0),
    ),
    "a version in words": (
        "it is damaged, or no HDF5 file (ValueError)",
        _attribute("encoding-version", "one"),
    ),
    "numbers for the context": (
        "its context is no text, or too long",
        _replace("context", np.arange(5)),
    ),
    "torn JSON": ("its context is no JSON", _context("{")),
    "deep JSON": ("its context is no JSON", _context("[" * 200_000)),
    "a list for the context": ("its context is no JSON object", _context("[1]")),
    "another outcome": (
        "its context names an outcome that there is not",
        _context('{"outcome": "<b>"}'),
    ),
    "a list for the outcome": (
        "its context names an outcome that there is not",
        _context('{"outcome": ["healthy"]}'),
    ),
    "text for the failing step": (
        "its context names a failing step that is no step",
        _context('{"failing_step": "1"}'),
    ),
    "a failing step below zero": (
        "its context names a failing step that is no step",
        _context('{"failing_step": -1}'),
    ),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_a_trace_never_holds_is_refused_with_its_reason(
    path: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    why, change = REFUSED[what]
    with h5py.File(path, "a") as file:
        change(file)
    monkeypatch.setattr(hdf5, "_OBJECTS", 600)
    with pytest.raises(RefusedError) as caught:
        Trace.open(path)
    assert caught.value.why == why
    assert "\n" not in caught.value.message + caught.value.fix


def test_a_newer_version_is_refused_with_the_command_that_upgrades(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file.attrs["encoding-version"] = 2
    with pytest.raises(UsageError, match="trace version 2") as caught:
        Trace.open(path)
    assert caught.value.fix == "pip install --upgrade divergence_doctor"


def test_one_long_text_named_by_every_row_does_not_fill_the_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    builder = TraceBuilder()
    for step in range(200):
        builder.add("steps", step=step, raised="ab" * 100_000 if step == 0 else "")
    path = tmp_path / "trace.h5"
    builder.build().save(path)
    with h5py.File(path) as file:
        place = file["steps/raised"].id.get_offset()
    # Every row refers to the text of the first one.
    content = bytearray(path.read_bytes())
    content[place : place + 16 * 200] = content[place : place + 16] * 200
    path.write_bytes(content)
    monkeypatch.setattr(hdf5, "_TEXT_AT_ONCE", path.stat().st_size * 7)
    sizes = []
    plain = h5py.Dataset.__getitem__

    def watched(dataset: h5py.Dataset, *args: Any, **options: Any) -> Any:
        values = plain(dataset, *args, **options)
        sizes.append(len(values))
        return values

    trace = Trace.open(path)
    monkeypatch.setattr(h5py.Dataset, "__getitem__", watched)
    (text,) = set(trace.table("steps")["raised"])
    assert text.startswith("abab")
    assert len(text) == 4_000
    assert max(sizes) == 7
    # What fits is read at once.
    sizes.clear()
    monkeypatch.setattr(hdf5, "_TEXT_AT_ONCE", 200 * 200_000)
    assert set(Trace.open(path).table("steps")["raised"]) == {text}
    assert max(sizes) == 200


def test_a_column_with_too_much_text_is_refused(
    path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hdf5, "_TEXT_IN_ALL", 20)
    with pytest.raises(RefusedError) as caught:
        Trace.open(path).table("activations")["layer"]
    assert caught.value.why == "layer holds more text than a trace has"


def test_every_string_of_a_stranger_is_cleaned(tmp_path: Path) -> None:
    path = tmp_path / "trace.h5"
    sample().save(path)
    evil = "\x1b[2J\u202e" + "x" * 10_000
    texts = h5py.string_dtype()
    with h5py.File(path, "a") as file:
        for name in ("steps/raised", "events/stack"):
            file[name][0] = "one\ntwo\x1b"
        file["layers/layer"][0] = evil
        file["layers/layer"][1] = b"\xff\xfe"
        del file["context"]
        file.create_dataset("context", data=json.dumps({evil: [evil, {"a": evil}]}), dtype=texts)
    trace = Trace.open(path)
    assert trace.table("steps")["raised"][0] == "one\ntwo\\x1b"
    assert trace.table("events")["stack"][0] == "one\ntwo\\x1b"
    first, second, _ = trace.table("layers")["layer"]
    assert first.startswith(r"\x1b[2J\u202exxx")
    assert len(first) == 4_000
    assert second == r"\xff\xfe"
    assert "\x1b" not in repr(trace.context)
    assert all(text.isprintable() for text in trace.context)


def test_json_in_a_column_is_not_cut(tmp_path: Path) -> None:
    samples = list(range(10_000))
    trace = training_trace(events=(SyntheticEvent("Log", samples=samples),))
    trace.save(tmp_path / "trace.h5")
    found = Trace.open(tmp_path / "trace.h5").table("events")["samples"][0]
    assert json.loads(found) == samples


# ---------------------------------------------------------------------- tolerant


def test_what_is_missing_holds_the_missing_values(path: Path) -> None:
    with h5py.File(path, "a") as file:
        for name in ("steps/loss", "steps/ops", "steps/skipped", "steps/raised", "steps/row"):
            del file[name]
        del file["weights/exponents"], file["events"], file["context"], file["exponent"]
    trace = Trace.open(path)
    row = trace.table("steps").row(2)
    assert (row["step"], row["ops"], row["skipped"], row["raised"]) == (2, -1, False, "")
    assert math.isnan(row["loss"])
    assert trace.table("weights")["exponents"].sum() == 0
    assert len(trace.table("events")) == 0
    assert trace.outcome == "inconclusive"


def test_what_a_later_writer_added_is_passed_over(path: Path) -> None:
    with h5py.File(path, "a") as file:
        file["more/inner/data"] = np.ones((2, 2))
        file["steps/cube"] = np.ones((3, 2))
        file["steps/\x1b[2J"] = np.ones(3)
        file["steps/notes/one"] = np.ones(3)
        file["steps/extra"] = np.arange(3)
    trace = Trace.open(path)
    known = [column.name for column in TABLES["steps"].all_columns()]
    assert list(trace.table("steps").columns) == [*known, "extra"]
    assert trace.table("steps")["extra"].tolist() == [0, 1, 2]
    assert trace.table("steps")["loss"][0] == 2.5


def test_other_widths_and_byte_orders_are_read(path: Path) -> None:
    with h5py.File(path, "a") as file:
        _replace("steps/loss", np.array([1, 2, 3], ">f4"))(file)
        _replace("steps/step", np.array([0, 1, 2], np.uint8))(file)
        _replace("steps/raised", np.array([b"a", b"b", b"c"]))(file)
    table = Trace.open(path).table("steps")
    assert table["loss"].tolist() == [1.0, 2.0, 3.0]
    assert table["loss"].dtype == np.float64
    assert table["step"].dtype == np.int64
    assert table["raised"].tolist() == ["a", "b", "c"]


# ---------------------------------------------------------------------- damaged

DAMAGED = """
import resource, sys
import numpy as np
from divergence_doctor.errors import DoctorError
from divergence_doctor.trace import Trace
from divergence_doctor.trace.schema import TABLES
whole = open(sys.argv[1], "rb").read()
path = sys.argv[1] + ".damaged"
def look(content):
    with open(path, "wb") as stream:
        stream.write(content)
    try:
        trace = Trace.open(path)
        for name in TABLES:
            for column in trace.table(name).columns:
                trace.table(name)[column]
        return "read"
    except DoctorError:
        return "refused"
"""

TRUNCATED = """
for tenth in range(10):
    assert look(whole[: len(whole) * tenth // 10]) == "refused", tenth
for cut in (1, 8, 512):
    assert look(whole[:-cut]) == "refused", cut
"""

FLIPPED = """
generator = np.random.default_rng(0)
seen = set()
for place in [*range(0, 96, 8), *generator.integers(0, len(whole), 16)]:
    damaged = bytearray(whole)
    damaged[place] ^= 1 << int(generator.integers(8))
    seen.add(look(bytes(damaged)))
assert seen == {"read", "refused"}, seen
"""


@pytest.mark.parametrize("damage", [TRUNCATED, FLIPPED], ids=["truncated", "bits flipped"])
def test_a_damaged_file_is_read_or_refused_and_never_a_traceback(path: Path, damage: str) -> None:
    # In a process of its own: damage may crash the HDF5 library itself.
    code = DAMAGED + damage
    ran = subprocess.run(
        [sys.executable, "-c", code, str(path)], capture_output=True, text=True, check=False
    )
    assert ran.returncode == 0, ran.stderr


def test_damage_in_a_packed_column_is_noticed(tmp_path: Path) -> None:
    path = tmp_path / "trace.h5"
    trace = training_trace(losses=list(np.random.default_rng(0).normal(size=1_000)), layers=("a",))
    trace.save(path)
    with h5py.File(path) as file:
        info = file["steps/loss"].id.get_chunk_info(0)
    content = bytearray(path.read_bytes())
    content[info.byte_offset + info.size // 2] ^= 0x10
    path.write_bytes(content)
    with pytest.raises(DoctorError, match="cannot be read as a trace"):
        Trace.open(path).table("steps")["loss"]


def test_reading_needs_neither_tensorflow_nor_keras(path: Path) -> None:
    code = (
        "import sys; from divergence_doctor.trace import Trace; Trace.open(sys.argv[1]);"
        "sys.exit(bool({'tensorflow', 'keras', 'pandas'} & set(sys.modules)))"
    )
    ran = subprocess.run([sys.executable, "-c", code, str(path)], check=False)
    assert ran.returncode == 0


def test_text_of_several_lines_keeps_its_lines(tmp_path: Path) -> None:
    builder = TraceBuilder()
    builder.add("steps", raised="one\ntwo", raised_stack="a.py:1\nb.py:2", raised_op="one\ntwo")
    builder.add("events", stack="a.py:1\nb.py:2", message="one\ntwo")
    builder.build().save(tmp_path / "trace.h5")
    trace = Trace.open(tmp_path / "trace.h5")
    step, event = trace.table("steps").row(0), trace.table("events").row(0)
    assert (step["raised"], step["raised_stack"]) == ("one\ntwo", "a.py:1\nb.py:2")
    assert (event["message"], event["stack"]) == ("one\ntwo", "a.py:1\nb.py:2")
    assert step["raised_op"] == r"one\x0atwo"
