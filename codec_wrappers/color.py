"""RGB to planar YCbCr 4:2:0 and back, the one pair of conversions for every picture that is coded as a still.

Plain numpy, float32 inside, rounded once at the end. A grey picture has chroma exactly at the neutral
level, and 10-bit limited range has 876 luma steps for 255 grey steps, so grey through the 10-bit pair is
exact; through the 8-bit pair (219 steps) the error is at most one level, about 0.14 in the mean.

Chroma is sited in the centre of its four luma samples, as in JPEG: the mean of 2x2 pixels going down,
bilinear (weights 9, 3, 3, 1 of 16) coming back. Odd pictures get their last row and column repeated, so
that both sides are even; the crop back is the caller's `width` and `height`.

Coefficients: ITU-R BT.709-6, BT.601-7, BT.2020-2 (non-constant luminance); quantisation as in H.273.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt

#: Luma weights of red and blue by the matrix names that FFmpeg uses.
LUMA_WEIGHTS: dict[str, tuple[float, float]] = {
    "bt709": (0.2126, 0.0722),
    "bt470bg": (0.299, 0.114),
    "smpte170m": (0.299, 0.114),
    "smpte240m": (0.212, 0.087),
    "fcc": (0.30, 0.11),
    "bt2020nc": (0.2627, 0.0593),
}

#: Bits per sample of the two layouts that the encoders take.
BIT_DEPTHS: dict[str, int] = {"yuv420p": 8, "yuv420p10le": 10}


def even(size: int) -> int:
    """Next even number: 4:2:0 pictures have no odd sides."""
    return size + (size & 1)


def frame_bytes(width: int, height: int, pix_fmt: str) -> int:
    """Bytes of one tightly packed 4:2:0 frame whose sides are padded to even."""
    return even(width) * even(height) * 3 // 2 * (2 if bit_depth(pix_fmt) > 8 else 1)


def bit_depth(pix_fmt: str) -> int:
    """8 or 10. Raises ValueError for a layout other than yuv420p and yuv420p10le."""
    try:
        return BIT_DEPTHS[pix_fmt]
    except KeyError:
        raise ValueError(f"pixel format {pix_fmt!r} is none of {', '.join(BIT_DEPTHS)}") from None


def _levels(pix_fmt: str, color_range: str) -> tuple[float, float, float, float]:
    """Luma offset and scale, chroma offset and scale: code values for RGB and Pb/Pr of unit range."""
    bits = bit_depth(pix_fmt)
    if color_range == "pc":
        top = float((1 << bits) - 1)
        return 0.0, top, float(1 << (bits - 1)), top
    if color_range == "tv":
        step = float(1 << (bits - 8))
        return 16 * step, 219 * step, 128 * step, 224 * step
    raise ValueError(f"colour range {color_range!r} is neither 'tv' nor 'pc'")


def _weights(matrix: str) -> tuple[float, float, float]:
    try:
        red, blue = LUMA_WEIGHTS[matrix]
    except KeyError:
        raise ValueError(f"colour matrix {matrix!r} is none of {', '.join(LUMA_WEIGHTS)}") from None
    return red, 1.0 - red - blue, blue


def rgb_to_yuv420(
    rgb: npt.NDArray[np.generic],
    pix_fmt: str = "yuv420p10le",
    *,
    matrix: str = "bt709",
    color_range: str = "tv",
) -> bytes:
    """Pack a picture as planar 4:2:0.

    Args:
        rgb: uint8 (0..255) or uint16 (0..65535), [H, W, 3], full range.
        pix_fmt: 'yuv420p' (8 bit) or 'yuv420p10le' (10 bit, two bytes little endian per sample).
        matrix: a name of `LUMA_WEIGHTS`.
        color_range: 'tv' (limited) or 'pc' (full).

    Returns:
        The planes Y, Cb, Cr, tightly packed; H and W padded to even by repeating the last row and column.

    Raises:
        ValueError: another shape or dtype, an unknown layout, matrix or range.
    """
    import numpy as np

    if rgb.ndim != 3 or rgb.shape[2] != 3 or 0 in rgb.shape or rgb.dtype not in (np.uint8, np.uint16):
        raise ValueError(f"RGB must be uint8 or uint16 [H, W, 3], not {rgb.dtype} {list(rgb.shape)}")
    height, width = rgb.shape[:2]
    luma_offset, luma_scale, chroma_offset, chroma_scale = _levels(pix_fmt, color_range)
    red, green, blue = _weights(matrix)
    top = 255.0 if rgb.dtype == np.uint8 else 65535.0
    sample = np.dtype("<u2" if bit_depth(pix_fmt) > 8 else "u1")
    limit = float((1 << bit_depth(pix_fmt)) - 1)

    pixels = rgb.astype(np.float32)
    if (height | width) & 1:
        pixels = np.pad(pixels, ((0, height & 1), (0, width & 1), (0, 0)), mode="edge")
    to_luma = np.array([red, green, blue], np.float64) * (luma_scale / top)
    luma = pixels.reshape(-1, 3) @ to_luma.astype(np.float32)
    luma += np.float32(luma_offset + 0.5)

    rows = pixels[0::2] + pixels[1::2]
    quarter = (rows[:, 0::2] + rows[:, 1::2]).reshape(-1, 3)
    half_blue, half_red = 0.5 / (1 - blue), 0.5 / (1 - red)
    to_chroma = np.array(
        [
            [-red * half_blue, -green * half_blue, 0.5],
            [0.5, -green * half_red, -blue * half_red],
        ]
    ) * (chroma_scale / top / 4)
    chroma = to_chroma.astype(np.float32) @ quarter.T
    chroma += np.float32(chroma_offset + 0.5)
    # Full range reaches half a step above the top code for pure blue and red.
    np.minimum(chroma, np.float32(limit), out=chroma)
    return luma.astype(sample).tobytes() + chroma.astype(sample).tobytes()


def split_planes(
    planes: bytes | bytearray | memoryview, width: int, height: int, pix_fmt: str
) -> tuple[npt.NDArray[np.generic], npt.NDArray[np.generic], npt.NDArray[np.generic]]:
    """View one packed frame as its planes Y [H', W'], Cb and Cr [H'/2, W'/2] with even H' and W'; no copy.

    Raises ValueError when the bytes are not exactly one frame.
    """
    import numpy as np

    expected = frame_bytes(width, height, pix_fmt)
    found = memoryview(planes).nbytes
    if found != expected:
        raise ValueError(f"{found} bytes are not one {width}x{height} {pix_fmt} frame of {expected} bytes")
    samples = np.frombuffer(planes, dtype="<u2" if bit_depth(pix_fmt) > 8 else "u1")
    rows, columns = even(height), even(width)
    luma, quarter = rows * columns, rows * columns // 4
    return (
        samples[:luma].reshape(rows, columns),
        samples[luma : luma + quarter].reshape(rows // 2, columns // 2),
        samples[luma + quarter :].reshape(rows // 2, columns // 2),
    )


def yuv420_to_rgb(
    planes: bytes | bytearray | memoryview,
    width: int,
    height: int,
    pix_fmt: str = "yuv420p10le",
    *,
    matrix: str = "bt709",
    color_range: str = "tv",
) -> npt.NDArray[np.uint8]:
    """Unpack one planar 4:2:0 frame to RGB.

    Args:
        planes: Y, Cb, Cr tightly packed, sides padded to even, as `rgb_to_yuv420` gives them.
        width: displayed width; what was padded is cropped away.
        height: displayed height.
        pix_fmt: 'yuv420p' or 'yuv420p10le'.
        matrix: a name of `LUMA_WEIGHTS`.
        color_range: 'tv' (limited) or 'pc' (full).

    Returns:
        uint8 [height, width, 3], full range, rounded and clipped.

    Raises:
        ValueError: the bytes are not exactly one such frame; an unknown layout, matrix or range.
    """
    import numpy as np

    luma_offset, luma_scale, chroma_offset, chroma_scale = _levels(pix_fmt, color_range)
    red, green, blue = _weights(matrix)
    luma, cb, cr = split_planes(planes, width, height, pix_fmt)
    y = luma.astype(np.float32)
    y -= np.float32(luma_offset)
    y *= np.float32(255 / luma_scale)
    y += np.float32(0.5)  # astype truncates: rounding is done here
    unit = 255 / chroma_scale
    pb = _upsample((cb.astype(np.float32) - np.float32(chroma_offset)) * np.float32(unit))
    pr = _upsample((cr.astype(np.float32) - np.float32(chroma_offset)) * np.float32(unit))

    rgb = np.empty((height, width, 3), np.uint8)
    scratch = np.empty_like(y)

    def store(channel: int, value: npt.NDArray[np.float32]) -> None:
        np.clip(value, 0, 255, out=value)
        rgb[..., channel] = value[:height, :width]

    np.multiply(pr, np.float32(2 * (1 - red)), out=scratch)
    scratch += y
    store(0, scratch)
    np.multiply(pb, np.float32(2 * (1 - blue)), out=scratch)
    scratch += y
    store(2, scratch)
    pb *= np.float32(2 * (1 - blue) * blue / green)
    pr *= np.float32(2 * (1 - red) * red / green)
    y -= pb
    y -= pr
    store(1, y)
    return rgb


def _upsample(plane: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Bilinear doubling of both sides with centred siting: float32 [h, w] -> [2h, 2w]."""
    import numpy as np

    height, width = plane.shape
    near, far = np.float32(0.75), np.float32(0.25)
    padded = np.empty((height + 2, width), np.float32)
    padded[1:-1], padded[0], padded[-1] = plane, plane[0], plane[-1]
    quarter = padded * far
    padded *= near
    wide = np.empty((2 * height, width + 2), np.float32)
    np.add(padded[1:-1], quarter[:-2], out=wide[0::2, 1:-1])
    np.add(padded[1:-1], quarter[2:], out=wide[1::2, 1:-1])
    wide[:, 0], wide[:, -1] = wide[:, 1], wide[:, -2]
    quarter = wide * far
    wide *= near
    result = np.empty((2 * height, 2 * width), np.float32)
    np.add(wide[:, 1:-1], quarter[:, :-2], out=result[:, 0::2])
    np.add(wide[:, 1:-1], quarter[:, 2:], out=result[:, 1::2])
    return result
