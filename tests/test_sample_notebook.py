"""Does the notebook among the sample runs still go from the crash to its cause?

After a change to it, or to what it shows: ``python -m tests.test_sample_notebook`` runs it and
stores what it puts out.
"""

from __future__ import annotations

import os
import re
import shutil
import tempfile
from pathlib import Path

import nbformat
import pytest
from nbclient import NotebookClient

SAMPLES = Path(__file__).parent.parent / "sample_runs"
NOTEBOOK = SAMPLES / "from_crash_to_cause.ipynb"
#: A repository is no place for large files.
LARGEST = 500_000


def executed(folder: Path):
    """Return the notebook as a fresh kernel leaves it, run in a copy of what it needs."""
    shutil.copytree(SAMPLES / "log_of_zero", folder / "log_of_zero")
    notebook = nbformat.read(NOTEBOOK, 4)
    where = {"metadata": {"path": str(folder)}}
    NotebookClient(notebook, timeout=300, record_timing=False, resources=where).execute()
    for cell in code_cells(notebook):
        # What TensorFlow says on standard error while it is imported depends on the machine.
        cell.outputs = [one for one in cell.outputs if one.get("name") != "stderr"]
    notebook.metadata["language_info"] = {"name": "python"}
    return notebook


def code_cells(notebook):
    return [cell for cell in notebook.cells if cell.cell_type == "code"]


def shown(cell) -> str:
    """Return the text and the HTML that a cell puts out."""
    datas = [output.get("data", {}) for output in cell.outputs]
    return "\n".join(
        [output.get("text", "") for output in cell.outputs]
        + [data.get(kind, "") for data in datas for kind in ("text/plain", "text/html")]
    )


def cell(notebook, source: str):
    """Return the one cell whose source holds a text."""
    (found,) = [cell for cell in code_cells(notebook) if source in cell.source]
    return found


def pictures(notebook) -> list[bool]:
    return [
        any("image/png" in output.get("data", {}) for output in cell.outputs)
        for cell in code_cells(notebook)
    ]


@pytest.mark.slow
def test_a_fresh_kernel_comes_to_the_stored_cause(tmp_path):
    stored, fresh = nbformat.read(NOTEBOOK, 4), executed(tmp_path)

    for notebook in (stored, fresh):
        assert "log-of-zero (confirmed, 99%)" in shown(cell(notebook, "done = replay_step"))
        assert re.search(r"log\s+Log\s+1089\s+loss\s+\[5\]", shown(cell(notebook, "primary")))
        assert "found with confidence" in shown(cell(notebook, "LogOfZero().ask"))
        assert "still-fails" in shown(cell(notebook, "trace.trials"))
        assert "Healthy: no cause to name" in shown(cell(notebook, "mended.npz"))
    assert pictures(stored) == pictures(fresh)
    assert sum(pictures(fresh)) == 2
    assert [one.source for one in stored.cells] == [one.source for one in fresh.cells]


def test_the_stored_notebook_is_small_whole_and_of_no_machine():
    content = NOTEBOOK.read_text(encoding="utf-8")
    notebook = nbformat.reads(content, 4)

    nbformat.validate(notebook)
    assert len(content) < LARGEST
    assert all(one.execution_count for one in code_cells(notebook))
    counts = [one.execution_count for one in code_cells(notebook)]
    assert counts == list(range(1, len(counts) + 1))
    outputs = [output for one in code_cells(notebook) for output in one.outputs]
    assert {output.output_type for output in outputs} <= {"execute_result", "stream"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    text = "\n".join(shown(one) for one in code_cells(notebook))
    assert not re.search(r"(?<![\w.])/(home|root|tmp|usr|work|opt|Users)/", text)
    assert "0x7f" not in text


def main() -> None:
    """Run the notebook, and store it with what it put out."""
    os.environ.setdefault("CUDA_VISIBLE_DEVICES", "-1")
    with tempfile.TemporaryDirectory() as name:
        nbformat.write(executed(Path(name)), NOTEBOOK)


if __name__ == "__main__":
    main()
