"""How does a colour look to someone, and how far are two apart? The textbook way."""

from __future__ import annotations

import numpy as np

#: Machado, Oliveira & Fernandes (2009), "A physiologically-based model for simulation of color
#: vision deficiency", table 1, severity 1.0; they apply to linear RGB.
DEFICIENCIES = {
    "none": ((1.0, 0.0, 0.0), (0.0, 1.0, 0.0), (0.0, 0.0, 1.0)),
    "protanopia": (
        (0.152286, 1.052583, -0.204868),
        (0.114503, 0.786281, 0.099216),
        (-0.003882, -0.048116, 1.051998),
    ),
    "deuteranopia": (
        (0.367322, 0.860646, -0.227968),
        (0.280085, 0.672501, 0.047413),
        (-0.011820, 0.042940, 0.968881),
    ),
    "tritanopia": (
        (1.255528, -0.076749, -0.178779),
        (-0.078411, 0.930809, 0.147602),
        (0.004733, 0.691367, 0.303900),
    ),
}
#: sRGB to CIE XYZ under D65 (IEC 61966-2-1), and the white that it is relative to.
XYZ = ((0.4124564, 0.3575761, 0.1804375), (0.2126729, 0.7151522, 0.0721750),
       (0.0193339, 0.1191920, 0.9503041))  # fmt: skip
WHITE = (0.95047, 1.0, 1.08883)


def linear(colour: str) -> np.ndarray:
    """Return ``#RRGGBB`` as linear RGB from 0 to 1."""
    coded = np.array([int(colour[at : at + 2], 16) for at in (1, 3, 5)]) / 255.0
    return np.where(coded <= 0.04045, coded / 12.92, ((coded + 0.055) / 1.055) ** 2.4)


def seen(colour: str, deficiency: str) -> np.ndarray:
    """Return a colour as CIE L*a*b*, seen with a deficiency."""
    rgb = np.clip(np.array(DEFICIENCIES[deficiency]) @ linear(colour), 0.0, 1.0)
    scaled = np.array(XYZ) @ rgb / np.array(WHITE)
    x, y, z = np.where(
        scaled > (6 / 29) ** 3, np.cbrt(scaled), scaled / (3 * (6 / 29) ** 2) + 4 / 29
    )
    return np.array([116 * y - 16, 500 * (x - y), 200 * (y - z)])


def contrast(ink: str) -> float:
    """Return the contrast of a colour with white (WCAG 2.2)."""
    return 1.05 / (float(np.array(XYZ[1]) @ linear(ink)) + 0.05)


def difference(one: str, other: str, deficiency: str) -> float:
    return float(np.linalg.norm(seen(one, deficiency) - seen(other, deficiency)))
