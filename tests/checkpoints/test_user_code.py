from __future__ import annotations

import sys

import pytest

from divergence_doctor.checkpoints._user_code import import_user_code, user_factory
from divergence_doctor.errors import CheckpointError


def refusal(spec: str) -> CheckpointError:
    with pytest.raises(CheckpointError) as caught:
        import_user_code(spec)
    return caught.value


def written(tmp_path, text: str, name: str = "mine_here.py") -> str:
    (tmp_path / name).write_text(text, encoding="utf-8")
    return str(tmp_path / name)


def test_a_file_is_imported_under_its_stem_and_only_once(tmp_path):
    spec = written(tmp_path, "count = [0]\ncount[0] += 1\n")
    module = import_user_code(spec)
    assert module.__name__ == "mine_here"
    assert import_user_code(spec) is module
    assert module.count == [1]


def test_a_file_finds_its_neighbours(tmp_path):
    written(tmp_path, "VALUE = 7\n", "neighbour_of_mine.py")
    spec = written(tmp_path, "from neighbour_of_mine import VALUE\n")
    assert import_user_code(spec).VALUE == 7


@pytest.mark.parametrize("name", ["types.py", "keras.py", "my-model.py"])
def test_a_file_named_like_another_module_takes_nothing_away(tmp_path, name):
    import keras

    spec = written(tmp_path, "VALUE = 3\n", name)
    assert import_user_code(spec).VALUE == 3
    assert import_user_code(spec) is import_user_code(spec)
    assert sys.modules["keras"] is keras


def test_a_missing_file_and_a_missing_module_are_told(tmp_path):
    assert refusal(str(tmp_path / "no.py")).slug == "code-not-found"
    error = refusal("no_such_module.at_all")
    assert error.slug == "code-not-found"
    assert "'no_such_module'" in error.why


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("x = 1\ndef f(:\n", "SyntaxError: invalid syntax (mine_here.py, line 2)"),
        ("\n\nprint(nope)\n", "NameError: name 'nope' is not defined (mine_here.py, line 3)"),
        (
            "def f():\n    1 / 0\nf()\n",
            "ZeroDivisionError: division by zero (mine_here.py, line 2)",
        ),
        ("import sys\nsys.exit(3)\n", "SystemExit: 3 (mine_here.py, line 2)"),
        ("import json\njson.loads('{')\n", "(mine_here.py, line 2)"),
        ("raise ValueError('a\\x1b[2J\\nb')\n", "ValueError: a\\x1b[2J (mine_here.py, line 1)"),
    ],
    ids=["syntax", "name", "inner", "exit", "library", "control"],
)
def test_an_error_in_the_users_code_is_one_line_with_their_line(tmp_path, text, told):
    error = refusal(written(tmp_path, text))
    assert error.slug == "user-code-failed"
    assert told in error.message
    assert "mine_here" not in sys.modules


def test_a_package_that_is_not_installed_is_named(tmp_path):
    error = refusal(written(tmp_path, "import acme_losses_x\n"))
    assert "No module named 'acme_losses_x'" in error.message
    assert error.fix.startswith("install acme_losses_x")


@pytest.mark.parametrize("spec", ["train.py", ":build", "train.py:", "train.py:a b"])
def test_a_model_option_without_a_function_is_told(spec):
    with pytest.raises(CheckpointError) as caught:
        user_factory(spec)
    assert caught.value.slug == "bad-model-option"


def test_a_function_that_is_not_there_is_told_with_those_that_are(tmp_path):
    spec = written(tmp_path, "from os import getcwd\ndef build(): ...\ndef other(): ...\n")
    assert callable(user_factory(f"{spec}:build"))
    with pytest.raises(CheckpointError) as caught:
        user_factory(f"{spec}:make")
    assert caught.value.why == "the functions it defines: build, other"


TRAINS = """
import sys
import keras
import numpy as np

SEEN = []

class Mine(keras.layers.Layer):
    pass

assert len(sys.argv) == 1
model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
model.compile("sgd", "mse")
{}
SEEN.append("after")

class Late(keras.layers.Layer):
    pass
"""
LOOP = """
try:
    model.optimizer.apply([v * 0 for v in model.weights], model.weights)
except Exception:
    pass
"""
FIT = "model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)"


@pytest.mark.parametrize(
    "line",
    [
        FIT,
        "model.train_on_batch(np.ones((4, 2)), np.ones((4, 1)))",
        "model.save('written.keras')",
        LOOP,
    ],
    ids=["fit", "train_on_batch", "save", "custom loop"],
)
@pytest.mark.parametrize("dotted", [False, True])
def test_a_training_script_is_read_up_to_where_it_would_train(tmp_path, monkeypatch, line, dotted):
    monkeypatch.chdir(tmp_path)
    spec = written(tmp_path, TRAINS.format(line), "trains.py")
    module = import_user_code("trains" if dotted else spec)
    assert module.Mine.__name__ == "Mine"
    assert not hasattr(module, "Late")
    assert module.SEEN == []
    assert not list(tmp_path.glob("*.keras"))
    assert import_user_code("trains" if dotted else spec) is module


def test_what_the_script_defines_after_that_is_told_as_not_read(tmp_path):
    spec = written(tmp_path, TRAINS.format(FIT) + "def build(): ...\n", "trains.py")
    with pytest.raises(CheckpointError) as caught:
        user_factory(f"{spec}:build")
    assert "it was read as far as fit() at line 14 of trains.py" in caught.value.why


def test_after_the_import_everything_trains_again(tmp_path, keras):
    import numpy as np

    import_user_code(written(tmp_path, TRAINS.format(FIT), "trains.py"))
    model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(1)])
    model.compile("sgd", "mse")
    model.fit(np.ones((4, 2)), np.ones((4, 1)), verbose=0)
    assert int(model.optimizer.iterations) == 1
    assert "fit" not in vars(keras.Model)
