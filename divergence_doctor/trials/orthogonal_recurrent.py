"""Do the steps live once the recurrent kernels are orthogonal?"""

from __future__ import annotations

from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

import numpy as np

from divergence_doctor.replay.state import model_variables
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

    from divergence_doctor.replay.bench import Bench

#: Singular values up to this are as good as orthogonal: nothing grows twofold in ten time steps.
_ORTHOGONAL: Final = 1.05


@final
class OrthogonalRecurrent(Trial):
    """Puts the nearest orthogonal matrix in place of recurrent kernels: ``{"layers": [...]}``.

    All layers when empty. Each square block of the kernel (one per gate) is replaced by the
    orthogonal factor of its polar decomposition, which changes it least (Higham 1986, "Computing
    the polar decomposition"); what Keras' default ``recurrent_initializer="orthogonal"`` would have
    begun with has the same singular values (Saxe et al. 2014, arXiv:1312.6120).
    """

    name: ClassVar[str] = "orthogonal-recurrent"
    breadth: ClassVar[int] = 2

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run all the steps with orthogonal recurrent kernels."""
        layers = {str(layer) for layer in parameters.get("layers", ())}
        changed: list[str] = []
        prepare = partial(_orthogonal, bench, layers, changed)
        rerun = bench.run(prepare=prepare, steps=max(bench.asked, bench.failing_step + 1))
        if not changed:
            return Outcome.not_run(
                "recurrent kernels made orthogonal",
                "no recurrent kernel has a singular value above that of an orthogonal one",
            )
        return Outcome.of(f"recurrent kernel made orthogonal ({', '.join(changed[:3])})", rerun)


@contextmanager
def _orthogonal(bench: Bench, layers: set[str], changed: list[str]) -> Iterator[None]:
    changed.clear()
    for held in model_variables(bench.model):
        if layers and held.layer not in layers:
            continue
        if "recurrent" not in held.path.rpartition("/")[2]:
            continue
        values = np.asarray(held.variable.value)
        nearest = orthogonal(values)
        if nearest is not None:
            changed.append(held.path)
            held.variable.assign(nearest.astype(values.dtype))
    yield


def orthogonal(values: NDArray[Any]) -> NDArray[Any] | None:
    """Return a recurrent kernel with each of its blocks orthogonal; None where that changes little.

    Args:
        values: a kernel of n rows and n columns, or n for each gate.
    """
    wide = values.astype(np.float64)
    if wide.ndim != 2 or wide.shape[1] % wide.shape[0] or not np.isfinite(wide).all():
        return None
    blocks = np.split(wide, wide.shape[1] // wide.shape[0], axis=1)
    factors = [np.linalg.svd(block) for block in blocks]
    if max(float(factor.S[0]) for factor in factors) <= _ORTHOGONAL:
        return None
    return np.concatenate([factor.U @ factor.Vh for factor in factors], axis=1)
