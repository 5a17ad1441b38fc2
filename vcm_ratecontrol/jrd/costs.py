"""What objects cost: how many bits coding them finely takes, beside each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from codec_wrappers.qpmap import CTU_SIZE
from vcm_ratecontrol.predictors.interface import BLOCK_SIZE

Floats = npt.NDArray[np.float64]
Places = npt.NDArray[np.int64]

TEXTURE_EXPONENT = 1.1
"""Bits per pixel of a still at a QP grow with this power of its mean gradient: kvazaar at QP 36 on 60 validation
pictures, slope 1.13, correlation of the logarithms 0.97; on 100 training pictures 1.09 and 0.96."""
TYPICAL_COST = 3.5
"""Of an object: the geometric mean over the training pictures."""
TYPICAL_TEXTURE = 12.0
_LEAST_TEXTURE = 0.5  # grey levels per sample: below it noise and signalling count
_AROUND = 2  # blocks on each side


def object_costs(rgb: npt.NDArray[np.uint8], boxes: Floats) -> Floats:
    """Relative bits of each box, float64 [N], above 0: the share of the picture that its blocks cover, on average over
    their grids, times a power of its texture.

    rgb: uint8 [H, W, 3]. boxes: [N, 4], x1 y1 x2 y2 in pixels.
    """
    height, width = rgb.shape[:2]
    left, top, right, bottom = _inside(boxes, width, height)
    covered = (right - left + CTU_SIZE) * (bottom - top + CTU_SIZE) / (width * height)
    costs: Floats = covered * _textures(rgb, boxes) ** TEXTURE_EXPONENT
    return costs


def block_costs(rgb: npt.NDArray[np.uint8]) -> Floats:
    """What an object of typical size would cost around each block of 16 x 16, for want of knowing what belongs
    together: uint8 [H, W, 3] -> float64 [ceil(H / 16), ceil(W / 16)]."""
    height, width = rgb.shape[:2]
    top, left = np.mgrid[0:height:BLOCK_SIZE, 0:width:BLOCK_SIZE]
    around = _AROUND * BLOCK_SIZE
    corners = (left - around, top - around, left + BLOCK_SIZE + around, top + BLOCK_SIZE + around)
    texture = _textures(rgb, np.stack(corners, axis=-1).reshape(-1, 4).astype(np.float64))
    costs: Floats = TYPICAL_COST * (texture / TYPICAL_TEXTURE) ** TEXTURE_EXPONENT
    return costs.reshape(top.shape)


def _textures(rgb: npt.NDArray[np.uint8], boxes: Floats) -> Floats:
    """Mean gradient inside each box, in grey levels per sample: [N, 4] -> [N]."""
    height, width = rgb.shape[:2]
    summed = np.pad(gradients(rgb), ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)
    left, top, right, bottom = _inside(boxes, width, height)
    total = summed[bottom, right] - summed[top, right] - summed[bottom, left] + summed[top, left]
    textures: Floats = np.maximum(total / ((right - left) * (bottom - top)), _LEAST_TEXTURE)
    return textures


def _inside(boxes: Floats, width: int, height: int) -> tuple[Places, Places, Places, Places]:
    """Left, top, right, bottom of boxes as pixels of the picture, one pixel wide at least."""
    left, top = np.clip(boxes[:, 0], 0, width - 1).astype(int), np.clip(boxes[:, 1], 0, height - 1).astype(int)
    right = np.maximum(left + 1, np.clip(np.ceil(boxes[:, 2]), 0, width).astype(int))
    bottom = np.maximum(top + 1, np.clip(np.ceil(boxes[:, 3]), 0, height).astype(int))
    return left, top, right, bottom


def gradients(rgb: npt.NDArray[np.uint8]) -> Floats:
    """Sum of the absolute horizontal and vertical differences of luma: uint8 RGB [H, W, 3] -> float64 [H, W]."""
    luma: Floats = rgb.astype(np.float64) @ np.array([0.299, 0.587, 0.114])
    across = np.abs(np.diff(luma, axis=1, prepend=luma[:, :1]))
    down = np.abs(np.diff(luma, axis=0, prepend=luma[:1]))
    found: Floats = across + down
    return found
