"""A plan and a source of frames -> one verified file: jobs in parallel, joined, decoded, counted, renamed."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from fractions import Fraction
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.capabilities import Capabilities
from codec_wrappers.encoder import CodingType, EncodeJob, Encoder, PictureRecord
from codec_wrappers.errors import EncoderError, InputError
from codec_wrappers.frames import FrameSource, PixelFormat
from codec_wrappers.join import Companions, Timing, check_suffix, coded_piece, join
from codec_wrappers.plan import EncodePlan, Segment
from codec_wrappers.process import ProcessGroup, run_process
from codec_wrappers.verify import require_frames
from codec_wrappers.workfolder import beside, work_folder

if TYPE_CHECKING:
    from codec_wrappers.qpmap import QPMap


@dataclass(frozen=True)
class CodedJob:
    """One finished encoder process.

    segments: of the whole plan, frames counted from 0 of the clip; pictures: read-back records in display
    order, indices of the clip too (() where the encoder tells nothing); piece: its file; bits: its coded
    pictures; seconds: wall time.
    """

    segments: tuple[Segment, ...]
    piece: Path
    pictures: tuple[PictureRecord, ...]
    bits: int
    argv: tuple[str, ...]
    seconds: float


@dataclass(frozen=True)
class EncodeResult:
    """A verified file.

    bits: coded pictures without container; file_bytes: size on disk; pictures: read-back per picture; commands: with
    the pieces beside the output;
    moved_cells, clipped_cells: blocks of the map that had to be lowered to be legal; seconds: wall time.
    """

    output: Path
    encoder: str
    encoder_version: str
    preset: str
    n_frames: int
    bits: int
    file_bytes: int
    pictures: tuple[PictureRecord, ...] = field(repr=False)
    commands: tuple[tuple[str, ...], ...] = field(repr=False)
    moved_cells: int
    clipped_cells: int
    seconds: float


@dataclass(frozen=True)
class EncodeOptions:
    """How to encode.

    preset: None for the encoder's default. workers: parallel encoder processes, 0 for one per core.
    segmented: one process per segment even where the encoder could change its QP from frame to frame, so that
    a segment's piece is the same bits alone (as a probe) and in the whole, and all cores are busy.
    """

    preset: str | None = None
    coding: CodingType = "inter"
    workers: int = 0
    segmented: bool = True

    @property
    def n_workers(self) -> int:
        return self.workers or os.cpu_count() or 1


def pixel_format(capabilities: Capabilities) -> PixelFormat:
    """The raw format that is piped into an encoder: 10 bit where it takes that."""
    return "yuv420p10le" if "yuv420p10le" in capabilities.pixel_formats else "yuv420p"


def encode(
    plan: EncodePlan,
    source: FrameSource,
    encoder: Encoder,
    output: Path,
    timing: Timing,
    options: EncodeOptions,
    companions: Companions | None = None,
    on_frames: Callable[[int], None] | None = None,
) -> EncodeResult:
    """Encode all frames of `source` as `plan` says and put the verified file at `output` (replacing it).

    on_frames: called with the number of frames that were just finished.
    Raises UnsupportedError before anything starts, EncoderError, MapHadNoEffectError, VerificationError,
    OutputError. Whatever happens, `output` is either the old file or the complete new one, and no
    temporary file and no process stays behind.
    """
    started = time.monotonic()
    capabilities = encoder.capabilities()
    check_suffix(output, encoder)
    legal = legal_plan(plan, source, encoder)
    with work_folder(output) as folder:
        with guarded_group() as group:
            prove_map(legal.plan, source, encoder, folder, options, group)
        coded = encode_pieces(legal.plan, source, encoder, folder, options, on_frames)
        assembled = assemble(coded, encoder, output, timing, folder, companions)
    return EncodeResult(
        output=output,
        encoder=encoder.name,
        encoder_version=capabilities.version,
        preset=options.preset or encoder.default_preset,
        n_frames=plan.n_frames,
        bits=assembled.bits,
        file_bytes=assembled.file_bytes,
        pictures=tuple(picture for job in coded for picture in job.pictures),
        commands=tuple(beside(job.argv, job.piece.parent, output) for job in coded),
        moved_cells=legal.moved_cells,
        clipped_cells=legal.clipped_cells,
        seconds=time.monotonic() - started,
    )


@dataclass(frozen=True)
class AssembledFile:
    """A joined and verified file: bits of its coded pictures, bytes on disk."""

    bits: int
    file_bytes: int


def assemble(
    coded: Sequence[CodedJob],
    encoder: Encoder,
    output: Path,
    timing: Timing,
    folder: Path,
    companions: Companions | None = None,
) -> AssembledFile:
    """Join finished pieces, in order, decode the result, count its frames, and rename it to `output`.

    folder: a private one on the same file system as `output`. Raises EncoderError, VerificationError,
    OutputError.
    """
    final = folder / f"final{output.suffix.lower()}"
    with guarded_group() as group:
        bits = join([job.piece for job in coded], encoder, final, timing, companions or Companions(), folder, group)
    require_frames(final, coded[-1].segments[-1].stop, output)
    size = final.stat().st_size
    final.replace(output)
    return AssembledFile(bits, size)


@dataclass(frozen=True)
class LegalPlan:
    """A plan that the encoder can carry out, and how many blocks of its map were lowered or clipped for that."""

    plan: EncodePlan
    moved_cells: int = 0
    clipped_cells: int = 0


def legal_plan(plan: EncodePlan, source: FrameSource, encoder: Encoder) -> LegalPlan:
    """The plan with a legal map. Raises UnsupportedError and InputError for what cannot be done at all."""
    capabilities = encoder.capabilities()
    capabilities.require_plan(plan)
    if plan.n_frames != source.n_frames:
        raise InputError(f"plan: covers {plan.n_frames} frames, the source has {source.n_frames}")
    if plan.qp_map is None:
        return LegalPlan(plan)
    size, wanted = (plan.qp_map.width, plan.qp_map.height), (source.format.width, source.format.height)
    if size != wanted:
        raise InputError(f"QP map: made for {size[0]}x{size[1]}, the source is {wanted[0]}x{wanted[1]}")
    from codec_wrappers.qpmap_legal import legalise

    qp_map = plan.qp_map.resampled(capabilities.block_size)
    rules = encoder.map_rules()
    if rules is None:
        return LegalPlan(replace(plan, qp_map=qp_map))
    legal = legalise(qp_map, rules)
    return LegalPlan(replace(plan, qp_map=legal.map), legal.moved, legal.clipped)


def prove_map(
    plan: EncodePlan,
    source: FrameSource,
    encoder: Encoder,
    folder: Path,
    options: EncodeOptions,
    group: ProcessGroup | None = None,
) -> None:
    """See `mapproof.prove_map_acts`; nothing to do without a map. Raises MapHadNoEffectError."""
    if plan.qp_map is None:
        return
    from codec_wrappers.mapproof import prove_map_acts

    preset = options.preset or encoder.default_preset
    prove_map_acts(plan, source, encoder, preset, pixel_format(encoder.capabilities()), folder, group)


@contextmanager
def guarded_group() -> Iterator[ProcessGroup]:
    """Processes started inside die when the block is left by an exception (Ctrl-C included)."""
    group = ProcessGroup()
    try:
        yield group
    except BaseException:
        group.close()
        raise


def jobs_of(plan: EncodePlan, frame_qp: bool) -> tuple[tuple[Segment, ...], ...]:
    """The plan's segments, grouped into encoder processes: all in one where QPs can change from frame to
    frame, else one process each."""
    return (plan.segments,) if frame_qp else tuple((segment,) for segment in plan.segments)


def encode_pieces(
    plan: EncodePlan,
    source: FrameSource,
    encoder: Encoder,
    folder: Path,
    options: EncodeOptions,
    on_frames: Callable[[int], None] | None = None,
) -> list[CodedJob]:
    """Code a plan's segments into MP4 pieces in `folder`, in parallel, longest first; in order of frames.

    The map must be legal already. The pieces do not depend on the number of workers: each process has one
    thread. The first failure kills all others and is raised.
    """
    capabilities = encoder.capabilities()
    preset = options.preset or encoder.default_preset
    capabilities.require_preset(preset)
    groups = jobs_of(plan, capabilities.frame_qp and not options.segmented)
    order = sorted(range(len(groups)), key=lambda i: groups[i][0].start - groups[i][-1].stop)
    with guarded_group() as processes, ThreadPoolExecutor(options.n_workers) as pool:

        def run(index: int) -> CodedJob:
            work = folder / f"job{index:05d}"
            work.mkdir()
            job = _job(groups[index], plan.qp_map, source, capabilities, preset, options.coding, work)
            coded = _run_job(job, groups[index], source, encoder, processes)
            if on_frames is not None:
                on_frames(job.n_frames)
            return coded

        futures = {index: pool.submit(run, index) for index in order}
        try:
            done, _ = wait(futures.values(), return_when=FIRST_EXCEPTION)
            failed = [future for future in done if future.exception() is not None]
            if failed:
                raise failed[0].exception() or EncoderError(encoder.name)
        except BaseException:
            # Before the pool's exit waits for its threads: nothing new starts, what runs is killed.
            for future in futures.values():
                future.cancel()
            processes.close()
            raise
        return [futures[index].result() for index in range(len(groups))]


def encode_segment(
    segment: Segment,
    source: FrameSource,
    encoder: Encoder,
    work_dir: Path,
    options: EncodeOptions,
    group: ProcessGroup | None = None,
    qp_map: QPMap | None = None,
) -> CodedJob:
    """Code one segment alone, exactly as a segmented `encode` of the whole would; `work_dir` is made.

    qp_map: a legal map of the whole clip (or one for all frames), see `legal_plan`.
    """
    job = _segment_job(segment, source, encoder, work_dir, options, qp_map)
    work_dir.mkdir()
    return _run_job(job, (segment,), source, encoder, group)


def segment_command(
    segment: Segment,
    source: FrameSource,
    encoder: Encoder,
    work_dir: Path,
    options: EncodeOptions,
    qp_map: QPMap | None = None,
) -> tuple[str, ...]:
    """The command line of `encode_segment`; nothing is started or made."""
    return encoder.command(_segment_job(segment, source, encoder, work_dir, options, qp_map)).argv


def _segment_job(
    segment: Segment, source: FrameSource, encoder: Encoder, work: Path, options: EncodeOptions, qp_map: QPMap | None
) -> EncodeJob:
    """Raises UnsupportedError."""
    capabilities = encoder.capabilities()
    capabilities.require_qp(segment.qp)
    preset = options.preset or encoder.default_preset
    capabilities.require_preset(preset)
    return _job((segment,), qp_map, source, capabilities, preset, options.coding, work)


def _job(
    segments: tuple[Segment, ...],
    qp_map: QPMap | None,
    source: FrameSource,
    capabilities: Capabilities,
    preset: str,
    coding: CodingType,
    work: Path,
) -> EncodeJob:
    first, stop = segments[0].start, segments[-1].stop
    part = qp_map.crop_frames(first, stop) if qp_map is not None and qp_map.n_frames > 1 else qp_map
    return EncodeJob(
        format=source.format,
        pix_fmt=pixel_format(capabilities),
        segments=tuple(Segment(s.start - first, s.stop - first, s.qp) for s in segments),
        preset=preset,
        coding=coding,
        output=work / "piece.mp4",
        work_dir=work,
        qp_map=part,
    )


def _run_job(
    job: EncodeJob, segments: tuple[Segment, ...], source: FrameSource, encoder: Encoder, group: ProcessGroup | None
) -> CodedJob:
    """Run one encoder process to its end and read back what it did. Raises EncoderError."""
    command = encoder.command(job)
    for name, content in command.files.items():
        (job.work_dir / name).write_bytes(content)
    first = segments[0].start
    try:
        result = run_process(
            command.argv,
            stdin=source.read(first, first + job.n_frames, job.pix_fmt),
            timeout_s=job.timeout_s,
            cwd=job.work_dir,
            group=group,
            explain=command.explain,
        )
    except EncoderError as error:
        # libvvenc gives up on noise at QP 0, for one: the user has to know where.
        qps = ", ".join(str(qp) for qp in sorted({segment.qp for segment in segments}))
        where = f"{encoder.name} on frames {first}..{segments[-1].stop - 1} at QP {qps}"
        raise type(error)(f"{where}: {error}") from error
    coded = coded_piece(job.output)
    if coded.n_pictures != job.n_frames:
        # VVenC 1.15 with `poc0idr` and one thread ends some segments after their first picture; two threads do not.
        if encoder.name == "vvenc" and job.threads == 1:
            return _run_job(replace(job, threads=2), segments, source, encoder, group)
        # libvvenc inside ffmpeg can fail with exit 0 and an empty file or none.
        raise EncoderError(
            f"{encoder.name}: exit 0 but coded {coded.n_pictures} of {job.n_frames} pictures; {result.log[-300:]!r}"
        )
    records = encoder.read_back(job, result.log)
    return CodedJob(
        segments=segments,
        piece=job.output,
        pictures=tuple(replace(record, index=record.index + first) for record in records),
        bits=coded.bits,
        argv=command.argv,
        seconds=result.seconds,
    )


def flat_timing(n_frames: int, frame_rate: Fraction) -> Timing:
    """Timing of frames at a constant rate from 0 on."""
    return Timing(1 / frame_rate, range(n_frames))
