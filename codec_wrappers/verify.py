"""Proof that a written file plays: every frame is decoded and counted."""

from __future__ import annotations

from pathlib import Path

from codec_wrappers.errors import VerificationError

# FFmpeg's HEVC decoder conceals damage and tells nobody; so told, it drops a picture in which it sees some. The
# others raise.
STRICT_DECODING: dict[str, dict[str, str]] = {"hevc": {"err_detect": "explode"}}


def decoded_frames(path: Path) -> int:
    """Decode a file's video from beginning to end and count the frames. Raises VerificationError on damage."""
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            stream.codec_context.options = STRICT_DECODING.get(stream.codec_context.name, {})
            return sum(1 for _ in container.decode(stream))
    except (av.FFmpegError, IndexError) as error:
        raise VerificationError(f"{path.name}: does not decode ({error}); it was not kept") from error


def require_frames(path: Path, expected: int) -> None:
    """Raise VerificationError unless the file decodes to exactly `expected` frames."""
    found = decoded_frames(path)
    if found != expected:
        raise VerificationError(f"{path.name}: decodes to {found} frames, {expected} were encoded; it was not kept")
