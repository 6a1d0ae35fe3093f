"""Between which magnitudes can a dtype hold numbers? The lines that a spectrum is read against."""

from __future__ import annotations

import math
import sys
from dataclasses import dataclass
from typing import Final, final


@final
@dataclass(frozen=True, slots=True)
class Limits:
    """The limits of one floating-point dtype.

    Attributes:
        largest: largest finite number, as a base-2 logarithm (15.999 for float16's 65504).
        normal: smallest normal number, as a base-2 logarithm.
        subnormal: smallest subnormal number, as a base-2 logarithm.
        largest_text: the largest finite number as people write it.
    """

    largest: float
    normal: float
    subnormal: float
    largest_text: str


#: IEEE 754-2019 for float16, float32 and float64; bfloat16 is float32 cut to 8 significand bits;
#: the two float8 formats are those of Micikevicius et al. (2022), "FP8 formats for deep learning".
LIMITS: Final[dict[str, Limits]] = {
    "float8_e4m3fn": Limits(math.log2(448.0), -6.0, -9.0, "448"),
    "float8_e5m2": Limits(math.log2(57344.0), -14.0, -16.0, "57,344"),
    "float16": Limits(math.log2(65504.0), -14.0, -24.0, "65,504"),
    "bfloat16": Limits(math.log2((2.0 - 2.0**-7) * 2.0**127), -126.0, -133.0, "3.39e38"),
    "float32": Limits(math.log2((2.0 - 2.0**-23) * 2.0**127), -126.0, -149.0, "3.40e38"),
    "float64": Limits(math.log2(sys.float_info.max), -1022.0, -1074.0, "1.80e308"),
}
