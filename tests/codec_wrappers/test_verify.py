"""The proof that a written file plays: frames counted by decoding all of them, damage told."""

from collections.abc import Callable
from pathlib import Path

import av
import pytest

from codec_wrappers.errors import VerificationError
from codec_wrappers.verify import decoded_frames, require_frames
from tests.codec_wrappers.joining import encode_clip

SUFFIXES = {"vvc": (".mp4", ".mkv", ".266"), "hevc": (".mp4", ".mkv", ".265"), "av1": (".mp4", ".mkv", ".obu")}
CASES = [(codec, suffix) for codec, suffixes in SUFFIXES.items() for suffix in suffixes]


@pytest.fixture(scope="module")
def coded(
    synthetic_clip: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory
) -> Callable[[str, str], Path]:
    """The plain clip of 25 frames in two segments."""
    folder = tmp_path_factory.mktemp("coded")

    def make(codec: str, suffix: str) -> Path:
        path = folder / f"{codec}{suffix}"
        if not path.exists():
            encode_clip(synthetic_clip("plain.mp4"), path, [24, 33], codec)
        return path

    return make


@pytest.mark.parametrize(("codec", "suffix"), CASES)
def test_all_frames_of_a_good_file_are_counted(codec: str, suffix: str, coded: Callable[..., Path]) -> None:
    path = coded(codec, suffix)
    assert decoded_frames(path) == 25
    require_frames(path, 25)
    with pytest.raises(VerificationError, match=r"decodes to 25 frames, 26 were encoded"):
        require_frames(path, 26)


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
@pytest.mark.parametrize(("codec", "suffix"), CASES)
def test_a_truncated_file_does_not_pass(
    codec: str, suffix: str, share: float, coded: Callable[..., Path], tmp_path: Path
) -> None:
    data = coded(codec, suffix).read_bytes()
    cut = tmp_path / f"cut{suffix}"
    cut.write_bytes(data[: int(share * len(data))])
    with pytest.raises(VerificationError):
        require_frames(cut, 25)


@pytest.mark.parametrize(("codec", "suffix"), [case for case in CASES if case[0] != "av1"])
def test_a_picture_that_is_gone_does_not_pass(
    codec: str, suffix: str, coded: Callable[..., Path], tmp_path: Path
) -> None:
    """A reference picture overwritten in the middle of the file, all sizes and indices kept."""
    data = bytearray(coded(codec, suffix).read_bytes())
    with av.open(str(coded(codec, suffix))) as container:
        packets = [bytes(packet) for packet in container.demux(video=0) if packet.size]
    key, after = (data.find(packets[at][8:]) for at in (0, 1))
    assert 0 < key < after
    data[after - 8 : after + len(packets[1]) - 8] = bytes(len(packets[1]))
    damaged = tmp_path / f"damaged{suffix}"
    damaged.write_bytes(data)
    with pytest.raises(VerificationError):
        require_frames(damaged, 25)


@pytest.mark.parametrize("content", [b"", b"text\n" * 100, bytes(4096)])
def test_files_that_are_no_videos_do_not_pass(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "out.mp4"
    path.write_bytes(content)
    with pytest.raises(VerificationError, match=r"out\.mp4: does not decode \("):
        decoded_frames(path)


def test_a_file_without_pictures_does_not_pass(synthetic_clip: Callable[[str], Path]) -> None:
    with pytest.raises(VerificationError):
        require_frames(synthetic_clip("no_video.mp4"), 25)
