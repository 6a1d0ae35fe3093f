"""What is left of a trace that is shared: every figure that the verdict rests on, and no secret."""

from __future__ import annotations

import json
import math

import pytest

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.reporters import document, write_reports
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace._names import Names, known
from divergence_doctor.trace.redaction import _SAFE, _method, redacted, withheld, without_values
from divergence_doctor.trace.schema import TABLES
from divergence_doctor.trace.synthetic import SyntheticEvent, training_trace

#: Nothing of ours holds this.
PRIVATE = "acmepatient"
LABELS = (
    "Received a label value of 12 which is outside the valid range of [0, 10).  Label values: 3 12"
)


def secret_trace() -> Trace:
    """A run whose every name is a secret, and whose samples are."""
    layer, other = f"{PRIVATE}_net/{PRIVATE}_block", f"{PRIVATE} mit Abstand"
    event = SyntheticEvent(
        "Log",
        layer=layer,
        layer_class=f"{PRIVATE.title()}Dense",
        source=f"{PRIVATE}_losses.py:41",
        samples=(5,),
        inputs=([0.0, 1.0],),
        input_values=(0.0,),
        input_arrays=(f"x/{PRIVATE}_age",),
        outputs=([-math.inf, 0.0],),
        chain=(
            {"what": "op", "name": "Sigmoid", "layer": layer, "value": 0.0, "index": "5,0"},
            {"what": "batch", "name": f"x/{PRIVATE}_age", "value": 77.25, "index": "5,2",
             "through": "term 2 of 4: 77.25 * -210"},
        ),
    )  # fmt: skip
    trial = {
        "name": "safe-op", "cause": "log-of-zero", "outcome": "finite",
        "parameters": json.dumps({"layer": layer, "op_type": "Log"}),
        "changed": f"input of Log in '{layer}' kept inside its domain",
        "detail": f"see {PRIVATE}_losses.py:41 and /home/{PRIVATE}/run.npz",
    }  # fmt: skip
    trace = training_trace(
        losses=(0.9, math.nan),
        layers=(layer, other),
        layer_class=f"{PRIVATE.title()}Dense",
        configs={layer: {"name": layer, "units": 7, f"{PRIVATE}_key": 1, "note": PRIVATE}},
        loss_name=f"{PRIVATE}_loss",
        slots={f"adam/{layer.replace('/', '_')}_kernel_momentum": [1.0, 2.0]},
        events=(event,),
        trials=({"name": "control", "breadth": 0, "outcome": "still-fails"}, trial),
        rows={
            "excerpts": [{"batch": 0, "sample": 5, "name": "x", "values": "[77.25]"}],
            "unseeded": [{"kind": "attribute", "name": f"{PRIVATE}.gain", "before": PRIVATE}],
            "defects": [{"owner": "weights", "variable": f"{layer}/{PRIVATE}_gain", "kind": "nan"}],
            "harmless": [
                {"what": "batch", "name": f"x/{PRIVATE}_age", "source": f"{PRIVATE}_nets.py:3"}
            ],
            "culprits": [
                {"batch": 0, "sample": 5, "array": "", "evidence": "left-out"},
                {"batch": 0, "sample": 5, "array": f"x/{PRIVATE}_age", "index": "5,2",
                 "value": 77.25, "evidence": "fed-to-op"},
            ],
        },
        context={
            "checkpoint": {"path": f"{PRIVATE}.keras", "file": f"/home/{PRIVATE}/a.keras",
                           "sha256": "ab" * 32, "format": ".keras archive"},
            "batch": {"paths": [f"{PRIVATE}.npz"], "sha256": ["cd" * 32]},
            "reproduce": {"checkpoint": f"{PRIVATE}.keras", "batch": f"{PRIVATE}.npz"},
            "model": {"name": PRIVATE},
            "minimal_batch": {"samples": [5]},
            "fidelity": {"notes": [f"the rate of {layer} starts again (`{other}` too)"]},
            "run": {"device": "CPU"},
            "recorded": {"bundle": f"20261125-{PRIVATE}-1", "host": PRIVATE, "rolled": True},
        },
    )  # fmt: skip
    trace.table("steps")["raised"][1] = LABELS
    trace.table("events")["stack"][0] = f"{PRIVATE}_losses.py:41 in {PRIVATE}_crossing"
    trace.table("events")["message"][0] = f"output of Log in {PRIVATE}_net had Inf"
    return trace


def contents(folder) -> str:
    """Return what all files of a folder hold, pictures aside."""
    files = [path for path in folder.rglob("*") if path.suffix in {".html", ".md", ".json", ".h5"}]
    assert len(files) == 4
    return "".join(path.read_bytes().decode("latin-1") for path in files)


def test_no_name_is_left_in_the_trace_or_in_any_report(tmp_path):
    whole = secret_trace()
    trace = redacted(whole)
    write_reports(trace, diagnose(trace), tmp_path)
    trace.save(tmp_path / "trace.h5")
    assert PRIVATE not in contents(tmp_path).lower()
    assert not (tmp_path / "reproduce.py").exists()
    # The other side of the test: untouched, they are full of it.
    write_reports(whole, diagnose(whole), tmp_path)
    whole.save(tmp_path / "trace.h5")
    assert contents(tmp_path).lower().count(PRIVATE) > 50


def test_the_verdict_and_its_proof_stay():
    before, after = diagnose(secret_trace()), diagnose(redacted(secret_trace()))
    assert after.main.finding.cause == before.main.finding.cause == "log-of-zero"
    assert after.main.confirmed
    assert after.main.finding.samples == before.main.finding.samples == (5,)
    assert after.main.finding.site.layer == "layer_1/layer_2"
    assert after.main.finding.site.source == "file_1.py:41"
    assert (
        after.main.confirmed_by.changed
        == "input of Log in 'layer_1/layer_2' kept inside its domain"
    )


def test_a_name_is_the_same_wherever_it_stands():
    trace = redacted(secret_trace())
    assert trace.table("layers")["layer"].tolist() == ["layer_1/layer_2", "layer_3"]
    assert set(trace.table("weights")["variable"]) == {"layer_1/layer_2/kernel", "layer_3/kernel"}
    assert trace.table("slots")["variable"].tolist() == ["adam/layer_1_layer_2_kernel_momentum"]
    assert json.loads(trace.table("trials")["parameters"][1]) == {
        "layer": "layer_1/layer_2",
        "op_type": "Log",
    }
    assert trace.table("trials")["detail"][1] == "see file_1.py:41 and file_3.npz"
    assert trace.context["batch"]["paths"] == ["file_6.npz"]
    assert trace.table("chain")["name"].tolist() == ["Sigmoid", "x/array_1"]
    assert trace.context["fidelity"]["notes"] == [
        "the rate of layer_1/layer_2 starts again (`layer_3` too)"
    ]
    assert trace.context["checkpoint"]["format"] == ".keras archive"
    assert "sha256" not in trace.context["checkpoint"]
    config = json.loads(trace.table("layers")["config"][0])
    assert config == {"name": "layer_1/layer_2", "units": 7}


def test_single_values_are_rounded_down_to_a_power_of_two_and_statistics_stay():
    whole = secret_trace()
    trace = without_values(whole)
    assert trace.table("culprits")["value"].tolist()[1] == 64.0
    assert trace.table("chain")["value"].tolist() == [0.0, 64.0]
    assert trace.table("chain")["through"][1] == "term 2 of 4: … * …"
    assert len(trace.table("excerpts")) == 0
    assert trace.table("steps")["raised"][1] == LABELS.replace(" 3 12", " …")
    assert trace.table("samples")["max"].tolist() == whole.table("samples")["max"].tolist()
    assert "minimal_batch" not in trace.context
    # Names stay, and the trace that came in is as it was.
    assert trace.table("layers")["layer"].tolist() == whole.table("layers")["layer"].tolist()
    assert whole.table("culprits")["value"].tolist()[1] == 77.25
    assert len(whole.table("excerpts")) == 1


def test_what_is_no_ordinary_number_stays_as_it_is():
    builder = TraceBuilder()
    for value in (0.0, math.nan, -math.inf, -3.0, 5e-324, 1.7e308):
        builder.add("culprits", value=value)
    rounded = without_values(builder.build()).table("culprits")["value"].tolist()
    assert rounded[0] == 0.0
    assert math.isnan(rounded[1])
    assert rounded[2:] == [-math.inf, -2.0, 5e-324, 2.0**1023]


def test_what_was_taken_out_is_told():
    whole = secret_trace()
    assert withheld(whole) == frozenset()
    assert withheld(without_values(whole)) == {"values"}
    assert withheld(redacted(whole)) == {"values", "names"}
    assert withheld(Trace({}, {"withheld": 7})) == frozenset()
    trace = redacted(whole)
    (note,) = document(trace, diagnose(trace)).notes
    assert note.startswith("Redacted: names stand as `layer_1`")


def test_doing_it_twice_changes_nothing_more():
    once = redacted(secret_trace())
    twice = redacted(once)
    assert twice.context == once.context
    assert twice.table("layers")["layer"].tolist() == once.table("layers")["layer"].tolist()


@pytest.mark.parametrize("table", [name for name in TABLES if name != "excerpts"])
def test_a_known_name_is_replaced_in_whatever_column_it_stands(table):
    builder = TraceBuilder()
    builder.add("layers", layer=PRIVATE)
    columns = [c.name for c in TABLES[table].all_columns() if c.kind == "str"]
    builder.add(table, **dict.fromkeys(columns, PRIVATE))
    row = redacted(builder.build()).table(table).row(-1)
    left = {column for column in columns if PRIVATE in row[column]}
    assert left == {column for column in columns if _method(table, column) is None}
    assert left <= _SAFE | ({"name", "source"} if table in {"trials", "history"} else set())


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("from dense_7, then dense_7/kernel.", "from layer_1, then layer_1/kernel."),
        ("layer 'loss' lost; the loss is nan", "layer 'layer_2' lost; the loss is nan"),
        ("at run/model.py:12 in trace.h5", "at file_1.py:12 in trace.h5"),
        ("model/dense_7/MatMul: undense_7", "model/layer_1/MatMul: undense_7"),
        ("Ünï cödé (x) met", "layer_3 met"),
        ("", ""),
    ],
)  # fmt: skip
def test_known_names_and_files_are_replaced_in_prose_and_nothing_else(text, told):
    names = Names(["dense_7", "loss", "Ünï cödé (x)"])
    names.told("variable", "dense_7/kernel")
    assert names.told("prose", text) == told


def test_frames_keep_their_lines_and_lose_files_and_functions():
    names = Names([])
    frames = "train.py:3 in <module>\nlib/nets.py:40 in secret_head\nlib/nets.py:9 in call"
    assert names.told("stack", frames) == (
        "file_1.py:3 in <module>\nfile_2.py:40 in function_1\nfile_2.py:9 in call"
    )


def test_what_keras_calls_things_stays():
    names = Names(["dense"])
    assert names.told("kind", "Conv2D") == "Conv2D"
    assert names.told("kind", "MyBatchNormalization") == "class_1BatchNormalization"
    assert names.told("variable", "dense/moving_variance") == "layer_1/moving_variance"
    assert names.told("variable", "dense/my_gain") == "layer_1/variable_1"
    assert names.told("slot", "adam/learning_rate") == "adam/learning_rate"
    assert names.told("slot", "adam/dense_my_gain_velocity") == "adam/layer_1_variable_1_velocity"
    assert names.told(
        "config", '{"units": 3, "activation": "relu", "mine": 1, "axis": "mine"}'
    ) == ('{"units": 3, "activation": "relu", "axis": "hidden"}')
    assert names.told("config", "[" * 100_000) == "{}"


def test_the_list_of_keras_names_knows_the_keras_that_is_installed():
    import keras

    modules = (keras.layers, keras.losses, keras.optimizers, keras.activations, keras.initializers)
    public = {
        name
        for module in modules
        for name in dir(module)
        if not name.startswith("_") and callable(getattr(module, name))
    }
    # Keras has moved: add what is missing to divergence_doctor/trace/keras_names.txt.
    assert public - known() == set()
    assert len(public) > 200


def test_odd_names_neither_break_it_nor_get_through():
    odd = ["", " ", "(", "a(b", "\\1", "x" * 100_000, "<b>", "$&", "/", "a//b"]
    builder = TraceBuilder()
    for order, name in enumerate(odd):
        builder.add("layers", order=order, layer=name)
    builder.add("trials", name="safe-op", changed="the a(b of \\1 in <b> and $& ( )")
    trace = redacted(builder.build())
    assert trace.table("trials")["changed"][0] == (
        f"the {trace.table('layers')['layer'][3]} of {trace.table('layers')['layer'][4]} in "
        f"{trace.table('layers')['layer'][6]} and {trace.table('layers')['layer'][7]} ( )"
    )
    assert not set(trace.table("layers")["layer"]) & set(odd[1:])
