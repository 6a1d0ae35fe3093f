"""Do the tables become arrays whose every number still stands where its row says?"""

from __future__ import annotations

import math
import sys
from typing import TYPE_CHECKING, Any

import numpy as np
import pytest
import xarray as xr

from divergence_doctor.errors import MissingPackageError
from divergence_doctor.trace import Trace, TraceBuilder
from divergence_doctor.trace.schema import EXPONENT_BINS
from divergence_doctor.trace.synthetic import tensor, training_trace

if TYPE_CHECKING:
    from pathlib import Path

LAYERS = ("encoder/größe", "decoder/head")


@pytest.fixture(scope="module")
def trace() -> Trace:
    return training_trace(losses=(2.5, 2.0, math.nan), layers=LAYERS, x=np.ones((5, 3)))


def call(layer: str, **columns: Any) -> dict[str, Any]:
    return {
        "step": 0, "order": 0, "layer": layer, "call": 0, "time": -1, "role": "output",
        **tensor([1.0, 2.0]), **columns,
    }  # fmt: skip


def built(*rows: dict[str, Any]) -> Any:
    builder = TraceBuilder()
    for step in range(2):
        builder.add("steps", step=step, loss=1.0)
    for row in rows:
        builder.add("activations", **row)
    return builder.build().to_xarray()


def test_every_row_stands_where_its_keys_say(trace: Trace) -> None:
    tree = trace.to_xarray()
    for name, keys in (
        ("activations", ("step", "layer")),
        ("updates", ("step", "variable")),
        ("weights", ("step", "when", "variable")),
        ("samples", ("batch", "sample", "name")),
    ):
        node = tree[name]
        rows = list(trace.table(name).rows())
        assert rows
        for row in rows:
            place = {key: row[key] for key in keys}
            figure = "max" if name == "samples" else "l2"
            assert node[figure].sel(place).item() == pytest.approx(row[figure], nan_ok=True)


def test_the_steps_are_shared_by_every_node(trace: Trace) -> None:
    tree = trace.to_xarray()
    assert isinstance(tree, xr.DataTree)
    assert tree["step"].values.tolist() == [0, 1, 2]
    np.testing.assert_array_equal(tree["steps"]["loss"].values, [2.5, 2.0, math.nan])
    assert tree["activations"]["l2"].dims == ("step", "layer")
    assert tree.attrs["outcome"] == "diverged"
    assert tree.attrs["failing_step"] == 2


def test_layers_are_selected_by_their_path(trace: Trace) -> None:
    outputs = trace.to_xarray()["activations"]
    assert outputs["layer"].values.tolist() == list(LAYERS)
    assert outputs["absmax"].sel(layer="decoder/head").dims == ("step",)
    assert outputs["absmax"].attrs["long_name"] == "largest magnitude among the finite elements"
    assert outputs["layer_class"].sel(layer="decoder/head").item() == "Dense"


def test_histograms_lie_over_the_exponents(trace: Trace) -> None:
    outputs = trace.to_xarray()["activations"]
    assert outputs["exponents"].dims == ("step", "layer", "exponent")
    first = trace.table("activations").row(0)
    counts = outputs["exponents"].sel(step=first["step"], layer=first["layer"])
    np.testing.assert_array_equal(counts.values, first["exponents"])
    assert outputs["exponent"].values[[0, -1]].tolist() == [-150, 128]
    assert counts.sizes["exponent"] == EXPONENT_BINS


def test_gradients_of_layers_and_of_variables_lie_apart(trace: Trace) -> None:
    tree = trace.to_xarray()
    assert tree["layer_gradients"]["l2"].dims == ("step", "layer")
    assert tree["variable_gradients"]["l2"].dims == ("step", "variable")
    assert tree["variable_gradients"]["variable"].values.tolist() == [
        f"{layer}/kernel" for layer in LAYERS
    ]


def test_several_tensors_of_a_layer_have_names_of_their_own() -> None:
    outputs = built(
        call("lstm", time=0),
        call("lstm", time=1),
        call("split"),
        call("split", role="output/1"),
        call("shared"),
        call("shared", call=1),
        call("", role="input"),
    )["activations"]
    assert outputs["layer"].values.tolist() == [
        "lstm (time 0)", "lstm (time 1)", "split", "split (output/1)", "shared", "shared (call 1)",
        "input",
    ]  # fmt: skip
    assert outputs["layer_path"].sel(layer="lstm (time 1)").item() == "lstm"
    assert outputs["time"].sel(layer="lstm (time 1)").item() == 1


def test_what_a_step_did_not_see_is_not_a_number() -> None:
    outputs = built(call("a"), call("a", step=1), call("b", step=1, nan=3))["activations"]
    assert math.isnan(outputs["nan"].sel(step=0, layer="b").item())
    assert outputs["nan"].sel(step=1, layer="b").item() == 3
    assert outputs["exponents"].sel(step=0, layer="b").sum().item() == 0


def test_what_changes_from_step_to_step_is_no_coordinate() -> None:
    outputs = built(call("a"), call("a", step=1, dtype="float16"))["activations"]
    assert outputs["dtype"].dims == ("step", "layer")
    assert outputs["dtype"].values.tolist() == [["float64"], ["float16"]]


def test_two_optimizers_keep_their_rates_apart() -> None:
    builder = TraceBuilder()
    builder.add("steps", step=0)
    for optimizer, rate in enumerate((0.1, 0.2)):
        builder.add("hyperparameters", step=0, optimizer=optimizer, name="rate", value=rate)
    values = builder.build().to_xarray()["hyperparameters"]["value"]
    assert values.sel(step=0, hyperparameter="rate (1)").item() == 0.2


def test_an_empty_trace_is_an_empty_tree() -> None:
    tree = Trace({}, {}).to_xarray()
    assert list(tree.children) == []
    assert tree.attrs["outcome"] == "inconclusive"


def test_it_can_be_written_as_netcdf_and_read_again(trace: Trace, tmp_path: Path) -> None:
    tree = trace.to_xarray()
    tree.to_netcdf(tmp_path / "t.nc", engine="h5netcdf")
    with xr.open_datatree(tmp_path / "t.nc", engine="h5netcdf") as again:
        assert set(again.children) == set(tree.children)
        np.testing.assert_array_equal(again["weights"]["l2"], tree["weights"]["l2"])
        assert again["activations"]["layer"].values.tolist() == list(LAYERS)


@pytest.mark.parametrize(
    ("package", "use"),
    [("pandas", lambda trace: trace.weights), ("xarray", lambda trace: trace.to_xarray())],
)
def test_a_package_that_is_missing_is_named(
    trace: Trace, monkeypatch: pytest.MonkeyPatch, package: str, use: Any
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    with pytest.raises(MissingPackageError) as told:
        use(trace)
    assert f"{package} is needed" in str(told.value)
    assert f"fix: pip install {package}" in str(told.value)
    assert isinstance(told.value, ImportError)
