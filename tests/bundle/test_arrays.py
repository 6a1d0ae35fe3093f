"""Are arrays written as NumPy writes them, piece by piece, and never a pickle?"""

from __future__ import annotations

import io
import zipfile

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from divergence_doctor.bundle._arrays import PIECE, check_npz, read_header, write_npy, write_npz

DTYPES = (
    hnp.boolean_dtypes()
    | hnp.integer_dtypes()
    | hnp.floating_dtypes(sizes=(16, 32, 64))
    | hnp.complex_number_dtypes()
    | hnp.byte_string_dtypes(max_len=5)
    | hnp.unicode_string_dtypes(max_len=5)
)
ARRAYS = DTYPES.flatmap(
    lambda dtype: hnp.arrays(dtype, hnp.array_shapes(min_dims=0, max_dims=4, min_side=0))
)


def written(array) -> bytes:
    stream = io.BytesIO()
    write_npy(stream, array)
    return stream.getvalue()


@settings(deadline=None)
@given(ARRAYS, st.sampled_from(["as it is", "transposed", "every other", "reversed"]))
def test_any_array_in_any_layout_is_read_back_by_numpy_to_the_bit(array, layout):
    if array.ndim:
        array = {
            "as it is": array,
            "transposed": array.T,
            "every other": array[::2],
            "reversed": array[::-1],
        }[layout]

    text = written(array)

    back = np.load(io.BytesIO(text), allow_pickle=False)
    assert (back.dtype, back.shape) == (array.dtype, array.shape)
    assert back.tobytes() == array.tobytes()
    header = read_header(io.BytesIO(text), len(text))
    assert (header.shape, header.dtype) == (array.shape, array.dtype)


@pytest.mark.parametrize("rows", [PIECE // 40, PIECE // 10 + 1])
def test_arrays_of_more_than_one_piece_are_whole(rows):
    wide = np.arange(rows * 10, dtype=np.float32).reshape(rows, 10)
    for array in (wide, wide.T, wide[:, 1:8], np.asfortranarray(wide)[::3]):
        back = np.load(io.BytesIO(written(array)), allow_pickle=False)
        assert np.array_equal(back, array)


def test_objects_are_refused_before_a_byte_is_written():
    stream = io.BytesIO()

    with pytest.raises(ValueError, match="Python objects"):
        write_npy(stream, np.array([{}]))

    assert stream.getvalue() == b""


class Forward:
    """Takes bytes, and neither tells nor seeks: what a bundle's files are written through."""

    def __init__(self) -> None:
        self.text = b""

    def write(self, data) -> int:
        self.text += bytes(data)
        return len(data)

    def flush(self) -> None:
        """Have nothing to do."""


def test_an_archive_is_read_by_numpy_and_by_zip_and_the_same_arrays_give_the_same_bytes():
    arrays = {"x/image": np.ones((2, 3), np.float32), "y": np.arange(2), "../x": np.zeros(1)}
    made = [Forward(), Forward()]
    for sink in made:
        write_npz(sink, arrays)

    assert made[0].text == made[1].text
    check_npz(io.BytesIO(made[0].text), len(made[0].text))
    with zipfile.ZipFile(io.BytesIO(made[0].text)) as archive:
        assert archive.testzip() is None
    with np.load(io.BytesIO(made[0].text), allow_pickle=False) as read:
        assert read.files == list(arrays)
        assert all(np.array_equal(read[name], array) for name, array in arrays.items())


def test_a_changed_byte_of_an_archive_s_data_is_found_by_its_check_sums():
    sink = Forward()
    write_npz(sink, {"x": np.arange(20_000, dtype=np.int32)})
    # Beyond what zipfile reads ahead with the header, too.
    for place in range(200, len(sink.text) - 300, 1_000):
        changed = bytearray(sink.text)
        changed[place] ^= 1
        with pytest.raises(ValueError, match="CRC"):
            check_npz(io.BytesIO(bytes(changed)), len(changed))
