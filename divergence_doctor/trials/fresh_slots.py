"""Does the step live with the slots that a new optimizer would have?"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints import innermost, optimizers_of
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from divergence_doctor.replay.bench import Bench


@final
class FreshSlots(Trial):
    """Gives optimizers the slots of new ones: ``{"names": [...]}``, all optimizers when empty.

    An optimizer that owns one of the named slots gets all of them anew, with its iteration counter:
    a first moment without its second, or a second without the counter that corrects its bias, would
    be another corrupt state.
    """

    name: ClassVar[str] = "fresh-slots"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run all the steps from fresh slots."""
        names = {str(name) for name in parameters.get("names", ())}
        chosen = [
            inner
            for inner in map(innermost, optimizers_of(bench.model))
            if inner.built and (not names or names & {clean(v.path) for v in inner.variables})
        ]
        if not chosen:
            return Outcome.not_run("fresh slots", "no optimizer holds such a slot")

        @contextmanager
        def mended() -> Iterator[None]:
            for optimizer in chosen:
                for variable, value in _fresh(optimizer):
                    variable.assign(value)
            yield

        classes = ", ".join(dict.fromkeys(type(optimizer).__name__ for optimizer in chosen))
        steps = max(bench.asked, bench.failing_step + 1)
        return Outcome.of(
            f"slots and iteration counter of {classes} as in a new optimizer",
            bench.run(prepare=mended, steps=steps),
        )


def _fresh(optimizer: Any) -> list[tuple[Any, Any]]:
    """Return the optimizer's variables, less its learning rate, with what they hold when new."""
    rate = vars(optimizer).get("_learning_rate")
    own = [variable for variable in optimizer.variables if variable is not rate]
    values = _of_a_new_one(optimizer)
    return [
        (variable, values.get(number, np.zeros(variable.shape, variable.dtype)))
        for number, variable in enumerate(own)
    ]


def _of_a_new_one(optimizer: Any) -> dict[int, Any]:
    """Return what a new optimizer of this config holds, by place; empty where none can be made.

    Most slots start at zero, but an Adagrad's accumulator or a Nadam's product of schedules do not.
    """
    try:
        new = type(optimizer).from_config(optimizer.get_config())
        new.build(optimizer._trainable_variables)  # noqa: SLF001 - build takes what it was built on
        rate = vars(new).get("_learning_rate")
        fresh = [np.asarray(v.value) for v in new.variables if v is not rate]
    except Exception:  # noqa: BLE001 - a user's optimizer may not come back from its config
        return {}
    own = [v for v in optimizer.variables if v is not vars(optimizer).get("_learning_rate")]
    alike = [tuple(a.shape) for a in fresh] == [tuple(v.shape) for v in own]
    return dict(enumerate(fresh)) if alike else {}
