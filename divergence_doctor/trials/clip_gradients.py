"""Do the steps live when the global norm of the gradients is clipped?"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar, final

from divergence_doctor.replay._seams import patched
from divergence_doctor.replay.state import innermost, optimizers_of
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from divergence_doctor.replay.bench import Bench, Rerun


@final
class ClipGradients(Trial):
    """Clips by global norm: ``{"norms": [5.0, 1.0]}``, the first that survives counts."""

    name: ClassVar[str] = "clip-gradients"
    breadth: ClassVar[int] = 3

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run all the steps with ``global_clipnorm`` set."""
        tried: list[str] = []
        rerun: Rerun | None = None
        for norm in parameters.get("norms", (5.0, 1.0)):

            @contextmanager
            def clipped(norm: float = float(norm)) -> Iterator[None]:
                with ExitStack() as stack:
                    for optimizer in optimizers_of(bench.model):
                        inner = innermost(optimizer)
                        for name, value in (
                            ("clipnorm", None),
                            ("clipvalue", None),
                            ("global_clipnorm", norm),
                        ):
                            stack.enter_context(patched(inner, name, partial(_instead, value)))
                    yield

            rerun = bench.run(prepare=clipped, steps=max(bench.asked, bench.failing_step + 1))
            if rerun.finite:
                return Outcome.of(f"global gradient norm clipped to {norm:g}", rerun)
            tried.append(f"{norm:g}: {rerun.why}")
        if rerun is None:
            return Outcome.not_run("gradient norm clipped", "no norm was given")
        return Outcome("global gradient norm clipped", "still-fails", "; ".join(tried), rerun)


def _instead(value: float | None, _old: Any) -> float | None:
    return value
