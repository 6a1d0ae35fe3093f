"""Is a bundle what was handed over, to the bit, and private, and the newest few of its worker?"""

from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from itertools import pairwise

import ml_dtypes
import numpy as np
import pytest

from divergence_doctor.bundle import (
    Contents,
    Recorded,
    Variable,
    open_bundle,
    verify,
    write_bundle,
)
from tests.bundle._faults import Counting, Dribbling
from tests.bundle._made import HOST, START, at, contents, finals, partials, tiny

ARRAYS = {
    "plain": np.arange(24.0).reshape(2, 3, 4),
    "fortran": np.asfortranarray(np.arange(12, dtype=np.float32).reshape(3, 4)),
    "strided": np.arange(300, dtype=np.int64).reshape(30, 10)[::7, ::3],
    "scalar": np.array(3.5, np.float16),
    "empty": np.zeros((0, 5), np.float32),
    "flags": np.array([True, False, True]),
    "complex": np.array([1 + 2j, np.nan]),
    "nan": np.array([np.nan, np.inf, -np.inf, -0.0], np.float32),
    "swapped": np.arange(5, dtype=">f4"),
    "bfloat16": np.array([[1.5, np.nan, -np.inf]], ml_dtypes.bfloat16),
    "float8": np.array([0.5, -448.0], ml_dtypes.float8_e4m3fn),
    "int4": np.array([-8, 7], ml_dtypes.int4),
}


def held(*variables: Variable) -> Contents:
    return replace(tiny(), variables=variables)


@pytest.mark.parametrize("lazy", [False, True])
@pytest.mark.parametrize("name", ARRAYS)
def test_an_array_comes_back_to_the_bit_in_its_own_dtype(swift, name, lazy):
    array = ARRAYS[name]
    given = Variable(
        role="weight",
        path=f"layer/{name}",
        name=name,
        array=(lambda: array) if lazy else array,
        dtype=array.dtype.name,
    )

    path = write_bundle(swift, held(given))

    (stored,) = open_bundle(path).variables
    assert (stored.role, stored.path, stored.name) == ("weight", f"layer/{name}", name)
    assert stored.shape == array.shape
    loaded = stored.load()
    assert loaded.dtype == array.dtype.newbyteorder("=")
    assert loaded.astype(array.dtype).tobytes() == array.tobytes()
    assert verify(path) == ()


def test_bits_of_bfloat16_may_be_handed_over_as_integers(swift):
    bits = np.array([0x3FC0, 0x7F80], np.uint16)
    given = Variable(role="weight", path="w", name="w", array=bits, dtype="bfloat16")

    (stored,) = open_bundle(write_bundle(swift, held(given))).variables

    assert stored.load().dtype == ml_dtypes.bfloat16
    assert stored.load().astype(np.float32).tolist() == [1.5, np.inf]


def test_the_optimizer_is_written_last_and_everything_else_keeps_its_order(swift):
    path = write_bundle(swift, contents())

    opened = open_bundle(path)
    roles = [variable.role for variable in opened.variables]
    assert roles == ["weight"] * 4 + ["seed", "metric"] + ["optimizer"] * 8
    assert [one.path for one in opened.variables[:4]] == [f"dense_{n}/kernel" for n in range(4)]
    assert list(opened.files)[:4] == [
        "reason.json",
        "context.json",
        "history.json",
        "batches/00000041.npz",
    ]


def test_everything_but_arrays_comes_back_as_it_was_handed_over(bundle):
    opened = open_bundle(bundle)

    assert opened.reason["trigger"] == "non-finite-loss"
    assert opened.reason["loss"] == "NaN"
    assert opened.reason["learning_rate"] == 0.5
    assert opened.history["step"] == (39, 40, 41)
    assert opened.history["loss"][:2] == (1.0, float("inf"))
    assert np.isnan(opened.history["loss"][2])
    assert opened.manifest["snapshot_step"] == 40
    assert opened.manifest["written"]["host"] == HOST
    assert opened.manifest["dropped"] == []
    assert opened.manifest["data"] is True
    assert opened.model == {
        "config": {"class_name": "Functional"},
        "compile": {"optimizer": "adam"},
    }
    assert opened.generators == {"python": [3, [1, 2, 3], None], "numpy": None, "tf_global_seed": 5}
    assert opened.absent == ()


def test_batches_are_read_as_any_batch_is(bundle):
    from divergence_doctor.batches import read_batches

    opened = open_bundle(bundle)

    assert [batch.step for batch in opened.batches] == [40, 41]
    batches = read_batches([batch.path for batch in opened.batches])
    assert [float(batch.arrays["x"][0, 0]) for batch in batches] == [40.0, 41.0]
    assert list(batches[1].arrays) == ["x", "y"]


def test_texts_and_half_precision_are_stored_as_a_batch_can_hold_them(swift):
    arrays = {
        "x": np.array([b"a", b"word"], dtype=object),
        "y": np.array([[0.5, 2.0]], ml_dtypes.bfloat16),
        "x/name": np.array(["ä", "b"], dtype=object),
    }
    path = write_bundle(swift, replace(tiny(), batches=[Recorded(step=3, arrays=arrays)]))

    with np.load(open_bundle(path).batches[0].path, allow_pickle=False) as read:
        assert read["x"].tolist() == [b"a", b"word"]
        assert read["x/name"].tolist() == ["ä", "b"]
        assert read["y"].dtype == np.float32
        assert read["y"].tolist() == [[0.5, 2.0]]
    assert open_bundle(path).manifest["batches"][0]["dtypes"] == {"y": "bfloat16"}


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ([{"a": 1}], "ValueError: the array holds Python objects"),
        ([b"ends in zero\0"], "ValueError: one of the texts ends in a zero byte"),
    ],
)
def test_what_a_batch_cannot_hold_is_left_out_and_never_pickled(swift, value, why):
    arrays = {"x": np.array(value, dtype=object)}
    path = write_bundle(swift, replace(tiny(), batches=[Recorded(step=3, arrays=arrays)]))

    opened = open_bundle(path)
    assert opened.batches == ()
    assert opened.manifest["dropped"] == [
        {"what": "batch", "files": ["batches/00000003.npz"], "why": why}
    ]
    assert verify(path) == ()


def test_the_structure_of_nested_inputs_and_what_lies_before_the_snapshot_are_kept(swift):
    recorded = [
        Recorded(step=1, arrays={"x": np.ones(1)}, before_snapshot=True),
        Recorded(step=2, arrays={"x": np.ones(1)}, structure=[{"a": ["x", None]}]),
    ]

    opened = open_bundle(write_bundle(swift, replace(tiny(), batches=recorded)))

    assert [(one.step, one.structure, one.before_snapshot) for one in opened.batches] == [
        (1, None, True),
        (2, [{"a": ["x", None]}], False),
    ]


def test_without_data_no_batch_is_written_nor_fetched(swift):
    def fetch():
        raise AssertionError

    given = replace(tiny(), batches=[Recorded(step=1, arrays=fetch)])

    path = write_bundle(swift, given, data=False)

    opened = open_bundle(path)
    assert opened.manifest["data"] is False
    assert opened.batches == ()
    assert not (path / "batches").exists()
    assert opened.manifest["dropped"][0]["what"] == "data"


def test_only_the_owner_may_enter_or_read(bundle):
    assert stat.S_IMODE(bundle.stat().st_mode) == 0o700
    assert stat.S_IMODE(bundle.parent.stat().st_mode) == 0o700
    for path in bundle.rglob("*"):
        assert stat.S_IMODE(path.stat().st_mode) == (0o700 if path.is_dir() else 0o600), path


def test_every_json_is_strict(bundle):
    def no_constant(token):
        raise AssertionError(token)

    for path in bundle.glob("*.json"):
        text = path.read_text(encoding="ascii")
        assert isinstance(json.loads(text, parse_constant=no_constant), dict)


def test_every_file_is_on_the_disk_before_the_next_and_the_folder_before_its_name(swift):
    fs = Counting()

    write_bundle(swift, contents(), fs=fs)

    opened = [index for index, call in enumerate(fs.calls) if call == "open"]
    renamed = fs.calls.index("rename")
    # The first file opened is the reserve, which is there to be given back.
    for start, end in pairwise(opened[1:]):
        assert "fsync" in fs.calls[start:end]
    assert fs.calls[renamed - 2 : renamed] == ["open", "fsync"]
    assert fs.calls[renamed + 1 : renamed + 3] == ["open", "fsync"]


def test_a_system_that_writes_a_few_bytes_at_a_time_makes_the_same_bundle(swift):
    path = write_bundle(swift, contents(units=40), fs=Dribbling())

    assert verify(path) == ()


def test_the_name_says_when_where_and_who(swift):
    path = write_bundle(
        swift,
        tiny(),
        worker=3,
        sequence=2,
        host="gpu-01.site",
        now=datetime(2026, 1, 2, tzinfo=UTC),
    )

    head, _, pid = path.name.removesuffix("-2").rpartition("-")
    assert head == "crash-20260102T000000Z-gpu-01.site-w3"
    assert int(pid) > 0


@pytest.mark.parametrize("host", ["ü/../x\n", "a" * 300, "", ".", "con", "\udcff"])
@pytest.mark.parametrize("worker", [0, "chief/0", "w" * 300, "a-b", ""])
def test_any_host_and_worker_makes_a_plain_name(swift, host, worker):
    path = write_bundle(swift, tiny(), worker=worker, host=host, keep=1, now=at(0))
    second = write_bundle(swift, tiny(), worker=worker, host=host, keep=1, now=at(1))

    assert path.parent == swift
    assert len(second.name.encode()) < 256
    assert second.name.isascii()
    assert "/" not in second.name
    # The name is understood again: the older one has made room.
    assert finals(swift) == [second]


def test_a_name_that_is_taken_is_counted_up(swift):
    paths = [write_bundle(swift, tiny(), host=HOST, now=START, keep=9) for _ in range(3)]

    assert [path.name.rpartition("-")[2] for path in paths] == ["0", "1", "2"]
    assert [verify(path) for path in paths] == [(), (), ()]


def test_a_folder_that_is_missing_is_made_with_those_above_it(swift):
    path = write_bundle(swift / "a" / "b" / "c", tiny())

    assert verify(path) == ()


def test_a_folder_behind_a_link_is_as_good(swift):
    (swift / "real").mkdir()
    (swift / "link").symlink_to(swift / "real")

    path = write_bundle(swift / "link", tiny())

    assert verify(path) == ()
    assert finals(swift / "real")


@pytest.mark.parametrize("name", [b"x" * 255, "ä".encode() * 127, b"\xff\xfe", b"a\nb \x1b[2J"])
def test_a_folder_of_any_name_is_as_good(swift, name):
    assert verify(write_bundle(swift / os.fsdecode(name), tiny())) == ()


def test_where_the_folder_is_a_file_an_os_error_says_so(swift):
    (swift / "taken").write_text("x")

    with pytest.raises(OSError, match="taken"):
        write_bundle(swift / "taken", tiny())


def test_the_reason_stays_below_64_kb_whatever_it_is_given(swift):
    loop: dict[str, object] = {}
    loop["self"] = loop
    for more in ({"traceback": "ä" * 400_000}, {"more": "x" * 60_000, "and": ["y"] * 60_000}, loop):
        given = replace(tiny(), reason={"trigger": "exception", "message": "boom", **more})

        path = write_bundle(swift, given)

        assert (path / "reason.json").stat().st_size < 64 << 10
        assert open_bundle(path).reason["message"] == "boom"


def test_the_history_is_that_of_the_last_thousand_steps(swift):
    path = write_bundle(swift, replace(tiny(), history={"step": range(2_500)}))

    assert open_bundle(path).history["step"] == tuple(range(1_500, 2_500))


def test_what_json_cannot_hold_is_told_by_its_repr_and_costs_only_the_model(swift):
    given = replace(
        tiny(),
        manifest={"step": 0, "devices": [object, np.arange(2)], "loop": ("a", 1)},
        model={"config": object()},
    )

    opened = open_bundle(write_bundle(swift, given))

    assert opened.manifest["devices"] == ["<class 'object'>", [0, 1]]
    assert opened.manifest["loop"] == ["a", 1]
    assert opened.model is None
    assert opened.manifest["model"] == {
        "config": None,
        "why": "TypeError: object has no place in JSON",
    }


def test_a_config_with_numbers_that_are_not_finite_comes_back_with_them(swift):
    config = {"config": {"words": ["NaN"]}, "compile": {"optimizer": {"learning_rate": np.nan}}}

    opened = open_bundle(write_bundle(swift, replace(tiny(), model=config)))

    assert opened.model["config"] == {"words": ["NaN"]}
    assert np.isnan(opened.model["compile"]["optimizer"]["learning_rate"])


def test_what_cannot_be_encoded_costs_nothing_else(swift):
    loop: list[object] = []
    loop.append(loop)
    given = replace(
        tiny(),
        manifest={"step": 3, "devices": loop},
        generators={"numpy": loop},
        batches=[Recorded(step=3, arrays={"x": np.ones(2)}, structure=loop)],
    )

    path = write_bundle(swift, given)

    opened = open_bundle(path)
    assert verify(path) == ()
    assert [batch.step for batch in opened.batches] == [3]
    assert [one.path for one in opened.variables] == ["w"]
    assert [one["what"] for one in opened.manifest["dropped"]] == [
        "manifest",
        "structure",
        "generators",
    ]


def test_a_variable_that_cannot_be_had_is_left_out_alone_and_named(swift):
    def gone():
        raise MemoryError("no host memory")

    variables = [
        Variable(role="weight", path="a", name="a", array=np.ones(2), dtype="float64"),
        Variable(role="weight", path="b", name="b", array=gone, dtype="float32", shape=(9,)),
        Variable(role="weight", path="c", name="c", array=np.ones(2), dtype="string"),
        Variable(role="weight", path="d", name="d", array=np.ones(2), dtype="float32"),
    ]

    path = write_bundle(swift, held(*variables))

    opened = open_bundle(path)
    assert [one.path for one in opened.variables] == ["a"]
    assert opened.absent == ("b", "d")
    assert {(one["what"], *one["files"], one["why"]) for one in opened.manifest["dropped"]} == {
        ("variable", "state/00002.npy", "c is string"),
        ("weights", "state/00001.npy", "MemoryError: no host memory"),
        ("weights", "state/00003.npy", "ValueError: the array is float64, not float32"),
    }
    assert verify(path) == ()


def test_what_is_told_of_a_model_that_was_not_given_stays(swift):
    given = replace(tiny(), model=None, manifest={"model": {"config": None, "why": "a Lambda"}})

    opened = open_bundle(write_bundle(swift, given))

    assert opened.model is None
    assert opened.manifest["model"] == {"config": None, "why": "a Lambda"}


def test_a_dump_takes_no_more_memory_than_its_largest_array_and_64_mib(tmp_path, run):
    told = run("memory", tmp_path)

    assert told["total"] > 4 * told["largest"]
    assert told["writing"] < told["largest"] + (64 << 20)
    assert told["reading"] < told["largest"] + (64 << 20)


def test_writing_and_reading_import_neither_tensorflow_nor_keras_nor_h5py():
    code = (
        "import sys, divergence_doctor.bundle as b;"
        "print(sorted({'tensorflow', 'keras', 'h5py', 'ml_dtypes'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout.strip() == "[]"


def test_nothing_is_left_beside_the_bundle(bundle):
    assert partials(bundle.parent) == []
    assert [path.name for path in bundle.parent.iterdir()] == [bundle.name]
    assert not (bundle / ".reserve").exists()
