"""Does the picture of the trials show which change made the failure go away?"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from divergence_doctor.figures.trials import Trials
from divergence_doctor.trace.synthetic import training_trace

if TYPE_CHECKING:
    from collections.abc import Callable

    from matplotlib.figure import Figure as Canvas

    from divergence_doctor.trace import Trace

    Draw = Callable[[Trials, Trace], Canvas]


def trial(changed: str, breadth: int, outcome: str, steps: int = 0, **more: Any) -> dict[str, Any]:
    return {
        "name": "x", "changed": changed, "breadth": breadth, "outcome": outcome, "steps": steps,
        "detail": "seen", **more,
    }  # fmt: skip


TRIALS = (
    trial("the rate divided by 10", 3, "finite", 10),
    trial("kernels rescaled", 2, "not-run"),
    trial("float64", 2, "still-fails", 3),
    trial("sample 5 left out", 1, "finite", 7),
    trial("", 0, "still-fails", 2),
)


def labels(canvas: Canvas) -> list[str]:
    return [label.get_text() for label in canvas.axes[0].get_yticklabels()]


def test_the_control_comes_first_and_then_the_narrowest_changes(drawn: Draw) -> None:
    canvas = drawn(Trials(), training_trace(trials=TRIALS))
    assert labels(canvas) == [
        "nothing",
        "sample 5 left out",
        "float64",
        "kernels rescaled",
        "the rate divided by 10",
    ]
    assert [text.get_text() for text in canvas.axes[0].texts] == [
        "nothing changed (control)",
        "still fails: seen",
        "changes the point alone",
        "failure gone: seen",
        "changes a family of things",
        "still fails: seen",
        "not run: seen",
        "changes nearly everything",
        "failure gone: seen",
    ]


def test_a_bar_is_as_long_as_the_steps_that_lived_and_its_mark_says_how_it_ended(
    drawn: Draw,
) -> None:
    canvas = drawn(Trials(), training_trace(trials=TRIALS))
    marks = [line for line in canvas.axes[0].get_lines() if line.get_marker() in ("o", "X")]
    assert [(mark.get_marker(), mark.get_xdata()[0]) for mark in marks] == [
        ("X", 2),
        ("o", 7),
        ("X", 3),
        ("o", 10),
    ]


def test_a_trial_that_served_two_causes_stands_once(drawn: Draw) -> None:
    twice = [trial("x standardised", 2, "finite", 5, cause=cause) for cause in ("a", "b")]
    assert labels(drawn(Trials(), training_trace(trials=twice))) == ["x standardised"]


def test_of_many_trials_those_that_tell_most_are_kept_and_the_cut_is_told(drawn: Draw) -> None:
    every = [trial(f"change {n}", 1 + n % 3, ("not-run", "finite")[n < 20]) for n in range(40)]
    canvas = drawn(Trials(), training_trace(trials=[TRIALS[-1], *every]))
    assert len(labels(canvas)) == 24
    assert {"nothing", *(f"change {n}" for n in range(20))} <= set(labels(canvas))
    assert canvas.get_suptitle().endswith("(24 of 41 shown)")


def test_long_words_keep_their_beginning_and_their_end(drawn: Draw) -> None:
    long = f"the learning rate of {'encoder/' * 30}dense divided by 30"
    (label,) = labels(drawn(Trials(), training_trace(trials=[trial(long, 1, "finite")])))
    assert label.count("\n") == 1
    assert label.startswith("the learning rate")
    assert label.endswith("by 30")


def test_the_caption_says_what_mended_it() -> None:
    assert Trials().caption(training_trace(trials=TRIALS)) == (
        "5 trials of the same steps with one thing changed; the untouched step still fails; it "
        "does not fail with 'sample 5 left out' and with 1 other change; it still fails with "
        "1 change; not run: 1 change."
    )
    lived = [trial("", 0, "finite", 3), trial("float64", 2, "finite", 3)]
    assert "the untouched step did not fail again" in Trials().caption(training_trace(trials=lived))


def test_a_control_alone_needs_no_picture() -> None:
    assert not Trials().suits(training_trace(trials=[TRIALS[-1]]))
    assert not Trials().suits(training_trace())
