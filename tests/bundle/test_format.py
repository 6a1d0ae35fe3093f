"""Does FORMAT.md say what a bundle is? Read by its words alone, without the package's reader."""

from __future__ import annotations

import hashlib
import json
import re
from pathlib import Path

import numpy as np

from tests.bundle._made import contents

FORMAT = (Path(__file__).parents[2] / "divergence_doctor/bundle/FORMAT.md").read_text("utf-8")


def rows(heading: str) -> list[list[str]]:
    """Return the rows of the first table under a heading, as cells."""
    section = FORMAT.partition(f"# {heading}\n")[2]
    table = re.search(r"^\|.+\|\n\|[-|]+\|\n((?:\|.+\|\n)+)", section, flags=re.MULTILINE)
    return [line.strip("|\n").split("|") for line in table.group(1).splitlines()]


def names(cell: str) -> list[str]:
    return re.findall(r"`([^`]+)`", cell)


def test_the_files_are_written_in_the_order_that_it_gives(bundle):
    listed = [names(cells[0])[0] for cells in rows("The files")]
    manifest = json.loads((bundle / "manifest.json").read_bytes())
    kinds = {
        "batches": "batches/<step>.npz",
        "state": "state/<number>.npy",
    }

    written = [
        kinds.get(entry["name"].partition("/")[0], entry["name"]) for entry in manifest["files"]
    ]

    assert list(dict.fromkeys(written)) == listed[:-1]
    assert listed[-1] == "manifest.json"


def test_the_seal_is_what_it_says(bundle):
    text = (bundle / "manifest.json").read_bytes()
    head, _, last = text.removesuffix(b"\n}\n").rpartition(b"\n")

    assert text.endswith(b'"\n}\n')
    assert last == b' "sha256": "%s"' % hashlib.sha256(head + b"\n").hexdigest().encode()
    assert list(json.loads(text))[-1] == "sha256"


def test_every_member_of_a_manifest_is_in_its_table(bundle):
    described = {name for cells in rows("manifest.json") for name in names(cells[0])}
    members = set(json.loads((bundle / "manifest.json").read_bytes()))

    assert members - {"sha256"} <= described
    assert {
        "schema",
        "complete",
        "files",
        "written",
        "batches",
        "data",
        "model",
        "dropped",
    } <= members


def test_every_member_of_a_variable_is_in_its_table_and_numpy_alone_reads_it(bundle):
    described = [name for cells in rows("state.json") for name in names(cells[0])]
    state = json.loads((bundle / "state.json").read_bytes())

    given = {one.path: one for one in contents().variables}
    assert state["schema"] == "divergence-doctor/state/1"
    for variable in state["variables"]:
        assert list(variable) == described
        array = np.load(bundle / variable["file"], allow_pickle=False)
        assert array.dtype == variable["stored"]
        assert list(array.shape) == variable["shape"]
        assert np.array_equal(array, given[variable["path"]].fetch())


def test_schemas_and_limits_are_those_of_the_code():
    from divergence_doctor.bundle import _manifest as code
    from divergence_doctor.bundle._dump import _LAST_STEPS
    from divergence_doctor.bundle._json import MAX_DEPTH

    for schema in (code.SCHEMA, code.REASON_SCHEMA, code.STATE_SCHEMA):
        assert f"`{schema}`" in FORMAT or f'"{schema}"' in FORMAT
    assert f"at most {_LAST_STEPS:,}" in FORMAT
    assert f"nested at most {MAX_DEPTH} deep" in FORMAT
    assert f"{code.MAX_FILES:,} files" in FORMAT
    assert f"{code.MAX_JSON >> 20} MiB" in FORMAT
    assert f"less than {code.MAX_REASON >> 10} KiB" in FORMAT
