"""The main job: a picture or a clip in, a file out that meets the target in few bits, and a report."""

from __future__ import annotations

import math
import os
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.encoder import Encoder, get_encoder
from codec_wrappers.errors import InputError, MissingToolError, TargetMissedError
from codec_wrappers.join import Companions, Timing, check_companions, check_suffix
from codec_wrappers.pipeline import CodedJob, EncodeOptions, assemble, guarded_group, legal_plan, prove_map
from codec_wrappers.plan import EncodePlan, Segment
from codec_wrappers.process import ProcessGroup
from codec_wrappers.workfolder import work_folder
from vcm_ratecontrol.media import Clip, open_clip
from vcm_ratecontrol.outputs import check_output
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.ratecontrol.measured import MAX_PROBES, SegmentChoice, Target, choose_all
from vcm_ratecontrol.ratecontrol.pieces import Pieces
from vcm_ratecontrol.ratecontrol.probe_cache import ProbeCache, content_hash
from vcm_ratecontrol.ratecontrol.probing import Prober
from vcm_ratecontrol.report import AnchorReport, EncodeReport, SegmentReport
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, Thresholds
from vcm_ratecontrol.scoring import Tasks, clip_smr

if TYPE_CHECKING:
    from codec_wrappers.qpmap import QPMap
    from vcm_ratecontrol.machines.library import LibraryRef, MachineLibrary
    from vcm_ratecontrol.ratecontrol.probing import Probe

# The anchor of the summary: QP 22 is the finest of the common test conditions of MPEG and JVET.
ANCHOR_QP = 22
# A clip's anchor is coded on this many segments, evenly spread: at QP 22 it costs more than the encode itself.
ANCHOR_SEGMENTS = 4

OnEvent = Callable[..., None]


@dataclass(frozen=True)
class EncodeRequest:
    """What to encode, and how.

    target: SMR to meet, or None with a fixed `qp`. qp_map: file of a QP map (.npz, .png, or a ROI file relative
    to `qp`), for encoders with block QPs; only with `qp`. machines: the library that measures, needed with a target.
    codec: an encoder's name or alias ('vvc', 'hevc', 'hevc-kvazaar', 'av1'). executable: a program to use in
    place of the bundled library. segment_seconds: longest segment of a clip. frames_per_segment: frames that
    are measured in each. cache: folder of probe results, None for none. anchor: also code the QP-22 anchor.
    strict: raise TargetMissedError instead of writing the best effort. workers: 0 for one per core.
    """

    input: Path
    output: Path
    target: Target | None = None
    qp: int | None = None
    qp_map: Path | None = None
    machines: LibraryRef | None = None
    thresholds: Thresholds = DEFAULT_THRESHOLDS
    codec: str = "vvc"
    executable: Path | None = None
    preset: str | None = None
    segment_seconds: float = 2.0
    frames_per_segment: int = 2
    max_probes: int = MAX_PROBES
    workers: int = 0
    cache: Path | None = None
    anchor: bool = True
    strict: bool = False
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class _Job:
    """A checked request with everything opened."""

    request: EncodeRequest
    clip: Clip
    encoder: Encoder
    options: EncodeOptions
    qp_range: tuple[int, int]
    notes: list[str] = field(default_factory=list)


def encode_file(request: EncodeRequest, progress: Progress = SILENT, on_event: OnEvent | None = None) -> EncodeReport:
    """Encode one file. The output is written only when it is complete and verified.

    on_event: called with an event's name and its fields ('segments', 'probe', 'segment').
    Raises InputError, OutputError, UnsupportedError, MissingToolError, EncoderError, VerificationError, and
    TargetMissedError when `strict`.
    """
    started = time.monotonic()
    emit = on_event or (lambda event, **fields: None)
    progress.phase("analysis")
    job = _checked(request)
    # Before the clip is gone through: a machine that is broken is told at once.
    library = request.machines.open() if request.target is not None and request.machines is not None else None
    segments = _segments(job, progress)
    emit("segments", count=len(segments), frames=job.clip.n_frames)
    with work_folder(request.output) as folder, guarded_group() as group:
        if request.target is not None:
            assert library is not None
            pieces = Pieces(job.clip, job.encoder, job.options, folder / "pieces", group)
            choices = _measure(job, request.target, library, segments, pieces, progress, emit)
        else:
            assert request.qp is not None
            choices = [SegmentChoice(Segment(s.start, s.stop, request.qp), None, None, 0) for s in segments]
            qp_map = _legal_map(job, [choice.segment for choice in choices], folder, group)
            pieces = Pieces(job.clip, job.encoder, job.options, folder / "pieces", group, qp_map)
        _check_reached(request, choices)
        return _finish(job, choices, pieces, folder, progress, started)


def _checked(request: EncodeRequest) -> _Job:
    if (request.target is None) == (request.qp is None):
        raise InputError("give either --target-smr or --qp")
    if request.qp_map is not None and request.qp is None:
        raise InputError(f"--qp-map {request.qp_map}: give the QP of the pictures with --qp, too")
    if request.target is not None and not 0.0 <= request.target.smr <= 1.0:
        raise InputError(f"--target-smr {request.target.smr}: must lie in 0..1")
    encoder = get_encoder(request.codec, request.executable)
    capabilities = encoder.capabilities()
    preset = request.preset or encoder.default_preset
    capabilities.require_preset(preset)
    if request.qp is not None:
        capabilities.require_qp(request.qp)
    clip = open_clip(request.input)
    check_output(request.input, request.output, request.overwrite)
    check_suffix(request.output, encoder)
    if clip.kind == "video":
        check_companions(clip.path, request.output)
    if request.target is not None and request.machines is None:
        raise MissingToolError("--target-smr needs machines to measure with: give --machines DIR")
    coding = "still" if clip.kind == "still" else "inter"
    workers = request.workers or os.cpu_count() or 1
    options = EncodeOptions(preset, "still" if coding == "still" else "inter", workers, segmented=True)
    job = _Job(request, clip, encoder, options, (capabilities.qp_min, capabilities.qp_max))
    if clip.has_audio and request.output.suffix.lower() in (".266", ".265", ".obu", ".vvc", ".hevc"):
        job.notes.append("a raw stream holds pictures only: audio and timestamps are left out")
    return job


def _legal_map(job: _Job, segments: Sequence[Segment], folder: Path, group: ProcessGroup) -> QPMap | None:
    """The map that was asked for, legal for the encoder and proven to act; None without one."""
    request, clip = job.request, job.clip
    if request.qp_map is None or request.qp is None:
        return None
    from codec_wrappers.qpmap_io import RoiContext, read_qpmap

    qp_map = read_qpmap(request.qp_map, RoiContext(request.qp, clip.width, clip.height))
    legal = legal_plan(EncodePlan(tuple(segments), qp_map), clip, job.encoder)
    if legal.moved_cells or legal.clipped_cells:
        job.notes.append(
            f"QP map: {legal.clipped_cells} blocks clipped to the encoder's range, {legal.moved_cells} lowered"
            " because of jumps"
        )
    prove_map(legal.plan, clip, job.encoder, folder, job.options, group)
    return legal.plan.qp_map


def _segments(job: _Job, progress: Progress) -> tuple[range, ...]:
    from vcm_ratecontrol.media.analysis import fan_out
    from vcm_ratecontrol.media.segments import SceneCuts, segments_from_cuts

    clip = job.clip
    longest = job.request.segment_seconds
    if clip.kind == "still":
        return (range(1),)
    shortest = min(0.5, longest / 2)
    cuts = SceneCuts(clip, shortest)
    progress.phase("analysis", clip.n_frames)
    fan_out(clip, [cuts], on_frame=lambda done, total: progress.advance(1))
    return segments_from_cuts(clip, cuts.cuts, longest, shortest)


def _measure(
    job: _Job,
    target: Target,
    library: MachineLibrary,
    segments: Sequence[range],
    pieces: Pieces,
    progress: Progress,
    emit: OnEvent,
) -> list[SegmentChoice]:
    """Search all segments with the machines of a library."""
    from vcm_ratecontrol.scoring import MachineRoom

    request = job.request
    progress.phase("probing", len(segments))

    def on_probe(probe: Probe) -> None:
        segment = probe.segment
        value = probe.smr(target.task)
        emit("probe", start=segment.start, stop=segment.stop, qp=segment.qp, smr=value, bits=probe.bits)

    def on_segment(choice: SegmentChoice) -> None:
        segment = choice.segment
        smr = choice.probe.smr(target.task) if choice.probe else None
        emit("segment", start=segment.start, stop=segment.stop, qp=segment.qp, smr=smr, reached=choice.reached)
        progress.advance(1)

    with MachineRoom(library, job.options.n_workers) as room:
        content = content_hash(request.input)
        cache = ProbeCache(request.cache)
        prober = Prober(pieces, room, request.thresholds, cache, content, request.frames_per_segment)
        choices = choose_all(
            segments, prober, target, job.qp_range, job.options.n_workers, on_probe, on_segment, request.max_probes
        )
    empty = sum(choice.search is None for choice in choices)
    if empty:
        what = "segment" if job.clip.kind == "video" else "picture"
        job.notes.append(
            f"{empty} {what}(s) without a valid machine: nothing to recognise, coded at the mean curve's QP"
        )
    return choices


def _check_reached(request: EncodeRequest, choices: Sequence[SegmentChoice]) -> None:
    missed = [choice for choice in choices if not choice.reached]
    if missed and request.strict and request.target is not None:
        best = min(choice.search.smr for choice in missed if choice.search is not None)
        raise TargetMissedError(
            f"{request.input}: SMR {request.target.smr} is not reached in {len(missed)} of {len(choices)} segments"
            f" (worst {best:.3f} at the best QP); lower the target, or leave out --strict for the best effort"
        )


def _finish(
    job: _Job,
    choices: Sequence[SegmentChoice],
    pieces: Pieces,
    folder: Path,
    progress: Progress,
    started: float,
) -> EncodeReport:
    request, clip = job.request, job.clip
    if request.dry_run:
        planned = [pieces.planned(c.segment, c.probe.bits if c.probe else 0) for c in choices]
        return _report(job, choices, planned, None, 0, time.monotonic() - started)
    progress.phase("encoding", len(choices))
    coded = run_parallel(
        [choice.segment for choice in choices], pieces, job.options.n_workers, lambda: progress.advance(1)
    )
    progress.phase("finishing")
    flat = Pieces(clip, job.encoder, job.options, folder / "anchor", pieces.group)
    anchor = _anchor(job, coded, flat) if request.anchor else None
    timing = Timing(clip.time_base, clip.pts)
    size = assemble(coded, job.encoder, request.output, timing, folder, companions_of(clip)).file_bytes
    return _report(job, choices, coded, anchor, size, time.monotonic() - started)


def companions_of(clip: Clip) -> Companions:
    """What belongs to a coded clip beside its pictures: sound, how to show it, its size without padding."""
    rotation, mirrored, matrix = clip.rotation, False, clip.display_matrix
    if matrix is not None and matrix[0] * matrix[4] < matrix[1] * matrix[3]:
        # It mirrors: what turns is left when x is negated again.
        rotation, mirrored = round(-math.degrees(math.atan2(matrix[1], -matrix[0]))), True
    return Companions(
        source=clip.path if clip.kind == "video" else None,
        rotation=rotation,
        mirrored=mirrored,
        sample_aspect_ratio=clip.sample_aspect_ratio,
        tag={"width": clip.width, "height": clip.height},
    )


def run_parallel(
    segments: Sequence[Segment], pieces: Pieces, workers: int, on_done: Callable[[], None]
) -> list[CodedJob]:
    """Code segments in parallel, longest first; those that a probe has coded are there already."""
    order = sorted(range(len(segments)), key=lambda i: -segments[i].n_frames)

    def run(index: int) -> CodedJob:
        coded = pieces.get(segments[index])
        on_done()
        return coded

    with ThreadPoolExecutor(workers) as pool:
        futures = {index: pool.submit(run, index) for index in order}
        try:
            return [futures[index].result() for index in range(len(segments))]
        except BaseException:
            for future in futures.values():
                future.cancel()
            pieces.group.close()
            raise


def _anchor(job: _Job, coded: Sequence[CodedJob], pieces: Pieces) -> AnchorReport:
    """Code evenly spread segments at the anchor QP and compare the bits of just these."""
    count = min(ANCHOR_SEGMENTS, len(coded))
    chosen = [coded[(2 * k + 1) * len(coded) // (2 * count)] for k in range(count)]
    at_anchor = [Segment(c.segments[0].start, c.segments[-1].stop, ANCHOR_QP) for c in chosen]
    anchors = run_parallel(at_anchor, pieces, job.options.n_workers, lambda: None)
    bits, anchor_bits = sum(c.bits for c in chosen), sum(a.bits for a in anchors)
    return AnchorReport(ANCHOR_QP, count, anchor_bits, 1.0 - bits / anchor_bits)


def _report(
    job: _Job,
    choices: Sequence[SegmentChoice],
    coded: Sequence[CodedJob],
    anchor: AnchorReport | None,
    file_bytes: int,
    seconds: float,
) -> EncodeReport:
    request, clip, target = job.request, job.clip, job.request.target
    task = target.task if target else "both"
    segments = tuple(_segment_report(c, piece, task) for c, piece in zip(choices, coded, strict=True))
    overall = clip_smr([frame for c in choices if c.probe for frame in c.probe.frames], task)
    return EncodeReport(
        mode="measured" if target else "fixed",
        input=request.input,
        output=request.output,
        encoder=job.encoder.name,
        encoder_version=job.encoder.capabilities().version,
        preset=job.options.preset or job.encoder.default_preset,
        width=clip.width,
        height=clip.height,
        n_frames=clip.n_frames,
        duration=float(clip.duration),
        target=target.smr if target else None,
        task=target.task if target else None,
        smr=overall.mean,
        smr_min=overall.minimum,
        reached=all(choice.reached for choice in choices),
        segments=segments,
        bits=sum(piece.bits for piece in coded),
        file_bytes=file_bytes,
        anchor=anchor,
        probes=sum(choice.probes for choice in choices),
        seconds=seconds,
        notes=tuple(job.notes),
        commands=tuple(piece.argv for piece in coded),
    )


def _segment_report(choice: SegmentChoice, piece: CodedJob, task: Tasks) -> SegmentReport:
    measured = clip_smr(choice.probe.frames, task) if choice.probe else None
    intra = next((picture.qp for picture in piece.pictures if picture.kind == "I"), None)
    return SegmentReport(
        start=choice.segment.start,
        stop=choice.segment.stop,
        qp=choice.segment.qp,
        intra_qp=intra,
        smr=measured.mean if measured else None,
        smr_min=measured.minimum if measured else None,
        bits=piece.bits,
        probes=choice.probes,
        reached=choice.reached,
    )
