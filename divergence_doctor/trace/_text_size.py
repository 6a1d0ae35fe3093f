"""How much text would reading a column bring in? Told from its references, before any is read.

On disk a text is a reference of 16 bytes (length, address of a heap, place in it), and many may
point to the same text: a small file can spell out as more than the memory holds. The references
themselves are small. They are read as the file format's specification lays them out; where they
lie in any other way, nothing is told.
"""

from __future__ import annotations

import zlib
from typing import TYPE_CHECKING, Final

import numpy as np

if TYPE_CHECKING:
    from pathlib import Path

    import h5py

_REFERENCE: Final = 16
_DEFLATE: Final = 1


def text_size(dataset: h5py.Dataset, source: Path) -> int | None:
    """Return the bytes of all texts of a column together; None where that cannot be told.

    Args:
        dataset: a column of text of variable length.
        source: the file that it lies in.

    Raises:
        zlib.error: what it says of itself is not so.
    """
    if dataset.chunks is None:
        return _contiguous(dataset, source)
    made = dataset.id.get_create_plist()
    filters = [made.get_filter(index)[0] for index in range(made.get_nfilters())]
    size = dataset.chunks[0] * _REFERENCE
    total = 0
    for index in range(dataset.id.get_num_chunks()):
        at = dataset.id.get_chunk_info(index).chunk_offset
        skipped, raw = dataset.id.read_direct_chunk(at)
        # HDF5 itself leaves out the shuffling of references.
        applied = [one for place, one in enumerate(filters) if not skipped >> place & 1]
        if applied not in ([], [_DEFLATE]):
            return None
        raw = zlib.decompressobj().decompress(raw, size) if applied else raw
        if len(raw) != size:
            return None
        total += _lengths(raw)
    return total


def _contiguous(dataset: h5py.Dataset, source: Path) -> int | None:
    place = dataset.id.get_offset()
    if place is None:
        return 0 if dataset.id.get_storage_size() == 0 else None
    with source.open("rb") as stream:
        stream.seek(place)
        raw = stream.read(len(dataset) * _REFERENCE)
    return _lengths(raw) if len(raw) == len(dataset) * _REFERENCE else None


def _lengths(raw: bytes) -> int:
    """Return the sum of the lengths: the first four bytes of every reference, little-endian."""
    return int(np.frombuffer(raw, dtype="<u4")[:: _REFERENCE // 4].sum(dtype=np.uint64))
