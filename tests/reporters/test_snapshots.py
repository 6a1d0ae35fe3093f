"""What do whole reports look like? ``report.md`` and ``report.json`` of one run, to the byte.

The rules of these snapshots:

* They show a reviewer what users and scripts see. The files in ``snapshots/`` are read as reports:
  whoever changes one reads it from the first line to the last before it is committed.
* One may change when what a report says or how it looks was changed on purpose; the commit that
  changes the code changes the snapshot, and its message says what a reader sees that is new.
* One may not change because a dictionary, a set, a clock, a path, a version or a machine had its
  say: then the report is mended, not the snapshot. (The run is made up and names its versions.)
* A key of ``report.json`` that goes, or means something else, is a new version of its schema, and
  never just a new snapshot.
* They are renewed by ``RENEW_SNAPSHOTS=1 pytest tests/reporters/test_snapshots.py``, and then
  read, as above. In a run of the tests nothing renews them by itself.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path

import pytest

from divergence_doctor.reporters.json import Json
from divergence_doctor.reporters.markdown import Markdown

SNAPSHOTS = Path(__file__).parent / "snapshots"


@pytest.mark.parametrize(
    ("run", "reporter"),
    [("diverged", Markdown()), ("diverged", Json()), ("healthy", Markdown()), ("healthy", Json())],
    ids=lambda value: value if isinstance(value, str) else value.name,
)
def test_a_whole_report_is_as_it_was(run, reporter, told):
    seen = reporter.render(told[run])
    path = SNAPSHOTS / f"{run}.{reporter.filename}"
    if os.environ.get("RENEW_SNAPSHOTS") == "1":
        path.write_text(seen, encoding="utf-8")
    kept = path.read_text(encoding="utf-8")
    changed = difflib.unified_diff(kept.splitlines(), seen.splitlines(), "kept", "seen", n=1)
    assert seen == kept, "\n".join(changed)


def test_no_snapshot_is_left_over():
    names = {f"{run}.report.{kind}" for run in ("diverged", "healthy") for kind in ("md", "json")}
    assert {path.name for path in SNAPSHOTS.iterdir()} == names
