"""Videos as clips: counted frames, exact timestamps, exact random access, upright RGB, colour kept."""

import hashlib
import json
import pickle
import random
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from fractions import Fraction
from pathlib import Path

import imageio_ffmpeg
import numpy as np
import pytest

from codec_wrappers.color import split_planes
from codec_wrappers.frames import BT709
from vcm_ratecontrol.media import Clip, open_clip

Make = Callable[..., Path]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Make:
    """Make a clip by ffmpeg options; the name is the key."""
    folder = tmp_path_factory.mktemp("made")

    def make(name: str, *options: object) -> Path:
        path = folder / name
        if not path.exists():
            command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", *map(str, options), str(path)]
            subprocess.run(command, check=True, timeout=60)
        return path

    return make


def test_pattern(size: str = "192x128", seconds: float = 2) -> list[str]:
    return ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration={seconds}"]


test_pattern.__test__ = False  # type: ignore[attr-defined]


def digests(clip: Clip, start: int, stop: int) -> list[bytes]:
    return [hashlib.md5(frame).digest() for frame in clip.read(start, stop, "yuv420p")]


def test_every_shared_video_has_the_frames_of_the_manifest(shared_data: Path) -> None:
    videos = json.loads((shared_data / "manifest.json").read_text())["videos"]
    assert len(videos) >= 18
    for video in videos:
        clip = open_clip(shared_data / video["file"])
        assert (clip.width, clip.height, clip.n_frames) == (video["width"], video["height"], video["frames"])
        assert len(clip.pts) == clip.n_frames
        assert abs(float(clip.frame_rate) - video["fps"]) < 0.005 * video["fps"]


@pytest.mark.parametrize(
    "name",
    ["mmaction_demo.mp4", "decord_flipping_a_pancake.mkv", "mmaction_test.avi", "openh264_MR2_MW_A.264"],
)
def test_random_access_gives_the_frames_of_a_sequential_decode(clip: Callable[[str], Path], name: str) -> None:
    opened = open_clip(clip(name))
    check_random_access(opened, spans=6)


def check_random_access(opened: Clip, spans: int) -> None:
    every = digests(opened, 0, opened.n_frames)
    assert len(every) == opened.n_frames
    dice = random.Random(7)
    starts = [dice.randrange(opened.n_frames) for _ in range(spans)]
    starts += [opened.n_frames - 1, *opened.keyframes[:3], *(key - 1 for key in opened.keyframes[1:3])]
    for start in starts:
        stop = min(opened.n_frames, start + dice.randrange(1, 6))
        assert digests(opened, start, stop) == every[start:stop]


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("open_gop.mp4", ["-c:v", "libx265", "-x265-params", "log-level=error:open-gop=1:keyint=10:bframes=4"]),
        ("intra_refresh.mkv", ["-c:v", "libx264", "-x264-params", "intra-refresh=1:keyint=12"]),
        ("altref.webm", ["-c:v", "libvpx", "-auto-alt-ref", 1, "-lag-in-frames", 16, "-b:v", "200k", "-g", 20]),
        ("transport.ts", ["-c:v", "libx264", "-g", 12]),
        ("raw.266", ["-c:v", "libvvenc", "-preset", "faster", "-qp", 40, "-frames:v", 12]),
        ("raw.265", ["-c:v", "libx265", "-x265-params", "log-level=error"]),
        ("pictures.avi", ["-c:v", "mjpeg"]),
        ("planes.y4m", ["-pix_fmt", "yuv420p"]),
        ("fragments.mov", ["-c:v", "libx264", "-g", 12, "-movflags", "frag_keyframe+empty_moov"]),
    ],
)
def test_containers_and_codecs(made: Make, tmp_path: Path, name: str, options: list[object]) -> None:
    path = made(name, *test_pattern(), *options)
    opened = open_clip(path)
    assert opened.kind == "video"
    assert opened.n_frames == (12 if name == "raw.266" else 50)
    assert opened.frame_rate == 25
    check_random_access(opened, spans=3)
    # By content, not by name.
    renamed = tmp_path / "thing.jpg"
    renamed.symlink_to(path)
    assert open_clip(renamed).n_frames == opened.n_frames


@pytest.mark.parametrize("name", ["unpacked.avi", "packed.mkv", "packed.mp4"])
def test_a_packed_bitstream_has_its_frames_in_order(made: Make, clip: Callable[[str], Path], name: str) -> None:
    """Xvid's, in AVI, against the same with one frame in a packet, and copied into other containers as it is."""
    packed = open_clip(clip("mmaction_test.avi"))
    how = ["-bsf:v", "mpeg4_unpack_bframes"] if name == "unpacked.avi" else []
    other = open_clip(made(name, "-fflags", "+genpts", "-i", packed.path, "-an", "-c", "copy", *how))
    assert (other.n_frames, other.frame_rate) == (packed.n_frames, 25)
    assert digests(other, 0, other.n_frames) == digests(packed, 0, packed.n_frames)
    check_random_access(other, spans=3)


def test_sampled_rgb_is_that_of_all_frames(clip: Callable[[str], Path]) -> None:
    opened = open_clip(clip("mmaction_demo.mp4"))
    wanted = [0, 3, 90, 91, 186, 187, 200, 231, 279]
    assert len(opened.keyframes) > 2
    every = list(opened.read_rgb())
    for index, picture in zip(wanted, opened.read_rgb(wanted), strict=True):
        assert picture.dtype == np.uint8
        np.testing.assert_array_equal(picture, every[index])
    packed = next(opened.read(90, 91, "yuv420p10le"))
    np.testing.assert_array_equal(opened.rgb_of(packed, "yuv420p10le"), every[90])


def test_rgb_agrees_with_ffmpeg(clip: Callable[[str], Path]) -> None:
    path = clip("intel_car-detection.mp4")  # tagged limited BT.601
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-frames:v", "1", "-f", "rawvideo"]
    command += ["-sws_flags", "bilinear+accurate_rnd+full_chroma_int", "-pix_fmt", "rgb24", "-"]
    theirs = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.uint8)
    ours = next(open_clip(path).read_rgb([0]))
    assert np.abs(ours.astype(int) - theirs.reshape(ours.shape)).mean() < 1


def test_a_clip_is_a_value(synthetic_clip: Callable[[str], Path]) -> None:
    opened = open_clip(synthetic_clip("plain.mp4"))
    again = pickle.loads(pickle.dumps(opened))
    assert again == opened and hash(again) == hash(opened)
    assert opened.has_audio and [stream.kind for stream in opened.streams] == ["audio"]
    assert not open_clip(synthetic_clip("silent.mkv")).has_audio
    with ThreadPoolExecutor(3) as pool:
        parts = list(pool.map(lambda start: digests(again, start, start + 5), range(0, 25, 5)))
    assert [digest for part in parts for digest in part] == digests(opened, 0, 25)


def test_uneven_timestamps_are_exact(synthetic_clip: Callable[[str], Path]) -> None:
    opened = open_clip(synthetic_clip("vfr.mp4"))
    shown = [n for n in range(37) if not (6 <= n <= 29 and n % 2 == 0)]
    assert opened.n_frames == 25
    assert not opened.constant_rate
    assert [time - opened.timestamps[0] for time in opened.timestamps] == [Fraction(n, 25) for n in shown]
    assert opened.frame_rate == Fraction(24) / Fraction(36, 25)


def test_ten_bits_and_tags_are_kept(synthetic_clip: Callable[[str], Path]) -> None:
    opened = open_clip(synthetic_clip("ten_bit.mp4"))
    assert (opened.bit_depth, opened.pix_fmt, opened.color) == (10, "yuv420p10le", BT709)
    (ten,) = opened.read(3, 4, "yuv420p10le")
    (eight,) = opened.read(3, 4, "yuv420p")
    luma, reduced = split_planes(ten, 192, 128, "yuv420p10le")[0], split_planes(eight, 192, 128, "yuv420p")[0]
    np.testing.assert_array_equal(reduced, np.minimum((luma.astype(int) + 2) >> 2, 255))


def test_eight_bits_are_scaled_and_never_stretched(synthetic_clip: Callable[[str], Path]) -> None:
    opened = open_clip(synthetic_clip("plain.mp4"))
    assert opened.color.matrix == "unknown" and opened.color.range == "tv"
    eight, ten = (next(opened.read(0, 1, name)) for name in ("yuv420p", "yuv420p10le"))
    np.testing.assert_array_equal(np.frombuffer(ten, "<u2"), np.frombuffer(eight, np.uint8).astype(np.uint16) << 2)


def test_full_range_scales_white_to_white(made: Make) -> None:
    opened = open_clip(made("pictures.avi", *test_pattern(), "-c:v", "mjpeg"))
    assert opened.color.range == "pc"
    eight, ten = (next(opened.read(0, 1, name)) for name in ("yuv420p", "yuv420p10le"))
    luma = np.frombuffer(eight, np.uint8)[: 192 * 128].astype(int)
    np.testing.assert_array_equal(np.frombuffer(ten, "<u2")[: 192 * 128], (luma * 1023 + 127) // 255)


def test_odd_sides_are_padded_and_cropped(made: Make) -> None:
    opened = open_clip(made("odd.mkv", "-f", "lavfi", "-i", "testsrc=size=175x97:duration=0.2", "-c:v", "ffv1"))
    assert (opened.width, opened.height) == (175, 97)
    target = opened.format
    (frame,) = opened.read(0, 1, "yuv420p")
    assert len(frame) == target.frame_bytes("yuv420p")
    luma = split_planes(frame, target.padded_width, target.padded_height, "yuv420p")[0]
    np.testing.assert_array_equal(luma[:, 175:], luma[:, 174:175].repeat(target.padded_width - 175, axis=1))
    assert next(opened.read_rgb([0])).shape == opened.rgb_of(frame, "yuv420p").shape == (97, 175, 3)


@pytest.mark.parametrize(
    "turn", ["-display_rotation 90", "-display_rotation -90", "-display_rotation 180", "-display_hflip"]
)
def test_machines_see_what_a_player_shows(made: Make, synthetic_clip: Callable[[str], Path], turn: str) -> None:
    path = made(turn.replace(" ", "") + ".mp4", *turn.split(), "-i", synthetic_clip("plain.mp4"), "-c", "copy")
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path), "-frames:v", "1", "-f", "rawvideo"]
    command += ["-sws_flags", "bilinear+accurate_rnd+full_chroma_int", "-pix_fmt", "rgb24", "-"]
    shown = np.frombuffer(subprocess.run(command, check=True, capture_output=True).stdout, np.uint8)
    opened = open_clip(path)
    assert (opened.width, opened.height) == (192, 128)
    assert opened.format.width == 192  # coded as stored
    assert opened.upright_size == ((128, 192) if "90" in turn else (192, 128))
    ours = next(opened.read_rgb([0]))
    assert ours.shape[:2] == opened.upright_size[::-1]
    assert np.abs(ours.astype(int) - shown.reshape(ours.shape)).mean() < 2
    if "rotation" in turn:
        assert (opened.rotation - int(turn.split()[1])) % 360 == 0


@pytest.mark.parametrize("layout", ["gray", "gray10le", "gbrp", "gbrp10le", "yuv444p", "yuv422p10le", "yuv420p12le"])
def test_other_layouts_become_the_same_picture(made: Make, layout: str) -> None:
    reference = open_clip(made("planes.y4m", *test_pattern(), "-pix_fmt", "yuv420p"))
    tags = ["-vf", f"scale=out_color_matrix=bt601:out_range=tv,format={layout}"] if layout[0] == "y" else []
    opened = open_clip(made(f"{layout}.mkv", *test_pattern(), *tags, "-c:v", "ffv1", "-pix_fmt", layout))
    assert opened.n_frames == 50
    ours, theirs = next(opened.read_rgb([7])).astype(int), next(reference.read_rgb([7])).astype(int)
    if layout.startswith("gray"):
        assert np.ptp(ours, axis=2).max() == 0
        theirs = theirs @ np.array([0.299, 0.587, 0.114])
        ours = ours[..., 0]
    assert np.abs(ours - theirs).mean() < 6
    for pix_fmt in ("yuv420p", "yuv420p10le"):
        packed = next(opened.read(7, 8, pix_fmt))
        through = opened.rgb_of(packed, pix_fmt).astype(int)
        assert np.abs(through[..., 1] - (ours if ours.ndim == 2 else ours[..., 1])).mean() < 3


def test_frames_cut_away_by_an_edit_list_are_no_frames(made: Make, synthetic_clip: Callable[[str], Path]) -> None:
    opened = open_clip(made("cut.mp4", "-ss", 0.4, "-i", synthetic_clip("plain.mp4"), "-c", "copy"))
    whole = open_clip(synthetic_clip("plain.mp4"))
    assert opened.n_frames == 15
    assert digests(opened, 0, 15) == digests(whole, 10, 25)
    assert digests(opened, 11, 13) == digests(whole, 21, 23)


def test_one_frame_and_animations(made: Make, synthetic_clip: Callable[[str], Path]) -> None:
    one = open_clip(synthetic_clip("one_frame.mp4"))
    assert (one.kind, one.n_frames, one.frame_rate, one.duration) == ("video", 1, 25, Fraction(1, 25))
    assert len(list(one.read(0, 1, "yuv420p"))) == 1
    for name in ("moving.gif", "moving.apng"):
        moving = open_clip(made(name, *test_pattern("96x64", 1), "-f", name.split(".")[1]))
        assert (moving.kind, moving.n_frames) == ("video", 25)
        assert next(moving.read_rgb([24])).shape == (64, 96, 3)


def test_frames_that_are_not_there_are_refused(synthetic_clip: Callable[[str], Path]) -> None:
    opened = open_clip(synthetic_clip("plain.mp4"))
    assert list(opened.read(5, 5, "yuv420p")) == []
    for start, stop in ((0, 26), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="not within"):
            next(opened.read(start, stop, "yuv420p"))
    with pytest.raises(ValueError, match="rise"):
        next(opened.read_rgb([3, 3]))


_PEAK = """
import resource, sys
from pathlib import Path
from vcm_ratecontrol.media import LumaStatistics, SceneCuts, fan_out, open_clip
clip = open_clip(Path(sys.argv[1]))
for frame in clip.read(0, clip.n_frames, "yuv420p10le"):
    pass
fan_out(clip, [SceneCuts(clip), LumaStatistics()])
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
"""


def test_memory_does_not_grow_with_the_length(made: Make) -> None:
    peaks = []
    for seconds in (2, 60):
        quick = ["-c:v", "libx264", "-preset", "ultrafast", "-g", 50]
        path = made(f"long{seconds}.mp4", *test_pattern("320x192", seconds), *quick)
        result = subprocess.run([sys.executable, "-c", _PEAK, str(path)], check=True, capture_output=True)
        peaks.append(int(result.stdout))
    assert peaks[1] < 1.1 * peaks[0], f"peak memory {peaks} KiB"
