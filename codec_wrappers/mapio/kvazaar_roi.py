"""The ROI files of kvazaar and uvg266, as text and as binary.

Both hold one map per frame, in the order in which the encoder reads them, and the encoder starts over at the
end of the file. A map is its columns, its rows and then one offset per block in raster order, which the
encoder adds to the frame's QP. Text: decimal numbers between white space. Binary: columns and rows as
little-endian int32, offsets as int8.
"""

import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from codec_wrappers.errors import InputError
from codec_wrappers.mapio.text import integers, read_bytes, read_text
from codec_wrappers.qpmap import CTU_SIZE, QPMap, grid_shape

_HEADER = struct.Struct("<ii")
_OFFSET_MIN, _OFFSET_MAX = -128, 127


def offsets(qp_map: QPMap, base_qp: int) -> np.ndarray:
    """QPs minus the base, int8 [frames, rows, cols]. Raises InputError when one does not fit a byte."""
    delta = qp_map.qp - np.int16(base_qp)
    if delta.min() < _OFFSET_MIN or delta.max() > _OFFSET_MAX:
        raise InputError(f"QP map: offsets from base QP {base_qp} leave {_OFFSET_MIN}..{_OFFSET_MAX}")
    return delta.astype(np.int8)


def to_binary(qp_map: QPMap, base_qp: int) -> bytes:
    """Content of a binary ROI file; `base_qp` is the QP that the encoder is given."""
    header = _HEADER.pack(qp_map.cols, qp_map.rows)
    return b"".join(header + frame.tobytes() for frame in offsets(qp_map, base_qp))


def to_text(qp_map: QPMap, base_qp: int) -> str:
    """Content of a text ROI file; `base_qp` is the QP that the encoder is given."""
    lines: list[str] = []
    for frame in offsets(qp_map, base_qp):
        lines.append(f"{qp_map.cols} {qp_map.rows}")
        lines += [" ".join(map(str, row)) for row in frame.tolist()]
    return "\n".join(lines) + "\n"


def read_binary(path: Path, base_qp: int, width: int, height: int, block_size: int = CTU_SIZE) -> QPMap:
    """Read a binary ROI file for a picture of `width` x `height` luma samples coded at `base_qp`.

    Raises InputError when the file is truncated, is for another picture or holds QPs outside 0..255.
    """
    data = read_bytes(path)
    rows, cols = grid_shape(width, height, block_size)
    frames: list[np.ndarray] = []
    at = 0
    while at < len(data):
        if len(data) - at < _HEADER.size:
            raise InputError(f"{path}: truncated in the header of frame {len(frames)}")
        _require_grid(path, len(frames), _HEADER.unpack_from(data, at), (cols, rows))
        at += _HEADER.size
        frame = np.frombuffer(data[at : at + rows * cols], np.int8)
        if frame.size < rows * cols:
            raise InputError(f"{path}: truncated in frame {len(frames)}: {frame.size} of {rows * cols} blocks")
        frames.append(frame.reshape(rows, cols))
        at += rows * cols
    return QPMap(np.stack(frames).astype(np.int16) + np.int16(base_qp), block_size, width, height)


def read_text_map(path: Path, base_qp: int, width: int, height: int, block_size: int = CTU_SIZE) -> QPMap:
    """Read a text ROI file; parameters and errors as in `read_binary`."""
    rows, cols = grid_shape(width, height, block_size)
    numbers = integers(read_text(path).split(), path, "the map")
    frames = [_frame(path, chunk, index, rows, cols) for index, chunk in _chunks(numbers, 2 + rows * cols)]
    if not frames:
        raise InputError(f"{path}: holds no map")
    return QPMap(np.stack(frames).astype(np.int16) + np.int16(base_qp), block_size, width, height)


def _chunks(numbers: list[int], size: int) -> Iterator[tuple[int, list[int]]]:
    for index, at in enumerate(range(0, len(numbers), size)):
        yield index, numbers[at : at + size]


def _frame(path: Path, numbers: list[int], index: int, rows: int, cols: int) -> np.ndarray:
    if len(numbers) < 2:
        raise InputError(f"{path}: truncated in the header of frame {index}")
    _require_grid(path, index, (numbers[0], numbers[1]), (cols, rows))
    if len(numbers) < 2 + rows * cols:
        raise InputError(f"{path}: truncated in frame {index}: {len(numbers) - 2} of {rows * cols} blocks")
    values = np.array(numbers[2:])
    if values.min() < _OFFSET_MIN or values.max() > _OFFSET_MAX:
        raise InputError(f"{path}: an offset in frame {index} lies outside {_OFFSET_MIN}..{_OFFSET_MAX}")
    return values.reshape(rows, cols)


def _require_grid(path: Path, index: int, found: tuple[int, ...], wanted: tuple[int, int]) -> None:
    if found != wanted:
        raise InputError(
            f"{path}: frame {index} has {found[0]}x{found[1]} blocks, the picture {wanted[0]}x{wanted[1]}; "
            "check picture and block size"
        )
