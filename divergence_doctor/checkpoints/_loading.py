"""How is Keras let loose on a file? Under its right suffix, its warnings kept, its errors told."""

from __future__ import annotations

import hashlib
import tempfile
import warnings
import zipfile
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._archive import damaged
from divergence_doctor.checkpoints._user_code import describe_error
from divergence_doctor.errors import CheckpointError, DoctorError, LimitError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from divergence_doctor.checkpoints._fidelity import Fidelity

#: What Keras says when it passes over an optimizer's state.
SKIPPED = "Skipping variable loading for optimizer"
_NOT_COMPILED = "`compile()` was not called"


@contextmanager
def suffixed(path: Path, suffix: str) -> Iterator[Path]:
    """Give the file under a name that ends as Keras wants it to."""
    if path.name.endswith(suffix):
        yield path
        return
    with tempfile.TemporaryDirectory(prefix="divergence-doctor-") as folder:
        link = Path(folder) / f"checkpoint{suffix}"
        link.symlink_to(path.resolve())
        yield link


@contextmanager
def policy(name: str | None) -> Iterator[None]:
    """Make a dtype policy the global one for a while; None and unknown names change nothing."""
    import keras

    before = keras.config.dtype_policy()
    if name is None or name == before.name:
        yield
        return
    try:
        keras.config.set_dtype_policy(name)
    except (ValueError, TypeError):
        yield
        return
    try:
        yield
    finally:
        keras.config.set_dtype_policy(before)


@contextmanager
def loading(path: Path) -> Iterator[list[str]]:
    """Turn what Keras raises into one line, and collect the warnings it gives.

    Raises:
        CheckpointError: Keras could not load the file.
        RefusedError: the file is damaged.
        LimitError: memory ran out.
    """
    said: list[str] = []
    try:
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            try:
                yield said
            finally:
                said.extend(str(warning.message) for warning in caught)
    except (DoctorError, KeyboardInterrupt):
        raise
    except MemoryError as error:
        raise LimitError(
            "out-of-memory",
            f"{clean(path.name)} does not fit into memory",
            why="its weights and optimizer state take more than there is",
            fix="open it on a machine with more memory",
        ) from error
    except (zipfile.BadZipFile, EOFError) as error:
        raise damaged(path, error) from error
    except BaseException as error:  # whatever the user's own from_config raises
        if isinstance(error, OSError) and (
            "truncated" in str(error) or "unable to" in str(error).lower()
        ):
            raise damaged(path, error) from error
        raise CheckpointError(
            "cannot-load",
            f"{clean(path.name)} cannot be loaded: {describe_error(error)}",
            why="Keras, or the code of a custom object, raised this while it rebuilt the model",
            fix="import the code as it was when the model was saved (--custom-objects), with the"
            " Keras version that saved it",
        ) from error


def heed(warnings_given: list[str], fidelity: Fidelity) -> bool:
    """Turn the warnings of a load into notes; say whether an optimizer was left out."""
    skipped = False
    for text in warnings_given:
        if SKIPPED in text:
            skipped = True
            fidelity.note(clean(f"Keras: {' '.join(text.split())}", 300))
        elif _NOT_COMPILED in text:
            fidelity.note("The model's compile() is custom: Keras does not call it on loading.")
    return skipped


def sha256(path: Path) -> str:
    """Return the hash of a file, in hexadecimal."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()
