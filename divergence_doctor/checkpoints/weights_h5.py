"""How are weights without a model opened? Into the model that ``--model`` makes."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, final

from divergence_doctor.checkpoints._checkpoint import Checkpoint, Opened, OpenOptions
from divergence_doctor.checkpoints._comparison import compare_hdf5, compare_legacy
from divergence_doctor.checkpoints._compile import settle
from divergence_doctor.checkpoints._factory import made_by
from divergence_doctor.checkpoints._fidelity import Fidelity
from divergence_doctor.checkpoints._loading import heed, loading, sha256, suffixed
from divergence_doctor.checkpoints._weights import Survey, is_hdf5, opened, survey
from divergence_doctor.checkpoints.legacy_h5 import holds_config

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
        legacy = "layer_names" in weights.attributes
        with made_by(options.model or "", scaled=_scaled(weights), fidelity=fidelity) as model:
            # Keras reads the layout off the end of the name.
            with (
                suffixed(path, ".legacy.h5" if legacy else ".weights.h5") as named,
                loading(path) as said,
            ):
                model.load_weights(named)
            heed(said, fidelity)
            if legacy:
                fidelity.note("The optimizer starts fresh: the file holds none of its state.")
                with opened(path) as file:
                    compare_legacy(file, model, fidelity)
            else:
                compare_hdf5(path, weights, model, fidelity)
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
            unseeded=tuple(fidelity.unseeded(model)),
        )


def _scaled(weights: Survey) -> bool:
    """Say whether the file holds the state of a loss-scaling optimizer."""
    return weights.under("optimizer/inner_optimizer/vars") > 0
