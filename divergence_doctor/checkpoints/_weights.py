"""What does an HDF5 file of weights declare, and may it be read? Headers only, no data.

HDF5 can point to other files and declare a terabyte in a kilobyte. Neither is ever written by
Keras, so both are refused before Keras reads the file.
"""

from __future__ import annotations

import io
import zipfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final, final

from divergence_doctor._clean import clean
from divergence_doctor.checkpoints._archive import WEIGHTS, damaged
from divergence_doctor.errors import RefusedError

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

MAGIC: Final = b"\x89HDF\r\n\x1a\n"
MAX_OBJECTS: Final = 100_000
MAX_DEPTH: Final = 60
MAX_EXPANSION: Final = 1000
EXPANSION_FLOOR: Final = 64 << 20
#: deflate, shuffle, fletcher32: the filters that HDF5 itself brings along.
_FILTERS: Final = frozenset({1, 2, 3})


@final
@dataclass(eq=False)
class Survey:
    """What the headers say.

    Attributes:
        datasets: paths of the datasets.
        attributes: names of the root's attributes.
        declared: bytes that the datasets declare.
        stored: bytes that they take in the file.
    """

    datasets: list[str] = field(default_factory=list)
    attributes: frozenset[str] = frozenset()
    declared: int = 0
    stored: int = 0

    def under(self, prefix: str) -> int:
        """Return how many datasets lie in a group."""
        return sum(name.startswith(f"{prefix}/") for name in self.datasets)


def is_hdf5(path: Path) -> bool:
    """Say whether a file starts as an HDF5 file does."""
    try:
        with path.open("rb") as stream:
            return stream.read(len(MAGIC)) == MAGIC
    except OSError:
        return False


@contextmanager
def opened(path: Path) -> Iterator[Any]:
    """Open the HDF5 file at a path, or the weights in the archive there, for reading.

    Raises:
        RefusedError: it is damaged.
    """
    import h5py

    try:
        if is_hdf5(path):
            with h5py.File(path, "r") as file:
                yield file
        else:
            with (
                zipfile.ZipFile(path) as archive,
                archive.open(WEIGHTS) as member,
                h5py.File(member, "r") as file,
            ):
                yield file
    except (OSError, RuntimeError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from error


@contextmanager
def in_memory(path: Path, most: int) -> Iterator[Any]:
    """Open the weights for reading in any order, whole in memory where they lie in an archive.

    A member of a zip archive is read from its start again for every step back.

    Args:
        path: an HDF5 file, or an archive with one in it.
        most: bytes up to which they are opened; None is given for more.

    Raises:
        RefusedError: it is damaged.
    """
    import h5py

    if is_hdf5(path):
        with opened(path) as file:
            yield file if path.stat().st_size <= most else None
        return
    try:
        with zipfile.ZipFile(path) as archive:
            small = archive.getinfo(WEIGHTS).file_size <= most
            held = io.BytesIO(archive.read(WEIGHTS)) if small else None
    except (OSError, KeyError, zipfile.BadZipFile) as error:
        raise damaged(path, error) from error
    if held is None:
        yield None
        return
    with h5py.File(held, "r") as file:
        yield file


def survey(path: Path) -> Survey:
    """Read the headers of a weights file, or of the weights in an archive.

    Raises:
        RefusedError: it is damaged, points outside itself, or declares far more than it stores.
    """
    with opened(path) as file:
        result = Survey(attributes=frozenset(file.attrs))
        _visit(path, file, "", 0, result)
    if result.declared > EXPANSION_FLOOR + MAX_EXPANSION * result.stored:
        raise _refused(
            path,
            f"it declares {result.declared:,} bytes of weights and stores {result.stored:,}",
        )
    return result


def _visit(path: Path, group: Any, prefix: str, level: int, result: Survey) -> None:
    import h5py

    if level > MAX_DEPTH:
        raise _refused(path, f"its groups are nested deeper than {MAX_DEPTH} levels")
    for name in group:
        place = f"{prefix}{name}"
        if not isinstance(group.get(name, getlink=True), h5py.HardLink):
            raise _refused(path, f"{clean(place)!r} is a link to somewhere else")
        item = group[name]
        if isinstance(item, h5py.Group):
            _visit(path, item, f"{place}/", level + 1, result)
        elif isinstance(item, h5py.Dataset):
            _measure(path, item, place, result)
        if len(result.datasets) > MAX_OBJECTS:
            raise _refused(path, f"it holds more than {MAX_OBJECTS:,} arrays")


def _measure(path: Path, dataset: Any, place: str, result: Survey) -> None:
    if dataset.external is not None or dataset.is_virtual:
        raise _refused(path, f"the data of {clean(place)!r} lie in another file")
    plist = dataset.id.get_create_plist()
    filters = {plist.get_filter(index)[0] for index in range(plist.get_nfilters())}
    if filters - _FILTERS:
        raise _refused(path, f"{clean(place)!r} is packed with a filter that Keras never uses")
    result.datasets.append(place)
    result.declared += int(dataset.size or 0) * int(dataset.dtype.itemsize)
    result.stored += int(dataset.id.get_storage_size())


def _refused(path: Path, why: str) -> RefusedError:
    return RefusedError(
        "unsafe-weights",
        f"the weights of {clean(path.name)} are not loaded",
        why=why,
        fix="save the model again: model.save('model.keras')",
    )
