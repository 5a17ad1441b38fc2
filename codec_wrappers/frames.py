"""Raw frames on their way to an encoder: their size, rate and colour, and the source that yields them."""

from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from typing import Literal, Protocol

PixelFormat = Literal["yuv420p", "yuv420p10le"]

BYTES_PER_SAMPLE: dict[str, int] = {"yuv420p": 1, "yuv420p10le": 2}

# SVT-AV1 refuses less than 64 samples, VVenC less than 16 (and then exits 0 with an empty file).
MIN_CODED_SIZE = 64


def padded_length(length: int) -> int:
    """Length in samples at which a picture side is coded: even (4:2:0), at least `MIN_CODED_SIZE`."""
    return max(MIN_CODED_SIZE, length + length % 2)


@dataclass(frozen=True)
class ColorTags:
    """Colour description in ffmpeg's names. `unknown` where the source says nothing."""

    range: Literal["tv", "pc"] = "tv"
    matrix: str = "unknown"
    primaries: str = "unknown"
    transfer: str = "unknown"


BT709 = ColorTags(range="tv", matrix="bt709", primaries="bt709", transfer="bt709")


@dataclass(frozen=True)
class VideoFormat:
    """Size, rate and colour of raw frames.

    width, height: the picture in luma samples, before padding.
    frame_rate: frames per second (mean rate when the timestamps vary).
    """

    width: int
    height: int
    frame_rate: Fraction
    color: ColorTags = BT709

    @property
    def padded_width(self) -> int:
        """Width in samples of the frames that `FrameSource.read` yields."""
        return padded_length(self.width)

    @property
    def padded_height(self) -> int:
        """Height in samples of the frames that `FrameSource.read` yields."""
        return padded_length(self.height)

    def frame_bytes(self, pix_fmt: PixelFormat) -> int:
        """Bytes of one packed padded frame."""
        return self.padded_width * self.padded_height * 3 // 2 * BYTES_PER_SAMPLE[pix_fmt]


class FrameSource(Protocol):
    """Anything that yields raw frames by index; each `read` is independent of the others (own handles)."""

    @property
    def format(self) -> VideoFormat: ...

    @property
    def n_frames(self) -> int: ...

    def read(self, start: int, stop: int, pix_fmt: PixelFormat) -> Iterator[bytes]:
        """Yield frames start..stop-1, each packed planar Y, U, V of the padded size.

        Right and bottom padding repeats the last column and row, which costs fewest bits.
        """
        ...
