"""Do the trials about rate, recurrence and repetition find what calculus and construction say?"""

import numpy as np
import pytest

from divergence_doctor.trials import all_trials
from divergence_doctor.trials.orthogonal_recurrent import orthogonal

GENERATOR = np.random.default_rng(0)
X = GENERATOR.normal(size=(32, 4)).astype("float32")
Y = (X @ np.array([[1.0], [-2.0], [0.5], [3.0]], "float32")).astype("float32")


def test_the_largest_rate_that_survives_is_that_of_the_parabola(keras, bench_of):
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(1, use_bias=False, name="out")]
    )
    rate = 30.0
    model.compile(keras.optimizers.SGD(rate), "mse")
    edge = 2 / np.linalg.eigvalsh(2 / len(X) * X.T @ X).max()
    bench = bench_of(model, steps=10, x=X, y=Y)
    outcome = all_trials()["lower-rate"].run(bench, {"factors": [10, 100, 1000], "halvings": 3})
    assert outcome.outcome == "finite"
    lived = [rate / attempt.value for attempt in outcome.attempts if attempt.outcome == "finite"]
    died = [rate / attempt.value for attempt in outcome.attempts if attempt.outcome != "finite"]
    # A decade halved three times on a log scale; ten steps tell a growth of 1.3 from none.
    assert edge / 10 ** (1 / 8) / 1.3 <= max(lived) <= edge * 1.05
    assert min([*died, rate]) > edge * 0.9


def test_the_mildest_clip_norm_that_mends_is_searched_for(keras, bench_of):
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.Dense(1, use_bias=False, name="out")]
    )
    model.compile(keras.optimizers.SGD(30.0), "mse")
    bench = bench_of(model, steps=10, x=X, y=Y)
    norms = [0.001, 0.01, 5.0, 100.0]
    outcome = all_trials()["clip-gradients"].run(bench, {"norms": norms})
    tried = {attempt.value: attempt.outcome for attempt in outcome.attempts}
    assert outcome.outcome == "finite"
    best = max(value for value, said in tried.items() if said == "finite")
    assert outcome.changed == f"global gradient norm clipped to {best:g}"
    assert len(tried) <= 3
    assert model.optimizer.global_clipnorm is None


@pytest.mark.parametrize("gates", [1, 4])
def test_the_nearest_orthogonal_kernel_is_orthogonal_and_the_nearest(gates):
    kernel = GENERATOR.normal(size=(5, 5 * gates))
    found = orthogonal(kernel)
    for block, near in zip(np.split(kernel, gates, 1), np.split(found, gates, 1), strict=True):
        assert near.T @ near == pytest.approx(np.eye(5), abs=1e-9)
        for _ in range(20):
            other, _ = np.linalg.qr(GENERATOR.normal(size=(5, 5)))
            assert np.linalg.norm(block - near) <= np.linalg.norm(block - other)


def test_a_kernel_that_is_orthogonal_already_is_left_alone():
    kernel, _ = np.linalg.qr(GENERATOR.normal(size=(5, 5)))
    assert orthogonal(kernel) is None
    assert orthogonal(np.ones((3, 4))) is None


def repeated(keras, bench_of, layer):
    model = keras.Sequential([keras.layers.Input((4,)), layer, keras.layers.Dense(1, name="out")])
    model.compile(keras.optimizers.SGD(0.01), "mse", run_eagerly=True)
    bench = bench_of(model, steps=3, x=X, y=Y)
    all_trials()["control"].run(bench, {})
    return bench, all_trials()["same-step"].run(bench, {})


def test_a_step_that_counts_its_calls_is_told_with_the_counter(keras, bench_of):
    class Cycle(keras.layers.Layer):
        def __init__(self):
            super().__init__(name="cycle")
            self.seen_batches = -1

        def call(self, x):
            self.seen_batches += 1
            return x / float(self.seen_batches % 3)

    # The model is built by one call; the first watched step is the third of the cycle.
    _, outcome = repeated(keras, bench_of, Cycle())
    assert outcome.outcome == "finite"
    assert "in one run and" in outcome.detail
    names = {row["name"] for table, row in outcome.rows if table == "unseeded"}
    assert any("seen_batches" in name for name in names)


def test_a_step_with_masks_and_a_seed_repeats_to_the_bit(keras, bench_of):
    class Fails(keras.layers.Layer):
        def call(self, x):
            return keras.ops.log(
                keras.ops.relu(keras.layers.Dropout(0.5, seed=3)(x, training=True))
            )

    _, outcome = repeated(keras, bench_of, Fails())
    assert (outcome.outcome, outcome.changed) == ("still-fails", "nothing, once more")
    assert "agree bit for bit" in outcome.detail


def test_a_step_that_breaks_each_time_at_first_is_run_until_it_lives_where_no_seed_holds_it(
    keras, bench_of
):
    class Warming(keras.layers.Layer):
        def __init__(self, *, counts):
            super().__init__(name="warming")
            self.counts = counts
            self.calls = 0

        def call(self, x):
            self.calls += self.counts
            return x * (float("nan") if self.calls < 7 else 1.0)

    _, outcome = repeated(keras, bench_of, Warming(counts=1))
    assert outcome.outcome == "finite"
    assert "fails in one run" in outcome.detail or "nan in one run" in outcome.detail
    _, outcome = repeated(keras, bench_of, Warming(counts=0))
    assert outcome.outcome == "still-fails"
    assert {row["run"] for _, row in outcome.rows} == {1, 2}
