"""What lies in the output folder, and what is said when it cannot be written."""

from __future__ import annotations

import pytest

from divergence_doctor.errors import OutputError
from divergence_doctor.figures import Figure
from divergence_doctor.reporters import _document as documents
from divergence_doctor.reporters import all_reporters, document, write_reports


def names(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()}


def test_every_report_and_figure_is_written_whole(diverged, tmp_path):
    written = write_reports(*diverged, tmp_path)
    assert {path.relative_to(tmp_path).as_posix() for path in written} == names(tmp_path)
    reports = {"report.md", "report.html", "report.json", "reproduce.py"}
    assert reports <= names(tmp_path)
    assert "figures/loss.png" in names(tmp_path)
    assert (tmp_path / "figures/loss.png").read_bytes().startswith(b"\x89PNG")


def test_without_a_checkpoint_to_name_no_script_is_written(empty, tmp_path):
    write_reports(*empty, tmp_path)
    assert "reproduce.py" not in names(tmp_path)
    assert "python reproduce.py" not in (tmp_path / "report.md").read_text()


def test_a_folder_that_is_not_there_is_named_with_the_way_out(empty, tmp_path):
    with pytest.raises(OutputError) as caught:
        write_reports(*empty, tmp_path / "missing")
    assert caught.value.why == "no such file or directory"
    assert "missing/report.html cannot be written" in caught.value.message
    assert "--out" in caught.value.fix


def test_a_file_that_cannot_be_replaced_leaves_nothing_behind(empty, tmp_path):
    (tmp_path / "report.html").mkdir()
    with pytest.raises(OutputError) as caught:
        write_reports(*empty, tmp_path)
    assert caught.value.why == "is a directory"
    assert names(tmp_path) == set()


class BrokenFigure(Figure):
    """A figure of another package that fails when it is drawn."""

    name = "broken"
    title = "Broken"
    order = 0

    def caption(self, trace):
        del trace
        return "Nothing."

    def draw(self, trace, canvas):
        del trace, canvas
        raise RuntimeError("no such colour")


def test_a_figure_that_cannot_be_drawn_costs_no_report(healthy, tmp_path, monkeypatch):
    monkeypatch.setattr("divergence_doctor.figures.all_figures", lambda: (BrokenFigure(),))
    write_reports(*healthy, tmp_path)
    assert names(tmp_path) == {"report.md", "report.html", "report.json"}
    note = "The figure broken could not be drawn"
    assert note in (tmp_path / "report.md").read_text()


def test_the_same_trace_read_again_gives_the_same_reports(diverged, told):
    again = document(*diverged)
    for reporter in all_reporters():
        assert reporter.render(again) == reporter.render(told["diverged"])


@pytest.mark.parametrize("name", ["diverged", "healthy", "empty", "hostile"])
def test_every_reporter_renders_every_run(name, told):
    told = told[name]
    for reporter in all_reporters():
        if reporter.suits(told):
            text = reporter.render(told)
            assert text.endswith("\n")
            assert text == reporter.render(told)


def test_each_reporter_is_its_file_and_no_two_write_the_same():
    files = [reporter.filename for reporter in all_reporters() if reporter.filename]
    assert sorted(files) == ["report.html", "report.json", "report.md", "reproduce.py"]
    assert [r.name for r in all_reporters()] == [
        *("html", "json", "markdown", "reproduction", "terminal")
    ]
    assert all(type(r).__module__.endswith(f".{r.name}") for r in all_reporters())
    assert documents.document is document
