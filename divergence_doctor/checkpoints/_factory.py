"""How is the model of ``--model`` made so that it can take what the checkpoint holds?"""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._compile import build_optimizer, has_loss_scaling
from divergence_doctor.checkpoints._loading import policy
from divergence_doctor.checkpoints._user_code import call_factory
from divergence_doctor.errors import CheckpointError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from divergence_doctor.checkpoints._fidelity import Fidelity

_SCALED = "mixed_float16"


@contextmanager
def made_by(factory: str, *, scaled: bool, fidelity: Fidelity) -> Iterator[Any]:
    """Give the factory's model, built and with its optimizer's variables, ready to be filled.

    Weights say nothing of the dtype policy that the training script set. Where they come with a
    loss scale and the model has none, the factory is called once more under ``mixed_float16``,
    which stays the global policy until the block ends.

    Args:
        factory: ``MODULE_OR_FILE:FUNCTION``.
        scaled: the checkpoint holds the state of a loss-scaling optimizer.
        fidelity: takes a note where that matters.

    Raises:
        CheckpointError: the factory fails, or its model has no weights yet.
    """
    model = _built(factory)
    if not scaled or has_loss_scaling(model):
        yield model
        return
    with policy(_SCALED):
        again = _built(factory)
        if has_loss_scaling(again):
            fidelity.note(
                f"The checkpoint holds a loss scale, so the model of --model {clean(factory)} was"
                f" built under the policy {_SCALED}; under float32 the loss scale would be lost."
            )
            yield again
            return
    fidelity.note(
        f"The checkpoint holds a loss scale, and the model of --model {clean(factory)} does not"
        " scale its loss: the steps run without it."
    )
    yield model


def _built(factory: str) -> Any:
    model = call_factory(factory)
    if not model.built:
        raise CheckpointError(
            "model-not-built",
            f"the model of --model {clean(factory)} has no weights yet",
            why="it has not seen the shape of its input",
            fix="begin it with keras.Input(...), or call it once in the factory",
        )
    build_optimizer(model)
    return model
