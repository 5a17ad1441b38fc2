"""The RGB and YCbCr 4:2:0 pair: exact for grey, bounded for colour, the same as swscale's."""

from fractions import Fraction

import av
import numpy as np
import pytest
from av.video.reformatter import Interpolation
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.color import LUMA_WEIGHTS, frame_bytes, rgb_to_yuv420, split_planes, yuv420_to_rgb

GREYS = np.repeat(np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (6, 1, 1)), 3, axis=2)


@pytest.mark.parametrize("matrix", LUMA_WEIGHTS)
@pytest.mark.parametrize(("pix_fmt", "color_range"), [("yuv420p10le", "tv"), ("yuv420p10le", "pc"), ("yuv420p", "pc")])
def test_grey_returns_exactly(matrix: str, pix_fmt: str, color_range: str) -> None:
    planes = rgb_to_yuv420(GREYS, pix_fmt, matrix=matrix, color_range=color_range)
    back = yuv420_to_rgb(planes, 256, 6, pix_fmt, matrix=matrix, color_range=color_range)
    np.testing.assert_array_equal(back, GREYS)


def test_grey_through_8_bit_limited_errs_below_one_level() -> None:
    error = np.abs(yuv420_to_rgb(rgb_to_yuv420(GREYS, "yuv420p"), 256, 6, "yuv420p").astype(int) - GREYS)
    assert error.max() <= 1
    assert error.mean() < 0.2


def test_sixteen_bit_grey_uses_the_ten_bits() -> None:
    ramp = np.linspace(0, 65535, 877).round().astype(np.uint16)
    luma, cb, cr = split_planes(
        rgb_to_yuv420(np.repeat(np.tile(ramp, (2, 1))[..., None], 3, axis=2)), 878, 2, "yuv420p10le"
    )
    np.testing.assert_array_equal(luma[0, :877], np.arange(64, 941))
    assert np.unique(cb) == np.unique(cr) == 512


@given(st.tuples(*[st.integers(0, 255)] * 3), st.integers(1, 9), st.integers(1, 9))
def test_any_flat_colour_returns_within_a_level(color: tuple[int, int, int], width: int, height: int) -> None:
    picture = np.full((height, width, 3), color, np.uint8)
    back = yuv420_to_rgb(rgb_to_yuv420(picture), width, height)
    assert back.shape == picture.shape
    assert np.abs(back.astype(int) - picture).max() <= 1


@given(st.integers(1, 40), st.integers(1, 40), st.sampled_from(["yuv420p", "yuv420p10le"]))
def test_packed_size_and_edge_padding(width: int, height: int, pix_fmt: str) -> None:
    picture = np.random.default_rng(width).integers(0, 256, (height, width, 3), dtype=np.uint8)
    planes = rgb_to_yuv420(picture, pix_fmt)
    assert len(planes) == frame_bytes(width, height, pix_fmt)
    luma, _, _ = split_planes(planes, width, height, pix_fmt)
    if width % 2:
        np.testing.assert_array_equal(luma[:, -1], luma[:, -2])
    if height % 2:
        np.testing.assert_array_equal(luma[-1], luma[-2])


def test_agrees_with_swscale_on_smooth_colour() -> None:
    y, x = np.mgrid[0:64, 0:96]
    picture = np.stack([x * 2, y * 3, 255 - x - y], axis=2).astype(np.uint8)
    back = yuv420_to_rgb(rgb_to_yuv420(picture, "yuv420p"), 96, 64, "yuv420p")
    frame = av.VideoFrame.from_ndarray(
        np.frombuffer(rgb_to_yuv420(picture, "yuv420p"), np.uint8).reshape(96, 96), format="yuv420p"
    )
    frame.time_base = Fraction(1, 25)
    flags = Interpolation.BILINEAR | Interpolation.ACCURATE_RND | Interpolation.FULL_CHR_H_INT
    theirs = frame.reformat(
        format="rgb24", interpolation=flags, src_colorspace=1, dst_colorspace=1, src_color_range=1, dst_color_range=2
    ).to_ndarray()
    assert np.abs(back.astype(int) - picture).mean() < 1
    assert np.abs(back[2:-2, 2:-2].astype(int) - theirs[2:-2, 2:-2]).max() <= 3


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: rgb_to_yuv420(np.zeros((4, 4), np.uint8)), "RGB must be"),
        (lambda: rgb_to_yuv420(np.zeros((4, 4, 3), np.float32)), "RGB must be"),
        (lambda: rgb_to_yuv420(np.zeros((0, 4, 3), np.uint8)), "RGB must be"),
        (lambda: rgb_to_yuv420(np.zeros((4, 4, 3), np.uint8), "nv12"), "pixel format 'nv12'"),
        (lambda: rgb_to_yuv420(np.zeros((4, 4, 3), np.uint8), matrix="ycgco"), "matrix 'ycgco'"),
        (lambda: rgb_to_yuv420(np.zeros((4, 4, 3), np.uint8), color_range="full"), "range 'full'"),
        (lambda: yuv420_to_rgb(b"123", 2, 2), "3 bytes are not one 2x2"),
    ],
)
def test_refuses_what_is_no_picture(call, words: str) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(ValueError, match=words):
        call()
