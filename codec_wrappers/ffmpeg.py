"""Finding the ffmpeg binary and asking it what it holds.

The binary is the one inside the `imageio-ffmpeg` wheel (VVenC, x265, kvazaar, SVT-AV1 and libvmaf in
one file), or the one that the environment variable VCM_FFMPEG names.
"""

import os
import re
import shutil
from functools import cache
from pathlib import Path

from codec_wrappers.errors import EncoderError, MissingToolError
from codec_wrappers.process import run_process

PROBE_TIMEOUT_S = 30.0
_WAY_OUT = "unset VCM_FFMPEG to use the bundled one"


def ffmpeg_path() -> Path:
    """Absolute path of the ffmpeg binary. Raises MissingToolError when there is none."""
    if named := os.environ.get("VCM_FFMPEG"):
        found = shutil.which(named)
        if found is None:
            raise MissingToolError(f"VCM_FFMPEG={named}: no such program; unset it to use the bundled ffmpeg")
        return Path(found).absolute()
    try:
        import imageio_ffmpeg

        return Path(imageio_ffmpeg.get_ffmpeg_exe())
    except (ImportError, RuntimeError) as error:
        raise MissingToolError("ffmpeg: not found; pip install imageio-ffmpeg, or set VCM_FFMPEG") from error


def ffmpeg_version(path: Path | None = None) -> str:
    """Version string of the binary, such as 'n9.0.2-17-g2a571b6068'. Raises MissingToolError if it is no ffmpeg."""
    path = path or ffmpeg_path()
    match = re.match(r"ffmpeg version (\S+)", ffmpeg_query(str(path), "-version"))
    if match is None:
        raise MissingToolError(f"{path}: is no ffmpeg; {_WAY_OUT}")
    return match.group(1)


@cache
def ffmpeg_query(path: str, *options: str) -> str:
    """Standard output of a short ffmpeg question such as `-encoders`; asked once per process and binary.

    Raises MissingToolError when the binary cannot answer.
    """
    try:
        result = run_process([path, "-hide_banner", *options], timeout_s=PROBE_TIMEOUT_S)
    except EncoderError as error:
        raise MissingToolError(f"{path}: does not run as ffmpeg; {_WAY_OUT} ({error})") from error
    return result.stdout.decode("utf-8", "replace")


def ffmpeg_encoder_help(path: Path, library: str) -> str:
    """The text of `ffmpeg -h encoder=LIBRARY`. Raises MissingToolError when the binary lacks it."""
    text = ffmpeg_query(str(path), "-h", f"encoder={library}")
    if not text.startswith("Encoder "):
        raise MissingToolError(f"{path}: this ffmpeg ({ffmpeg_version(path)}) has no {library}; {_WAY_OUT}")
    return text


def supported_pixel_formats(help_text: str) -> tuple[str, ...]:
    """Pixel formats that an encoder's help text lists."""
    match = re.search(r"Supported pixel formats: (.*)", help_text)
    return tuple(match.group(1).split()) if match else ()
