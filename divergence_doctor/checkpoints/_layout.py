"""Under which path does Keras keep each variable of a model? Asked of Keras itself.

Keras walks the attributes of a model when it saves one, and again when it loads one; the paths in
the file are those of the walk, not those of the variables. Walking once more, with a store that
keeps the variables instead of writing them, ties the two together. The walk is a private door of
Keras; ``tests/checkpoints/test_layout.py`` fails by name when it moves.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, final


@final
@dataclass(frozen=True, eq=False)
class Layout:
    """Where the file of a model holds what.

    Attributes:
        values: by path of the dataset (``layers/dense/vars/0``): the Keras variable, or the array
            that a custom ``save_own_variables`` gives.
        owners: by path of the group (``layers/dense``): name of the layer or optimizer.
    """

    values: dict[str, Any] = field(default_factory=dict)
    owners: dict[str, str] = field(default_factory=dict)


def layout(model: Any) -> Layout:
    """Return where ``model.save_weights`` would write each variable; writes and copies nothing.

    Args:
        model: a built model; its optimizer, where it has one, is walked as well.
    """
    from keras.src.saving import saving_lib

    found = Layout()

    class Kept(dict[str, Any]):
        """One group: what is put into it stays where the walk came by."""

        def __init__(self, prefix: str) -> None:
            super().__init__()
            self._prefix = prefix

        def __setitem__(self, key: str, value: Any) -> None:
            super().__setitem__(key, value)
            found.values[f"{self._prefix}vars/{key}"] = value

    class Keeping(saving_lib.H5IOStore):  # type: ignore[misc]
        """A store without a file."""

        def __init__(self) -> None:
            pass

        def __bool__(self) -> bool:
            return True

        def make(self, path: str, metadata: dict[str, Any] | None = None) -> Kept:
            name = (metadata or {}).get("name")
            if isinstance(name, str):
                found.owners[path] = name
            return Kept(f"{path}/" if path else "")

    saving_lib._save_state(  # noqa: SLF001 - the seam
        model,
        weights_store=Keeping(),
        assets_store=None,
        inner_path="",
        visited_saveables=set(),
    )
    for place in found.owners:
        for number, variable in enumerate(_optimizers_own(model, place)):
            if f"{place}/vars/{number}" in found.values:
                found.values[f"{place}/vars/{number}"] = variable
    return found


def _optimizers_own(model: Any, place: str) -> list[Any]:
    """Return the variables of the optimizer whose group this is: it hands out copies of them."""
    import keras

    found = model
    for part in place.split("/"):
        found = getattr(found, part, None)
    return list(found.variables) if isinstance(found, keras.optimizers.Optimizer) else []
