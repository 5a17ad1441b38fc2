"""What every test may ask for: the shared pictures, clips and machines, and small clips made on the spot.

The shared data stand beside the repository (`../shared/data`) and are not part of it. Where they are
absent a test that needs them is skipped; on the continuous integration (`CI=true`) a folder that is there
but lacks the asset is a failure, so that a lost file never looks like a passed run.
"""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import pytest

REPOSITORY = Path(__file__).resolve().parents[1]
SHARED = REPOSITORY.parent / "shared"

# A slow-marked test is asked for by name, and may run for as long as it says in its docstring.
SLOW_TIMEOUT_S = 4 * 3600

SYNTHETIC_SIZE = "192x128"
_PATTERN = f"testsrc2=size={SYNTHETIC_SIZE}:rate=25"
_SCENE = f"size={SYNTHETIC_SIZE}:rate=25:duration=0.64"
_SINE = ["-f", "lavfi", "-i", "sine=frequency=440:sample_rate=44100", "-shortest", "-c:a", "aac"]
_H264 = ["-c:v", "libx264", "-preset", "ultrafast", "-crf", "12", "-pix_fmt", "yuv420p"]

# Recipes of the synthetic clips: name of the file -> ffmpeg options between the program and the output.
SYNTHETIC_CLIPS: dict[str, list[str]] = {
    # 25 frames in one second, with a tone beside it
    "plain.mp4": ["-f", "lavfi", "-i", f"{_PATTERN}:duration=1", *_SINE, *_H264, "-t", "1"],
    # the same without audio
    "silent.mkv": ["-f", "lavfi", "-i", f"{_PATTERN}:duration=1", *_H264],
    # 48 frames: three pictures that have nothing in common, 16 frames each, with a tone
    "three_scenes.mp4": [
        *["-f", "lavfi", "-i", f"testsrc2={_SCENE}", "-f", "lavfi", "-i", f"smptehdbars={_SCENE}"],
        *["-f", "lavfi", "-i", f"mandelbrot=size={SYNTHETIC_SIZE}:rate=25", *_SINE],
        *["-filter_complex", "[2:v]trim=end_frame=16[m];[0:v][1:v][m]concat=n=3:v=1:a=0[v]"],
        *["-map", "[v]", "-map", "3:a", "-t", "1.92", *_H264],
    ],
    # 25 frames at uneven distances: every second frame of the middle of the clip is missing
    "vfr.mp4": [
        *["-f", "lavfi", "-i", f"{_PATTERN}:duration=1.48", *_SINE, *_H264, "-fps_mode", "vfr"],
        *["-vf", r"select='not(between(n\,6\,29)*not(mod(n\,2)))'", "-t", "1.48"],
    ],
    # 25 frames of 10 bit, limited range, BT.709 tags
    "ten_bit.mp4": [
        *["-f", "lavfi", "-i", f"{_PATTERN}:duration=1", "-c:v", "libx265", "-preset", "ultrafast"],
        *["-x265-params", "crf=12:log-level=error:colorprim=bt709:transfer=bt709:colormatrix=bt709"],
        *["-pix_fmt", "yuv420p10le", "-tag:v", "hvc1"],
    ],
    "one_frame.mp4": ["-f", "lavfi", "-i", f"{_PATTERN}:duration=1", *_H264, "-frames:v", "1"],
    # width and height odd, 12 frames, 4:4:4
    "odd.mkv": [
        *["-f", "lavfi", "-i", "testsrc2=size=175x97:rate=25:duration=0.48", "-c:v", "ffv1"],
        *["-pix_fmt", "yuv444p"],
    ],
    "no_video.mp4": ["-f", "lavfi", "-i", "sine=frequency=440:duration=1", "-c:a", "aac"],
}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if item.get_closest_marker("slow") and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(SLOW_TIMEOUT_S))


def _asset(relative: str) -> Path:
    path = SHARED / "data" / relative
    if path.exists():
        return path
    if os.environ.get("CI") == "true" and SHARED.exists():
        pytest.fail(f"../shared exists but ../shared/data/{relative} does not")
    pytest.skip(f"needs ../shared/data/{relative}, which is not beside this repository")


@pytest.fixture(scope="session")
def asset() -> Callable[[str], Path]:
    """Path of a file or folder of the shared data, given relative to `../shared/data`."""
    return _asset


@pytest.fixture(scope="session")
def shared_data() -> Path:
    """The folder `../shared/data`: read only."""
    return _asset("manifest.json").parent


@pytest.fixture(scope="session")
def machines_dir() -> Path:
    """The folder of the shared machines, `../shared/data/machines`."""
    return _asset("machines")


@pytest.fixture(scope="session")
def picture() -> Callable[[str], Path]:
    """Path of a shared photograph, given relative to `images/`, such as 'coco/000000000139.jpg'."""
    return lambda name: _asset(f"images/{name}")


@pytest.fixture(scope="session")
def clip() -> Callable[[str], Path]:
    """Path of a shared video, given by its file name, such as 'mmdet_demo.mp4'."""
    return lambda name: _asset(f"videos/{name}")


@pytest.fixture(scope="session")
def synthetic_clip(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Path of a synthetic clip, made at its first use: a name of SYNTHETIC_CLIPS, or 'rotated.mp4'.

    All are 192x128 unless their recipe says otherwise. The tests of a session share the file: read only.
    """
    folder = tmp_path_factory.mktemp("clips")

    def make(name: str) -> Path:
        path = folder / name
        if path.exists():
            return path
        if name == "rotated.mp4":  # 'plain.mp4' with a display matrix: to be shown turned by 90 degrees
            options = ["-display_rotation", "90", "-i", str(make("plain.mp4")), "-c", "copy"]
        else:
            options = SYNTHETIC_CLIPS[name]
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", *options, str(path)]
        subprocess.run(command, check=True, timeout=60)
        return path

    return make
