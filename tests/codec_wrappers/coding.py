"""What the encoder tests share: frames to code, a job to run, planes to look at."""

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import numpy.typing as npt

from codec_wrappers.encoder import CodingType, EncodeJob, Encoder, PictureRecord
from codec_wrappers.frames import PixelFormat, VideoFormat
from codec_wrappers.plan import Segment
from codec_wrappers.process import run_process
from codec_wrappers.qpmap import QPMap

Luma = npt.NDArray[np.uint8]


def scene(width: int, height: int, n_frames: int) -> Luma:
    """Luma of a textured picture that slides to the left by two samples a frame, uint8 [n, height, width]."""
    y, x = np.mgrid[0:height, 0 : width + 2 * n_frames]
    fine = np.random.default_rng(1).integers(-24, 25, x.shape)
    wide = 110 + 50 * np.sin(x / 9) * np.cos(y / 13) + 30 * np.sin((x + y) / 31) + fine
    luma = wide.clip(0, 255).astype(np.uint8)
    return np.stack([luma[:, 2 * at : 2 * at + width] for at in range(n_frames)])


class Frames:
    """A `FrameSource` of luma planes with grey chroma."""

    def __init__(self, luma: Luma) -> None:
        self.n_frames, height, width = luma.shape
        self.format = VideoFormat(width, height, Fraction(25))
        pad = ((0, 0), (0, self.format.padded_height - height), (0, self.format.padded_width - width))
        self._luma = np.pad(luma, pad, mode="edge")

    def read(self, start: int, stop: int, pix_fmt: PixelFormat) -> Iterator[bytes]:
        for luma in self._luma[start:stop]:
            chroma = np.full(luma.size // 2, 128, np.uint8)
            samples = np.concatenate([luma.ravel(), chroma])
            yield samples.tobytes() if pix_fmt == "yuv420p" else (samples.astype("<u2") * 4).tobytes()


def code(
    encoder: Encoder,
    frames: Frames,
    folder: Path,
    *,
    segments: tuple[Segment, ...] | None = None,
    qp: int = 32,
    preset: str | None = None,
    qp_map: QPMap | None = None,
    pix_fmt: PixelFormat = "yuv420p",
    coding: CodingType = "inter",
) -> tuple[Luma, tuple[PictureRecord, ...]]:
    """Run one job; returns the decoded luma (8 bits, uint8 [n, H, W]) and the read-back."""
    folder.mkdir(exist_ok=True)
    job = EncodeJob(
        format=frames.format,
        pix_fmt=pix_fmt,
        segments=segments or (Segment(0, frames.n_frames, qp),),
        preset=preset or encoder.default_preset,
        coding=coding,
        output=folder / "piece.mp4",
        work_dir=folder,
        qp_map=qp_map,
    )
    command = encoder.command(job)
    for name, content in command.files.items():
        (folder / name).write_bytes(content)
    result = run_process(command.argv, stdin=frames.read(0, job.n_frames, pix_fmt), timeout_s=60, cwd=folder)
    return decoded_luma(job.output), encoder.read_back(job, result.log)


def decoded_luma(path: Path) -> Luma:
    """Luma of all frames in display order as coded (no change of range), in 8 bits, uint8 [n, H, W]."""
    with av.open(str(path)) as container:
        return np.stack([_luma(frame) for frame in container.decode(video=0)])


def _luma(frame: av.VideoFrame) -> Luma:
    deep = frame.format.components[0].bits > 8
    samples = np.frombuffer(frame.planes[0], "<u2" if deep else np.uint8).reshape(frame.height, -1)
    return (samples[:, : frame.width] >> (frame.format.components[0].bits - 8)).astype(np.uint8)


def error_per_ctu(decoded: Luma, source: Luma, side: int = 64) -> npt.NDArray[np.float64]:
    """Mean square error of each CTU, [n, rows, cols]; sizes in whole CTUs."""
    n, height, width = source.shape
    square = (decoded[:, :height, :width].astype(float) - source) ** 2
    return square.reshape(n, height // side, side, width // side, side).mean(axis=(2, 4))
