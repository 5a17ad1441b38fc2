"""Stills to bitstreams and back: exact QPs, grey levels, any size, damage told."""

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from codec_wrappers.color import rgb_to_yuv420, yuv420_to_rgb
from codec_wrappers.encoder import EncodeCommand, EncodeJob, get_encoder
from codec_wrappers.errors import EncoderError, VerificationError
from codec_wrappers.still import EncodedStill, StillSource, decode_still, encode_still
from codec_wrappers.vvenc import VvencEncoder

RGB = npt.NDArray[np.uint8]
CODECS = ("vvc", "hevc", "hevc-kvazaar", "av1")
#: Layout that each is fed with: kvazaar takes 8 bits only.
LAYOUTS = {codec: "yuv420p" if codec == "hevc-kvazaar" else "yuv420p10le" for codec in CODECS}


@pytest.fixture(scope="module")
def photo(picture: Callable[[str], Path]) -> RGB:
    """A 241x161 part of a real photograph: both sides odd."""
    with Image.open(picture("coco/000000465822.jpg")) as image:
        return np.asarray(image.convert("RGB"))[80:241, 120:361]


def mean_error(a: npt.NDArray[np.integer], b: npt.NDArray[np.integer]) -> float:
    return float(np.abs(a.astype(int) - b).mean())


@pytest.mark.parametrize("codec", CODECS)
def test_grey_at_the_lowest_qp_comes_back_within_one_level(codec: str, photo: RGB) -> None:
    ramp = np.tile(np.repeat(np.arange(256, dtype=np.uint8), 2), (64, 1))
    real = photo[..., 1]
    for grey in (ramp, real):
        rgb = np.repeat(grey[..., None], 3, axis=2)
        back = decode_still(encode_still(StillSource(rgb), 0, get_encoder(codec)))
        assert back.shape == rgb.shape
        assert mean_error(back, rgb) <= 1.0
        # No bias either: what a wrong range or matrix looks like.
        assert abs(float(back.astype(int).mean() - rgb.mean())) <= 0.5
        assert np.abs(back.astype(int) - rgb).max() <= 6
        assert mean_error(back[..., 0], back[..., 2]) <= 1.0


@pytest.mark.parametrize("codec", CODECS)
def test_colour_is_limited_by_the_chroma_resolution_only(codec: str, photo: RGB) -> None:
    back = decode_still(encode_still(StillSource(photo), 0, get_encoder(codec)))
    height, width = photo.shape[:2]
    padded = np.pad(photo, ((0, height % 2), (0, width % 2), (0, 0)), mode="edge")
    subsampled = yuv420_to_rgb(rgb_to_yuv420(padded, LAYOUTS[codec]), width + 1, height + 1, LAYOUTS[codec])
    loss = mean_error(subsampled[:height, :width], photo)
    assert mean_error(back, photo) <= loss + 0.6
    assert mean_error(back, subsampled[:height, :width]) <= 0.8


@pytest.mark.parametrize("color", ["red", "green", "blue", "white", "black", "cyan", "yellow", "magenta"])
def test_flat_colours_come_back(color: str) -> None:
    rgb = np.asarray(Image.new("RGB", (70, 66), color))
    back = decode_still(encode_still(StillSource(rgb), 0, get_encoder("vvc")))
    assert np.abs(back.astype(int) - rgb).max() <= 2


@pytest.mark.parametrize("codec", CODECS)
def test_qps_are_read_back_and_cost_what_they_should(codec: str, photo: RGB) -> None:
    encoder, source = get_encoder(codec), StillSource(photo)
    capabilities = encoder.capabilities()
    qps = [capabilities.qp_min, 22, 37, capabilities.qp_max]
    stills = [encode_still(source, qp, encoder) for qp in qps]
    assert [still.qp_read_back for still in stills] == qps
    assert all(finer.bits > 1.5 * coarser.bits for finer, coarser in pairwise(stills))
    errors = [mean_error(decode_still(still), photo) for still in stills]
    assert errors == sorted(errors)
    again = encode_still(source, 37, encoder)
    assert again.data == stills[2].data
    assert again.bits == 8 * len(again.data)


SIZES = [(1, 1), (1, 2), (2, 1), (3, 5), (1, 200), (200, 1), (15, 17), (63, 65), (64, 64), (127, 33), (66, 130)]


@pytest.mark.parametrize("codec", CODECS)
def test_any_small_size_comes_back(codec: str) -> None:
    encoder = get_encoder(codec)
    for width, height in SIZES:
        y, x = np.mgrid[0:height, 0:width]
        grey = (60 + 40 * np.sin(x / 7) + 90 * y / max(height, 1)).astype(np.uint8)
        rgb = np.repeat(grey[..., None], 3, axis=2)
        still = encode_still(StillSource(rgb), 8, encoder)
        back = decode_still(still)
        assert (still.width, still.height) == (width, height)
        assert back.shape == (height, width, 3)
        assert mean_error(back, rgb) <= 2.5, (width, height)


@pytest.mark.slow
@pytest.mark.parametrize("codec", CODECS)
@pytest.mark.parametrize("size", [(7680, 4320), (8191, 4319), (4096, 16)])
def test_stills_up_to_8k_come_back(codec: str, size: tuple[int, int]) -> None:
    """Some minutes: VVenC takes one for an 8K picture."""
    width, height = size
    y, x = np.mgrid[0:height, 0:width]
    grey = (128 + 60 * np.sin(x / 37) * np.cos(y / 53) + (x ^ y) % 16).clip(0, 255).astype(np.uint8)
    rgb = np.repeat(grey[..., None], 3, axis=2)
    still = encode_still(StillSource(rgb), 27, get_encoder(codec))
    back = decode_still(still)
    assert back.shape == rgb.shape
    assert mean_error(back, rgb) <= 4.0


def test_sixteen_bits_are_used_down_to_the_tenth() -> None:
    """Between two grey levels of 8 bits lie others, which 10-bit coding keeps."""
    levels = np.linspace(30_000, 31_000, 256).astype(np.uint16)
    rgb = np.repeat(np.tile(levels, (64, 1))[..., None], 3, axis=2)
    raw = np.frombuffer(StillSource(rgb).raw("yuv420p10le"), "<u2")
    assert len(np.unique(raw[: 256 * 64])) > 12
    back = decode_still(encode_still(StillSource(rgb), 0, get_encoder("vvc")))
    assert np.abs(back.astype(float) - rgb / 65535 * 255).max() <= 2


# No decoder sees these: an arithmetic code turns any bits into some picture, and FFmpeg's HEVC decoder does not
# check that a slice ends where it should.
UNSEEN_DAMAGE = {
    ("av1", "zeroes"),
    *((codec, name) for codec in ("hevc", "hevc-kvazaar") for name in ("cut", "zeroes")),
}


@pytest.mark.parametrize("codec", CODECS)
def test_damaged_streams_are_told(codec: str, photo: RGB) -> None:
    still = encode_still(StillSource(photo), 20, get_encoder(codec))
    half = len(still.data) // 2
    broken = bytearray(still.data)
    broken[half : half + 200] = bytes(200)
    streams = {
        "cut": still.data[:half],
        "zeroes": bytes(broken),
        "nothing": b"",
        "noise": np.random.default_rng(1).bytes(3000),
        "twice": still.data * 2,
    }
    for name, data in streams.items():
        if (codec, name) in UNSEEN_DAMAGE:
            continue
        with pytest.raises(VerificationError, match="still at QP 20"):
            decode_still(replace(still, data=data))
            pytest.fail(name)


class WritesNothing(VvencEncoder):
    """Real programs that end well without having coded anything, as libvvenc does for some sizes."""

    def __init__(self, touch: bool) -> None:
        super().__init__()
        self.touch = touch

    def command(self, job: EncodeJob) -> EncodeCommand:
        return EncodeCommand(("touch", str(job.output)) if self.touch else ("sh", "-c", "echo nothing to do"))


@pytest.mark.parametrize("touch", [True, False])
def test_exit_0_without_a_stream_is_an_encoder_error(touch: bool) -> None:
    with pytest.raises(EncoderError, match="wrote nothing at QP 30"):
        encode_still(StillSource(np.zeros((64, 64, 3), np.uint8)), 30, WritesNothing(touch))


def test_a_failing_encoder_leaves_no_folder_behind(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    import codec_wrappers.still as module

    monkeypatch.setattr(module, "memory_folder", lambda: tmp_path)
    source = StillSource(np.zeros((64, 64, 3), np.uint8))
    with pytest.raises(EncoderError):
        encode_still(source, 30, WritesNothing(False))
    assert isinstance(encode_still(source, 30, get_encoder("vvc")), EncodedStill)
    assert list(tmp_path.iterdir()) == []
