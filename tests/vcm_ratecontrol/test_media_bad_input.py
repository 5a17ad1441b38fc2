"""What cannot be read is refused in one line that names the file and the way out."""

import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import imageio_ffmpeg
import pytest
from PIL import Image

from codec_wrappers.errors import InputError
from vcm_ratecontrol.media import open_clip


def refusal(path: Path) -> str:
    with pytest.raises(InputError) as caught:
        open_clip(path)
    message = str(caught.value)
    assert "\n" not in message and len(message) < 400
    assert message.startswith(f"{path}: ")
    assert "; " in message, f"no way out in {message!r}"
    assert caught.value.exit_code == 2
    return message


@pytest.mark.parametrize("name", ["text.mp4", "text.txt", "text.jpg", "text.264", "text.y4m"])
@pytest.mark.parametrize("content", [b"This is not a film.\n" * 300, b"x", bytes(5000), b"\0\0\0\1"])
def test_no_media(tmp_path: Path, name: str, content: bytes) -> None:
    (tmp_path / name).write_bytes(content)
    assert "neither a picture nor a video" in refusal(tmp_path / name)


def test_missing_empty_folder_and_unreadable(tmp_path: Path) -> None:
    assert "no such file" in refusal(tmp_path / "missing.mp4")
    (tmp_path / "empty.mp4").touch()
    assert "is empty" in refusal(tmp_path / "empty.mp4")
    assert "is a folder" in refusal(tmp_path)
    os.mkfifo(tmp_path / "pipe.y4m")
    assert "not a regular file" in refusal(tmp_path / "pipe.y4m")
    (tmp_path / "loop.png").symlink_to(tmp_path / "loop.png")
    refusal(tmp_path / "loop.png")
    if os.geteuid():  # root reads anything
        (tmp_path / "locked.png").write_bytes(b"x")
        (tmp_path / "locked.png").chmod(0)
        assert "permissions" in refusal(tmp_path / "locked.png")


def test_playlists_are_not_followed(tmp_path: Path, synthetic_clip: Callable[[str], Path]) -> None:
    target = synthetic_clip("plain.mp4")
    (tmp_path / "list.m3u8").write_text(f"#EXTM3U\n#EXTINF:1,\nfile:{target}\n#EXT-X-ENDLIST\n")
    (tmp_path / "list.txt").write_text(f"ffconcat version 1.0\nfile '{target}'\n")
    for name in ("list.m3u8", "list.txt"):
        refusal(tmp_path / name)


def test_no_video_stream(synthetic_clip: Callable[[str], Path]) -> None:
    assert "no video stream that can be decoded (there is audio)" in refusal(synthetic_clip("no_video.mp4"))


@pytest.mark.parametrize("name", ["a.png", "a.jpg", "a.webp", "a.tiff", "a.bmp", "a.avif", "a.gif"])
@pytest.mark.parametrize("share", [0.9, 0.3])
def test_truncated_picture(
    tmp_path: Path, picture: Callable[[str], Path], shared_data: Path, name: str, share: float
) -> None:
    photograph = sorted((shared_data / "images").rglob("*.jpg"))[0]
    Image.open(photograph).convert("RGB").save(tmp_path / name)
    content = (tmp_path / name).read_bytes()
    (tmp_path / name).write_bytes(content[: int(len(content) * share)])
    message = refusal(tmp_path / name)
    assert "truncated" in message or "cut off" in message


@pytest.mark.parametrize(
    "name",
    ["plain.mp4", "silent.mkv", "faststart.mp4", "fragments.mp4", "frames.avi", "planes.y4m", "raw.264", "raw.266"],
)
@pytest.mark.parametrize("share", [0.9, 0.5])
def test_truncated_video(tmp_path: Path, synthetic_clip: Callable[[str], Path], name: str, share: float) -> None:
    options = {
        "faststart.mp4": ["-c", "copy", "-movflags", "+faststart"],
        "fragments.mp4": ["-c", "copy", "-movflags", "frag_keyframe+empty_moov"],
        "frames.avi": ["-c:v", "mpeg4", "-q:v", "3", "-bf", "2"],
        "planes.y4m": ["-an"],
        "raw.264": ["-c", "copy", "-an"],
        "raw.266": ["-c:v", "libvvenc", "-preset", "faster", "-qp", "40", "-an"],
    }
    whole = synthetic_clip(name if name not in options else "plain.mp4")
    if name in options:
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(whole), *options[name]]
        subprocess.run([*command, str(tmp_path / name)], check=True, timeout=60)
        whole = tmp_path / name
        assert open_clip(whole).n_frames == 25
    content = whole.read_bytes()
    cut = tmp_path / f"cut_{name}"
    cut.write_bytes(content[: int(len(content) * share)])
    message = refusal(cut)
    assert "truncated" in message or "cut off" in message


@pytest.mark.parametrize("place", [0.3, 0.5, 0.8])
@pytest.mark.parametrize("length", [16, 3000])
def test_damage_in_the_middle_is_found_when_it_is_read(
    tmp_path: Path, synthetic_clip: Callable[[str], Path], place: float, length: int
) -> None:
    content = bytearray(synthetic_clip("silent.mkv").read_bytes())
    at = int(len(content) * place)
    content[at : at + length] = bytes(length)
    path = tmp_path / "damaged.mkv"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r"damaged\.mkv: .*truncated or damaged"):
        clip = open_clip(path)
        list(clip.read(0, clip.n_frames, "yuv420p"))
    # Nor may the last frame, which refers to the damaged one, pass as whole.
    with pytest.raises(InputError, match="truncated or damaged"):
        list(clip.read_rgb([clip.n_frames - 1]))


@pytest.mark.parametrize("name", ["change.264", "change.mkv"])
def test_size_changes_midway(tmp_path: Path, name: str) -> None:
    parts = []
    for size in ("192x128", "128x96"):
        part = tmp_path / f"{size}.264"
        source = ["-f", "lavfi", "-i", f"testsrc2=size={size}:rate=25:duration=0.4", "-c:v", "libx264", "-bf", "0"]
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *source, str(part)], check=True, timeout=60)
        parts.append(part.read_bytes())
    raw = tmp_path / "change.264"
    raw.write_bytes(b"".join(parts))
    if name == "change.mkv":
        remux = ["-fflags", "+genpts", "-r", "25", "-i", str(raw), "-c", "copy", str(tmp_path / name)]
        subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", *remux], check=True, timeout=60)
    with pytest.raises(InputError, match="size changes from 192x128 to 128x96 at frame 10; cut"):
        clip = open_clip(tmp_path / name)
        list(clip.read(0, clip.n_frames, "yuv420p"))


def test_heic_is_named(tmp_path: Path) -> None:
    (tmp_path / "phone.heic").write_bytes(b"\0\0\0\x18ftypheic\0\0\0\0mif1heic" + bytes(100))
    assert "HEIC" in refusal(tmp_path / "phone.heic")
