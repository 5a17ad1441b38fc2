"""One picture to one raw intra bitstream and back, in memory: what annotation and probing are made of."""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING, cast

from codec_wrappers.capabilities import Codec
from codec_wrappers.color import rgb_to_yuv420, yuv420_to_rgb
from codec_wrappers.encoder import EncodeJob, Encoder
from codec_wrappers.errors import EncoderError, VerificationError
from codec_wrappers.frames import BT709, PixelFormat, VideoFormat
from codec_wrappers.plan import Segment
from codec_wrappers.process import run_process

if TYPE_CHECKING:
    import av.video.plane
    import numpy as np
    import numpy.typing as npt
    from av.video.codeccontext import VideoCodecContext

    from codec_wrappers.qpmap import QPMap

    RGB = npt.NDArray[np.uint8] | npt.NDArray[np.uint16]


@dataclass(frozen=True)
class EncodedStill:
    """A still picture's bitstream.

    data: raw Annex B stream (OBU stream for AV1); bits: its size; qp: as asked;
    qp_read_back: slice QP that the encoder reports, None where it reports none; seconds: wall time.
    width, height: picture size without padding.
    """

    data: bytes
    codec: Codec
    qp: int
    qp_read_back: float | None
    width: int
    height: int
    seconds: float

    @property
    def bits(self) -> int:
        return 8 * len(self.data)


class StillSource:
    """A still picture as raw frames (a `FrameSource` of one frame), converted once per pixel format."""

    def __init__(self, rgb: RGB) -> None:
        """rgb: uint8 or uint16 [H, W, 3]."""
        height, width = rgb.shape[:2]
        self.format = VideoFormat(width, height, Fraction(25), BT709)
        self.n_frames = 1
        self._rgb = rgb
        self._raw: dict[str, bytes] = {}

    def raw(self, pix_fmt: PixelFormat) -> bytes:
        """The packed padded frame in YCbCr BT.709, limited range."""
        if pix_fmt not in self._raw:
            import numpy as np

            height, width = self._rgb.shape[:2]
            pad = ((0, self.format.padded_height - height), (0, self.format.padded_width - width), (0, 0))
            self._raw[pix_fmt] = rgb_to_yuv420(np.pad(self._rgb, pad, mode="edge"), pix_fmt)
        return self._raw[pix_fmt]

    def read(self, start: int, stop: int, pix_fmt: PixelFormat) -> Iterator[bytes]:
        for _ in range(start, stop):
            yield self.raw(pix_fmt)


def encode_still(
    source: StillSource,
    qp: int,
    encoder: Encoder,
    preset: str | None = None,
    qp_map: QPMap | None = None,
) -> EncodedStill:
    """Code one picture as a single intra picture at exactly `qp` (the slice QP, in the encoder's range).

    Raises UnsupportedError when the encoder cannot, EncoderError when it fails or writes nothing.
    """
    capabilities = encoder.capabilities()
    capabilities.require_qp(qp)
    chosen = preset or encoder.default_preset
    capabilities.require_preset(chosen)
    pix_fmt: PixelFormat = "yuv420p10le" if "yuv420p10le" in capabilities.pixel_formats else "yuv420p"
    # Not stdout: libvvenc prints its per-picture lines there, into the stream.
    with tempfile.TemporaryDirectory(prefix="vcm-still-", dir=memory_folder()) as folder:
        job = EncodeJob(
            format=source.format,
            pix_fmt=pix_fmt,
            segments=(Segment(0, 1, qp),),
            preset=chosen,
            coding="still",
            output=Path(folder) / f"still.{encoder.raw_format}",
            work_dir=Path(folder),
            qp_map=qp_map,
        )
        command = encoder.command(job)
        for name, content in command.files.items():
            (job.work_dir / name).write_bytes(content)
        result = run_process(command.argv, stdin=source.raw(pix_fmt), timeout_s=job.timeout_s, explain=command.explain)
        # libvvenc inside ffmpeg can fail with exit 0 and an empty file or none.
        data = job.output.read_bytes() if job.output.exists() else b""
        if not data:
            raise EncoderError(f"{encoder.name}: wrote nothing at QP {qp}; {result.log[-300:]!r}")
        records = encoder.read_back(job, result.log)
    return EncodedStill(
        data=data,
        codec=encoder.codec,
        qp=qp,
        qp_read_back=records[0].qp if records else None,
        width=source.format.width,
        height=source.format.height,
        seconds=result.seconds,
    )


def memory_folder() -> Path | None:
    """A folder in memory for files of a moment, None (the usual temporary folder) where there is none."""
    shared = Path("/dev/shm")
    return shared if os.access(shared, os.W_OK) else None


def decode_still(still: EncodedStill) -> npt.NDArray[np.uint8]:
    """Decode to uint8 RGB [height, width, 3]; padding is cropped. Raises VerificationError on a broken stream."""
    import av

    decoder = {"vvc": "vvc", "hevc": "hevc", "av1": "libdav1d"}[still.codec]
    context = cast("VideoCodecContext", av.CodecContext.create(decoder, "r"))
    context.thread_count = 1
    try:
        frames = [frame for packet in context.parse(still.data) for frame in context.decode(packet)]
        for packet in context.parse():
            frames += context.decode(packet)
        frames += context.decode(None)
    except av.FFmpegError as error:
        raise VerificationError(f"{still.codec} still at QP {still.qp}: does not decode ({error})") from error
    if len(frames) != 1:
        raise VerificationError(f"{still.codec} still at QP {still.qp}: decodes to {len(frames)} frames, not 1")
    (frame,) = frames
    name = frame.format.name
    packed = b"".join(_packed(plane, 2 if name == "yuv420p10le" else 1) for plane in frame.planes)
    rgb = yuv420_to_rgb(packed, frame.width, frame.height, name)
    return rgb[: still.height, : still.width]


def _packed(plane: av.video.plane.VideoPlane, sample_bytes: int) -> bytes:
    """Samples of one plane without the padding at the end of its lines."""
    row = plane.width * sample_bytes
    data = memoryview(plane)
    if plane.line_size == row:
        return bytes(data[: row * plane.height])
    return b"".join(data[y * plane.line_size : y * plane.line_size + row] for y in range(plane.height))
