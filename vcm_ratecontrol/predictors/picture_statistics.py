"""Plain numbers of a picture at its own size, which its shrunken copy no longer shows. Pure numpy.

How many bits a picture costs depends on its finest detail, which resizing removes. So a fixed number of
patches spread over the picture is read at full size: the time does not grow with the picture.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

N_STATISTICS = 14
"""Numbers that `picture_statistics` gives."""

N_DISTORTION = 6
"""Numbers that `distortion_statistics` gives."""

_PATCH = 32
_PATCHES_PER_SIDE = 8
_SCALES = (1, 2, 4)
_LUMA = np.array([0.299, 0.587, 0.114], dtype=np.float32) / 255  # BT.601
_ONE_GREY_LEVEL = 1 / 255


def picture_statistics(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Detail, contrast, colour and size of a picture: float32 [N_STATISTICS], about -2..2.

    Order: for each of three scales (1, 1/2, 1/4) log10 of the mean gradient over the patches: mean, lower
    and upper quartile; share of flat patches; log10 of the contrast between patches; colourfulness; log2 of
    the pixel count; log2 of the aspect.
    Args: picture: uint8 [H, W, 3], H, W >= 1.
    """
    patches = _patches(picture)
    luma = _luma(patches)
    detail: list[float] = []
    finest = np.zeros(len(luma))
    for scale in _SCALES:
        gradient = _gradient(_shrink(luma, scale))
        finest = gradient if scale == 1 else finest
        detail += [float(np.log10(gradient + _ONE_GREY_LEVEL).mean())]
        detail += np.log10(np.quantile(gradient, (0.25, 0.75)) + _ONE_GREY_LEVEL).tolist()
    contrast = np.log10(luma.mean(axis=(1, 2)).std() + _ONE_GREY_LEVEL)
    colour = np.abs(np.diff(patches.mean(axis=(1, 2)), axis=1)).mean() / 64
    height, width = picture.shape[:2]
    geometry = [(np.log2(height * width) - 18) / 3, np.log2(width / height) / 2]
    flat = float((finest < _ONE_GREY_LEVEL).mean())
    centred = np.array([*detail, contrast]) + 1.5
    return np.array([*centred[:-1], flat, centred[-1], colour, *geometry], dtype=np.float32)


def distortion_statistics(picture: NDArray[np.uint8], coded: NDArray[np.uint8]) -> NDArray[np.float32]:
    """How far a coded picture is from the original at three scales: float32 [N_DISTORTION], about -2..2.

    Order: for each of three scales (1, 1/2, 1/4) log10 of the mean squared luma error over the patches
    (range 0..1, floor 1e-6): mean, and upper decile.
    Args: picture, coded: uint8 [H, W, 3] of one size.
    """
    error = _luma(_patches(picture)) - _luma(_patches(coded))
    values: list[float] = []
    for scale in _SCALES:
        squared = (_shrink(error, scale) ** 2).mean(axis=(1, 2))
        values += [float(squared.mean()), float(np.quantile(squared, 0.9))]
    return ((np.log10(np.array(values) + 1e-6) + 3) / 1.5).astype(np.float32)


def _patches(picture: NDArray[np.uint8]) -> NDArray[np.float32]:
    """Up to 64 patches on an even grid: float32 [P, 32, 32, 3], 0..255. Small pictures are edge-padded."""
    missing = [max(_PATCH - side, 0) for side in picture.shape[:2]]
    if any(missing):
        picture = np.pad(picture, ((0, missing[0]), (0, missing[1]), (0, 0)), mode="edge")
    rows, cols = (_starts(side) for side in picture.shape[:2])
    cut = [picture[y : y + _PATCH, x : x + _PATCH] for y in rows for x in cols]
    return np.stack(cut).astype(np.float32)


def _starts(side: int) -> list[int]:
    count = min(max(side // _PATCH, 1), _PATCHES_PER_SIDE)
    return [int(start) for start in np.linspace(0, side - _PATCH, count).round()]


def _shrink(patches: NDArray[np.float32], scale: int) -> NDArray[np.float32]:
    side = _PATCH // scale
    return np.asarray(patches.reshape(-1, side, scale, side, scale).mean(axis=(2, 4)), dtype=np.float32)


def _luma(patches: NDArray[np.float32]) -> NDArray[np.float32]:
    """float32 [P, 32, 32, 3], 0..255 -> [P, 32, 32], 0..1."""
    return np.asarray(patches @ _LUMA, dtype=np.float32)


def _gradient(luma: NDArray[np.float32]) -> NDArray[np.float64]:
    """Mean absolute difference of neighbours, both directions: float64 [P]."""
    across = np.abs(np.diff(luma, axis=2)).mean(axis=(1, 2), dtype=np.float64)
    down = np.abs(np.diff(luma, axis=1)).mean(axis=(1, 2), dtype=np.float64)
    return np.asarray(across + down)
