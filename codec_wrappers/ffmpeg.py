"""Finding the ffmpeg binary and asking it what it holds.

The binary is the one inside the `imageio-ffmpeg` wheel (VVenC, x265, kvazaar, SVT-AV1 and libvmaf in
one file), or the one that the environment variable VCM_FFMPEG names.
"""

import os
import re
from functools import cache
from pathlib import Path

from codec_wrappers.errors import MissingToolError
from codec_wrappers.process import run_process

PROBE_TIMEOUT_S = 30.0


def ffmpeg_path() -> Path:
    """Path of the ffmpeg binary. Raises MissingToolError when there is none."""
    if named := os.environ.get("VCM_FFMPEG"):
        path = Path(named)
        if not path.is_file():
            raise MissingToolError(f"VCM_FFMPEG={named}: no such file; unset it to use the bundled ffmpeg")
        return path
    try:
        import imageio_ffmpeg

        return Path(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise MissingToolError("ffmpeg: not found; pip install imageio-ffmpeg, or set VCM_FFMPEG") from error


def ffmpeg_version(path: Path | None = None) -> str:
    """Version string of the binary, such as 'n9.0.2-17-g2a571b6068'."""
    first = ffmpeg_query(str(path or ffmpeg_path()), "-version").splitlines()[0]
    match = re.match(r"ffmpeg version (\S+)", first)
    return match.group(1) if match else first


@cache
def ffmpeg_query(path: str, *options: str) -> str:
    """Standard output of a short ffmpeg question such as `-encoders`; asked once per process and binary."""
    result = run_process([path, "-hide_banner", *options], timeout_s=PROBE_TIMEOUT_S)
    return result.stdout.decode("utf-8", "replace")


def ffmpeg_encoder_help(path: Path, library: str) -> str:
    """The text of `ffmpeg -h encoder=LIBRARY`. Raises MissingToolError when the binary lacks it."""
    text = ffmpeg_query(str(path), "-h", f"encoder={library}")
    if not text.startswith("Encoder "):
        raise MissingToolError(f"{path}: this ffmpeg has no {library}; unset VCM_FFMPEG to use the bundled one")
    return text


def supported_pixel_formats(help_text: str) -> tuple[str, ...]:
    """Pixel formats that an encoder's help text lists."""
    match = re.search(r"Supported pixel formats: (.*)", help_text)
    return tuple(match.group(1).split()) if match else ()
