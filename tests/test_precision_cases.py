"""Is a short range told from a step that fails in any? Models in half precision and in float32."""

import keras
import numpy as np
import pytest
from keras import ops

from divergence_doctor.diagnosis import diagnose
from divergence_doctor.examination import Request, examine

X = np.random.default_rng(0).normal(size=(16, 4)).astype("float32")
Y = np.random.default_rng(1).normal(size=(16, 1)).astype("float32")

FORMULAS = {
    "1/(x - x)": lambda x: x / (x - x),
    "exp(12)": lambda x: 1e-5 * ops.exp(0 * x + 12.0),
    "exp(100)": lambda x: 1e-5 * ops.exp(0 * x + 100.0),
    "mask times -1e9": lambda x: ops.softmax(x + ops.cast(x > 9.0, x.dtype) * -1e9),
    "norm with 1e-8": lambda x: (0 * x) / ops.sqrt(ops.mean(0 * x * x, -1, keepdims=True) + 1e-8),
    "log(1 - p)": lambda x: ops.log(1 - ops.sigmoid(0 * x + 9.5)),
    "log(1 - p), p = 1": lambda x: ops.log(1 - ops.sigmoid(0 * x + 200.0)),
    "squares of 1e-5": lambda x: 1e-5 * x / ops.sqrt(ops.sum(ops.square(0 * x + 1e-5), -1, True)),
}


@keras.saving.register_keras_serializable("test_precision_cases")
class Computed(keras.layers.Layer):
    def __init__(self, formula, **options):
        super().__init__(**options)
        self.formula = formula

    def call(self, x):
        return FORMULAS[self.formula](x)

    def get_config(self):
        return {**super().get_config(), "formula": self.formula}


@pytest.fixture
def diagnosed(keras, tmp_path):
    """Return a function that saves a model under a policy and returns its diagnosis."""

    def diagnosis(policy, make, **arrays):
        keras.config.set_dtype_policy(policy)
        make().save(tmp_path / "model.keras")
        keras.config.set_dtype_policy("float32")
        np.savez(tmp_path / "batch.npz", **{"x": X, "y": Y, **arrays})
        request = Request(str(tmp_path / "model.keras"), (str(tmp_path / "batch.npz"),), steps=4)
        return diagnose(examine(request, tmp_path))

    return diagnosis


def of(formula, optimizer=None):
    def make():
        model = keras.Sequential(
            [keras.layers.Input((4,)), Computed(formula, name="computed"),
             keras.layers.Dense(1, dtype="float32")]
        )  # fmt: skip
        model.compile(optimizer or keras.optimizers.SGD(1e-3), "mse")
        return model

    return make


@pytest.mark.parametrize(
    ("policy", "formula", "cause"),
    [
        ("mixed_float16", "exp(12)", "low-precision-overflow"),
        ("float32", "exp(12)", None),
        ("mixed_float16", "exp(100)", "exp-overflow"),
        ("mixed_bfloat16", "exp(100)", "exp-overflow"),
        ("mixed_float16", "mask times -1e9", "low-precision-overflow"),
        ("mixed_bfloat16", "mask times -1e9", None),
        ("mixed_float16", "norm with 1e-8", "low-precision-underflow"),
        ("mixed_bfloat16", "norm with 1e-8", None),
        ("mixed_float16", "1/(x - x)", "division-by-zero"),
        ("mixed_bfloat16", "1/(x - x)", "division-by-zero"),
        ("float16", "log(1 - p)", "low-precision-underflow"),
        ("mixed_bfloat16", "log(1 - p)", "low-precision-underflow"),
        ("float32", "log(1 - p)", None),
        ("mixed_float16", "log(1 - p), p = 1", "log-of-zero"),
        ("mixed_float16", "squares of 1e-5", "low-precision-underflow"),
    ],
)
# NumPy tells that -1e9 does not fit float16 where TensorFlow makes the constant.
@pytest.mark.filterwarnings("ignore:overflow encountered in cast:RuntimeWarning")
def test_the_precision_is_blamed_where_float32_does_the_same_step(
    diagnosed, policy, formula, cause
):
    found = diagnosed(policy, of(formula))
    if cause is None:
        assert found.outcome == "healthy", found.because
        assert found.main is None
        return
    assert found.main.finding.cause == cause, found.main.finding.summary
    assert found.main.confirmed
    assert found.main.finding.site.layer == "computed"


def test_the_constant_that_was_lost_is_named_and_the_division_counts_as_its_effect(diagnosed):
    found = diagnosed("mixed_float16", of("norm with 1e-8"))
    assert "the constant 1e-08 of AddV2 is 0 in float16" in found.main.finding.summary
    effect = next(f for f in found.findings if f.finding.cause == "division-by-zero")
    assert effect.finding.explained_by == "low-precision-underflow"


def test_adams_epsilon_that_is_zero_in_float16_is_found_in_the_update(diagnosed):
    def make():
        model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(1)])
        model.compile(keras.optimizers.Adam(1e-3, epsilon=1e-8), "mse")
        return model

    x = X.copy()
    x[:, 2] = 0
    finding = diagnosed("float16", make, x=x).main.finding
    assert (finding.cause, finding.stage) == ("low-precision-underflow", "update")
    assert "epsilon=1e-4" in finding.remedies[0]
    healthy = diagnosed("mixed_float16", make, x=x)
    assert healthy.outcome == "healthy"


def test_a_nan_in_the_batch_is_no_matter_of_precision(diagnosed):
    x = X.copy()
    x[3, 1] = np.nan
    assert diagnosed("mixed_bfloat16", of("exp(12)"), x=x).main.finding.cause == "bad-input"


def test_headroom_is_told_layer_by_layer_in_bits(diagnosed):
    def make():
        model = keras.Sequential(
            [keras.layers.Input((4,)),
             keras.layers.Dense(4, kernel_initializer="ones", name="wide"),
             keras.layers.Dense(4, kernel_initializer="ones", name="over"),
             keras.layers.LayerNormalization(), keras.layers.Dense(1, dtype="float32")]
        )  # fmt: skip
        model.compile(keras.optimizers.SGD(1e-6), "mse")
        return model

    x = np.full((16, 4), 64.0, "float32") * 100
    finding = diagnosed("mixed_float16", make, x=x).main.finding
    told = {item.claim: item.value for item in finding.evidence}
    assert told["bits of headroom that 'wide' leaves in float16"] == pytest.approx(1.36, abs=0.01)
