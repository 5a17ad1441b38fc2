"""PSNR and SSIM of luma, as viewers of coding results expect to find them beside the SMR.

Luma is that of BT.709, made in float32 from 8-bit RGB, 0..255: what the machines saw, not what the codec stored.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

    RGB = npt.NDArray[np.uint8]

_LUMA = (0.2126, 0.7152, 0.0722)
_PEAK = 255.0
#: The SSIM window of Wang et al. 2004 (Gaussian, sigma 1.5, 11x11) does not fit into less.
SSIM_MIN_SIDE = 11


@dataclass(frozen=True)
class Fidelity:
    """How near a decoded frame is to its original.

    mse: mean squared error of luma; ssim: 0..1, None for pictures with a side below `SSIM_MIN_SIDE`.
    """

    mse: float
    ssim: float | None

    @property
    def psnr_db(self) -> float:
        """10 log10(255² / MSE) in dB; infinite for equal pictures."""
        return psnr_db([self])


def compare(original: RGB, decoded: RGB) -> Fidelity:
    """Both uint8 [H, W, 3] RGB of one size. Raises ValueError when the sizes differ."""
    import numpy as np

    if original.shape != decoded.shape:
        raise ValueError(f"sizes differ: {original.shape} and {decoded.shape}")
    a, b = luma(original), luma(decoded)
    mse = float(np.mean(np.square(a - b), dtype=np.float64))
    if min(a.shape) < SSIM_MIN_SIDE:
        return Fidelity(mse, None)
    from skimage import metrics

    similarity: Callable[..., float] = metrics.structural_similarity
    ssim = similarity(a, b, data_range=_PEAK, gaussian_weights=True, use_sample_covariance=False)
    return Fidelity(mse, float(ssim))


def luma(rgb: RGB) -> npt.NDArray[np.float32]:
    """Luma of uint8 [H, W, 3] RGB: float32 [H, W], 0..255. Plane by plane, as an 8K picture is large."""
    import numpy as np

    red, green, blue = (rgb[..., channel] * np.float32(weight) for channel, weight in enumerate(_LUMA))
    red += green
    red += blue
    return red


def psnr_db(frames: Iterable[Fidelity]) -> float:
    """PSNR of several frames in dB, from the mean of their MSEs; infinite when all are equal to their originals.

    Not the mean of their PSNRs, which one frame that is equal would make infinite.
    """
    errors = [frame.mse for frame in frames]
    mean = sum(errors) / len(errors)
    return 10 * math.log10(_PEAK**2 / mean) if mean > 0 else math.inf


def mean_ssim(frames: Iterable[Fidelity]) -> float | None:
    """Mean SSIM; None when the pictures are too small for it."""
    values = [frame.ssim for frame in frames if frame.ssim is not None]
    return sum(values) / len(values) if values else None
