"""PNG and Y4M appear whole under their name or not at all."""

import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

from codec_wrappers.errors import OutputError
from codec_wrappers.frames import PixelFormat
from vcm_ratecontrol.media import open_clip, write_png, write_y4m

PICTURE = np.random.default_rng(5).integers(0, 256, (9, 13, 3), dtype=np.uint8)


def test_png(tmp_path: Path) -> None:
    write_png(PICTURE, tmp_path / "out.any")
    np.testing.assert_array_equal(next(open_clip(tmp_path / "out.any").read_rgb()), PICTURE)
    assert [path.name for path in tmp_path.iterdir()] == ["out.any"]
    assert (tmp_path / "out.any").stat().st_mode & 0o777 == 0o666 & ~umask()


def umask() -> int:
    import os

    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.parametrize("pix_fmt", ["yuv420p", "yuv420p10le"])
@pytest.mark.parametrize("name", ["plain.mp4", "ten_bit.mp4", "vfr.mp4"])
def test_y4m_round_trip(tmp_path: Path, synthetic_clip: Callable[[str], Path], pix_fmt: PixelFormat, name: str) -> None:
    clip = open_clip(synthetic_clip(name))
    path = tmp_path / "out.y4m"
    assert write_y4m(clip.read(0, 25, pix_fmt), clip.format, path, pix_fmt) == 25
    again = open_clip(path)
    assert (again.n_frames, again.frame_rate, again.pix_fmt) == (25, clip.frame_rate, pix_fmt)
    assert again.color.range == "tv"
    assert list(again.read(0, 25, pix_fmt)) == list(clip.read(0, 25, pix_fmt))


def test_y4m_of_an_odd_full_range_picture(tmp_path: Path) -> None:
    Image.fromarray(PICTURE).save(tmp_path / "in.png")
    clip = open_clip(tmp_path / "in.png")
    write_y4m(clip.read(0, 1, "yuv420p"), clip.format, tmp_path / "out.y4m")
    again = open_clip(tmp_path / "out.y4m")
    assert (again.width, again.height) == (13, 9)
    for index, plane in enumerate(av.open(str(tmp_path / "out.y4m")).decode(video=0).__next__().planes):
        assert (plane.width, plane.height) == ((13, 9), (7, 5), (7, 5))[index]
    assert list(again.read(0, 1, "yuv420p")) == list(clip.read(0, 1, "yuv420p"))


def test_nothing_is_left_when_the_frames_end_badly(tmp_path: Path, synthetic_clip: Callable[[str], Path]) -> None:
    clip = open_clip(synthetic_clip("plain.mp4"))

    def broken() -> Iterator[bytes]:
        yield from clip.read(0, 3, "yuv420p")
        raise KeyboardInterrupt

    (tmp_path / "out.y4m").write_bytes(b"older")
    with pytest.raises(KeyboardInterrupt):
        write_y4m(broken(), clip.format, tmp_path / "out.y4m")
    with pytest.raises(ValueError, match="not one frame"):
        write_y4m([b"short"], clip.format, tmp_path / "out.y4m")
    assert [path.name for path in tmp_path.iterdir()] == ["out.y4m"]
    assert (tmp_path / "out.y4m").read_bytes() == b"older"


def test_places_that_cannot_be_written(tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(OutputError, match=r"out.png: there is no folder .*create it"):
        write_png(PICTURE, tmp_path / "missing" / "out.png")
    with pytest.raises(OutputError, match="is a folder"):
        write_png(PICTURE, tmp_path / "folder")
    with pytest.raises(OutputError, match=r"cannot be written|not writable|no folder"):
        write_png(PICTURE, Path("/proc/out.png"))
    assert [path.name for path in tmp_path.iterdir()] == ["folder"]


_LIMITED = """
import resource, sys
from pathlib import Path
import numpy as np
from codec_wrappers.errors import OutputError
from vcm_ratecontrol.media import write_png
resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
try:
    write_png(np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8), Path(sys.argv[1]))
except OutputError as error:
    print(error)
"""


def test_no_room(tmp_path: Path) -> None:
    path = tmp_path / "out.png"
    result = subprocess.run([sys.executable, "-c", _LIMITED, str(path)], capture_output=True, text=True, check=True)
    assert result.stdout.startswith(f"{path}: ") and "file size or quota" in result.stdout
    assert list(tmp_path.iterdir()) == []


def test_importing_the_room_is_light() -> None:
    heavy = "{'av', 'numpy', 'PIL', 'cv2', 'scenedetect', 'torch'}"
    code = f"import sys, vcm_ratecontrol.media, vcm_ratecontrol.media.clip; print({heavy} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"
