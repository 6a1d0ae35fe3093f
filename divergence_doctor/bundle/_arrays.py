"""How do arrays get into files and out again? Piece by piece, and never more than the file holds.

``.npy`` as NumPy specifies it, and ``.npz`` as an uncompressed zip archive of them.
"""

from __future__ import annotations

import math
import struct
import zipfile
from dataclasses import dataclass
from io import BytesIO
from typing import IO, TYPE_CHECKING, Any, Final, Protocol, cast, final

import numpy as np

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

    from numpy.typing import NDArray

#: Bytes that are handled at once.
PIECE: Final = 1 << 20
MAX_HEADER: Final = 64 << 10
MAX_MEMBERS: Final = 1024
MAX_DIRECTORY: Final = 1 << 20
#: Bytes of the record that ends an archive, and of the two before it in a large one.
_END: Final = 22
_END64: Final = 76
_KINDS: Final = frozenset("biufcSU")


class Sink(Protocol):
    """Where bytes go."""

    def write(self, data: Any, /) -> int:
        """Take all of the data."""
        ...


def write_npy(sink: Sink, array: NDArray[Any]) -> None:
    """Write an array as ``.npy``, without a copy of it.

    Raises:
        ValueError: the array holds objects.
    """
    if array.dtype.hasobject:
        raise ValueError("the array holds Python objects")
    header = BytesIO()
    np.lib.format.write_array_header_1_0(header, np.lib.format.header_data_from_array_1_0(array))
    sink.write(header.getvalue())
    for piece in _pieces(array):
        sink.write(piece)


def _pieces(array: NDArray[Any]) -> Iterator[memoryview]:
    if not array.size:
        return
    if array.flags.c_contiguous or array.flags.f_contiguous:
        flat = (array if array.flags.c_contiguous else array.T).reshape(-1).view(np.uint8)
        for start in range(0, flat.size, PIECE):
            yield flat[start : start + PIECE].data
        return
    for piece in np.nditer(
        array,
        flags=["external_loop", "buffered", "zerosize_ok"],
        buffersize=max(PIECE // array.itemsize, 1),
        order="C",
    ):
        yield np.ascontiguousarray(cast("NDArray[Any]", piece)).view(np.uint8).data


def npy_size(array: NDArray[Any]) -> int:
    """Return about how many bytes the array takes as ``.npy``."""
    return array.nbytes + 128


def feedable(array: NDArray[Any]) -> NDArray[Any]:
    """Return an array as a batch file can hold it: the same values in a dtype that it knows.

    TensorFlow hands out strings as objects, and ml_dtypes' numbers are opaque to NumPy; float32
    holds all of the latter.

    Raises:
        ValueError: the array holds other objects, or texts that fixed width would change.
    """
    if array.dtype.kind == "V" and array.dtype.names is None:
        return array.astype(np.float32)
    if not array.dtype.hasobject:
        return array
    values = list(array.flat)
    for kind, code in ((bytes, "S"), (str, "U")):
        if all(isinstance(value, kind) for value in values):
            fixed = np.array(values, dtype=code).reshape(array.shape)
            if list(fixed.flat) == values:
                return fixed
            raise ValueError("one of the texts ends in a zero byte")
    raise ValueError("the array holds Python objects")


def write_npz(sink: Sink, arrays: Mapping[str, NDArray[Any]]) -> None:
    """Write arrays as an uncompressed ``.npz``."""
    with zipfile.ZipFile(cast("IO[bytes]", sink), "w", zipfile.ZIP_STORED) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(f"{name}.npy", date_time=(1980, 1, 1, 0, 0, 0))
            with archive.open(member, "w", force_zip64=True) as target:
                write_npy(target, array)


@final
@dataclass(frozen=True, slots=True)
class Header:
    """What the header of an ``.npy`` says; ``offset`` is where the data begins."""

    shape: tuple[int, ...]
    fortran: bool
    dtype: np.dtype[Any]
    offset: int

    @property
    def nbytes(self) -> int:
        """Bytes of data."""
        return math.prod(self.shape) * self.dtype.itemsize


def read_header(stream: IO[bytes], size: int) -> Header:
    """Read the header of an ``.npy``, and check it against the bytes that are there.

    Args:
        stream: at the beginning.
        size: bytes of the whole file.

    Raises:
        ValueError: it makes no sense, holds objects, or declares other than what is there.
    """
    start = stream.read(10)
    if len(start) < 10 or not start.startswith(b"\x93NUMPY"):
        raise ValueError("it is no .npy")
    version = (start[6], start[7])
    if version == (1, 0):
        length = struct.unpack("<H", start[8:10])[0]
    elif version == (2, 0):
        start += stream.read(2)
        length = struct.unpack("<I", start[8:12].ljust(4, b"\0"))[0]
    else:
        raise ValueError(f"it is .npy version {version[0]}.{version[1]}")
    # NumPy reads the header in full before it looks at its length.
    if length > MAX_HEADER:
        raise ValueError(f"its header takes {length:,} bytes")
    text = BytesIO(start[8:] + stream.read(length))
    read = (
        np.lib.format.read_array_header_1_0
        if version == (1, 0)
        else np.lib.format.read_array_header_2_0
    )
    try:
        shape, fortran, dtype = read(text)
    except Exception as error:
        # A Python literal: the tokenizer, ast and NumPy each raise errors of their own.
        raise ValueError("its header makes no sense") from error
    header = Header(shape, fortran, dtype, len(start) + length)
    if dtype.hasobject:
        raise ValueError("it holds pickled objects")
    if dtype.kind not in _KINDS:
        raise ValueError(f"its dtype {dtype!s:.60} is none that a bundle holds")
    if min(shape, default=0) < 0 or header.nbytes != size - header.offset:
        raise ValueError(
            f"it declares {max(header.nbytes, 0):,} bytes of data and holds"
            f" {max(size - header.offset, 0):,}"
        )
    return header


def check_npz(stream: IO[bytes], size: int) -> None:
    """Check that a stream is a whole ``.npz`` as :func:`write_npz` writes it; nothing is kept.

    Args:
        stream: a seekable stream.
        size: its bytes.

    Raises:
        ValueError: it is not; says why in a few words.
    """
    _check_directory(stream, size)
    try:
        with zipfile.ZipFile(stream) as archive:
            members = archive.infolist()
            _check_members(members, size)
            for member in members:
                with archive.open(member) as opened:
                    read_header(opened, member.file_size)
                    # The check sum is compared at the end of the member.
                    while opened.read(PIECE):
                        pass
    except (zipfile.BadZipFile, EOFError, NotImplementedError, RuntimeError, struct.error) as error:
        raise ValueError(f"its archive is damaged: {error!s:.80}") from error


def _check_directory(stream: IO[bytes], size: int) -> None:
    """Check how long an archive says that its directory is: zipfile reads all of it at once."""
    tail = min(size, _END + _END64 + (64 << 10))
    stream.seek(size - tail)
    text = stream.read(tail)
    stream.seek(0)
    # Where zipfile looks for it: at the very end, or else before a comment.
    start = len(text) - _END
    if not (text[start:].startswith(b"PK\x05\x06") and text.endswith(b"\0\0")):
        start = text.rfind(b"PK\x05\x06")
    declared = [text[start + 12 : start + 16]] if start >= 0 else []
    if start >= _END64 and text[start - 20 : start].startswith(b"PK\x06\x07"):
        declared.append(text[start - _END64 + 40 : start - _END64 + 48])
    if any(int.from_bytes(length, "little") > MAX_DIRECTORY for length in declared):
        raise ValueError(f"its directory takes more than {MAX_DIRECTORY:,} bytes")


def _check_members(members: list[zipfile.ZipInfo], size: int) -> None:
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"it holds {len(members):,} arrays")
    names = [member.filename for member in members]
    if len(set(names)) < len(names):
        raise ValueError("two of its arrays have the same name")
    if any(
        member.compress_type != zipfile.ZIP_STORED or not member.filename.endswith(".npy")
        for member in members
    ):
        raise ValueError("it holds other than uncompressed arrays")
    if sum(member.file_size for member in members) > size:
        raise ValueError("its arrays declare more than the file holds")
