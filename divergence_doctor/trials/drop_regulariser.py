"""Does the step live without a regulariser, or without one term that a layer adds to the loss?"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any, ClassVar, Final, final

from divergence_doctor.replay import _seams as seams
from divergence_doctor.replay.state import layer_path, model_variables
from divergence_doctor.trials._trial import Outcome, Trial

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping

    from divergence_doctor.replay.bench import Bench

#: How table ``losses`` names the terms that are not the loss of an output.
_OF_A_VARIABLE: Final = "regularizer/"
_OF_A_LAYER: Final = "add_loss/"


@final
class DropRegulariser(Trial):
    """Leaves out terms of the loss: ``{"terms": ["regularizer/dense/kernel"]}``, all when empty.

    Terms go by their names in table ``losses``: ``regularizer/`` and the path of a variable, or
    ``add_loss/`` and the path of a layer (``add_loss`` and activity regularisers alike).
    """

    name: ClassVar[str] = "drop-regulariser"
    breadth: ClassVar[int] = 1

    def run(self, bench: Bench, parameters: Mapping[str, Any]) -> Outcome:
        """Run all the steps without the terms."""
        terms = {str(term) for term in parameters.get("terms", ())}
        variables = [
            held.variable
            for held in model_variables(bench.model)
            if getattr(held.variable, "regularizer", None) is not None
            and (not terms or f"{_OF_A_VARIABLE}{held.path}" in terms)
        ]
        layers = {term.removeprefix(_OF_A_LAYER) for term in terms if term.startswith(_OF_A_LAYER)}
        dropped: list[str] = []

        def left_out(original: Callable[..., Any]) -> Callable[..., Any]:
            def add_loss(layer: Any, loss: Any) -> None:
                path = layer_path(layer, bench.model)
                if terms and path not in layers:
                    original(layer, loss)
                elif path not in dropped:
                    dropped.append(path)

            return add_loss

        @contextmanager
        def without() -> Iterator[None]:
            with ExitStack() as stack:
                stack.enter_context(seams.patched(seams.layer_class(), "add_loss", left_out))
                for variable in variables:
                    stack.callback(setattr, variable, "regularizer", variable.regularizer)
                    variable.regularizer = None
                yield

        steps = max(bench.asked, bench.failing_step + 1)
        rerun = bench.run(prepare=without, steps=steps)
        names = [*(f"{_OF_A_VARIABLE}{v.path}" for v in variables), *dropped]
        if not names:
            return Outcome.not_run("regularisers off", "no such term is added to the loss")
        few = ", ".join(names[:3]) + (", …" if len(names) > 3 else "")
        outcome = Outcome.of(f"{len(names)} term(s) of the loss left out ({few})", rerun)
        return outcome.wider(2) if len(names) > 1 else outcome
