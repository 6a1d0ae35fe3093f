"""How is a loss scale taken off, or held at one value, for a while?"""

from __future__ import annotations

from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from divergence_doctor.checkpoints import innermost, optimizers_of
from divergence_doctor.replay import _seams as seams

if TYPE_CHECKING:
    from collections.abc import Iterator


def scales(model: Any) -> bool:
    """Say whether an optimizer of the model scales the loss, by a fixed or a searched factor."""
    return any(
        hasattr(optimizer, "dynamic_scale") or optimizer.loss_scale_factor
        for optimizer in optimizers_of(model)
    )


@contextmanager
def fixed(model: Any, scale: float) -> Iterator[None]:
    """Hold every loss scale of the model at one value; no step is skipped, none scaled otherwise.

    Args:
        model: a built and compiled Keras model.
        scale: the factor; 1 takes the scaling off. A power of two changes no mantissa.
    """
    with ExitStack() as stack:
        for optimizer in optimizers_of(model):
            if hasattr(optimizer, "dynamic_scale"):
                # Both are variables of the optimizer: putting back its state puts them back too.
                optimizer.dynamic_scale.assign(scale)
                optimizer.step_counter.assign(0)
                stack.enter_context(seams.never_skipping(optimizer))
            else:
                stack.enter_context(_factor(innermost(optimizer), scale))
        yield


@contextmanager
def _factor(optimizer: Any, scale: float) -> Iterator[None]:
    before = optimizer.loss_scale_factor
    optimizer.loss_scale_factor = None if scale == 1 else scale
    try:
        yield
    finally:
        optimizer.loss_scale_factor = before
