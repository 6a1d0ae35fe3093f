"""Is a file in an open folder a plug-in by being there?"""

import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from divergence_doctor import _plugins

ROOT = Path(__file__).parent.parent


@pytest.fixture
def folder(tmp_path, monkeypatch):
    (tmp_path / "opened").mkdir()
    (tmp_path / "opened" / "__init__.py").write_text("class Kind: pass\n")
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path / "opened"
    for name in [name for name in sys.modules if name.partition(".")[0] == "opened"]:
        del sys.modules[name]
    _plugins._load.cache_clear()


def test_each_file_is_a_plug_in_and_underscored_ones_are_not(folder):
    (folder / "one.py").write_text("from opened import Kind\nclass One(Kind): pass\n")
    (folder / "_machinery.py").write_text("from opened import Kind\nclass Hidden(Kind): pass\n")
    import opened

    assert [kind.__name__ for kind in _plugins.load("opened", opened.Kind)] == ["One"]


def test_a_file_without_a_plug_in_is_a_mistake_that_is_named(folder):
    (folder / "empty.py").write_text("")
    import opened

    with pytest.raises(TypeError, match=r"opened\.empty defines no concrete Kind"):
        _plugins.load("opened", opened.Kind)


READING = ["", ".trace", ".stats", ".rules", ".diagnosis", ".figures", ".reporters", ".batches",
           ".supervision", ".postmortem", ".cli", ".checkpoints", ".trials"]  # fmt: skip


def test_importing_any_room_loads_neither_tensorflow_nor_keras_nor_pyplot():
    script = textwrap.dedent(f"""
        import importlib, sys
        for room in {READING!r}:
            importlib.import_module("divergence_doctor" + room)
        heavy = {{"tensorflow", "keras", "matplotlib", "pandas"}}
        print(sorted(heavy & set(sys.modules)))
    """)
    done = subprocess.run(
        [sys.executable, "-c", script], capture_output=True, text=True, check=True, cwd=ROOT
    )
    assert done.stdout.strip() == "[]"


def test_the_public_names_come_when_they_are_asked_for():
    import divergence_doctor

    for name in divergence_doctor.__all__:
        assert getattr(divergence_doctor, name) is not None
    with pytest.raises(AttributeError, match="no attribute 'nothing'"):
        _ = divergence_doctor.nothing
