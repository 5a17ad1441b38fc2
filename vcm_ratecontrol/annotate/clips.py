"""Frames of clips coded as video: a segment is coded as a whole, a few of its frames are shown to the machines."""

from __future__ import annotations

import hashlib
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.encoder import Encoder
from codec_wrappers.errors import VerificationError
from codec_wrappers.frames import PixelFormat, VideoFormat
from codec_wrappers.plan import flat_plan
from codec_wrappers.still import StillSource, memory_folder
from vcm_ratecontrol.annotate.picture import Spent, StoppedError, never
from vcm_ratecontrol.annotate.rows import CodedPicture
from vcm_ratecontrol.annotate.sources import content_hash, local_copy, scaled

if TYPE_CHECKING:
    from codec_wrappers.pipeline import CodedJob
    from vcm_ratecontrol.annotate.sources import RGB

# Length that the rate control cuts clips into as well: labels are of what will be coded.
SEGMENT_SECONDS = 2.0


@dataclass(frozen=True)
class SampledFrame:
    """A frame to annotate. index: in its clip; key: SHA-256 of its RGB bytes (uint8 [H, W, 3] as annotated)."""

    index: int
    key: str


@dataclass(frozen=True)
class SegmentTask:
    """Frames start..stop-1 of a clip, coded together, and those among them that are annotated."""

    source: str
    clip_sha256: str
    start: int
    stop: int
    frames: tuple[SampledFrame, ...]

    @property
    def label(self) -> str:
        return f"{self.source} frames {self.start}..{self.stop - 1}"


class FramesInMemory:
    """RGB frames as a `FrameSource`; each is converted when it is read."""

    def __init__(self, frames: Sequence[RGB], frame_rate: Fraction) -> None:
        """frames: uint8 [H, W, 3] each, all of one size."""
        self._sources = [StillSource(frame) for frame in frames]
        still = self._sources[0].format
        self.format = VideoFormat(still.width, still.height, frame_rate, still.color)
        self.n_frames = len(frames)

    def read(self, start: int, stop: int, pix_fmt: PixelFormat) -> Iterator[bytes]:
        for source in self._sources[start:stop]:
            yield source.raw(pix_fmt)


def clip_tasks(source: str, max_side: int, per_segment: int, n_segments: int) -> list[SegmentTask]:
    """Cut a clip into segments and choose frames to annotate.

    per_segment: frames of each segment, spread evenly. n_segments: as many segments, spread evenly over the clip;
    0 for all. Raises InputError when it is missing or does not decode.
    """
    from vcm_ratecontrol.media import cut_segments, open_clip, sample_indices

    with local_copy(source) as path:
        clip = open_clip(path)
        segments = cut_segments(clip, SEGMENT_SECONDS)
        if 0 < n_segments < len(segments):
            chosen = sample_indices(range(len(segments)), n_segments)
            segments = tuple(segments[at] for at in chosen)
        picked = [sample_indices(segment, per_segment) for segment in segments]
        wanted = [index for indices in picked for index in indices]
        keys = [frame_key(scaled(rgb, max_side)) for rgb in clip.read_rgb(wanted)]
    frames = dict(zip(wanted, keys, strict=True))
    sha256 = content_hash(source)
    return [
        SegmentTask(source, sha256, segment.start, segment.stop, tuple(SampledFrame(i, frames[i]) for i in indices))
        for segment, indices in zip(segments, picked, strict=True)
    ]


def frame_key(rgb: RGB) -> str:
    """SHA-256 of a frame's bytes, hexadecimal."""
    return hashlib.sha256(rgb.tobytes()).hexdigest()


def read_segment(task: SegmentTask, max_side: int) -> tuple[list[RGB], Fraction]:
    """The frames of a segment, scaled, and the clip's frame rate. Raises InputError."""
    from vcm_ratecontrol.media import open_clip

    with local_copy(task.source) as path:
        clip = open_clip(path)
        frames = [scaled(rgb, max_side) for rgb in clip.read_rgb(range(task.start, task.stop))]
        return frames, clip.frame_rate


def coded_segment(
    frames: Sequence[RGB],
    frame_rate: Fraction,
    picks: Sequence[int],
    encoder: Encoder,
    preset: str,
    qps: Iterable[int],
    spent: Spent,
    stop: Callable[[], bool] = never,
) -> list[list[tuple[CodedPicture, RGB]]]:
    """Code a segment at each QP (random access, the QP being that of its intra picture) and decode it.

    picks: indices of the frames wanted. Returns per pick what was coded at each QP; bits are the mean over the
    segment's pictures. Raises EncoderError, VerificationError, StoppedError.
    """
    source = FramesInMemory(frames, frame_rate)
    versions: list[list[tuple[CodedPicture, RGB]]] = [[] for _ in picks]
    for qp in qps:
        if stop():
            raise StoppedError
        with tempfile.TemporaryDirectory(prefix="vcm-segment-", dir=memory_folder()) as folder:
            started = time.monotonic()
            job = _encode(source, qp, encoder, preset, Path(folder))
            encoded = time.monotonic()
            decoded = _decode(job, source, picks)
            spent.encode += encoded - started
            spent.decode += time.monotonic() - encoded
        bits = round(job.bits / source.n_frames)
        told = {record.index: record.qp for record in job.pictures}
        for version, index, rgb in zip(versions, picks, decoded, strict=True):
            slice_qp = told.get(index)
            version.append((CodedPicture(qp, qp if slice_qp is None else round(slice_qp), bits), rgb))
    return versions


def _encode(source: FramesInMemory, qp: int, encoder: Encoder, preset: str, folder: Path) -> CodedJob:
    from codec_wrappers.pipeline import EncodeOptions, encode_pieces

    plan = flat_plan(source.n_frames, qp)
    (job,) = encode_pieces(plan, source, encoder, folder, EncodeOptions(preset, workers=1, segmented=True))
    return job


def _decode(job: CodedJob, source: FramesInMemory, picks: Sequence[int]) -> list[RGB]:
    from codec_wrappers.color import yuv420_to_rgb
    from vcm_ratecontrol.media import open_clip

    target, wanted = source.format, set(picks)
    piece = open_clip(job.piece)
    if piece.n_frames != source.n_frames:
        raise VerificationError(f"segment: decodes to {piece.n_frames} frames, {source.n_frames} were coded")
    pix_fmt: PixelFormat = "yuv420p10le" if piece.bit_depth > 8 else "yuv420p"
    planes = piece.read(0, max(picks) + 1, pix_fmt)
    kept = {index: data for index, data in enumerate(planes) if index in wanted}
    size = target.padded_width, target.padded_height
    decoded = {index: yuv420_to_rgb(data, *size, pix_fmt) for index, data in kept.items()}
    return [decoded[index][: target.height, : target.width] for index in picks]
