"""QP maps as PNG: a picture for the eye that is at the same time exact.

The PNG has a palette. Its indices are the QPs, its colours run from yellow (low QP, fine) to dark blue (high
QP, coarse). Each block is a square of pixels; frames stand below one another. Text chunks hold what the
pixels do not tell.
"""

import io
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from codec_wrappers.mapio.text import read_bytes
from codec_wrappers.qpmap import QP_LIMIT, QPMap, grid_shape

# Colours of QP 0, 9, 18, ... 63: eight stations of the viridis map (Smith & van der Walt, 2015), reversed; it
# is even to the eye and survives printing in grey. Above 63 the last one stays.
_STATIONS = ("fde725", "a0da39", "4ac16d", "1fa187", "277f8e", "365c8d", "46327e", "440154")
_COLOR_QP_MAX = 63
# Larger maps than this are drawn one pixel per block, so that an 8K clip's map stays a sensible picture.
_MAX_SIDE = 4096
_DEFAULT_CELL = 16
_TEXT_PREFIX = "vcm-qpmap-"
_NUMBERS = ("block_size", "width", "height", "frames", "cell")


def qp_palette() -> npt.NDArray[np.uint8]:
    """Colour of each QP, uint8 [256, 3] RGB."""
    stations = np.array([tuple(bytes.fromhex(color)) for color in _STATIONS], np.float64)
    at = np.minimum(np.arange(QP_LIMIT + 1), _COLOR_QP_MAX) * (len(stations) - 1) / _COLOR_QP_MAX
    channels = [np.interp(at, np.arange(len(stations)), stations[:, channel]) for channel in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def to_png(qp_map: QPMap, cell: int | None = None) -> bytes:
    """Content of a PNG that `read_png` reads back exactly.

    cell: pixels per side of a block; None: 16, less for maps that would grow beyond 4096 pixels.
    """
    from PIL import Image
    from PIL.PngImagePlugin import PngInfo

    rows, cols = qp_map.n_frames * qp_map.rows, qp_map.cols
    side = max(1, min(_DEFAULT_CELL, _MAX_SIDE // max(rows, cols))) if cell is None else cell
    flat = qp_map.qp.reshape(rows, cols).astype(np.uint8)
    image = Image.fromarray(flat.repeat(side, axis=0).repeat(side, axis=1)).convert("P")
    image.putpalette(qp_palette().tobytes())
    numbers = (qp_map.block_size, qp_map.width, qp_map.height, qp_map.n_frames, side)
    info = PngInfo()
    for name, number in zip(_NUMBERS, numbers, strict=True):
        info.add_text(_TEXT_PREFIX + name, str(number))
    histogram = ", ".join(f"QP {qp}: {count}" for qp, count in qp_map.histogram().items())
    info.add_text("Comment", f"QP per block; palette index = QP. Blocks per QP: {histogram}")
    buffer = io.BytesIO()
    image.save(buffer, "png", pnginfo=info, optimize=False)
    return buffer.getvalue()


def read_png(path: Path) -> QPMap:
    """Read what `to_png` wrote. Raises InputError for any other picture, and for one that was painted over."""
    from PIL import Image, UnidentifiedImageError

    data = read_bytes(path)
    try:
        with Image.open(io.BytesIO(data)) as image:
            text = dict(getattr(image, "text", {}))
            mode = image.mode
            pixels = np.array(image)
    except (UnidentifiedImageError, OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise InputError(f"{path}: is not a readable PNG ({error})") from error
    try:
        block_size, width, height, frames, cell = (int(text[_TEXT_PREFIX + name]) for name in _NUMBERS)
    except (KeyError, ValueError) as error:
        raise InputError(f"{path}: a picture, but not a QP map: its size notes are missing") from error
    if mode != "P" or min(block_size, width, height, frames, cell) < 1:
        raise InputError(f"{path}: the QP map was changed by another program; write it again")
    rows, cols = grid_shape(width, height, block_size)
    if pixels.shape != (frames * rows * cell, cols * cell):
        raise InputError(f"{path}: {pixels.shape[1]}x{pixels.shape[0]} pixels do not fit its notes; write it again")
    flat = pixels[::cell, ::cell]
    if not np.array_equal(flat.repeat(cell, axis=0).repeat(cell, axis=1), pixels):
        raise InputError(f"{path}: blocks are not of one colour; the map was painted over or scaled")
    return QPMap(flat.reshape(frames, rows, cols).astype(np.int16), block_size, width, height)


def render_frame(qp_map: QPMap, frame: int = 0, cell: int = 32) -> npt.NDArray[np.uint8]:
    """One frame's map as a picture with a number in each block and a legend below, uint8 [H, W, 3] RGB.

    For looking at only; `to_png` is what can be read back. cell: pixels per side of a block.
    """
    from PIL import Image, ImageDraw

    qp, palette = qp_map.qp[frame], qp_palette()
    blocks = palette[qp].repeat(cell, axis=0).repeat(cell, axis=1)
    levels = list(qp_map.histogram())
    box = 36
    per_line = max(1, max(blocks.shape[1], 4 * box) // box)
    lines = -(-len(levels) // per_line)
    canvas = Image.new("RGB", (max(blocks.shape[1], per_line * box), blocks.shape[0] + 4 + 20 * lines), "white")
    canvas.paste(Image.fromarray(blocks), (0, 0))
    draw = ImageDraw.Draw(canvas)

    def label(left: int, top: int, width: int, height: int, value: int) -> None:
        ink = "black" if palette[value].astype(int).sum() > 330 else "white"
        draw.text((left + width / 2, top + height / 2), str(value), fill=ink, anchor="mm")

    if cell >= 16:
        for row, col in np.ndindex(qp.shape):
            label(col * cell, row * cell, cell, cell, int(qp[row, col]))
    for at, level in enumerate(levels):
        left, top = at % per_line * box, blocks.shape[0] + 4 + at // per_line * 20
        draw.rectangle((left, top, left + box - 3, top + 17), fill=tuple(palette[level].tolist()))
        label(left, top, box - 3, 17, level)
    return np.asarray(canvas)
