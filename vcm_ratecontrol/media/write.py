"""Writing decoded frames: PNG for one, Y4M for many. Files appear whole under their name or not at all."""

from __future__ import annotations

import contextlib
import errno
import os
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import IO, TYPE_CHECKING

from codec_wrappers.color import even
from codec_wrappers.errors import OutputError
from codec_wrappers.frames import BYTES_PER_SAMPLE, PixelFormat, VideoFormat

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


def write_png(rgb: npt.NDArray[np.uint8], path: Path) -> None:
    """Write a picture, uint8 RGB [H, W, 3], as PNG whatever the name ends in; an existing file is replaced.

    Raises OutputError (folder missing or not writable, disk full); then nothing new is left.
    """
    from PIL import Image

    with replacing(path) as file:
        Image.fromarray(rgb, "RGB").save(file, format="PNG", compress_level=6)


def write_y4m(frames: Iterable[bytes], format: VideoFormat, path: Path, pix_fmt: PixelFormat = "yuv420p") -> int:
    """Write frames as YUV4MPEG2; an existing file is replaced.

    frames: packed planes of `format`'s padded size such as `FrameSource.read` yields; the padding is cropped.
    Y4M knows one frame rate and the range, but no timestamps, rotation or matrix.

    Returns the number of frames. Raises OutputError (folder missing or not writable, disk full) and whatever
    `frames` raises; then nothing new is left. ValueError when a frame has another size.
    """
    count = 0
    with replacing(path) as file:
        file.write(_y4m_header(format, pix_fmt))
        for frame in frames:
            file.write(b"FRAME\n")
            file.writelines(_cropped(frame, format, pix_fmt))
            count += 1
    return count


def _y4m_header(format: VideoFormat, pix_fmt: PixelFormat) -> bytes:
    rate = format.frame_rate
    layout = {"yuv420p": "420mpeg2 XYSCSS=420MPEG2", "yuv420p10le": "420p10 XYSCSS=420P10"}[pix_fmt]
    color_range = {"tv": "LIMITED", "pc": "FULL"}[format.color.range]
    size = f"W{format.width} H{format.height} F{rate.numerator}:{rate.denominator}"
    return f"YUV4MPEG2 {size} Ip A1:1 C{layout} XCOLORRANGE={color_range}\n".encode("ascii")


def _cropped(frame: bytes, format: VideoFormat, pix_fmt: PixelFormat) -> Iterator[bytes]:
    """The planes of a padded frame, cut to the displayed size (chroma of odd pictures rounded up)."""
    import numpy as np

    if len(frame) != format.frame_bytes(pix_fmt):
        raise ValueError(f"{len(frame)} bytes are not one frame of {format.frame_bytes(pix_fmt)}")
    samples = np.frombuffer(frame, np.uint8)
    width = BYTES_PER_SAMPLE[pix_fmt]
    at = 0
    for part in (1, 2, 2):
        rows, columns = format.padded_height // part, format.padded_width // part
        plane = samples[at : at + rows * columns * width].reshape(rows, columns * width)
        shown_rows = format.height if part == 1 else even(format.height) // 2
        shown_columns = format.width if part == 1 else even(format.width) // 2
        yield plane[:shown_rows, : shown_columns * width].tobytes()
        at += rows * columns * width


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[IO[bytes]]:
    """A file open for writing that takes its name when the block ends well and vanishes when it does not.

    Raises OutputError, with one line that names the file and the way out.
    """
    try:
        handle, name = tempfile.mkstemp(prefix=f".{path.name[:100]}.", suffix=".part", dir=path.parent)
    except OSError as error:
        raise _output_error(path, error) from error
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            yield file
        temporary.chmod(0o666 & ~_umask())
        temporary.replace(path)
    except OSError as error:
        temporary.unlink(missing_ok=True)
        raise _output_error(path, error) from error
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise


def _umask() -> int:
    mask = os.umask(0o022)
    os.umask(mask)
    return mask


def _output_error(path: Path, error: OSError) -> OutputError:
    if error.errno == errno.ENOSPC:
        return OutputError(f"{path}: the disk is full; free some space or write to another disk")
    if error.errno in (errno.EFBIG, errno.EDQUOT):
        return OutputError(f"{path}: beyond the file size or quota that is allowed; write to another disk")
    if error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        return OutputError(f"{path}: the folder {path.parent} is not writable; choose another with -o")
    if error.errno == errno.ENOENT:
        return OutputError(f"{path}: there is no folder {path.parent}; create it or choose another with -o")
    if error.errno == errno.EISDIR:
        return OutputError(f"{path}: is a folder; name a file in it with -o")
    return OutputError(f"{path}: cannot be written ({error.strerror}); choose another place with -o")
