"""Are the rows named that are to blame, and does the smallest batch fail in the same way?"""

import numpy as np
import pytest
import tensorflow as tf

from divergence_doctor.batches import Batch, describe
from divergence_doctor.replay.delta import ddmin

GENERATOR = np.random.default_rng(0)
X = GENERATOR.uniform(0.5, 1.5, size=(16, 4)).astype("float32")
Y = GENERATOR.normal(size=(16, 1)).astype("float32")


def batch_of(arrays):
    return Batch(arrays=arrays, source="made.npz", sha256="0" * 64)


@pytest.fixture
def blamed(keras):
    """Return a function that replays a model on batches until it fails and gives the culprits.

    ``claimed`` are the rows that a cause would name; ``blind`` hides from the search what the
    watched step shows of the rows.
    """
    from divergence_doctor.replay import Bench, Engine, Snapshot, match
    from divergence_doctor.replay.blame import blame
    from divergence_doctor.replay.chain import measure
    from divergence_doctor.trace import TraceBuilder

    def search(model, *batches, claimed=(), blind=False, steps=3, seconds=300.0):
        builder, snapshot = TraceBuilder(), Snapshot(model)
        batches = [batch_of(arrays) for arrays in batches]
        fed = [match(batch, model) for batch in batches]
        for number, (batch, one) in enumerate(zip(batches, fed, strict=True)):
            describe(batch, number, builder, roles=one.roles)
        engine = Engine(model, fed, builder)
        engine.replay(steps=steps, seed=0)
        trace = builder.build()
        assert trace.outcome == "diverged", trace.context["outcome_because"]
        if blind:
            for event in engine.last_stream.events:
                event.rows = None
        bench = Bench(
            model, snapshot, batches, seed=0, asked=steps, failing_step=trace.failing_step,
            stream=engine.last_stream, losses=list(trace.table("targets")["loss"]),
        )  # fmt: skip
        primary = next((e for e in engine.last_stream.events if e.primary), None)
        if primary is not None:
            measure(bench, primary, trace.failing_step, builder)
        found = blame(bench, builder, claimed, seconds=seconds)
        search.trace, search.bench = builder.build(), bench
        return found

    return search


def mlp(keras, loss="mse", **options):
    model = keras.Sequential(
        [keras.layers.Input((4,), **options), keras.layers.Dense(1, use_bias=False, name="out")]
    )
    model.compile(keras.optimizers.SGD(1e-3), loss)
    model.layers[0].kernel.assign(np.ones((4, 1)))
    return model


def minus_log(_, y_pred):
    return -tf.math.log(y_pred[:, 0])


def with_zeros(*rows):
    x = X.copy()
    x[list(rows)] = 0.0
    return x


# ---------------------------------------------------------------- the algorithm


@pytest.mark.parametrize("wanted", [{5}, {0}, {63}, {3, 60}, {7, 8, 9}, {1, 22, 43}])
def test_ddmin_leaves_just_the_items_that_are_needed_together(wanted):
    tests = []

    def holds(part):
        tests.append(part)
        return wanted <= set(part)

    assert set(ddmin(range(64), holds, most=200)) == wanted
    assert all(len(set(part)) == len(part) for part in tests)


def test_ddmin_finds_one_row_by_halving():
    tests = []

    def holds(part):
        tests.append(part)
        return 777 in part

    assert ddmin(range(1024), holds) == (777,)
    assert len(tests) <= 2 * 10


def test_ddmin_stops_at_its_bound_with_a_part_for_which_the_test_holds():
    tests = []

    def holds(part):
        tests.append(part)
        return {3, 60} <= set(part)

    found = ddmin(range(64), holds, most=12)
    assert len(tests) <= 12
    assert {3, 60} <= set(found)
    assert len(found) < 64


# ---------------------------------------------------------------- rows that stand for themselves


def test_a_named_row_takes_two_runs(keras, blamed):
    found = blamed(mlp(keras, minus_log), {"x": with_zeros(5), "y": Y}, claimed=[5])
    assert (found.outcome, found.rows, found.minimal) == ("rows", (5,), (5,))
    assert found.replays == 2


@pytest.mark.parametrize("rows", [(5,), (2, 11), (0, 15), (1, 6, 12)])
def test_rows_that_each_fail_alone_are_all_found_when_nothing_names_them(keras, blamed, rows):
    found = blamed(mlp(keras, minus_log), {"x": with_zeros(*rows), "y": Y}, blind=True)
    assert (found.outcome, found.rows, found.removed) == ("rows", rows, rows)
    assert len(found.minimal) == 1
    assert found.minimal[0] in rows


def test_a_row_that_is_named_but_harmless_is_not_blamed(keras, blamed):
    found = blamed(mlp(keras, minus_log), {"x": with_zeros(5), "y": Y}, claimed=[3, 5])
    assert (found.rows, found.minimal) == ((5,), (5,))


def test_a_claim_whose_removal_does_not_mend_is_refuted(keras, blamed):
    found = blamed(mlp(keras, minus_log), {"x": with_zeros(5), "y": Y}, claimed=[3], blind=True)
    assert found.refuted == ((3,),)
    assert found.rows == (5,)


def test_no_row_is_blamed_where_any_of_them_fails_alone(keras, blamed):
    found = blamed(mlp(keras, minus_log), {"x": np.zeros((16, 4), "float32"), "y": Y})
    assert (found.outcome, found.rows, found.minimal) == ("whole", (), (0,))
    assert found.replays == 1


def test_rows_that_are_most_of_the_batch_are_blamed_where_the_others_live(keras, blamed):
    rows = tuple(range(3, 14))
    found = blamed(mlp(keras, minus_log), {"x": with_zeros(*rows), "y": Y})
    assert (found.outcome, found.rows) == ("rows", rows)


def test_a_first_and_a_middle_row_that_fail_are_not_taken_for_the_batch(keras, blamed):
    found = blamed(mlp(keras, minus_log), {"x": with_zeros(0, 8), "y": Y}, blind=True)
    assert (found.outcome, found.rows) == ("rows", (0, 8))


def test_the_search_gives_the_same_answer_twice(keras, blamed):
    first = blamed(mlp(keras, minus_log), {"x": with_zeros(2, 11), "y": Y}, blind=True)
    keras.backend.clear_session()
    again = blamed(mlp(keras, minus_log), {"x": with_zeros(2, 11), "y": Y}, blind=True)
    assert [run.kept for run in first.tried] == [run.kept for run in again.tried]
    assert (first.rows, first.minimal, first.because) == (again.rows, again.minimal, again.because)


def test_without_time_left_nothing_is_claimed(keras, blamed):
    found = blamed(mlp(keras, minus_log), {"x": with_zeros(5), "y": Y}, claimed=[5], seconds=0.0)
    assert (found.outcome, found.rows, found.minimal) == ("open", (), ())
    assert "--budget" in found.because


def test_a_row_that_fails_elsewhere_once_another_is_gone_is_found_behind_it(keras, blamed):
    def log_then_root(_, y_pred):
        logged = tf.math.log(y_pred[:, 0])
        return tf.reduce_mean(logged + tf.sqrt(40.0 - y_pred[:, 0]))

    x = X.copy()
    x[5], x[12] = -1.0, 20.0
    found = blamed(mlp(keras, log_then_root), {"x": x, "y": Y}, claimed=[5])
    assert (found.outcome, found.rows, found.refuted) == ("rows", (5, 12), ((5,),))
    # The batch as a whole fails at the logarithm, and so does its smallest part.
    first = blamed.trace.table("events")
    assert first.where(first["primary"])["op_type"].tolist() == ["Log"]
    assert found.minimal == (5,)


# ---------------------------------------------------------------- rows that influence one another


def test_behind_batch_normalization_the_row_is_blamed_and_not_its_company(keras, blamed):
    model = keras.Sequential(
        [
            keras.layers.Input((4,)),
            keras.layers.BatchNormalization(center=False, name="norm"),
            keras.layers.Dense(1, use_bias=False, name="out"),
        ]
    )

    def bounded(_, y_pred):
        return -tf.math.log(12.0 + y_pred[:, 0])

    model.compile(keras.optimizers.SGD(1e-3), bounded)
    model.get_layer("out").kernel.assign(np.ones((4, 1)))
    x = X.copy()
    x[7] = -1000.0
    found = blamed(model, {"x": x, "y": Y})
    # Alone, its mean is itself and it comes out as zero.
    assert (found.outcome, found.rows, found.removed) == ("rows", (7,), (7,))
    assert 7 in found.minimal
    assert 1 < len(found.minimal) < 16


def test_nan_behind_batch_normalization_is_traced_to_its_row(keras, blamed):
    model = keras.Sequential(
        [keras.layers.Input((4,)), keras.layers.BatchNormalization(), keras.layers.Dense(1)]
    )
    model.compile("sgd", "mse")
    x = X.copy()
    x[9, 2] = np.nan
    found = blamed(model, {"x": x, "y": Y}, blind=True)
    assert (found.rows, found.minimal) == ((9,), (9,))


def nearest_negative(_, y_pred):
    """Return the distance of each sample to the nearest other one, as in-batch negatives."""
    difference = y_pred[:, None] - y_pred[None]
    far = 1e6 * tf.eye(tf.shape(y_pred)[0])
    distance = tf.sqrt(tf.reduce_sum(difference**2, -1) + far)
    return tf.reduce_mean(tf.reduce_min(distance, 1))


def embedding(keras, loss):
    model = keras.Sequential([keras.layers.Input((4,)), keras.layers.Dense(3, name="embedding")])
    model.compile(keras.optimizers.SGD(1e-3), loss)
    return model


@pytest.mark.parametrize("claimed", [(), (4, 13)])
def test_two_duplicates_among_in_batch_negatives_are_blamed_together(keras, blamed, claimed):
    x = X.copy()
    x[13] = x[4]
    found = blamed(
        embedding(keras, nearest_negative), {"x": x, "y": Y}, claimed=claimed, blind=True
    )
    assert (found.outcome, found.minimal, found.rows) == ("rows", (4, 13), (4, 13))
    assert len(found.removed) == 1
    assert "fail together" in found.because


def test_an_empty_mask_of_the_whole_batch_blames_no_row(keras, blamed):
    def mean_over_mask(y_true, y_pred):
        mask = tf.cast(y_true > 100.0, "float32")
        return tf.reduce_sum(mask * (y_true - y_pred) ** 2) / tf.reduce_sum(mask)

    found = blamed(mlp(keras, mean_over_mask), {"x": X, "y": Y})
    assert (found.outcome, found.rows, found.minimal) == ("whole", (), (0,))


def test_a_sum_that_overflows_on_many_rows_blames_none_of_them(keras, blamed):
    def product_of_all(_, y_pred):
        return tf.exp(tf.reduce_sum(tf.abs(y_pred)))

    model = mlp(keras, product_of_all)
    x = np.full((64, 4), 0.4, "float32")
    found = blamed(model, {"x": x, "y": np.zeros((64, 1), "float32")})
    assert (found.outcome, found.rows) == ("whole", ())
    assert found.replays <= 24


def test_half_of_such_a_batch_that_is_named_is_not_blamed_either(keras, blamed):
    def product_of_all(_, y_pred):
        return tf.exp(tf.reduce_sum(tf.abs(y_pred)))

    x = np.full((64, 4), 0.4, "float32")
    found = blamed(
        mlp(keras, product_of_all),
        {"x": x, "y": np.zeros((64, 1), "float32")},
        claimed=list(range(3, 23)),
        steps=1,
    )
    assert (found.outcome, found.rows) == ("whole", ())
    assert "as many others" in found.because


@pytest.mark.parametrize("rows", [16, 13, 7])
def test_a_sum_of_unequal_rows_just_beyond_its_limit_blames_none_of_them(keras, blamed, rows):
    def product_of_all(_, y_pred):
        return tf.exp(tf.reduce_sum(tf.abs(y_pred)))

    model = mlp(keras, product_of_all)
    model.layers[-1].kernel.assign(np.ones((4, 1), "float32"))
    # exp overflows float32 at 88.7; it takes three of sixteen rows less to stay below.
    x = np.random.default_rng(3).uniform(0.95, 1.05, (rows, 4)).astype("float32")
    x *= 105.0 / x.sum()
    found = blamed(model, {"x": x, "y": np.zeros((rows, 1), "float32")}, steps=1)
    assert (found.outcome, found.rows) == ("whole", ())


def test_an_outlier_in_a_sum_that_needs_the_others_too_is_blamed(keras, blamed):
    def product_of_all(_, y_pred):
        return tf.exp(tf.reduce_sum(tf.abs(y_pred)))

    model = mlp(keras, product_of_all)
    model.layers[-1].kernel.assign(np.ones((4, 1), "float32"))
    x = np.full((16, 4), 0.5, "float32")
    x[[5, 11]] = 9.0
    found = blamed(model, {"x": x, "y": np.zeros((16, 1), "float32")}, steps=1)
    assert found.outcome == "rows"
    assert set(found.rows) <= {5, 11}


def test_a_row_is_found_though_the_model_shuffles_the_rows(keras, blamed):
    def shuffled(_, y_pred):
        order = tf.random.shuffle(tf.range(tf.shape(y_pred)[0]))
        return -tf.math.log(tf.gather(y_pred, order)[:, 0])

    found = blamed(mlp(keras, shuffled), {"x": with_zeros(10), "y": Y}, blind=True)
    assert (found.rows, found.minimal) == ((10,), (10,))


# ---------------------------------------------------------------- models that need their size


def of_sixteen(_, y_pred):
    weights = tf.constant(np.ones((16, 1), "float32"))
    return -tf.reduce_mean(weights * tf.math.log(y_pred))


@pytest.mark.parametrize(
    ("rows", "claimed"), [((5,), (5,)), ((5,), ()), ((0,), ()), ((2, 11), (2, 11))]
)
def test_in_a_batch_of_fixed_size_rows_are_replaced_by_copies(keras, blamed, rows, claimed):
    found = blamed(
        mlp(keras, of_sixteen), {"x": with_zeros(*rows), "y": Y}, claimed=claimed, blind=True
    )
    assert (found.outcome, found.rows) == ("rows", rows)
    assert found.copy not in rows
    assert found.copy >= 0
    assert found.minimal == rows[:1]
    part = blamed.bench.subsets.part(found.minimal, copy=found.copy)
    assert part.samples == 16
    assert any(run.outcome == "refused" for run in found.tried)


def test_refused_parts_are_no_evidence(keras, blamed):
    def of_sixteen_always(_, y_pred):
        return tf.reduce_mean(tf.constant(np.ones((16, 1), "float32")) * y_pred) / 0.0

    found = blamed(mlp(keras, of_sixteen_always), {"x": X, "y": Y}, claimed=(3,))
    assert found.rows == ()
    assert {run.outcome for run in found.tried} >= {"refused"}


def test_a_stateful_rnn_keeps_its_batch_size(keras, blamed):
    model = keras.Sequential(
        [
            keras.layers.Input(batch_shape=(8, 3, 2)),
            keras.layers.SimpleRNN(4, stateful=True),
            keras.layers.Dense(1),
        ]
    )
    model.compile("sgd", "mse")
    x = GENERATOR.normal(size=(8, 3, 2)).astype("float32")
    x[6, 1, 0] = np.nan
    found = blamed(model, {"x": x, "y": Y[:8]}, claimed=(6,))
    assert (found.outcome, found.rows) == ("rows", (6,))
    assert found.copy not in {-1, 6}


# ---------------------------------------------------------------- batches


def test_rows_of_two_named_inputs_are_taken_together(keras, blamed):
    image, tabular = keras.layers.Input((4,), name="image"), keras.layers.Input((2,), name="tab")
    joined = keras.layers.Concatenate()([image, tabular])
    model = keras.Model([image, tabular], keras.layers.Dense(1)(joined))
    model.compile("sgd", "mse")
    tab = GENERATOR.normal(size=(16, 2)).astype("float32")
    tab[3, 1] = np.inf
    found = blamed(model, {"x/image": X, "x/tab": tab, "y": Y})
    assert (found.rows, found.minimal) == ((3,), (3,))
    cells = blamed.trace.table("culprits").where(blamed.trace.table("culprits")["array"] != "")
    assert [(row["array"], row["index"]) for row in cells.rows()] == [("x/tab", "3,1")]


def test_in_a_sequence_only_the_failing_steps_batch_is_cut(keras, blamed):
    good = {"x": X, "y": Y}
    found = blamed(mlp(keras, minus_log), good, {"x": with_zeros(5), "y": Y}, steps=2)
    assert (found.batch, found.rows, found.minimal) == (1, (5,), (5,))
    assert {run.outcome for run in found.tried} == {"finite", "same-failure"}


def test_a_part_that_fails_at_another_op_does_not_fail_in_the_same_way(keras, blamed):
    def root_or_log(_, y_pred):
        count = tf.cast(tf.shape(y_pred)[0], "float32")
        return tf.math.log(tf.reduce_min(y_pred)) / tf.sqrt(count - 1.0)

    # A single row divides by zero, which is another failure than the log of zero.
    found = blamed(mlp(keras, root_or_log), {"x": with_zeros(5), "y": Y})
    assert found.rows == (5,)
    fine = [run.outcome for run in found.tried if len(run.kept) == 1 and run.kept != (5,)]
    assert "same-failure" not in fine


def test_the_smallest_batch_fails_in_the_same_way_when_it_is_run(keras, blamed):
    found = blamed(mlp(keras, minus_log), {"x": with_zeros(2, 11), "y": Y}, claimed=[2, 11])
    part = blamed.bench.subsets.part(found.minimal)
    rerun = blamed.bench.run(batches=(part,), watched=True)
    assert rerun.fault.place[0] == "Log"
    assert rerun.fault.kind == "the loss is not finite"


def test_the_trace_holds_the_search(keras, blamed):
    found = blamed(mlp(keras, minus_log), {"x": with_zeros(5), "y": Y})
    subsets = list(blamed.trace.table("subsets").rows())
    assert [row["outcome"] for row in subsets] == [run.outcome for run in found.tried]
    assert next(blamed.trace.table("culprits").rows())["sample"] == 5
    told = blamed.trace.context["culprits"]
    assert (told["samples"], told["minimal"], told["replays"]) == ([5], [5], found.replays)


def test_nothing_is_searched_where_the_checkpoint_was_bad_already(keras, blamed):
    model = mlp(keras)
    model.layers[0].kernel.assign(np.full((4, 1), np.nan))
    assert blamed(model, {"x": X, "y": Y}) is None


def test_an_outlier_that_makes_finite_steps_run_away_is_proven(keras, blamed):
    model = mlp(keras)
    model.compile(keras.optimizers.SGD(0.02), "mse")
    x = X.copy()
    x[4] = 40.0
    found = blamed(model, {"x": x, "y": Y}, claimed=[4], steps=8)
    assert "runs away" in blamed.trace.context["outcome_because"]
    assert (found.outcome, found.rows, found.minimal) == ("rows", (4,), (4,))


def test_steps_that_run_away_without_a_suspect_are_not_searched(keras, blamed):
    model = mlp(keras)
    model.compile(keras.optimizers.SGD(1.5), "mse")
    assert blamed(model, {"x": X, "y": Y}, steps=8) is None
