"""Views of a picture for training: a crop that keeps its label, a flip; boxes and maps follow."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

RGB = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

LEAST_SIDE = 32
"""Samples; a crop is never smaller where the picture is not."""


@dataclass(frozen=True)
class View:
    """A part of a picture: left, top, right, bottom in samples, and whether it is mirrored."""

    left: int
    top: int
    right: int
    bottom: int
    flip: bool = False

    @property
    def width(self) -> int:
        return self.right - self.left

    @property
    def height(self) -> int:
        return self.bottom - self.top

    def of(self, picture: RGB) -> RGB:
        """The part of a picture, contiguous: uint8 [h, w, 3]."""
        part = picture[self.top : self.bottom, self.left : self.right]
        return np.ascontiguousarray(part[:, ::-1] if self.flip else part)

    def boxes(self, boxes: Floats) -> tuple[Floats, npt.NDArray[np.bool_]]:
        """Boxes [N, 4] (x1, y1, x2, y2) as they lie in the view, clipped, and which of them have an area there."""
        moved = boxes - np.array([self.left, self.top] * 2, np.float32)
        if self.flip:
            moved = np.stack([self.width - moved[:, 2], moved[:, 1], self.width - moved[:, 0], moved[:, 3]], axis=1)
        limit = np.array([self.width, self.height] * 2, np.float32)
        clipped = np.clip(moved, 0, limit).astype(np.float32)
        inside = (clipped[:, 2] > clipped[:, 0]) & (clipped[:, 3] > clipped[:, 1])
        return clipped, inside


def whole(width: int, height: int, flip: bool = False) -> View:
    return View(0, 0, width, height, flip)


def random_view(rng: np.random.Generator, width: int, height: int, crop: float, flip: bool = True) -> View:
    """A view that leaves out at most the share `crop` of either side (0: none), mirrored half of the time."""
    mirrored = bool(flip and rng.random() < 0.5)
    across = max(min(width, LEAST_SIDE), round(width * (1 - crop * rng.random())))
    down = max(min(height, LEAST_SIDE), round(height * (1 - crop * rng.random())))
    left, top = int(rng.integers(0, width - across + 1)), int(rng.integers(0, height - down + 1))
    return View(left, top, left + across, top + down, mirrored)
