"""Does FORMAT.md say what the schema says?"""

from __future__ import annotations

import re
from importlib.resources import files

from divergence_doctor.trace import schema

FORMAT = files("divergence_doctor.trace").joinpath("FORMAT.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| `(?P<name>\w+)` \| (?P<kind>\w+) \| (?P<meaning>.*) \| (?P<units>\S*) \|$")


def section(title: str) -> str:
    """Return what stands under a heading, up to the next one."""
    return re.split(r"\n#+ ", FORMAT.partition(f"\n{title}\n")[2])[0]


def columns(text: str) -> list[schema.Column]:
    found = [ROW.match(line) for line in text.splitlines()]
    return [
        schema.Column(row["name"], row["kind"], row["meaning"].replace("\\|", "|"), row["units"])
        for row in found
        if row
    ]


def test_it_has_a_section_for_every_table_and_no_other() -> None:
    assert re.findall(r"^### `(\w+)`$", FORMAT, re.MULTILINE) == list(schema.TABLES)


def test_every_table_lists_the_columns_of_the_schema_in_order() -> None:
    for spec in schema.TABLES.values():
        text = section(f"### `{spec.name}`")
        assert columns(text) == list(spec.columns), spec.name
        assert ("*tensor*" in text) is spec.tensor, spec.name
        assert f"One row is {spec.row}." in text, spec.name


def test_it_lists_the_statistics() -> None:
    assert columns(section("## The statistics")) == list(schema.STATISTICS)


def test_it_names_type_version_and_bins() -> None:
    assert f"`{schema.ENCODING_TYPE}`" in FORMAT
    assert f"The trace file, version {schema.ENCODING_VERSION}" in FORMAT
    assert f"shape ({schema.EXPONENT_BINS},)" in FORMAT
    assert f"{schema.EXPONENT_MIN}, {schema.EXPONENT_MIN + 1}, ..., {schema.EXPONENT_MAX}" in FORMAT


def test_every_kind_of_column_is_explained() -> None:
    explained = re.findall(r"^  \| (\w+) \| [a-z]+.*shape", FORMAT, re.MULTILINE)
    kinds = {c.kind for spec in schema.TABLES.values() for c in spec.all_columns()}
    assert set(explained) == kinds
