"""Pictures as clips of one frame: weird ones made by Pillow and PyAV come out as upright RGB of 8 bits."""

import struct
import zlib
from collections.abc import Callable
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image, ImageCms

from codec_wrappers.color import split_planes
from codec_wrappers.errors import InputError
from codec_wrappers.frames import BT709
from vcm_ratecontrol.media import open_clip

RGB = npt.NDArray[np.uint8]


@pytest.fixture(scope="module")
def scene() -> RGB:
    """A colourful picture whose four corners differ, uint8 [48, 80, 3]."""
    y, x = np.mgrid[0:48, 0:80]
    return np.stack([x * 3, y * 5, 255 - x * 2 - y], axis=2).astype(np.uint8)


def rgb_of(path: Path) -> RGB:
    clip = open_clip(path)
    assert (clip.kind, clip.n_frames, clip.color) == ("still", 1, BT709)
    (rgb,) = clip.read_rgb()
    assert rgb.dtype == np.uint8 and rgb.shape == (clip.height, clip.width, 3)
    assert rgb.flags["C_CONTIGUOUS"]
    return rgb


@pytest.mark.parametrize("name", ["a.png", "a.bmp", "a.tiff", "a.webp", "a.ppm", "a.avif", "a.jpg", "a.jp2", "a.gif"])
def test_formats(tmp_path: Path, scene: RGB, name: str) -> None:
    path = tmp_path / name
    options = {"a.webp": {"lossless": True}, "a.jpg": {"quality": 98, "subsampling": 0}, "a.avif": {"quality": 98}}
    Image.fromarray(scene).save(path, **options.get(name, {}))
    error = np.abs(rgb_of(path).astype(int) - scene)
    assert error.mean() < {"a.jpg": 2, "a.avif": 2, "a.gif": 12, "a.jp2": 0.1}.get(name, 1e-9)


def test_kind_is_read_from_the_content(tmp_path: Path, scene: RGB) -> None:
    path = tmp_path / "picture.mp4"
    Image.fromarray(scene).save(path, format="PNG")
    np.testing.assert_array_equal(rgb_of(path), scene)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(tmp_path: Path, scene: RGB, orientation: int) -> None:
    inverse = {1: None, 2: 0, 3: 3, 4: 1, 5: 5, 6: 2, 7: 6, 8: 4}[orientation]  # Image.Transpose
    image = Image.fromarray(scene)
    stored = image if inverse is None else image.transpose(Image.Transpose(inverse))
    exif = Image.Exif()
    exif[0x0112] = orientation
    for name in ("turned.png", "turned.jpg", "turned.tiff"):
        stored.save(tmp_path / name, exif=exif, **({"quality": 98, "subsampling": 0} if "jpg" in name else {}))
        assert np.abs(rgb_of(tmp_path / name).astype(int) - scene).mean() < 2, name
    deep = np.asarray(stored).astype(np.uint16) * 257
    write_deep(tmp_path / "deep.png", deep, exif.tobytes())
    np.testing.assert_array_equal(rgb_of(tmp_path / "deep.png"), scene)


def write_deep(path: Path, samples: npt.NDArray[np.uint16], exif: bytes = b"") -> None:
    """Write 16-bit RGB or RGBA as PNG or TIFF by FFmpeg, an EXIF chunk put in by hand (PNG, third edition)."""
    layout = {3: "rgb48le", 4: "rgba64le"}[samples.shape[2]]
    coded = layout.replace("le", "be") if path.suffix == ".png" else layout
    frame = av.VideoFrame.from_ndarray(samples, format=layout).reformat(format=coded)
    context = av.CodecContext.create(path.suffix[1:].replace("tif", "tiff").replace("tifff", "tiff"), "w")
    context.width, context.height, context.pix_fmt, context.time_base = (
        frame.width,
        frame.height,
        coded,
        Fraction(1, 25),
    )
    data = b"".join(bytes(packet) for packet in [*context.encode(frame), *context.encode(None)])
    if exif:
        body = b"eXIf" + exif.removeprefix(b"Exif\0\0")
        chunk = struct.pack(">I", len(body) - 4) + body + struct.pack(">I", zlib.crc32(body))
        data = data[:33] + chunk + data[33:]  # after the signature and IHDR
    path.write_bytes(data)


@pytest.mark.parametrize("name", ["deep.png", "deep.tiff"])
def test_sixteen_bits_are_rounded(tmp_path: Path, name: str) -> None:
    ramp = np.arange(0, 65536, 16, dtype=np.uint16).reshape(64, 64)
    write_deep(tmp_path / name, np.stack([ramp, ramp[::-1], ramp.T], axis=2))
    expected = np.stack([ramp, ramp[::-1], ramp.T], axis=2).astype(np.uint32)
    np.testing.assert_array_equal(rgb_of(tmp_path / name), (expected * 255 + 32767) // 65535)
    clip = open_clip(tmp_path / name)
    assert clip.bit_depth == 16
    Image.fromarray(ramp).save(tmp_path / "grey.png")
    np.testing.assert_array_equal(
        rgb_of(tmp_path / "grey.png")[..., 1], (ramp.astype(np.uint32) * 255 + 32767) // 65535
    )
    assert open_clip(tmp_path / "grey.png").bit_depth == 16


def test_alpha_is_composited_on_black(tmp_path: Path, scene: RGB) -> None:
    alpha = np.tile(np.linspace(0, 255, 80).astype(np.uint8), (48, 1))
    expected = np.round(scene * (alpha[..., None] / 255.0))
    Image.fromarray(np.dstack([scene, alpha])).save(tmp_path / "rgba.png")
    Image.fromarray(np.dstack([scene, alpha])).save(tmp_path / "rgba.webp", lossless=True, exact=True)
    for name in ("rgba.png", "rgba.webp"):
        assert np.abs(rgb_of(tmp_path / name) - expected).max() <= 1
    write_deep(tmp_path / "deep.png", np.dstack([scene, alpha]).astype(np.uint16) * 257)
    assert np.abs(rgb_of(tmp_path / "deep.png") - expected).max() <= 1
    Image.fromarray(np.dstack([scene[..., 0], alpha]), "LA").save(tmp_path / "la.png")
    assert np.abs(rgb_of(tmp_path / "la.png")[..., 2] - expected[..., 0]).max() <= 1
    palette = Image.fromarray(scene).quantize(16)
    palette.save(tmp_path / "p.png", transparency=int(np.asarray(palette)[0, 0]))
    assert rgb_of(tmp_path / "p.png")[0, 0].tolist() == [0, 0, 0]


def test_grey_one_bit_and_palette(tmp_path: Path, scene: RGB) -> None:
    grey = Image.fromarray(scene[..., 1])
    for name in ("grey.png", "grey.jpg", "grey.tiff"):
        grey.save(tmp_path / name)
        rgb = rgb_of(tmp_path / name)
        assert np.ptp(rgb, axis=2).max() == 0
        assert np.abs(rgb[..., 0].astype(int) - scene[..., 1]).mean() < 1
    grey.convert("1").save(tmp_path / "bits.png")
    assert set(np.unique(rgb_of(tmp_path / "bits.png"))) == {0, 255}
    assert open_clip(tmp_path / "bits.png").bit_depth == 1
    palette = Image.fromarray(scene).quantize(200)
    palette.save(tmp_path / "palette.png")
    np.testing.assert_array_equal(rgb_of(tmp_path / "palette.png"), np.asarray(palette.convert("RGB")))


def test_cmyk_with_and_without_a_profile(tmp_path: Path, scene: RGB) -> None:
    cmyk = Image.fromarray(scene).convert("CMYK")
    for name in ("cmyk.tiff", "cmyk.jpg"):
        cmyk.save(tmp_path / name, **({"quality": 98, "subsampling": 0} if "jpg" in name else {}))
        assert np.abs(rgb_of(tmp_path / name).astype(int) - scene).mean() < 3
    # A profile that is not one of CMYK, or broken, is passed over.
    wrong = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    for profile in (wrong, b"no profile"):
        cmyk.save(tmp_path / "profile.tiff", icc_profile=profile)
        assert np.abs(rgb_of(tmp_path / "profile.tiff").astype(int) - scene).mean() < 3


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (63, 65)])
def test_small_and_odd_sizes(tmp_path: Path, size: tuple[int, int]) -> None:
    picture = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    Image.fromarray(picture).save(tmp_path / "small.png")
    clip = open_clip(tmp_path / "small.png")
    assert (clip.width, clip.height) == clip.upright_size == size
    target = clip.format
    for pix_fmt in ("yuv420p", "yuv420p10le"):
        (frame,) = clip.read(0, 1, pix_fmt)
        assert len(frame) == target.frame_bytes(pix_fmt)
        assert clip.rgb_of(frame, pix_fmt).shape == picture.shape


def test_planes_are_bt709_limited(tmp_path: Path) -> None:
    Image.new("RGB", (64, 64), (255, 255, 255)).save(tmp_path / "white.png")
    (frame,) = open_clip(tmp_path / "white.png").read(0, 1, "yuv420p10le")
    luma, cb, cr = split_planes(frame, 64, 64, "yuv420p10le")
    assert (np.unique(luma), np.unique(cb), np.unique(cr)) == ([940], [512], [512])


@pytest.mark.slow
def test_the_largest_picture(tmp_path: Path) -> None:
    """16384 x 16384, some 3 GB of memory and half a minute."""
    Image.new("L", (16384, 16384), 77).save(tmp_path / "large.png")
    assert open_clip(tmp_path / "large.png").width == 16384


def test_8k_is_taken_and_more_is_refused_before_it_is_decoded(tmp_path: Path) -> None:
    limit = Image.MAX_IMAGE_PIXELS
    Image.new("1", (8, 8)).save(tmp_path / "large.png")
    content = bytearray((tmp_path / "large.png").read_bytes())
    content[16:24] = (16384).to_bytes(4, "big") * 2  # width and height in IHDR, three times Pillow's own limit
    content[29:33] = zlib.crc32(content[12:29]).to_bytes(4, "big")
    (tmp_path / "large.png").write_bytes(content)
    with pytest.raises(InputError, match=r"large.png: the picture is truncated or damaged"):
        open_clip(tmp_path / "large.png")
    Image.new("1", (16385, 4)).save(tmp_path / "wide.png")
    with pytest.raises(InputError, match=r"wide.png: the picture is 16385x4, larger than 16384x16384; scale"):
        open_clip(tmp_path / "wide.png")
    assert limit == Image.MAX_IMAGE_PIXELS


def test_photographs(picture: Callable[[str], Path], shared_data: Path) -> None:
    for path in sorted((shared_data / "images").rglob("*.jp*g"))[:8]:
        rgb = rgb_of(path)
        clip = open_clip(path)
        (frame,) = clip.read(0, 1, "yuv420p10le")
        assert np.abs(clip.rgb_of(frame, "yuv420p10le").astype(int) - rgb).mean() < 3


def test_first_page_of_a_tiff_and_floats_refused(tmp_path: Path, scene: RGB) -> None:
    Image.fromarray(scene).save(tmp_path / "pages.tiff", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    np.testing.assert_array_equal(rgb_of(tmp_path / "pages.tiff"), scene)
    Image.fromarray(scene[..., 0].astype(np.float32)).save(tmp_path / "float.tiff")
    with pytest.raises(InputError, match=r"float.tiff: floating-point .* convert"):
        open_clip(tmp_path / "float.tiff")
