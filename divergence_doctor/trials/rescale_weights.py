"""Do the steps live once every kernel has the scale that its initialiser would give it?"""

from __future__ import annotations

import math
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

#: Leave alone what is within this factor of the initialiser's scale: training moves kernels about.
_TOLERANCE: Final = 1.5


#: An orthogonal recurrent kernel has a spectral radius of 1; rounding and training add a little.
_RADIUS: Final = 1.05


@final
class RescaleWeights(Trial):
    """Rescales kernels that are too large: ``{"layers": [...]}``, all layers when empty.

    ``{"scales": {"dense/kernel": 0.29}}`` brings the named variables, of any kind, to a root mean
    square instead, and changes no other.

    A kernel is brought to the standard deviation of He's initialiser, sqrt(2 / fan_in) (He et al.
    2015, arXiv:1502.01852), and where that still fails to LeCun's, sqrt(1 / fan_in), which keeps
    the variance through units that are not rectified; a recurrent kernel to a spectral radius of at
    most one (Pascanu et al. 2013, arXiv:1211.5063).
    """

    name: ClassVar[str] = "rescale-weights"
    breadth: ClassVar[int] = 2

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run all the steps with the kernels rescaled."""
        scales = {str(path): float(rms) for path, rms in parameters.get("scales", {}).items()}
        if scales:
            return _to_scales(bench, scales)
        layers = {str(layer) for layer in parameters.get("layers", ())}
        scaled: list[str] = []
        changed, rerun = "kernels rescaled", None
        for author, gain in (("He", 2.0), ("LeCun", 1.0)):
            prepare = partial(_rescaled, bench, layers, gain, scaled)
            attempt = bench.run(prepare=prepare, steps=max(bench.asked, bench.failing_step + 1))
            if not scaled:
                break
            rerun = attempt
            few = ", ".join(scaled[:3]) + (", …" if len(scaled) > 3 else "")
            changed = f"{len(scaled)} kernel(s) rescaled to {author}'s initialiser ({few})"
            if rerun.finite:
                break
        if rerun is None:
            return Outcome.not_run(changed, "no kernel is larger than its initialiser makes it")
        return Outcome.of(changed, rerun)


def _to_scales(bench: Bench, scales: Mapping[str, float]) -> Outcome:
    """Return whether the steps live with each variable at the root mean square named for it."""

    @contextmanager
    def prepared() -> Iterator[None]:
        for held in model_variables(bench.model):
            if held.path in scales:
                values = np.asarray(held.variable.value)
                held.variable.assign(to_rms(values, scales[held.path]))
        yield

    few = ", ".join(list(scales)[:3]) + (", …" if len(scales) > 3 else "")
    changed = f"{few} brought to the scale of the initialiser"
    steps = max(bench.asked, bench.failing_step + 1)
    return Outcome.of(changed, bench.run(prepare=prepared, steps=steps))


def to_rms(values: NDArray[Any], rms: float) -> NDArray[Any]:
    """Return values of a given root mean square, computed where their squares do not overflow."""
    wide = values.astype(np.float64)
    now = float(np.sqrt(np.mean(wide**2))) if wide.size else 0.0
    return (wide * (rms / now) if now > 0 else wide).astype(values.dtype)


@contextmanager
def _rescaled(bench: Bench, layers: set[str], gain: float, scaled: list[str]) -> Iterator[None]:
    scaled.clear()
    for held in model_variables(bench.model):
        if layers and held.layer not in layers:
            continue
        values = np.asarray(held.variable.value)
        factor = shrink(values, held.path.rpartition("/")[2], gain=gain)
        if factor < 1.0:
            scaled.append(held.path)
            held.variable.assign((values.astype(np.float64) * factor).astype(values.dtype))
    yield


def shrink(values: NDArray[Any], name: str, *, gain: float = 2.0) -> float:
    """Return the factor that brings a kernel to its ordinary scale; 1.0 when it is not above it."""
    if values.ndim < 2 or "kernel" not in name or not np.isfinite(values.astype(np.float32)).all():
        return 1.0
    wide = values.astype(np.float64)
    if "recurrent" in name:
        rows = wide.shape[0]
        blocks = [wide[:, i : i + rows] for i in range(0, wide.shape[1], rows)]
        radius = max(
            float(np.abs(np.linalg.eigvals(block)).max()) if block.shape == (rows, rows) else 0.0
            for block in blocks
        )
        return min(1.0, 1.0 / radius) if radius > _RADIUS else 1.0
    fan_in = math.prod(wide.shape[:-1])
    target = math.sqrt(gain / fan_in)
    spread = float(np.sqrt(np.mean(wide**2)))
    return target / spread if spread > _TOLERANCE * target else 1.0
