"""Does the step live once the non-finite values are replaced by ordinary ones?"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, final

import numpy as np

from divergence_doctor.replay.state import model_variables, slot_variables
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from divergence_doctor.replay.bench import Bench


@final
class ReplaceValues(Trial):
    """Replaces NaN and Inf: ``{"where": "batch" | "weights" | "slots", "names": [...]}``.

    In a batch a bad cell becomes the mean of its feature's finite values. In a variable it becomes
    0, or 1 in a variance or a scale, which may not be 0 (nor negative). ``"slots": [...]`` are
    mended along with weights, and where ``"zeros": true`` is given the zeros of the named weights
    become 1, in place of what is not finite.
    """

    name: ClassVar[str] = "replace-values"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run the steps with the values replaced."""
        names = [str(name) for name in parameters.get("names", ())]
        zeros, slots = bool(parameters.get("zeros")), {str(n) for n in parameters.get("slots", ())}
        shown = ", ".join(names[:4]) + (", …" if len(names) > 4 else "")
        what = "zeros" if zeros else "non-finite values"
        also = f" and of {len(slots)} slot(s) of the optimizer" if slots else ""
        changed = f"{what} in {shown or parameters['where']}{also} replaced"
        if parameters["where"] == "batch":
            batches = bench.edited(lambda n, a: fill(a) if n in names or not names else a)
            return Outcome.of(changed, bench.run(batches=batches))

        @contextmanager
        def mended() -> Iterator[None]:
            wanted = set(names)
            held = [(h.variable, h.path) for h in model_variables(bench.model)]
            if parameters["where"] == "slots":
                held = [(variable, path) for variable, path, _ in slot_variables(bench.model)]
            for variable, path in held:
                if not wanted or path in wanted:
                    values = np.asarray(variable.value)
                    variable.assign(without_zeros(values) if zeros else mend(values, path))
            for variable, path, _ in slot_variables(bench.model):
                if path in slots:
                    variable.assign(mend(np.asarray(variable.value), path))
            yield

        return Outcome.of(changed, bench.run(prepare=mended))


def fill(array: NDArray[Any]) -> NDArray[Any]:
    """Return the array with each bad cell replaced by its feature's mean (0 where it has none)."""
    if array.dtype.kind not in "fc":
        return array
    bad = ~np.isfinite(array)
    if not bad.any():
        return array
    good = np.where(bad, 0, array).astype(np.float64)
    count = np.maximum((~bad).sum(axis=0), 1)
    means = good.sum(axis=0) / count
    return np.where(bad, np.broadcast_to(means, array.shape), array).astype(array.dtype)


def without_zeros(values: NDArray[Any]) -> NDArray[Any]:
    """Return a variable's values with 1 in place of every 0."""
    return np.where(values == 0, np.ones((), values.dtype), values).astype(values.dtype)


def mend(values: NDArray[Any], path: str) -> NDArray[Any]:
    """Return a variable's values without NaN, Inf and impossible variances."""
    leaf = path.rpartition("/")[2]
    wide = values.astype(np.float32) if values.dtype.kind != "f" else values
    bad = ~np.isfinite(wide)
    ordinary = 1.0 if leaf in {"moving_variance", "gamma", "scale"} else 0.0
    if "variance" in leaf or "velocity" in leaf:
        bad |= wide < 0
    return np.where(bad, np.asarray(ordinary, wide.dtype), wide).astype(values.dtype)
