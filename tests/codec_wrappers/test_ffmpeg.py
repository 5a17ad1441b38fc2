"""Finding ffmpeg, and telling a broken one from a good one."""

import os
from pathlib import Path

import imageio_ffmpeg
import pytest

from codec_wrappers.errors import MissingToolError
from codec_wrappers.ffmpeg import ffmpeg_encoder_help, ffmpeg_path, ffmpeg_version, supported_pixel_formats


def script(path: Path, body: str) -> Path:
    path.write_text(f"#!/bin/sh\n{body}\n")
    path.chmod(0o755)
    return path


def test_the_bundled_binary_is_found_and_holds_our_encoders(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VCM_FFMPEG", raising=False)
    path = ffmpeg_path()
    assert path == Path(imageio_ffmpeg.get_ffmpeg_exe())
    assert ffmpeg_version(path)
    formats = {
        library: supported_pixel_formats(ffmpeg_encoder_help(path, library))
        for library in ("libvvenc", "libx265", "libkvazaar", "libsvtav1")
    }
    assert formats["libvvenc"] == ("yuv420p10le",)
    assert formats["libkvazaar"] == ("yuv420p",)
    assert {"yuv420p", "yuv420p10le"} <= set(formats["libx265"])
    assert {"yuv420p", "yuv420p10le"} == set(formats["libsvtav1"])


def test_vcm_ffmpeg_may_be_relative_or_a_name_on_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    own = script(tmp_path / "my-ffmpeg", f'exec "{imageio_ffmpeg.get_ffmpeg_exe()}" "$@"')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path), prepend=os.pathsep)
    for name in ("./my-ffmpeg", "my-ffmpeg", str(own)):
        monkeypatch.setenv("VCM_FFMPEG", name)
        assert ffmpeg_path() == own
        assert ffmpeg_path().is_absolute()
    assert ffmpeg_version() == ffmpeg_version(Path(imageio_ffmpeg.get_ffmpeg_exe()))


@pytest.mark.parametrize("named", ["/no/such/ffmpeg", "no-such-ffmpeg", "/etc", __file__])
def test_vcm_ffmpeg_that_is_no_program(named: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("VCM_FFMPEG", named)
    with pytest.raises(MissingToolError, match=f"^VCM_FFMPEG={named}: no such program; unset it"):
        ffmpeg_path()


@pytest.mark.parametrize("body", ["exit 0", "exit 1", "echo hello", "kill -9 $$", "echo no lib.so >&2; exit 127"])
def test_a_program_that_is_no_ffmpeg_is_a_missing_tool(body: str, tmp_path: Path) -> None:
    path = script(tmp_path / "ffmpeg", body)
    for question in (ffmpeg_version, lambda path: ffmpeg_encoder_help(path, "libvvenc")):
        with pytest.raises(MissingToolError, match=f"^{path}: .*unset VCM_FFMPEG"):
            question(path)


def test_a_library_that_the_binary_lacks_is_named_with_path_and_version() -> None:
    path = ffmpeg_path()
    with pytest.raises(MissingToolError) as missing:
        ffmpeg_encoder_help(path, "libnosuch")
    assert str(path) in str(missing.value)
    assert ffmpeg_version(path) in str(missing.value)
    assert "libnosuch" in str(missing.value)
