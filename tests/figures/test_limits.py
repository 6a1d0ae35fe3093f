"""Are the limits of the dtypes those of NumPy and ml_dtypes?"""

from __future__ import annotations

import math

import ml_dtypes
import numpy as np
import pytest

from divergence_doctor.figures._limits import LIMITS


@pytest.mark.parametrize("name", ["float16", "float32", "float64"])
def test_the_limits_are_those_of_numpy(name: str) -> None:
    info = np.finfo(name)
    assert LIMITS[name].largest == pytest.approx(math.log2(float(info.max)), abs=1e-12)
    assert 2.0 ** LIMITS[name].normal == float(info.tiny)
    assert 2.0 ** LIMITS[name].subnormal == float(info.smallest_subnormal)


@pytest.mark.parametrize("name", ["bfloat16", "float8_e4m3fn", "float8_e5m2"])
def test_the_small_formats_are_those_of_ml_dtypes(name: str) -> None:
    info = ml_dtypes.finfo(name)
    assert LIMITS[name].largest == pytest.approx(math.log2(float(info.max)), abs=1e-12)
    assert 2.0 ** LIMITS[name].normal == float(info.smallest_normal)
    assert 2.0 ** LIMITS[name].subnormal == float(info.smallest_subnormal)


def test_float16_overflows_just_below_two_to_the_sixteenth() -> None:
    assert LIMITS["float16"].largest == pytest.approx(15.9993, abs=1e-4)
