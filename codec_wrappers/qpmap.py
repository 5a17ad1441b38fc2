"""QPMap: the QP that each block of each frame is to be coded at."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError

# The widest scale of any codec here: AV1's quantiser index. HEVC ends at 51, VVC and SVT-AV1 at 63.
QP_LIMIT = 255
# CTU size of kvazaar and x265 and superblock size of SVT-AV1: the grid on which they take a QP.
CTU_SIZE = 64


def grid_shape(width: int, height: int, block_size: int) -> tuple[int, int]:
    """Rows and columns of blocks that cover a picture of `width` x `height` luma samples."""
    return -(-height // block_size), -(-width // block_size)


@dataclass(frozen=True, eq=False)
class QPMap:
    """Absolute QPs per block.

    qp: int16 [frames, rows, cols] in 0..255, read only; one frame stands for all frames of a plan.
    block_size: side of a block in luma samples; width, height: of the picture in luma samples.
    The QPs are those of intra pictures; what an encoder's hierarchy adds in inter pictures comes on top.
    Raises InputError when the array does not fit the picture.
    """

    qp: npt.NDArray[np.int16]
    block_size: int
    width: int
    height: int

    def __post_init__(self) -> None:
        if self.width < 1 or self.height < 1 or self.block_size < 1:
            raise InputError(
                f"QP map: picture {self.width}x{self.height}, block {self.block_size}: sizes must be positive"
            )
        given = np.asarray(self.qp)
        if given.dtype.kind not in "iu":
            raise InputError(f"QP map: its values are {given.dtype}; QPs are integers")
        rows, cols = grid_shape(self.width, self.height, self.block_size)
        if given.ndim != 3 or given.shape[0] < 1 or given.shape[1:] != (rows, cols):
            raise InputError(
                f"QP map: shape {given.shape}; a {self.width}x{self.height} picture in blocks of "
                f"{self.block_size} needs (frames, {rows}, {cols})"
            )
        low, high = int(given.min()), int(given.max())
        if low < 0 or high > QP_LIMIT:
            raise InputError(f"QP map: holds QP {low if low < 0 else high}; QPs lie in 0..{QP_LIMIT}")
        # A copy: a map that changes after it was checked would be checked in vain.
        kept = np.array(given, dtype=np.int16, order="C")
        kept.setflags(write=False)
        object.__setattr__(self, "qp", kept)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, QPMap):
            return NotImplemented
        return self._size == other._size and np.array_equal(self.qp, other.qp)

    def __hash__(self) -> int:
        return hash((self._size, self.qp.shape, self.qp.tobytes()))

    @property
    def _size(self) -> tuple[int, int, int]:
        return self.block_size, self.width, self.height

    @classmethod
    def flat(cls, qp: int, width: int, height: int, *, block_size: int = CTU_SIZE, n_frames: int = 1) -> QPMap:
        """The same QP everywhere."""
        shape = (n_frames, *grid_shape(width, height, block_size))
        return cls(np.full(shape, qp, np.int16), block_size, width, height)

    @property
    def n_frames(self) -> int:
        return int(self.qp.shape[0])

    @property
    def rows(self) -> int:
        return int(self.qp.shape[1])

    @property
    def cols(self) -> int:
        return int(self.qp.shape[2])

    @property
    def is_flat(self) -> bool:
        """True when every block of every frame has the same QP: such a map can have no effect of its own."""
        return bool((self.qp == self.qp[0, 0, 0]).all())

    def with_qp(self, qp: npt.NDArray[np.int16]) -> QPMap:
        """Other QPs on the same grid."""
        return QPMap(qp, self.block_size, self.width, self.height)

    def crop_frames(self, start: int, stop: int) -> QPMap:
        """The maps of frames start..stop-1; a map of one frame holds for all and is returned as it is.

        Raises InputError when the map does not have these frames.
        """
        if self.n_frames == 1:
            return self
        if not 0 <= start < stop <= self.n_frames:
            raise InputError(f"QP map: frames {start}..{stop - 1} asked for, it has 0..{self.n_frames - 1}")
        return self.with_qp(self.qp[start:stop])

    def per_frame(self, n_frames: int) -> QPMap:
        """The map with exactly `n_frames` frames: a map of one frame is repeated."""
        if self.n_frames == n_frames:
            return self
        if self.n_frames != 1:
            raise InputError(f"QP map: it has {self.n_frames} frames, the job {n_frames}; give 1 or {n_frames}")
        return self.with_qp(np.repeat(self.qp, n_frames, axis=0))

    def resampled(self, block_size: int) -> QPMap:
        """The same map on another grid. Each new block takes the lowest QP that it touches: the safe side."""
        if block_size == self.block_size:
            return self
        rows, cols = grid_shape(self.width, self.height, block_size)
        touched_rows = [self._touched(at, block_size, self.height) for at in range(rows)]
        touched_cols = [self._touched(at, block_size, self.width) for at in range(cols)]
        by_row = np.stack([self.qp[:, span].min(axis=1) for span in touched_rows], axis=1)
        by_both = np.stack([by_row[:, :, span].min(axis=2) for span in touched_cols], axis=2)
        return QPMap(by_both, block_size, self.width, self.height)

    def _touched(self, at: int, block_size: int, length: int) -> slice:
        last = min((at + 1) * block_size, length) - 1
        return slice(at * block_size // self.block_size, last // self.block_size + 1)

    def histogram(self) -> Mapping[int, int]:
        """QP -> number of blocks over all frames, by rising QP; QPs that do not occur are left out."""
        values, counts = np.unique(self.qp, return_counts=True)
        return {int(value): int(count) for value, count in zip(values, counts, strict=True)}
