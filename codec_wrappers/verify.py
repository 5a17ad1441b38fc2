"""Proof that a written file plays: every frame is decoded and counted."""

from __future__ import annotations

from pathlib import Path

from codec_wrappers.errors import VerificationError

# FFmpeg's HEVC decoder conceals damage and tells nobody; so told, it drops a picture in which it sees some. The
# others raise.
STRICT_DECODING: dict[str, dict[str, str]] = {"hevc": {"err_detect": "explode"}}


def decoded_frames(path: Path, name: Path | None = None) -> int:
    """Decode a file's video from beginning to end and count the frames.

    name: what to call the file in messages, when it is not yet where the user wants it.
    Raises VerificationError on damage.
    """
    import av

    try:
        with av.open(str(path)) as container:
            stream = container.streams.video[0]
            stream.thread_type = "AUTO"
            stream.codec_context.options = STRICT_DECODING.get(stream.codec_context.name, {})
            return sum(1 for _ in container.decode(stream))
    except (av.FFmpegError, IndexError) as error:
        raise VerificationError(f"{name or path}: does not decode ({error}); it was not kept") from error


def require_frames(path: Path, expected: int, name: Path | None = None) -> None:
    """Raise VerificationError unless the file decodes to exactly `expected` frames. name: as in `decoded_frames`."""
    found = decoded_frames(path, name)
    if found != expected:
        raise VerificationError(f"{name or path}: decodes to {found} frames, {expected} were encoded; it was not kept")
