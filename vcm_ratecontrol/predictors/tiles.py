"""Cutting large pictures into overlapping tiles of whole blocks, and putting maps together again."""

from __future__ import annotations

import itertools
import math
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from vcm_ratecontrol.predictors.config import InputSpec
from vcm_ratecontrol.predictors.interface import BLOCK_SIZE, Sample

HALO = 8
"""Blocks by which a tile reaches over its core on each side, so that objects at a seam are seen whole."""


@dataclass(frozen=True)
class Tile:
    """Rectangles in blocks, stop excluded: what the network sees, and the core whose result is kept."""

    top: int
    bottom: int
    left: int
    right: int
    core_top: int
    core_bottom: int
    core_left: int
    core_right: int

    @property
    def blocks(self) -> tuple[int, int]:
        """Rows and columns of blocks that the network sees."""
        return self.bottom - self.top, self.right - self.left

    def cut(self, sample: Sample) -> Sample:
        """The sample inside the tile: picture and confidence map."""
        rows = slice(self.top * BLOCK_SIZE, self.bottom * BLOCK_SIZE)
        cols = slice(self.left * BLOCK_SIZE, self.right * BLOCK_SIZE)
        confidence = sample.confidence_map
        if confidence is not None:
            confidence = confidence[self.top : self.bottom, self.left : self.right]
        return replace(sample, picture=sample.picture[rows, cols], confidence_map=confidence)

    def paste(self, blocks: NDArray[np.float32], whole: NDArray[np.float32]) -> None:
        """Write the core of the tile's maps [n, rows, cols] into those of the picture, in place."""
        rows = slice(self.core_top - self.top, self.core_bottom - self.top)
        cols = slice(self.core_left - self.left, self.core_right - self.left)
        core = blocks[:, rows, cols]
        whole[:, self.core_top : self.core_bottom, self.core_left : self.core_right] = core


def tiles_of(height: int, width: int, spec: InputSpec) -> list[Tile]:
    """Tiles of a picture: one if it fits at `spec.min_scale` or above, else as many as keep every tile
    above it."""
    rows, cols = -(-height // BLOCK_SIZE), -(-width // BLOCK_SIZE)
    budget = spec.width * spec.height / max(spec.min_scale, 1e-9) ** 2 / BLOCK_SIZE**2  # blocks per tile
    if not spec.min_scale or rows * cols <= budget * 1.01:  # 1 %: partial blocks at the edges
        return [Tile(0, rows, 0, cols, 0, rows, 0, cols)]
    side = max(math.isqrt(int(budget)) - 2 * HALO, HALO)
    return [
        Tile(
            max(top - HALO, 0),
            min(bottom + HALO, rows),
            max(left - HALO, 0),
            min(right + HALO, cols),
            top,
            bottom,
            left,
            right,
        )
        for top, bottom in _split(rows, side)
        for left, right in _split(cols, side)
    ]


def _split(length: int, side: int) -> list[tuple[int, int]]:
    """Nearly equal parts of at most `side`."""
    parts = -(-length // side)
    edges = [round(index * length / parts) for index in range(parts + 1)]
    return list(itertools.pairwise(edges))
