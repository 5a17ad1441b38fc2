"""The one media reader: `open_clip` turns a picture or a video file into a `Clip`.

What kind of file it is, is read from its content and never from its name. A picture is a clip of one frame;
an animated GIF, PNG or AVIF is a video. A `Clip` is a value: it holds facts and a path but no open file,
so it can be pickled and read by several threads or processes at once, each read with its own decoder.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from codec_wrappers.errors import InputError
from codec_wrappers.frames import ColorTags, PixelFormat, VideoFormat

if TYPE_CHECKING:
    import numpy as np
    import numpy.typing as npt


@dataclass(frozen=True)
class StreamInfo:
    """A stream of the container other than the video that the clip is.

    index: number in the container; kind: 'audio', 'subtitle', 'video', 'data' or 'attachment';
    codec: FFmpeg's name, '' where unknown; language: as tagged, None where not.
    """

    index: int
    kind: str
    codec: str
    language: str | None = None


@dataclass(frozen=True)
class Clip:
    """Frames of a picture or a video, in the order in which they are shown. A `FrameSource`.

    path: the file.
    kind: 'still' or 'video'.
    width, height: samples. Of a still as displayed, EXIF orientation applied; of a video as coded, before
        its rotation (`upright_size` is after it).
    n_frames: counted, not taken from a header.
    frame_rate: frames per second; the mean where timestamps vary. 25 for a still.
    pts: presentation time of each frame in units of `time_base` seconds, strictly rising, as in the container
        (the first need not be 0). Where a container has no usable times (raw streams, AVI with B frames)
        they count frames at the stated rate.
    color: of what `read` yields. For videos the tags of the source, 'unknown' where it has none; BT.709
        limited for stills and for videos coded as RGB.
    pix_fmt: layout in the file, FFmpeg's name ('rgb24', 'gray16le', ... for stills).
    bit_depth: bits per sample in the file.
    rotation: degrees anticlockwise by which a player turns the picture: 0, 90, -180, -90 (FFmpeg's sign).
    display_matrix: the nine numbers of the container, None where it has none.
    sample_aspect_ratio: width : height of one sample, 1 where not stated.
    codec, container: FFmpeg's names ('png', 'jpeg', ... and 'image' for stills).
    video_stream: index of the video in the container; streams: the other streams.
    constant_rate: every timestamp is within a unit of `time_base` of index / frame_rate.
    keyframes: frames at which decoding can start; empty where only the beginning will do.
    """

    path: Path
    kind: Literal["still", "video"]
    width: int
    height: int
    n_frames: int
    frame_rate: Fraction
    pts: tuple[int, ...] = field(repr=False)
    time_base: Fraction
    color: ColorTags
    pix_fmt: str
    bit_depth: int
    rotation: int = 0
    display_matrix: tuple[int, ...] | None = None
    sample_aspect_ratio: Fraction = Fraction(1)
    codec: str = ""
    container: str = "image"
    video_stream: int = 0
    streams: tuple[StreamInfo, ...] = ()
    constant_rate: bool = True
    keyframes: tuple[int, ...] = field(default=(), repr=False)

    @property
    def format(self) -> VideoFormat:
        """Size, rate and colour of the frames that `read` yields."""
        return VideoFormat(self.width, self.height, self.frame_rate, self.color)

    @property
    def timestamps(self) -> tuple[Fraction, ...]:
        """Presentation time of each frame in seconds, exact; the first is the container's start time."""
        return tuple(pts * self.time_base for pts in self.pts)

    @property
    def duration(self) -> Fraction:
        """Seconds from the first frame shown to the end of the last, which is shown for a mean frame."""
        return (self.pts[-1] - self.pts[0]) * self.time_base + 1 / self.frame_rate

    @property
    def has_audio(self) -> bool:
        return any(stream.kind == "audio" for stream in self.streams)

    @property
    def seekable(self) -> bool:
        """Whether frames in the middle can be reached without decoding all before them."""
        return bool(self.keyframes)

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height as a player shows the picture; the size of `read_rgb`'s frames."""
        from vcm_ratecontrol.media.convert import swaps_sides

        swapped = self.display_matrix is not None and swaps_sides(self.display_matrix)
        return (self.height, self.width) if swapped else (self.width, self.height)

    def read(self, start: int, stop: int, pix_fmt: PixelFormat) -> Iterator[bytes]:
        """Yield frames start..stop-1 for an encoder; memory does not grow with their number.

        Each frame is packed planar 4:2:0 of the padded size of `format`, in the colour range and matrix of
        `color`, not rotated. Only bit depth and chroma resolution are converted.

        Raises InputError (file damaged, truncated, of changing size) and ValueError (frames that are not
        there).
        """
        self._check_range(start, stop)
        if self.kind == "still":
            from codec_wrappers.still import StillSource
            from vcm_ratecontrol.media.stills import load_still

            if start < stop:
                yield StillSource(load_still(self.path)).raw(pix_fmt)
            return
        from vcm_ratecontrol.media.convert import pack_frame
        from vcm_ratecontrol.media.decode import FrameDecoder

        with FrameDecoder(self) as decoder:
            for frame in decoder.frames(start, stop):
                yield pack_frame(frame, pix_fmt, self.format)

    def read_rgb(self, indices: Sequence[int] | None = None) -> Iterator[npt.NDArray[np.uint8]]:
        """Yield the frames of rising `indices` (default: all) for machines, exactly those of a full decode.

        Each is uint8 RGB [H, W, 3], full range, upright as a player shows it. Range and matrix are the
        clip's; an untagged matrix is BT.709 from 1280 samples wide or 577 high, else BT.601. HDR is not
        tone-mapped.

        Raises InputError (file damaged, truncated, of changing size) and ValueError (no such frames).
        """
        wanted = range(self.n_frames) if indices is None else indices
        if any(later <= earlier for earlier, later in itertools.pairwise(wanted)):
            raise ValueError("frame indices must rise")
        if not len(wanted):
            return
        self._check_range(wanted[0], wanted[-1] + 1)
        if self.kind == "still":
            from vcm_ratecontrol.media.stills import load_still

            yield load_still(self.path)
            return
        from vcm_ratecontrol.media.convert import frame_to_rgb, upright
        from vcm_ratecontrol.media.decode import FrameDecoder

        with FrameDecoder(self) as decoder:
            for frame in decoder.picked(wanted):
                yield upright(frame_to_rgb(frame, self.color), self.display_matrix)

    def rgb_of(self, planes: bytes, pix_fmt: PixelFormat) -> npt.NDArray[np.uint8]:
        """Turn a packed frame, such as `read` yields or a decoder gives back, to RGB as `read_rgb` does.

        planes: one frame of the padded size of `format`. Returns uint8 [H, W, 3] of `upright_size`.
        Raises ValueError when the bytes are not one such frame.
        """
        from vcm_ratecontrol.media.convert import planes_to_rgb, upright

        return upright(planes_to_rgb(planes, pix_fmt, self.format), self.display_matrix)

    def _check_range(self, start: int, stop: int) -> None:
        if not 0 <= start <= stop <= self.n_frames:
            raise ValueError(f"frames {start}..{stop} are not within the {self.n_frames} of {self.path}")


def open_clip(path: Path) -> Clip:
    """Look at a picture or video file: what it is, how many frames, when each is shown.

    A still is decoded once, a video's packets are walked through (its frames are decoded only where packets
    cannot be trusted to be frames: raw streams, AVI, VP8, field pairs, ...).

    Raises InputError, with one line that names the file and the way out: missing, a folder, empty, not
    readable, truncated, damaged, neither picture nor video, no video stream, larger than 16384 x 16384.
    """
    path = Path(path)
    try:
        if path.is_dir():
            raise InputError(f"{path}: is a folder; name a picture or video file in it")
        if not path.is_file():
            way = "is not a regular file" if path.exists() else "no such file"
            raise InputError(f"{path}: {way}; check the path")
        with path.open("rb") as file:
            head = file.read(64)
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check its permissions") from error
    if not head:
        raise InputError(f"{path}: the file is empty; copy or export it again")
    from vcm_ratecontrol.media.containers import probe_video
    from vcm_ratecontrol.media.stills import probe_still

    return probe_still(path, head) or probe_video(path)
