"""Proof that a QP map acts. The commonest failure of such tools is a map that does nothing, and exit code 0."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from codec_wrappers.encoder import EncodeJob, Encoder
from codec_wrappers.errors import EncoderError, MapHadNoEffectError
from codec_wrappers.frames import BYTES_PER_SAMPLE, FrameSource, PixelFormat, VideoFormat
from codec_wrappers.plan import EncodePlan, Segment
from codec_wrappers.process import ProcessGroup, run_process
from codec_wrappers.qpmap import QPMap

PROOF_TIMEOUT_S = 300.0


def prove_map_acts(
    plan: EncodePlan,
    source: FrameSource,
    encoder: Encoder,
    preset: str,
    pix_fmt: PixelFormat,
    folder: Path,
    group: ProcessGroup | None = None,
) -> None:
    """Code one frame with its map and without; the coded pictures must differ.

    The frame is the one whose map differs most from the plan's QP. Where it is so plain that no QP changes
    it, a frame of noise decides. A plan without a map, or whose map says nothing else than its QPs, has nothing to
    prove. Raises MapHadNoEffectError.
    """
    if plan.qp_map is None:
        return
    index, spread = _strongest_frame(plan, plan.qp_map)
    if spread == 0:
        return
    qp = next(segment.qp for segment in plan.segments if segment.start <= index < segment.stop)
    frame_map = plan.qp_map if plan.qp_map.n_frames == 1 else plan.qp_map.crop_frames(index, index + 1)
    for number, frame in enumerate(_probe_frames(source, index, pix_fmt)):
        work = folder / f"proof{number}"
        work.mkdir()
        job = EncodeJob(
            source.format, pix_fmt, (Segment(0, 1, qp),), preset, "still", work / f"flat.{encoder.raw_format}", work
        )
        mapped = replace(job, output=work / f"mapped.{encoder.raw_format}", qp_map=frame_map)
        if _picture_hash(job, encoder, frame, group) != _picture_hash(mapped, encoder, frame, group):
            return
    raise MapHadNoEffectError(
        f"{encoder.name}: the QP map changed nothing; {encoder.capabilities().where} ignores it: use another encoder"
    )


def _strongest_frame(plan: EncodePlan, qp_map: QPMap) -> tuple[int, int]:
    """Index of the frame whose map lies farthest from its segment's QP, and that distance summed over blocks."""
    best, strongest = 0, -1
    for segment in plan.segments:
        frames = range(segment.start, segment.stop) if qp_map.n_frames > 1 else [segment.start]
        for index in frames:
            blocks = qp_map.qp[index if qp_map.n_frames > 1 else 0].astype(np.int64)
            spread = int(np.abs(blocks - segment.qp).sum())
            if spread > strongest:
                best, strongest = index, spread
    return best, strongest


def _probe_frames(source: FrameSource, index: int, pix_fmt: PixelFormat) -> Iterator[bytes]:
    yield from source.read(index, index + 1, pix_fmt)
    yield _noise(source.format, pix_fmt)


def _noise(video: VideoFormat, pix_fmt: PixelFormat) -> bytes:
    """One frame in which every block has texture, the same at every call."""
    count = video.frame_bytes(pix_fmt) // BYTES_PER_SAMPLE[pix_fmt]
    ten_bit = pix_fmt == "yuv420p10le"
    samples = np.random.default_rng(0).integers(64, 940 if ten_bit else 235, count)
    return samples.astype("<u2" if ten_bit else "u1").tobytes()


def _picture_hash(job: EncodeJob, encoder: Encoder, frame: bytes, group: ProcessGroup | None) -> str:
    command = encoder.command(job)
    for name, content in command.files.items():
        (job.work_dir / name).write_bytes(content)
    run_process(command.argv, stdin=frame, timeout_s=PROOF_TIMEOUT_S, cwd=job.work_dir, group=group)
    if not job.output.exists():
        raise EncoderError(f"{encoder.name}: exit 0 but wrote nothing while its map was put to the proof")
    return hashlib.sha256(job.output.read_bytes()).hexdigest()
