"""VVenC as it really codes: the QP asked for is the QP in the bitstream, and capabilities are the binary's."""

import re
from collections.abc import Callable
from functools import cache
from pathlib import Path

import numpy as np
import numpy.typing as npt
import pytest
from PIL import Image

from codec_wrappers.encoder import EncodeCommand, EncodeJob, PictureRecord, get_encoder
from codec_wrappers.errors import EncoderError
from codec_wrappers.ffmpeg import ffmpeg_path
from codec_wrappers.plan import Segment
from codec_wrappers.process import run_process
from codec_wrappers.still import EncodedStill, StillSource, decode_still, encode_still
from codec_wrappers.traceheaders import TRACE_FILTER, read_trace
from codec_wrappers.vvenc import VvencEncoder
from tests.codec_wrappers.coding import Frames, code, scene
from tests.codec_wrappers.joining import encode_clip, ffmpeg

PRESETS = ("faster", "fast", "medium", "slow", "slower")


@pytest.fixture(scope="module")
def rgb() -> npt.NDArray[np.uint8]:
    """A small picture with texture at all scales, so that every QP has something to quantise."""
    return np.repeat(scene(96, 64, 1)[0][..., None], 3, axis=2)


@pytest.fixture(scope="module")
def still(rgb: npt.NDArray[np.uint8]) -> Callable[[int], EncodedStill]:
    source, encoder = StillSource(rgb), get_encoder("vvenc")
    return cache(lambda qp: encode_still(source, qp, encoder))


def headers(coded: Path | EncodedStill, folder: Path = Path()) -> str:
    """All syntax elements of a stream's headers, as FFmpeg reads them."""
    path = coded if isinstance(coded, Path) else folder / "still.266"
    if isinstance(coded, EncodedStill):
        path.write_bytes(coded.data)
    argv = [str(ffmpeg_path()), "-hide_banner", "-i", str(path)]
    return run_process([*argv, "-c", "copy", "-bsf:v", TRACE_FILTER, "-f", "null", "-"], timeout_s=60).stderr


@pytest.mark.parametrize("qp", range(64))
def test_a_still_is_coded_at_exactly_the_qp(qp: int, still: Callable[[int], EncodedStill], tmp_path: Path) -> None:
    coded = still(qp)
    assert coded.qp_read_back == qp
    # Not what the encoder says of itself but what a decoder will read.
    (picture,) = read_trace("vvc", headers(coded, tmp_path))
    assert (picture.kind, picture.qp) == ("I", qp)
    if qp:
        assert coded.bits <= 1.1 * still(qp - 1).bits
    if qp >= 6:
        assert coded.bits < still(qp - 6).bits


class WithoutBlockQps(VvencEncoder):
    """Switches off the last tool that lets VVenC change the QP within a picture."""

    def command(self, job: EncodeJob) -> EncodeCommand:
        words = super().command(job).argv
        return EncodeCommand(tuple(word.replace("intraqpoffset=0", "intraqpoffset=0:bim=0") for word in words))


@pytest.mark.parametrize("qp", [0, 20, 45, 63])
def test_no_block_of_a_still_deviates_from_its_qp(qp: int, tmp_path: Path) -> None:
    """The stream may signal deltas, but the picture is the one of a stream that cannot."""
    rgb = np.repeat(scene(160, 128, 1)[0][..., None], 3, axis=2)
    ours, plain = (encode_still(StillSource(rgb), qp, encoder) for encoder in (get_encoder("vvenc"), WithoutBlockQps()))
    assert re.search(r"pps_cu_qp_delta_enabled_flag +0 = 0", headers(plain, tmp_path))
    assert np.array_equal(decode_still(ours), decode_still(plain))


@pytest.mark.parametrize("preset", PRESETS)
def test_the_qp_is_exact_with_every_preset(preset: str, rgb: npt.NDArray[np.uint8], tmp_path: Path) -> None:
    coded = encode_still(StillSource(rgb), 31, get_encoder("vvenc"), preset)
    assert coded.qp_read_back == 31
    assert [picture.qp for picture in read_trace("vvc", headers(coded, tmp_path))] == [31]


@pytest.mark.parametrize("qp", [0, 1, 22, 37, 51, 62, 63])
def test_the_first_picture_of_a_segment_is_its_only_intra_picture_at_the_qp(qp: int, tmp_path: Path) -> None:
    frames = Frames(scene(96, 64, 35))
    _, pictures = code(get_encoder("vvenc"), frames, tmp_path, qp=qp, pix_fmt="yuv420p10le")
    assert [picture.index for picture in pictures] == list(range(35))
    assert pictures[0] == PictureRecord(0, "I", qp, pictures[0].bits)
    assert all(picture.kind in "PB" for picture in pictures[1:])
    # The hierarchy on top is recorded, not hidden: every 32nd picture is 1 finer, all others are coarser.
    qps = [picture.qp or 0 for picture in pictures]
    assert qps[32] == qp - 1 or qp == 0
    assert all(qp <= other <= 63 for other in qps[:32])
    assert max(qps) > qp or qp == 63
    traced = {picture.index: picture.qp for picture in read_trace("vvc", headers(tmp_path / "piece.mp4"))}
    assert traced == {picture.index: picture.qp for picture in pictures}


@pytest.mark.parametrize("count", [47, 48])
def test_segments_as_long_as_vvenc_looks_ahead_are_coded_whole(
    count: int, clip: Callable[[str], Path], tmp_path: Path
) -> None:
    """Smaller pictures come through by luck in GOPs of 32, too."""
    source = tmp_path / "small.mkv"
    frames = ("-i", clip("intel_car-detection.mp4"), "-frames:v", str(count))
    ffmpeg(*frames, "-vf", "scale=480:270", "-an", "-c:v", "ffv1", source)
    result = encode_clip(source, tmp_path / "out.mp4", [37])
    assert [picture.index for picture in result.pictures] == list(range(count))
    assert [(picture.index, picture.qp) for picture in result.pictures if picture.kind == "I"] == [(0, 37)]


@pytest.mark.parametrize("name", ["intel_car-detection.mp4", "aiguy_road.mp4"])
def test_no_content_moves_the_qp(name: str, clip: Callable[[str], Path], tmp_path: Path) -> None:
    """A resting camera and a moving one: VVenC's adaptation to the GOP moves the QP by -1 in one, by 1 in the other."""
    source = tmp_path / "small.mkv"
    ffmpeg("-i", clip(name), "-frames:v", "18", "-vf", "scale=160:96", "-an", "-c:v", "ffv1", source)
    result = encode_clip(source, tmp_path / "out.mp4", [37, 22])
    pictures = [(picture.index, picture.kind, picture.qp) for picture in result.pictures]
    assert [picture for picture in pictures if picture[1] == "I"] == [(0, "I", 37), (9, "I", 22)]
    # The same hierarchy on top for all contents.
    assert [qp for _, _, qp in pictures[1:5]] == [46, 45, 46, 43]


def test_one_frame_and_two_frames_of_video(tmp_path: Path) -> None:
    for count in (1, 2, 3):
        decoded, pictures = code(
            get_encoder("vvenc"), Frames(scene(96, 64, count)), tmp_path / str(count), qp=30, pix_fmt="yuv420p10le"
        )
        assert len(decoded) == len(pictures) == count
        assert (pictures[0].kind, pictures[0].qp) == ("I", 30)


def test_capabilities_are_read_from_the_binary() -> None:
    capabilities = get_encoder("vvenc").capabilities()
    assert capabilities.presets == PRESETS
    assert (capabilities.qp_min, capabilities.qp_max) == (0, 63)
    assert capabilities.pixel_formats == ("yuv420p10le",)
    assert not capabilities.frame_qp
    assert capabilities.block_qp == "none"
    assert "libvvenc" in capabilities.version


def test_the_command_line_is_pure_and_says_all_that_matters(tmp_path: Path) -> None:
    frames = Frames(scene(96, 64, 3))
    job = EncodeJob(
        frames.format,
        "yuv420p10le",
        (Segment(0, 3, 33),),
        "fast",
        "inter",
        tmp_path / "x" / "piece.mp4",
        tmp_path / "x",
    )
    command = get_encoder("vvenc").command(job)
    assert command == get_encoder("vvenc").command(job)
    assert not (tmp_path / "x").exists()
    text = " ".join(command.argv)
    for words in ("-qp 33", "-qpa 0", "-preset fast", "-frames:v 3", "-r 25", "-s 96x64", "intraqpoffset=0"):
        assert words in text


@pytest.fixture
def dithered(tmp_path: Path) -> Path:
    """A GIF of random dots: more bits a pixel at the lowest QPs than the raw picture has."""
    path = tmp_path / "dithered.gif"
    dots = np.random.default_rng(0).integers(0, 2, (64, 96, 3), np.uint8) * 255
    Image.fromarray(dots).convert("P", palette=Image.Palette.WEB).save(path)
    return path


@pytest.mark.parametrize("qp", [0, 3])
def test_a_picture_that_libvvenc_has_no_room_for_is_said_to_be_one(qp: int, dithered: Path, tmp_path: Path) -> None:
    """As a still in memory and as a clip of two frames in a file; a higher QP is the way out, as the error says."""
    with Image.open(dithered) as image:
        rgb = np.asarray(image.convert("RGB"))
    encoder = get_encoder("vvenc")
    told = r"a picture takes [\d,]+ bits, more than the 8 per pixel that .* has room for; take a higher QP"
    with pytest.raises(EncoderError, match=f"^{told}"):
        encode_still(StillSource(rgb), qp, encoder)
    assert encode_still(StillSource(rgb), 30, encoder).qp_read_back == 30
    clip = tmp_path / "clip.mkv"
    ffmpeg("-stream_loop", "1", "-i", dithered, "-c:v", "ffv1", "-pix_fmt", "yuv420p", clip)
    with pytest.raises(EncoderError, match=f"^vvenc on frames 0..1 at QP {qp}: {told}"):
        encode_clip(clip, tmp_path / "out.mp4", [qp])


def test_other_failures_keep_the_last_words_of_the_program(tmp_path: Path) -> None:
    frames = Frames(scene(96, 64, 1))
    job = EncodeJob(
        frames.format, "yuv420p10le", (Segment(0, 1, 33),), "warp", "still", tmp_path / "x.266", tmp_path
    )  # fmt: skip
    command = VvencEncoder().command(job)
    with pytest.raises(EncoderError, match=r"exit \d+; its last words: .*warp"):
        run_process(command.argv, stdin=frames.read(0, 1, "yuv420p10le"), explain=command.explain)
