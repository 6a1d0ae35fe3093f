"""How are weights without a model opened? Into the model that ``--model`` makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._checkpoint import Checkpoint, Opened, OpenOptions
from divergence_doctor.checkpoints._compile import build_optimizer, optimizers, settle
from divergence_doctor.checkpoints._loading import Fidelity, heed, loading, sha256, suffixed
from divergence_doctor.checkpoints._user_code import call_factory
from divergence_doctor.checkpoints._weights import is_hdf5, survey
from divergence_doctor.checkpoints.legacy_h5 import holds_config
from divergence_doctor.errors import CheckpointError

if TYPE_CHECKING:
    from pathlib import Path


@final
class WeightsH5(Checkpoint):
    """``model.save_weights("model.weights.h5")``, in the current or in the legacy layout."""

    name: ClassVar[str] = "weights in HDF5"
    order: ClassVar[int] = 30
    needs_model: ClassVar[bool] = True

    @classmethod
    def can_open(cls, path: Path) -> bool:
        """Say whether the path is an HDF5 file without a model's config."""
        return is_hdf5(path) and not holds_config(path)

    @classmethod
    def preflight(cls, path: Path, options: OpenOptions) -> None:
        """Nothing can be looked at before HDF5 itself opens the file; see :meth:`open`."""

    @classmethod
    def open(cls, path: Path, options: OpenOptions) -> Opened:
        """Open the file; see the base class."""
        weights = survey(path)
        fidelity = Fidelity()
        model = call_factory(options.model or "")
        if not model.built:
            raise CheckpointError(
                "model-not-built",
                f"the model of --model {clean(options.model or '')} has no weights yet",
                why="it has not seen the shape of its input",
                fix="begin it with keras.Input(...), or call it once in the factory",
            )
        build_optimizer(model)
        legacy = "layer_names" in weights.attributes
        # Keras reads the layout off the end of the name.
        with (
            suffixed(path, ".legacy.h5" if legacy else ".weights.h5") as named,
            loading(path) as said,
        ):
            model.load_weights(named)
        skipped = heed(said, fidelity)
        stored = weights.under("optimizer") > 0
        if optimizers(model) and stored and not skipped:
            fidelity.optimizer_state = "restored"
        else:
            fidelity.note("the optimizer starts fresh: the file holds no state that fits it")
        settle(path, model, options, fidelity)
        return Opened(
            model=model,
            fidelity=fidelity.report(model),
            source={
                "file": str(path),
                "format": cls.name,
                "sha256": sha256(path),
                "keras_version": "",
                "dtype_policy": model.dtype_policy.name,
            },
        )
