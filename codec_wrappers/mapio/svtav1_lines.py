"""The lines of SVT-AV1's `--roi-map-file` (its own application only; there is no way through ffmpeg).

One line per event: the number of the frame from which it holds, then one offset per 64x64 block in raster
order. Offsets are on the scale of AV1's quantiser index (0..255), not of `--qp` (0..63); at most eight
different ones a line, and not all negative.
"""

from pathlib import Path

import numpy as np

from codec_wrappers.errors import InputError
from codec_wrappers.mapio.text import integers, read_text
from codec_wrappers.qpmap import CTU_SIZE, QPMap, grid_shape
from codec_wrappers.qpmap_legal import AV1_MAX_LEVELS

# `--qp` to base_q_idx in SVT-AV1: four to one, with the last two steps stretched to reach 255.
QINDEX = np.array([*range(0, 245, 4), 249, 255], np.int16)


def qindex(qp: int) -> int:
    """Quantiser index (base_q_idx in the bitstream) of SVT-AV1's QP 0..63."""
    return int(QINDEX[qp])


def qp_of_qindex(index: int) -> int:
    """SVT-AV1's QP whose quantiser index lies nearest."""
    return int(np.abs(QINDEX - index).argmin())


def to_lines(qp_map: QPMap, base_qp: int | None = None) -> str:
    """Content of a ROI map file. A frame equal to the one before it needs no line.

    base_qp: the encoder's `--qp`; None: the lowest of the map, with which no offset is negative.
    Raises InputError when a frame has more than eight levels (legalise first), blocks are not 64x64, a QP
    exceeds 63 or all offsets of a frame are negative, which SVT-AV1 may code undecodably.
    """
    base = int(qp_map.qp.min()) if base_qp is None else base_qp
    if qp_map.block_size != CTU_SIZE:
        raise InputError(f"QP map: blocks of {qp_map.block_size}; SVT-AV1 takes 64: use QPMap.resampled(64)")
    if max(int(qp_map.qp.max()), base) >= len(QINDEX):
        raise InputError("QP map: holds a QP above 63; SVT-AV1 takes 0..63: legalise the map first")
    offsets = QINDEX[qp_map.qp] - QINDEX[base]
    lines = []
    for index, frame in enumerate(offsets):
        if len(np.unique(frame)) > AV1_MAX_LEVELS:
            raise InputError(f"QP map: frame {index} has more than 8 levels; legalise the map first")
        if frame.max() < 0:
            raise InputError(f"QP map: all of frame {index} lies below base QP {base}; take a lower base")
        if index == 0 or not np.array_equal(frame, offsets[index - 1]):
            lines.append(f"{index} " + " ".join(map(str, frame.ravel().tolist())))
    return "\n".join(lines) + "\n"


def read_lines(path: Path, base_qp: int, width: int, height: int, n_frames: int) -> QPMap:
    """Read a ROI map file for `n_frames` pictures of `width` x `height` luma samples coded at `base_qp`.

    Offsets that are not a whole QP go to the nearest. Raises InputError when a line is short, long or out
    of order, or the first does not start at frame 0.
    """
    if not 0 <= base_qp < len(QINDEX):
        raise InputError(f"base QP {base_qp}: SVT-AV1 takes 0..63")
    rows, cols = grid_shape(width, height, CTU_SIZE)
    qp = np.zeros((n_frames, rows, cols), np.int16)
    last = -1
    for number, line in enumerate(read_text(path).splitlines(), start=1):
        values = integers(line.split(), path, f"line {number}")
        if not values:
            continue
        first, blocks = values[0], np.array(values[1:])
        if len(blocks) != rows * cols:
            raise InputError(f"{path}: line {number} has {len(blocks)} offsets, the picture {rows * cols} blocks")
        if first <= last or (last < 0 and first != 0):
            raise InputError(f"{path}: line {number} starts at frame {first}; start at 0 and rise")
        if first >= n_frames:
            raise InputError(f"{path}: line {number} starts at frame {first} of a clip of {n_frames}")
        index = blocks + qindex(base_qp)
        if index.min() < 0 or index.max() > QINDEX[-1]:
            raise InputError(f"{path}: line {number} leaves the quantiser range 0..255")
        qp[first:] = np.abs(QINDEX - index[:, None]).argmin(axis=1).reshape(rows, cols)
        last = first
    if last < 0:
        raise InputError(f"{path}: holds no map")
    return QPMap(qp, CTU_SIZE, width, height)
