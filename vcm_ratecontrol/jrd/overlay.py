"""A QP map drawn over its frame: tinted blocks with their QPs, the grid, the objects with their levels, a legend."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codec_wrappers.mapio.png import qp_palette
from vcm_ratecontrol.jrd.frame_levels import FrameLevels
from vcm_ratecontrol.jrd.objects import RGB

if TYPE_CHECKING:
    from PIL.ImageDraw import ImageDraw

    from codec_wrappers.qpmap import QPMap

TINT = 0.38
"""Opacity of the blocks' colours: the picture stays readable under them."""
LEAST_WIDTH = 960
"""Smaller pictures are enlarged by a whole factor, so that numbers fit into their blocks."""
INK, PAPER = (255, 255, 255), (24, 24, 24)
BOX = (255, 64, 64)


def overlay(rgb: RGB, qp_map: QPMap, frame: int, seen: FrameLevels, matrix: Sequence[int] | None, title: str) -> RGB:
    """The picture with everything on it, and a legend below: uint8 RGB [h, w, 3].

    rgb: the upright frame; frame: its number in the map; matrix: the clip's display matrix. title: for the legend.
    """
    from PIL import Image, ImageDraw

    zoom = max(1, -(-LEAST_WIDTH // rgb.shape[1]))
    blocks = _upright_blocks(qp_map, matrix)
    qp = qp_map.qp[frame].reshape(-1)
    tinted = (1 - TINT) * rgb + TINT * qp_palette()[qp[blocks]]
    edges = np.zeros(blocks.shape, bool)
    edges[:, 1:] |= blocks[:, 1:] != blocks[:, :-1]
    edges[1:] |= blocks[1:] != blocks[:-1]
    pixels = tinted.round().astype(np.uint8).repeat(zoom, axis=0).repeat(zoom, axis=1)
    thin = _first_of_each(edges.repeat(zoom, axis=0).repeat(zoom, axis=1), zoom)
    pixels[thin] = pixels[thin] // 2 + 100
    image = Image.fromarray(pixels)
    draw = ImageDraw.Draw(image)
    _write_qps(draw, blocks, qp, qp_map.block_size * zoom, zoom)
    _draw_objects(draw, seen, zoom, image.width)
    legend = _legend(qp_map.qp[frame], image.width, title)
    whole = Image.new("RGB", (image.width, image.height + legend.height), PAPER)
    whole.paste(image, (0, 0))
    whole.paste(legend, (0, image.height))
    return np.asarray(whole)


def _upright_blocks(qp_map: QPMap, matrix: Sequence[int] | None) -> npt.NDArray[np.int64]:
    """The number of the block (raster order, as coded) under each pixel of the upright frame: [H, W]."""
    from vcm_ratecontrol.media.convert import upright

    size = qp_map.block_size
    rows, cols = np.arange(qp_map.height) // size, np.arange(qp_map.width) // size
    numbers = (rows[:, None] * qp_map.cols + cols[None]).astype(np.int64)
    return upright(numbers[..., None], matrix)[..., 0]  # type: ignore[arg-type, return-value]


def _first_of_each(mask: npt.NDArray[np.bool_], zoom: int) -> npt.NDArray[np.bool_]:
    """Of enlarged lines, which became `zoom` wide, their first pixel only."""
    grown = np.zeros_like(mask)
    grown[:, ::zoom] |= mask[:, ::zoom] & ~np.roll(mask, zoom, axis=1)[:, ::zoom]
    grown[::zoom] |= mask[::zoom] & ~np.roll(mask, zoom, axis=0)[::zoom]
    return grown


def _write_qps(draw: ImageDraw, blocks: npt.NDArray[np.int64], qp: npt.NDArray[np.int16], side: int, zoom: int) -> None:
    if side < 40:
        return
    font = _font(max(11, min(18, side // 4)))
    numbers, first = np.unique(blocks, return_index=True)
    for number, at in zip(numbers.tolist(), first.tolist(), strict=True):
        top, left = divmod(at, blocks.shape[1])
        draw.text((left * zoom + 4, top * zoom + 2), str(qp[number]), INK, font, stroke_width=1, stroke_fill=PAPER)


def _draw_objects(draw: ImageDraw, seen: FrameLevels, zoom: int, width: int) -> None:
    font = _font(15)
    for box, name, level in zip(seen.objects.boxes, seen.objects.names, seen.object_levels, strict=True):
        left, top, right, bottom = (float(value) * zoom for value in box)
        draw.rectangle((left, top, right, bottom), outline=BOX, width=2)
        label = f"{name} {int(level)}"
        wide = draw.textlength(label, font) + 6
        at = min(left, width - wide), max(0.0, top - 19)
        draw.rectangle((*at, at[0] + wide, at[1] + 19), fill=BOX)
        draw.text((at[0] + 3, at[1] + 1), label, INK, font)


def _legend(qp: npt.NDArray[np.int16], width: int, title: str):  # type: ignore[no-untyped-def]
    """Colour, QP and share of the blocks for each QP of the frame, and a line of words."""
    from PIL import Image, ImageDraw

    palette, font = qp_palette(), _font(14)
    values, counts = np.unique(qp, return_counts=True)
    cell, line = 112, 26
    per_line = max(1, (width - 12) // cell)
    lines = -(-len(values) // per_line)
    image = Image.new("RGB", (width, 34 + line * lines + 6), PAPER)
    draw = ImageDraw.Draw(image)
    draw.text((10, 8), title, INK, font)
    for at, (value, count) in enumerate(zip(values.tolist(), counts.tolist(), strict=True)):
        left, top = 10 + at % per_line * cell, 34 + at // per_line * line
        draw.rectangle((left, top, left + 22, top + 18), fill=tuple(palette[value].tolist()), outline=INK)
        draw.text((left + 28, top), f"QP {value}: {count / qp.size:.0%}", INK, font)
    return image


def _font(size: int):  # type: ignore[no-untyped-def]
    from PIL import ImageFont

    return ImageFont.load_default(size)
