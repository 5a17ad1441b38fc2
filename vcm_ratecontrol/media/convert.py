"""Decoded frames to packed planes for encoders and to RGB for machines.

Bit depth and layout of 4:2:0 and grey frames are converted here in numpy, rounded; other layouts (4:2:2,
4:4:4, packed, semi-planar) go through swscale with accurate rounding. Neither the range nor the matrix of a
YCbCr video is changed on the way to an encoder. RGB videos are converted as stills are: BT.709, limited
range.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, Literal

from codec_wrappers.color import LUMA_WEIGHTS, even, yuv420_to_rgb
from codec_wrappers.errors import InputError
from codec_wrappers.frames import BT709, ColorTags, PixelFormat, VideoFormat

if TYPE_CHECKING:
    import av
    import numpy as np
    import numpy.typing as npt

    Samples = npt.NDArray[Any]  # uint8 or uint16
    Planes = tuple[Samples, Samples, Samples]

_BIT_DEPTH: dict[str, int] = {"yuv420p": 8, "yuv420p10le": 10}

# FFmpeg's names of the numbers of ITU-T H.273.
_MATRICES = {
    0: "gbr",
    1: "bt709",
    4: "fcc",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "ycgco",
    9: "bt2020nc",
    10: "bt2020c",
    14: "ictcp",
}
_PRIMARIES = {
    1: "bt709",
    4: "bt470m",
    5: "bt470bg",
    6: "smpte170m",
    7: "smpte240m",
    8: "film",
    9: "bt2020",
    10: "smpte428",
    11: "smpte431",
    12: "smpte432",
    22: "ebu3213",
}
_TRANSFERS = {
    1: "bt709",
    4: "gamma22",
    5: "gamma28",
    6: "smpte170m",
    7: "smpte240m",
    8: "linear",
    9: "log100",
    10: "log316",
    11: "iec61966-2-4",
    12: "bt1361e",
    13: "iec61966-2-1",
    14: "bt2020-10",
    15: "bt2020-12",
    16: "smpte2084",
    17: "smpte428",
    18: "arib-std-b67",
}
# swscale's number of a matrix.
_SWS_MATRICES = {
    "bt709": 1,
    "fcc": 4,
    "bt470bg": 5,
    "smpte170m": 5,
    "smpte240m": 7,
    "bt2020nc": 9,
}
_FULL_RANGE = 2  # AVCOL_RANGE_JPEG


def color_tags(frame: av.VideoFrame) -> ColorTags:
    """Colour of what `pack_frame` makes of a clip whose first frame this is.

    Without a range tag YCbCr is limited ('tv'), grey and the J layouts of FFmpeg are full ('pc').
    """
    if frame.format.is_rgb:
        return BT709
    name = frame.format.name
    implied_full = name.startswith("yuvj") or (is_grey(name) and frame.color_range == 0)
    full: Literal["tv", "pc"] = "pc" if implied_full or frame.color_range == _FULL_RANGE else "tv"
    return ColorTags(
        range=full,
        matrix=_MATRICES.get(int(frame.colorspace), "unknown"),
        primaries=_PRIMARIES.get(int(frame.color_primaries), "unknown"),
        transfer=_TRANSFERS.get(int(frame.color_trc), "unknown"),
    )


def is_grey(pix_fmt: str) -> bool:
    """Whether a layout of FFmpeg's has luma only."""
    return pix_fmt.startswith(("gray", "mono", "ya8", "ya16"))


def rgb_matrix(color: ColorTags, width: int, height: int) -> str:
    """The matrix by which a player shows a clip; an untagged one is guessed by size, as mpv does.

    Raises InputError for a matrix that is no linear YCbCr of known weights (YCgCo, ICtCp).
    """
    if color.matrix == "bt2020c":
        return "bt2020nc"  # players do not tell them apart
    if color.matrix in LUMA_WEIGHTS:
        return color.matrix
    if color.matrix in ("unknown", "gbr"):
        return "bt709" if width >= 1280 or height > 576 else "smpte170m"
    raise InputError(f"colour matrix {color.matrix} is not supported; convert the clip to bt709 first")


def pack_frame(frame: av.VideoFrame, pix_fmt: PixelFormat, target: VideoFormat) -> bytes:
    """One frame as an encoder takes it: planes Y, Cb, Cr of the padded size, tightly packed.

    The last row and column are repeated to the right and below, which costs fewest bits.
    """
    if frame.format.is_rgb:
        from codec_wrappers.still import StillSource

        return StillSource(_native_rgb(frame)).raw(pix_fmt)
    planes = _planes_420(frame, target.color, _BIT_DEPTH[pix_fmt])
    width, height = target.padded_width, target.padded_height
    sizes = ((height, width), (height // 2, width // 2), (height // 2, width // 2))
    return b"".join(_padded(plane, *size).tobytes() for plane, size in zip(planes, sizes, strict=True))


def frame_to_rgb(frame: av.VideoFrame, color: ColorTags) -> npt.NDArray[np.uint8]:
    """One frame as uint8 RGB [H, W, 3], full range, not turned.

    4:2:0 of 8 and of 10 bits take the same path, so that a coded clip differs from its source by the codec
    alone.
    """
    import numpy as np
    from av.video.reformatter import Interpolation

    if frame.format.is_rgb:
        rgb = _native_rgb(frame)
        return rgb if rgb.dtype == np.uint8 else ((rgb.astype(np.uint32) * 255 + 32767) // 65535).astype(np.uint8)
    matrix = rgb_matrix(color, frame.width, frame.height)
    if _planar_420_depth(frame.format.name) is not None or is_grey(frame.format.name):
        name: PixelFormat = "yuv420p" if _depth(frame) == 8 else "yuv420p10le"
        planes = _planes_420(frame, color, _BIT_DEPTH[name])
        sizes = [(even(frame.height) // part, even(frame.width) // part) for part in (1, 2, 2)]
        packed = b"".join(_padded(plane, *size).tobytes() for plane, size in zip(planes, sizes, strict=True))
        return yuv420_to_rgb(packed, frame.width, frame.height, name, matrix=matrix, color_range=color.range)
    flags = Interpolation.BILINEAR | Interpolation.ACCURATE_RND
    converted = frame.reformat(
        format="rgb24",
        interpolation=flags | Interpolation.FULL_CHR_H_INT | Interpolation.FULL_CHR_H_INP,
        src_colorspace=_SWS_MATRICES[matrix],
        dst_colorspace=_SWS_MATRICES[matrix],
        src_color_range=_FULL_RANGE if color.range == "pc" else 1,
        dst_color_range=_FULL_RANGE,
    )
    return frame_samples(converted, 0, 3, "u1").copy()


def planes_to_rgb(planes: bytes, pix_fmt: PixelFormat, source: VideoFormat) -> npt.NDArray[np.uint8]:
    """A packed frame of `source`'s padded size as uint8 RGB [height, width, 3], not turned."""
    matrix = rgb_matrix(source.color, source.width, source.height)
    width, height = source.padded_width, source.padded_height
    rgb = yuv420_to_rgb(planes, width, height, pix_fmt, matrix=matrix, color_range=source.color.range)
    return rgb[: source.height, : source.width]


def frame_samples(frame: av.VideoFrame, plane: int, channels: int, dtype: str) -> Samples:
    """View one plane of a frame without the padding of its lines: [h, w], interleaved [h, w, channels]."""
    import numpy as np

    source = frame.planes[plane]
    sample = np.dtype(dtype)
    lines = np.frombuffer(memoryview(source), dtype=np.uint8)[: source.line_size * source.height]
    used = source.width * channels * sample.itemsize
    samples: Samples = lines.reshape(source.height, source.line_size)[:, :used].view(sample)
    return samples if channels == 1 else samples.reshape(source.height, source.width, channels)


def swaps_sides(matrix: Sequence[int]) -> bool:
    """Whether a display matrix turns by a quarter, so that width and height change places."""
    return matrix[0] == 0 and matrix[4] == 0 and matrix[1] != 0 and matrix[3] != 0


def upright(rgb: npt.NDArray[np.uint8], matrix: Sequence[int] | None) -> npt.NDArray[np.uint8]:
    """Turn and mirror a picture as the display matrix of its container says; C-contiguous.

    matrix: nine numbers, row by row, x' = (m0 x + m3 y), y' = (m1 x + m4 y) in units of 2^-16 (ISO/IEC
    14496-12). Only quarter turns and mirrors are done; other angles, which no camera writes, are left
    alone.
    """
    import numpy as np

    if matrix is None:
        return np.ascontiguousarray(rgb)
    if swaps_sides(matrix):
        rgb = rgb.transpose(1, 0, 2)
        mirror, flip = matrix[3] < 0, matrix[1] < 0
    elif matrix[1] == 0 and matrix[3] == 0:
        mirror, flip = matrix[0] < 0, matrix[4] < 0
    else:
        return np.ascontiguousarray(rgb)
    return np.ascontiguousarray(rgb[:: -1 if flip else 1, :: -1 if mirror else 1])


def _planar_420_depth(name: str) -> int | None:
    """Bits per sample of a little-endian planar 4:2:0 layout, None for any other."""
    match = re.fullmatch(r"yuvj?420p(?:(9|10|12|14|16)le)?", name)
    return None if match is None else int(match.group(1) or 8)


def _depth(frame: av.VideoFrame) -> int:
    return max(component.bits for component in frame.format.components)


def _planes_420(frame: av.VideoFrame, color: ColorTags, bits: int) -> Planes:
    """Planes of 4:2:0 with `bits` per sample; chroma of odd pictures is rounded up."""
    import numpy as np

    name = frame.format.name
    if is_grey(name):
        grey = frame.reformat(format="gray" if _depth(frame) <= 8 else "gray16le") if "le" not in name else frame
        depth = _depth(grey)
        luma = _to_depth(frame_samples(grey, 0, 1, "u1" if depth <= 8 else "<u2"), depth, bits, color.range)
        neutral = np.full(((frame.height + 1) // 2, (frame.width + 1) // 2), 1 << (bits - 1), luma.dtype)
        return luma, neutral, neutral
    planar_depth = _planar_420_depth(name)
    if planar_depth is None:
        planar_depth = 8 if _depth(frame) <= 8 else 10
        frame = _resample_420(frame, "yuv420p" if planar_depth == 8 else "yuv420p10le", color)
    depth = planar_depth
    dtype = "u1" if depth == 8 else "<u2"
    luma, cb, cr = (frame_samples(frame, plane, 1, dtype) for plane in range(3))
    return (
        _to_depth(luma, depth, bits, color.range),
        _to_depth(cb, depth, bits, "tv"),
        _to_depth(cr, depth, bits, "tv"),
    )


def _resample_420(frame: av.VideoFrame, pix_fmt: str, color: ColorTags) -> av.VideoFrame:
    """Chroma to 4:2:0 by swscale, range and matrix untouched."""
    from av.video.reformatter import Interpolation

    code = _FULL_RANGE if color.range == "pc" else 1
    return frame.reformat(
        format=pix_fmt,
        interpolation=Interpolation.BICUBIC | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INP,
        src_colorspace=1,
        dst_colorspace=1,
        src_color_range=code,
        dst_color_range=code,
    )


def _to_depth(samples: Samples, depth: int, bits: int, color_range: str) -> Samples:
    """Change the bits per sample; rounded to nearest.

    Limited-range samples and chroma scale by a power of two (H.273), full-range luma from top code to top
    code.
    """
    import numpy as np

    dtype = np.dtype("u1" if bits == 8 else "<u2")
    if depth == bits:
        return samples.astype(dtype, copy=False)
    if color_range == "pc":
        top, source_top = (1 << bits) - 1, (1 << depth) - 1
        table = (np.arange(1 << depth, dtype=np.uint32) * top + source_top // 2) // source_top
        return table.astype(dtype)[samples]
    if depth < bits:
        return samples.astype(dtype) << (bits - depth)
    drop = depth - bits
    half = 1 << (drop - 1)
    rounded: Samples = (np.minimum(samples, (1 << depth) - 1 - half) + half) >> drop
    return rounded.astype(dtype)


def _padded(plane: Samples, height: int, width: int) -> Samples:
    import numpy as np

    rows, columns = plane.shape
    if (rows, columns) == (height, width):
        return plane
    return np.pad(plane, ((0, height - rows), (0, width - columns)), mode="edge")


def _native_rgb(frame: av.VideoFrame) -> Samples:
    """A frame that is coded as RGB: uint8, or uint16 where it has more bits; alpha composited on black."""
    import numpy as np

    deep = _depth(frame) > 8
    top = 65535 if deep else 255
    has_alpha = len(frame.format.components) == 4 or frame.format.name == "pal8"
    channels = 4 if has_alpha else 3
    name = ("rgba64le" if deep else "rgba") if has_alpha else ("rgb48le" if deep else "rgb24")
    samples = frame_samples(frame.reformat(format=name), 0, channels, "<u2" if deep else "u1")
    if has_alpha:
        alpha = samples[..., 3:].astype(np.uint64)
        samples = (samples[..., :3].astype(np.uint64) * alpha + top // 2) // top
    return np.ascontiguousarray(samples.astype(np.uint16 if deep else np.uint8))
