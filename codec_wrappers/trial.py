"""Asking an encoder by trial: what its help does not tell, one small coded picture does.

libkvazaar inside ffmpeg and the encoders' own programs print neither their QP range nor whether a map acts.
So one 64x64 picture is coded, which takes some 20 ms, and the answer is remembered per process and binary.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache

from codec_wrappers.errors import EncoderError
from codec_wrappers.process import run_process

SIDE = 64
TRIAL_TIMEOUT_S = 20.0


@dataclass(frozen=True)
class Trial:
    """Outcome of a trial: whether the encoder accepted it, what it wrote to stdout, what it printed."""

    accepted: bool
    stream: bytes
    log: str


@cache
def trial(*argv: str) -> Trial:
    """Run an encoder on one 64x64 4:2:0 picture of 8 bits from stdin; the stream is to go to stdout."""
    try:
        result = run_process(argv, stdin=_picture(), timeout_s=TRIAL_TIMEOUT_S)
    except EncoderError as error:
        return Trial(False, b"", str(error))
    return Trial(bool(result.stdout), result.stdout, result.stderr)


def ffmpeg_trial(ffmpeg: str, *encoder_options: str, raw_format: str) -> Trial:
    """A trial of a library inside ffmpeg: `encoder_options` start with '-c:v'."""
    size = f"{SIDE}x{SIDE}"
    return trial(
        *(ffmpeg, "-hide_banner", "-nostats", "-loglevel", "info"),
        *("-f", "rawvideo", "-pix_fmt", "yuv420p", "-s", size, "-i", "-", "-frames:v", "1"),
        *(*encoder_options, "-f", raw_format, "-"),
    )


def _picture() -> bytes:
    """A picture with structure at all scales: luma of two crossing ramps, flat chroma."""
    luma = bytes((x * y + 7 * (x ^ y)) % 256 for y in range(SIDE) for x in range(SIDE))
    return luma + bytes([128]) * (SIDE * SIDE // 2)


def native_trial(program: str, *options: str) -> Trial:
    """A trial of an encoder's own program with kvazaar's command line (uvg266 has the same)."""
    size = f"{SIDE}x{SIDE}"
    return trial(program, "--input", "-", "--input-res", size, *options, "--output", "/dev/stdout")
