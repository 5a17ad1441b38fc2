"""vcm-decode: what comes back is what was coded, complete or not there at all."""

import json
import resource
import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import numpy.typing as npt
import pytest
from click.testing import CliRunner, Result
from PIL import Image

from codec_wrappers.encoder import get_encoder
from codec_wrappers.errors import OutputError
from codec_wrappers.still import StillSource, encode_still
from tests.vcm_ratecontrol.test_events import check_event
from vcm_ratecontrol.cli.decode import main
from vcm_ratecontrol.decoding import check_decoded_output, decode_clip
from vcm_ratecontrol.media import open_clip

RGB = npt.NDArray[np.uint8]
REPOSITORY = Path(__file__).resolve().parents[2]
PHOTO = "coco/000000465822.jpg"  # 500x375: an odd height

# One encoder of each codec, and the options that make an RGB picture BT.709, limited range.
CODECS = {"vvc": ("libvvenc", "266"), "hevc": ("libx265", "265"), "av1": ("libsvtav1", "obu")}
AS_BT709 = "scale=out_color_matrix=bt709:out_range=tv,setparams=colorspace=bt709:range=tv"


def ffmpeg(*arguments: str | Path) -> bytes:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", "-y", *map(str, arguments)]
    return subprocess.run(command, check=True, timeout=60, stdout=subprocess.PIPE).stdout


def decode(coded: Path, output: Path, *arguments: str) -> Result:
    return CliRunner().invoke(main, [str(coded), "-o", str(output), *arguments])


def left_in(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def pixels(path: Path) -> RGB:
    return np.asarray(Image.open(path))


@pytest.fixture(scope="module")
def grey(picture: Callable[[str], Path]) -> RGB:
    """A real photograph without its colour, uint8 [H, W, 3]."""
    return np.asarray(Image.open(picture(PHOTO)).convert("L").convert("RGB"))


@pytest.fixture
def out(tmp_path: Path) -> Path:
    folder = tmp_path / "out"
    folder.mkdir()
    return folder


def test_a_grey_still_at_vvc_qp_0_comes_back_within_a_grey_level(grey: RGB, tmp_path: Path, out: Path) -> None:
    still = encode_still(StillSource(grey), 0, get_encoder("vvc"))
    coded = tmp_path / "grey.266"
    coded.write_bytes(still.data)
    result = decode(coded, out / "grey.png")
    assert (result.exit_code, result.stderr) == (0, "")
    assert "1 frame of 500x376" in result.stdout  # a raw stream cannot say where the padding begins
    found = pixels(out / "grey.png")[:375]
    error = np.abs(found.astype(int) - grey)
    assert error.mean() < 1
    assert error.max() <= 3


@pytest.mark.parametrize("codec", sorted(CODECS))
def test_each_codec_comes_back_with_its_range_and_matrix(
    codec: str, picture: Callable[[str], Path], tmp_path: Path, out: Path
) -> None:
    """Against the original: wrong range or matrix would cost 8 to 20 levels in the mean."""
    encoder, suffix = CODECS[codec]
    quality = {
        "vvc": ["-preset", "faster", "-qp", "4", "-qpa", "0"],
        "hevc": ["-x265-params", "qp=4:log-level=error"],
        "av1": ["-qp", "4"],
    }
    coded = tmp_path / f"photo.{suffix}"
    ffmpeg("-i", picture("coco/000000052891.jpg"), "-vf", f"crop=640:426:0:0,{AS_BT709}", "-frames:v", "1",
           "-pix_fmt", "yuv420p10le", "-c:v", encoder, *quality[codec], coded)  # fmt: skip
    assert decode(coded, out / "photo.png").exit_code == 0
    original = pixels(picture("coco/000000052891.jpg"))[:426]
    error = np.abs(pixels(out / "photo.png").astype(int) - original)
    assert error.mean() < 3


def test_padding_is_cropped_by_the_tag(grey: RGB, tmp_path: Path, out: Path) -> None:
    source, coded = tmp_path / "grey.png", tmp_path / "still.mp4"
    Image.fromarray(grey).save(source)
    ffmpeg("-i", source, "-vf", f"pad=500:376,{AS_BT709}", "-frames:v", "1", "-pix_fmt", "yuv420p10le",
           "-c:v", "libvvenc", "-preset", "faster", "-qp", "30", "-qpa", "0",
           "-metadata", 'vcm={"width":500,"height":375}', "-movflags", "use_metadata_tags", coded)  # fmt: skip
    for name in ("a.png", "a.y4m"):
        result = decode(coded, out / name, "--json")
        end = json.loads(result.stdout.splitlines()[-1])
        assert (end["width"], end["height"], end["n_frames"], end["codec"]) == (500, 375, 1, "vvc")
    assert pixels(out / "a.png").shape == (375, 500, 3)
    header = (out / "a.y4m").read_bytes().split(b"\n", 1)[0]
    assert b"W500 H375" in header
    assert b"C420p10" in header
    luma = np.frombuffer((out / "a.y4m").read_bytes().split(b"FRAME\n", 1)[1], "<u2")[: 500 * 375]
    brightness = (luma.reshape(375, 500) / 4 - 16) * 255 / 219
    assert np.abs(brightness - pixels(out / "a.png").mean(axis=2)).mean() < 1


@pytest.mark.parametrize(("name", "pix_fmt"), [("plain.mp4", "yuv420p"), ("ten_bit.mp4", "yuv420p10le")])
def test_y4m_holds_the_very_samples_that_ffmpeg_decodes(
    name: str, pix_fmt: str, synthetic_clip: Callable[[str], Path], out: Path
) -> None:
    result = decode(synthetic_clip(name), out / "a.y4m", "--json")
    events = [json.loads(line) for line in result.stdout.splitlines()]
    for event in events:
        check_event(event)
    assert (events[-1]["n_frames"], events[-1]["pix_fmt"], events[-1]["files"]) == (25, pix_fmt, 1)
    assert [e["done"] for e in events if e["event"] == "progress"][-1] == 25
    expected = ffmpeg("-i", synthetic_clip(name), "-an", "-f", "rawvideo", "-pix_fmt", pix_fmt, "-")
    assert ffmpeg("-i", out / "a.y4m", "-f", "rawvideo", "-pix_fmt", pix_fmt, "-") == expected
    assert open_clip(out / "a.y4m").n_frames == 25


def test_the_layout_of_y4m_can_be_chosen(synthetic_clip: Callable[[str], Path], out: Path) -> None:
    assert decode(synthetic_clip("ten_bit.mp4"), out / "a.y4m", "--pix-fmt", "yuv420p").exit_code == 0
    assert open_clip(out / "a.y4m").pix_fmt == "yuv420p"


def test_png_per_frame_counts_from_one_and_is_what_machines_see(
    synthetic_clip: Callable[[str], Path], out: Path
) -> None:
    clip = synthetic_clip("odd.mkv")
    result = decode(clip, out / "f_%03d.png")
    assert result.exit_code == 0
    assert left_in(out) == [f"f_{number:03d}.png" for number in range(1, 13)]
    for name, rgb in zip(left_in(out), open_clip(clip).read_rgb(), strict=True):
        assert np.array_equal(pixels(out / name), rgb)


def test_what_y4m_cannot_carry_is_said(synthetic_clip: Callable[[str], Path], out: Path) -> None:
    result = decode(synthetic_clip("rotated.mp4"), out / "turned.y4m")
    assert "no rotation" in result.stdout
    assert open_clip(out / "turned.y4m").width == 192
    assert decode(synthetic_clip("rotated.mp4"), out / "turned_%d.png").stdout.count("note") == 0
    assert pixels(out / "turned_1.png").shape == (192, 128, 3)
    assert "no timestamps" in decode(synthetic_clip("vfr.mp4"), out / "vfr.y4m").stdout


def test_a_still_becomes_png_or_y4m(picture: Callable[[str], Path], out: Path) -> None:
    for name in ("a.png", "a_%d.png", "a.y4m"):
        assert decode(picture(PHOTO), out / name).exit_code == 0
    assert left_in(out) == ["a.png", "a.y4m", "a_1.png"]
    assert np.array_equal(pixels(out / "a.png"), pixels(picture(PHOTO)))
    assert np.array_equal(pixels(out / "a_1.png"), pixels(out / "a.png"))


def test_refused_outputs_leave_nothing(synthetic_clip: Callable[[str], Path], tmp_path: Path, out: Path) -> None:
    clip = synthetic_clip("plain.mp4")
    before = clip.read_bytes()
    (out / "there.y4m").write_text("old")
    (out / "f_2.png").write_text("old")
    cases = [
        (out / "a.png", "25 frames"),
        (out / "a.jpg", "unknown suffix"),
        (out / "a", "unknown suffix"),
        (out / "%d_%d.png", "exactly one number"),
        (out / "there.y4m", "-y"),
        (out / "f_%d.png", "f_2.png: exists"),
        (out / "no" / "a.y4m", "no folder"),
        (out, "suffix"),
        (clip, "unknown suffix"),
    ]
    for output, word in cases:
        result = decode(clip, output)
        (line,) = result.stderr.splitlines()
        assert (result.exit_code, result.stdout) == (2, ""), output
        assert line.startswith(f"error: {output}") or "f_2" in line
        assert word in line
    assert left_in(out) == ["f_2.png", "there.y4m"]
    assert clip.read_bytes() == before
    assert decode(clip, out / "there.y4m", "-y").exit_code == 0
    assert decode(clip, out / "f_%d.png", "-y").exit_code == 0
    assert len(left_in(out)) == 26
    copy = tmp_path / "in.y4m"
    copy.write_bytes((out / "there.y4m").read_bytes())
    assert "is the input" in decode(copy, copy, "-y").stderr
    with pytest.raises(OutputError, match="is the input"):
        check_decoded_output(open_clip(copy), copy, overwrite=True)


@pytest.mark.parametrize("name", ["a.y4m", "a_%d.png"])
def test_a_damaged_clip_leaves_nothing_and_keeps_the_old(
    name: str, synthetic_clip: Callable[[str], Path], tmp_path: Path, out: Path
) -> None:
    whole = tmp_path / "whole.266"
    ffmpeg("-i", synthetic_clip("plain.mp4"), "-an", "-c:v", "libvvenc", "-preset", "faster", "-qp", "30", whole)
    data = bytearray(whole.read_bytes())
    third = len(data) // 3
    data[third : third + 400] = bytes(400)
    broken = tmp_path / "broken.266"
    broken.write_bytes(data)
    old = out / name.replace("%d", "1")
    old.write_text("old")
    result = decode(broken, out / name, "-y")
    (line,) = result.stderr.splitlines()
    assert result.exit_code == 2
    assert "broken.266" in line
    assert left_in(out) == [old.name]
    assert old.read_text() == "old"


def test_a_clip_that_is_damaged_midway_in_decoding_leaves_nothing(
    synthetic_clip: Callable[[str], Path], tmp_path: Path, out: Path
) -> None:
    """The file changes between looking and decoding: the worst that can happen to the second."""
    path = tmp_path / "clip.mkv"
    path.write_bytes(synthetic_clip("silent.mkv").read_bytes())
    clip = open_clip(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    for name in ("a.y4m", "a_%d.png"):
        with pytest.raises(Exception, match="truncated or damaged"):
            decode_clip(clip, out / name)
    assert left_in(out) == []


@pytest.mark.parametrize("name", ["a.y4m", "a_%d.png"])
def test_a_file_that_cannot_grow_is_an_output_error_and_leaves_nothing(
    name: str, synthetic_clip: Callable[[str], Path], out: Path
) -> None:
    limit = {"a.y4m": 200_000, "a_%d.png": 3_000}[name]

    def small_files() -> None:
        resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))

    clip = synthetic_clip("silent.mkv")
    result = subprocess.run(
        [REPOSITORY / "bin" / "vcm-decode", clip, "-o", out / name],
        capture_output=True, text=True, timeout=60, preexec_fn=small_files,
    )  # fmt: skip
    (line,) = result.stderr.splitlines()
    assert (result.returncode, result.stdout) == (2, "")
    assert line.startswith(f"error: {out / 'a'}")
    assert "beyond the file size or quota" in line
    assert left_in(out) == []


@pytest.mark.parametrize("name", ["a.y4m", "a_%d.png"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_in_the_middle_leaves_nothing(
    name: str, number: signal.Signals, clip: Callable[[str], Path], out: Path
) -> None:
    process = subprocess.Popen(
        [REPOSITORY / "bin" / "vcm-decode", clip("aiguy_road.mp4"), "-o", out / name, "--json"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip
    deadline = time.monotonic() + 60
    while not left_in(out):  # it writes beside its target from the first frame on
        assert process.poll() is None
        assert time.monotonic() < deadline
        time.sleep(0.01)
    process.send_signal(number)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stderr) == (130, "interrupted\n")
    end: dict[str, Any] = json.loads(stdout.splitlines()[-1])
    assert (end["status"], end["exit_code"]) == ("interrupted", 130)
    assert left_in(out) == []


def test_a_link_to_another_folder_is_followed_for_the_folder_only(
    synthetic_clip: Callable[[str], Path], tmp_path: Path, out: Path
) -> None:
    (tmp_path / "link").symlink_to(out)
    assert decode(synthetic_clip("one_frame.mp4"), tmp_path / "link" / "a.png").exit_code == 0
    assert left_in(out) == ["a.png"]
    assert (out / "a.png").stat().st_mode & 0o444  # readable like any other file
