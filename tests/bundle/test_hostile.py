"""What can a bundle from a stranger, whose hashes are all right, do to its reader? Nothing."""

from __future__ import annotations

import io
import json
import random
import shutil
import struct
import sys
import tracemalloc
import zipfile
from contextlib import contextmanager

import numpy as np
import pytest

from divergence_doctor.bundle import open_bundle, salvage, verify
from divergence_doctor.errors import CheckpointError, DoctorError, RefusedError
from tests.bundle._forged import TAIL, manifest_of, put, put_json, put_manifest, sealed

FIRST = "state/00000.npy"


def assert_refused(path, *words: str) -> None:
    """Assert that it is refused by verify, by reading and by loading, in no memory."""
    tracemalloc.start()
    problems = verify(path)
    assert problems
    said = "\n".join(f"{problem.file}: {problem.says}" for problem in problems)
    for word in words:
        assert word in said
    with pytest.raises(RefusedError) as raised:
        load(path)
    assert raised.value.exit_status == 4
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 64 << 20
    assert said.isprintable() or "\n" in said


def load(path) -> None:
    """Open it and load every array."""
    for variable in open_bundle(path).variables:
        variable.load()


def files(path) -> list[dict[str, object]]:
    return manifest_of(path)["files"]


def changed(path, **members) -> None:
    put_manifest(path, manifest_of(path) | members)


def test_the_forger_makes_bundles_that_are_taken_for_whole(tiny_bundle):
    put_manifest(tiny_bundle, manifest_of(tiny_bundle))
    put_json(tiny_bundle, "reason.json", {"trigger": "requested", "message": "forged"})

    assert verify(tiny_bundle) == ()
    assert open_bundle(tiny_bundle).reason["message"] == "forged"


@pytest.mark.parametrize(
    "name",
    [
        "../secret.npy",
        "state/../../secret.npy",
        "/etc/hostname",
        "..",
        ".",
        "",
        "state/",
        "state//00000.npy",
        "a/b/c.npy",
        ".hidden",
        "state/.hidden",
        "manifest.json",
        "state\\..\\x",
        "new\nline",
        "nul\0",
        "\x1b[2J",
        "ä.npy",
        "x" * 200,
        7,
        None,
        ["reason.json"],
    ],
)
def test_a_manifest_that_names_what_is_not_inside_is_refused_and_nothing_is_read(
    tiny_bundle, name, audited
):
    (tiny_bundle.parent / "secret.npy").write_bytes((tiny_bundle / FIRST).read_bytes())
    listed = {"name": name, "bytes": 136, "sha256": "0" * 64}
    changed(tiny_bundle, files=[*files(tiny_bundle), listed])

    with audited(tiny_bundle):
        assert_refused(tiny_bundle, "manifest.json", "it lists a file of the name")


class Audit:
    """Tells what this process opens while it is asked to. A hook is there for good: only one."""

    def __init__(self) -> None:
        self.on = False
        self.opened: list[str] = []

    def hook(self, event: str, arguments: tuple[object, ...]) -> None:
        if self.on and event == "open":
            self.opened.append(str(arguments[0]))

    @contextmanager
    def __call__(self, bundle):
        """Fail where something is opened that does not lie in the bundle."""
        self.opened.clear()
        self.on = True
        try:
            yield
        finally:
            self.on = False
        known = {bundle.name, *(file.name for file in bundle.rglob("*"))}
        names = [name.rpartition("/")[2] for name in self.opened if not name.isdigit()]
        assert "manifest.json" in names
        assert [name for name in names if name not in known and ".py" not in name] == []


@pytest.fixture(scope="session")
def audited():
    audit = Audit()
    sys.addaudithook(audit.hook)
    return audit


@pytest.mark.parametrize(
    ("entry", "word"),
    [
        ({"name": FIRST, "bytes": 1 << 80, "sha256": "0" * 64}, "a size of"),
        ({"name": FIRST, "bytes": -1, "sha256": "0" * 64}, "a size of"),
        ({"name": FIRST, "bytes": 1.5, "sha256": "0" * 64}, "a size of"),
        ({"name": FIRST, "bytes": True, "sha256": "0" * 64}, "a size of"),
        ({"name": FIRST, "bytes": 1 << 40, "sha256": "0" * 64}, "instead of 1,099,511,627,776"),
        ({"name": FIRST, "bytes": 136, "sha256": "0" * 63}, "no hash"),
        ({"name": FIRST, "bytes": 136, "sha256": "G" * 64}, "no hash"),
        ({"name": FIRST, "bytes": 136, "sha256": None}, "no hash"),
        ("state/00000.npy", "what is no file"),
    ],
)
def test_an_entry_of_the_manifest_that_makes_no_sense_is_refused(tiny_bundle, entry, word):
    others = [one for one in files(tiny_bundle) if one["name"] != FIRST]
    changed(tiny_bundle, files=[*others, entry])

    assert_refused(tiny_bundle, word)


@pytest.mark.parametrize(
    ("members", "word"),
    [
        ({"files": {}}, "lists no files"),
        ({"files": []}, "lists no reason.json"),
        ({"complete": False}, "complete"),
        ({"complete": "true"}, "complete"),
        ({"schema": "divergence-doctor/report/1"}, "not a bundle's manifest"),
        ({"schema": None}, "not a bundle's manifest"),
    ],
)
def test_a_manifest_that_does_not_say_what_it_must_is_refused(tiny_bundle, members, word):
    changed(tiny_bundle, **members)

    assert_refused(tiny_bundle, word)


def test_a_file_that_is_listed_twice_or_is_a_folder_too_is_refused(tiny_bundle):
    listed = files(tiny_bundle)
    changed(tiny_bundle, files=[*listed, listed[0]])
    assert_refused(tiny_bundle, "lists a file twice")
    changed(tiny_bundle, files=[*listed, {"name": "state", "bytes": 0, "sha256": "0" * 64}])
    assert_refused(tiny_bundle, "a file that is a folder, too")


def test_a_manifest_of_a_hundred_thousand_files_and_one_is_refused(tiny_bundle):
    listed = files(tiny_bundle)
    many = [{"name": f"a{n}", "bytes": 0, "sha256": "0" * 64} for n in range(100_001)]
    text = json.dumps(manifest_of(tiny_bundle) | {"files": [*listed, *many]}, indent=1).encode()
    (tiny_bundle / "manifest.json").write_bytes(sealed(text.removesuffix(b"\n}") + b",\n"))

    (problem,) = verify(tiny_bundle)

    assert "more than 100,000" in problem.says


def test_a_bundle_of_a_later_version_asks_for_a_later_doctor(tiny_bundle):
    changed(tiny_bundle, schema="divergence-doctor/bundle/2")

    for read in (verify, open_bundle):
        with pytest.raises(CheckpointError, match="pip install -U divergence_doctor"):
            read(tiny_bundle)


BAD_JSON = {
    "a NaN token": (b'{"loss": NaN}', "NaN"),
    "an Infinity token": (b'{"loss": -Infinity}', "Infinity"),
    "a number beyond float64": (b'{"loss": 1e999}', "beyond float64"),
    "an integer of a million digits": (b'{"step": ' + b"9" * 1_000_000 + b"}", "digits"),
    "a member twice": (b'{"a": 1, "a": 2}', "twice"),
    "a member twice, inside": (b'{"b": [{"a": 1, "a": 2}]}', "twice"),
    "200,000 lists": (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "deeper than 200"),
    "300 lists": (b'{"a": ' + b"[" * 300 + b"]" * 300 + b"}", "deeper than 200"),
    "200,000 lists that never close": (b'{"a": ' + b"[" * 200_000, "deeper than 200"),
    "a list": (b"[1]", "no JSON object"),
    "nothing": (b"", "Expecting value"),
    "no UTF-8": (b'{"a": "\xff\xfe"}', "decode"),
}


@pytest.mark.parametrize("case", BAD_JSON)
@pytest.mark.parametrize("name", ["history.json", "model.json", "state.json", "manifest.json"])
def test_json_that_is_not_strict_is_refused(tiny_bundle, name, case):
    text, word = BAD_JSON[case]
    if name == "manifest.json":
        if not text.endswith(b"}"):
            text += b"}"
        (tiny_bundle / name).write_bytes(sealed(text[:-1] + b",\n"))
        word = ""
    else:
        put(tiny_bundle, name, text)

    assert_refused(tiny_bundle, name, word)


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_reason_that_is_not_strict_is_refused(tiny_bundle, case):
    text, word = BAD_JSON[case]
    put(tiny_bundle, "reason.json", text)

    too_long = len(text) > 64 << 10
    assert_refused(tiny_bundle, "reason.json", "are allowed" if too_long else word)


def array_file(array, **header) -> bytes:
    """Return an ``.npy`` with a header that says something else."""
    told = {"descr": array.dtype.str, "fortran_order": False, "shape": array.shape} | header
    stream = io.BytesIO()
    np.lib.format.write_array_header_1_0(stream, told)
    return stream.getvalue() + array.tobytes()


TWO = np.ones(2, np.float32)
BAD_ARRAYS = {
    "a shape beyond memory": array_file(TWO, shape=(1 << 50,)),
    "a shape beyond 64 bits": array_file(TWO, shape=(1 << 40, 1 << 40)),
    "a shape of nothing by a lot": array_file(TWO, shape=(0, 1 << 62)),
    "a negative length": array_file(TWO, shape=(-2,)),
    "another shape": array_file(TWO, shape=(1, 2)),
    "another dtype": array_file(TWO, descr="<i4"),
    "objects": array_file(TWO, descr="|O"),
    "opaque bytes": array_file(TWO, descr="|V4"),
    "dates": array_file(TWO.view("M8[s]"), descr="<M8[s]"),
    "records": array_file(TWO, descr=[("a", "<f4")]),
    "the other byte order": array_file(TWO, descr=">f4"),
    "a byte too many": array_file(TWO) + b"\0",
    "a byte too few": array_file(TWO)[:-1],
    "a header that never ends": b"\x93NUMPY\x02\x00" + b"\xff\xff\xff\x7f" + b" " * 100,
    "a header that is code": b"\x93NUMPY\x01\x00\x20\x00" + b"__import__('os').system('true') \n",
    "version 3": b"\x93NUMPY\x03\x00" + b"\x00" * 100,
    "a pickle": b"\x80\x04N.",
    "nothing": b"",
}


@pytest.mark.parametrize("case", BAD_ARRAYS)
def test_an_array_that_is_not_what_it_is_said_to_be_is_refused(tiny_bundle, case):
    put(tiny_bundle, FIRST, BAD_ARRAYS[case])

    (problem,) = verify(tiny_bundle)
    assert (problem.file, problem.what) == (FIRST, "malformed")
    tracemalloc.start()
    with pytest.raises(RefusedError) as raised:
        load(tiny_bundle)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert raised.value.exit_status == 4
    assert peak < 64 << 20


@pytest.mark.parametrize(
    ("change", "word"),
    [
        ({"file": "../secret.npy"}, "lies in"),
        ({"file": "reason.json"}, "lies in"),
        ({"file": 1}, "lacks its file"),
        ({"dtype": "object"}, "has the dtype"),
        ({"dtype": "float32; rm"}, "has the dtype"),
        ({"dtype": ["float32"]}, "lacks its dtype"),
        ({"path": None}, "lacks its path"),
        ({"path": "x" * 100_000}, "lacks its path"),
        ({"shape": [-2]}, "has the shape"),
        ({"shape": [2.0]}, "has the shape"),
        ({"shape": "2"}, "has the shape"),
        ({"shape": [1 << 70]}, "has the shape"),
    ],
)
def test_a_variable_that_makes_no_sense_is_refused(tiny_bundle, change, word):
    state = json.loads((tiny_bundle / "state.json").read_bytes())
    state["variables"][0] |= change
    put_json(tiny_bundle, "state.json", state)

    assert_refused(tiny_bundle, word)


@pytest.mark.parametrize(
    ("state", "word"),
    [
        ({"variables": {}}, "variables is no list"),
        ({"variables": [1]}, "is no object"),
        ({"generators": []}, "generators is no object"),
    ],
)
def test_a_state_of_another_form_is_refused(tiny_bundle, state, word):
    put_json(tiny_bundle, "state.json", state)

    assert_refused(tiny_bundle, word)


def test_two_variables_in_one_file_are_refused(tiny_bundle):
    state = json.loads((tiny_bundle / "state.json").read_bytes())
    state["variables"] *= 2
    put_json(tiny_bundle, "state.json", state)

    assert_refused(tiny_bundle, "same file")


def test_a_model_whose_numbers_are_none_is_refused(tiny_bundle):
    put_json(tiny_bundle, "model.json", {"config": [{"$float": "rm -rf"}]})

    assert_refused(tiny_bundle, "model.json", "is no number")


@pytest.mark.parametrize(
    ("history", "word"),
    [
        ({"step": [1, 2], "loss": [1.0]}, "equal length"),
        ({"step": 1}, "no list"),
        ({"loss": ["nan"]}, "no number"),
        ({"loss": [[1.0]]}, "no number"),
    ],
)
def test_a_history_of_another_form_is_refused(tiny_bundle, history, word):
    put_json(tiny_bundle, "history.json", history)

    assert_refused(tiny_bundle, word)


@pytest.mark.parametrize(
    ("batch", "word"),
    [
        ({"step": 0, "file": "../secret.npz"}, "has no file"),
        ({"step": 0, "file": "state/00000.npy"}, "has no file"),
        ({"step": 0, "file": "batches/00000009.npz"}, "has no file"),
        ({"step": 0, "file": ["batches/00000000.npz"]}, "has no file"),
        ({"step": -1, "file": "batches/00000000.npz"}, "has the step"),
        ({"step": "0", "file": "batches/00000000.npz"}, "has the step"),
        ("batches/00000000.npz", "is no object"),
    ],
)
def test_a_batch_that_makes_no_sense_is_refused(tiny_bundle, batch, word):
    changed(tiny_bundle, batches=[batch])

    assert_refused(tiny_bundle, word)


def archive(*members: tuple[str, bytes], method: int = zipfile.ZIP_STORED) -> bytes:
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as made:
        for name, content in members:
            made.writestr(name, content)
    return stream.getvalue()


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize(
    ("content", "word"),
    [
        (lambda: archive(("x.npy", array_file(TWO)), ("x.npy", array_file(TWO))), "same name"),
        (lambda: archive(("x.npy", bytes(1 << 24)), method=zipfile.ZIP_DEFLATED), "uncompressed"),
        (lambda: archive(("x.txt", b"text")), "uncompressed arrays"),
        (lambda: archive(("x.npy", b"\x80\x04N.")), "no .npy"),
        (lambda: archive(("x.npy", array_file(TWO, shape=(1 << 50,)))), "declares"),
        (lambda: archive(("x.npy", array_file(TWO, descr="|O"))), "pickled"),
        (lambda: archive(*((f"{n}.npy", b"") for n in range(1_025))), "1,025 arrays"),
        (lambda: b"PK\x03\x04" + b"\0" * 100, "archive is damaged"),
        (lambda: b"", "archive is damaged"),
    ],
)
def test_a_batch_that_no_writer_makes_is_found_by_verify(tiny_bundle, content, word):
    put(tiny_bundle, "batches/00000000.npz", content())

    (problem,) = verify(tiny_bundle)

    assert (problem.file, problem.what) == ("batches/00000000.npz", "malformed")
    assert word in problem.says


def crowded(count: int, *, large: bool) -> bytes:
    """Return an archive whose directory lists its one member so many times."""
    whole = archive(("x.npy", array_file(TWO)))
    start = whole.index(b"PK\x01\x02")
    end = whole.index(b"PK\x05\x06")
    directory = whole[start:end] * count
    record = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, len(directory), start, 0)
    if large:
        at_ = start + len(directory)
        record = (
            struct.pack(
                "<4sQ2H2L4Q", b"PK\x06\x06", 44, 45, 45, 0, 0, count, count, len(directory), start
            )
            + struct.pack("<4sLQL", b"PK\x06\x07", 0, at_, 1)
            + struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 1, 1, 0, start, 0)
        )
    return whole[:start] + directory + record


@pytest.mark.parametrize("large", [False, True])
def test_a_batch_of_three_hundred_thousand_members_is_refused_in_no_memory(tiny_bundle, large):
    with zipfile.ZipFile(io.BytesIO(crowded(50, large=large))) as read:
        assert len(read.infolist()) == 50
    put(tiny_bundle, "batches/00000000.npz", crowded(300_000, large=large))

    tracemalloc.start()
    (problem,) = verify(tiny_bundle)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()

    assert (problem.what, problem.says) == (
        "malformed",
        "its directory takes more than 1,048,576 bytes",
    )
    assert peak < 8 << 20


def test_texts_are_fit_to_be_shown(tiny_bundle):
    put_json(
        tiny_bundle,
        "reason.json",
        {"message": "\x1b[2J\x1b]0;owned\x07 line\nnext", "trigger": "\u202eexe", "\x1b": 1},
    )
    changed(tiny_bundle, git="\x9b31m")

    opened = open_bundle(tiny_bundle)

    assert opened.reason["message"] == "\\x1b[2J\\x1b]0;owned\\x07 line\nnext"
    assert opened.reason["trigger"] == "\\u202eexe"
    assert "\\x1b" in opened.reason
    assert opened.manifest["git"] == "\\x9b31m"


def test_an_array_whose_file_changed_since_it_was_opened_is_refused(bundle):
    variable = open_bundle(bundle).variables[0]
    file = bundle / variable.file
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 1
    file.write_bytes(whole)

    with pytest.raises(RefusedError, match="not those that were written"):
        variable.load()


def test_salvage_of_a_stranger_s_folder_gives_a_bundle_or_a_named_error(tiny_bundle, tmp_path):
    (tiny_bundle / "manifest.json").unlink()
    cases = [
        *((name, text) for name in ("state.json", "context.json") for text, _ in BAD_JSON.values()),
        *((FIRST, content) for content in BAD_ARRAYS.values()),
        ("context.json", b'{"batches": [{"file": ["x"]}, 1], "dropped": 5, "files": 1}'),
        ("context.json", b'{"batches": [{"file": "batches/00000000.npz", "step": "x"}]}'),
        ("state.json", b'{"variables": [{"file": ["x"]}, {"file": "state/00000.npy"}]}'),
        ("history.json", b'{"a": 1}'),
    ]
    for number, (name, content) in enumerate(cases):
        whole = (tiny_bundle / name).read_bytes()
        (tiny_bundle / name).write_bytes(content)
        try:
            made = salvage(tiny_bundle, tmp_path / f"{number}")
        except DoctorError as error:
            assert error.exit_status == 4, (name, content[:40])  # noqa: PT017 - one of two good ends
        else:
            assert verify(made) == (), (name, content[:40])
        (tiny_bundle / name).write_bytes(whole)
    assert [path.name for path in tmp_path.iterdir() if path.name.startswith(".")] == []


def mutant(content: bytes, generator: random.Random) -> bytes:
    """Return the bytes with something changed, as a fuzzer would."""
    made = bytearray(content)
    for _ in range(generator.randrange(1, 4)):
        start = generator.randrange(len(made) + 1)
        length = generator.choice((1, 1, 2, 8, 64))
        how = generator.randrange(4)
        if how == 0:
            made[start : start + length] = generator.randbytes(length)
        elif how == 1:
            del made[start : start + length]
        elif how == 2:
            made[start:start] = made[start : start + length] * generator.choice((1, 2, 100))
        else:
            made[start : start + length] = generator.choice((b"[", b"]", b"9" * 30, b'"', b"-1"))
    return bytes(made)


def test_400_mutants_whose_hashes_are_right_end_in_a_bundle_or_a_named_error(tiny_bundle, swift):
    generator = random.Random(20261125)  # noqa: S311 - no secret
    names = sorted(file.name for file in tiny_bundle.glob("*.json"))
    names += [FIRST, "batches/00000000.npz"]
    whole = {name: (tiny_bundle / name).read_bytes() for name in names}
    ended = set()
    for number in range(400):
        name = generator.choice(names)
        changed_ = mutant(whole[name], generator)
        if name == "manifest.json":
            (tiny_bundle / name).write_bytes(sealed(mutant(whole[name][:-TAIL], generator)))
        else:
            put(tiny_bundle, name, changed_)
        try:
            problems = verify(tiny_bundle)
            load(tiny_bundle)
            ended.add("problems" if problems else "whole")
        except DoctorError as error:
            assert error.exit_status in {2, 4}, (number, name)  # noqa: PT017 - one of two good ends
            ended.add("refused")
        (tiny_bundle / "manifest.json").unlink()
        try:
            made = salvage(tiny_bundle, swift / "saved")
            assert verify(made) == (), (number, name)
            shutil.rmtree(made)
        except DoctorError as error:
            assert error.exit_status in {2, 4}, (number, name)  # noqa: PT017 - one of two good ends
        for name_, content in whole.items():
            (tiny_bundle / name_).write_bytes(content)
    assert ended >= {"refused", "whole"}
