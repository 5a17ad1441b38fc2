"""The main job: pictures and clips in, files out that meet the target in few bits, and reports."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.encoder import Encoder, get_encoder
from codec_wrappers.errors import EncoderError, TargetMissedError
from codec_wrappers.join import Timing, check_companions, check_suffix
from codec_wrappers.pipeline import CodedJob, EncodeOptions, assemble, guarded_group, legal_plan, prove_map
from codec_wrappers.plan import EncodePlan, Segment
from codec_wrappers.process import ProcessGroup
from codec_wrappers.workfolder import beside, work_folder
from vcm_ratecontrol.media import Clip, open_clip
from vcm_ratecontrol.outputs import check_output, companions_of
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.ratecontrol.deciding import Decider, OnEvent, Source
from vcm_ratecontrol.ratecontrol.judges import Judges, open_judges
from vcm_ratecontrol.ratecontrol.measured import SegmentChoice
from vcm_ratecontrol.ratecontrol.parallel import in_parallel
from vcm_ratecontrol.ratecontrol.pieces import Pieces
from vcm_ratecontrol.ratecontrol.planning import Curves, Target
from vcm_ratecontrol.report import (
    AnchorReport,
    EncodeReport,
    VerifiedSmr,
    frame_mean,
    predicted_anchor,
    predicted_bits,
    segment_report,
    size_notes,
    total,
    yield_notes,
)
from vcm_ratecontrol.request import EncodeRequest

if TYPE_CHECKING:
    from codec_wrappers.qpmap import QPMap
    from vcm_ratecontrol.scoring import Tasks

__all__ = ["EncodeRequest", "encode_file", "encode_together", "judges_of"]

# The anchor of the summary: QP 22 is the finest of the common test conditions of MPEG and JVET.
ANCHOR_QP = 22
# A clip's anchor is coded on this many segments, evenly spread: at QP 22 it costs more than the encode itself.
ANCHOR_SEGMENTS = 4
# Segments may be this much longer than asked for: 8 seconds at 29.97 per second are else five segments of 48 frames
# instead of four of 60, and each intra picture more costs 7 % of the bits there (`benchmarks.segment_cost`).
SEGMENT_SLACK = 1.1


@dataclass(frozen=True)
class _Job:
    """A checked request with everything opened."""

    request: EncodeRequest
    clip: Clip
    encoder: Encoder
    options: EncodeOptions
    notes: list[str]


@dataclass(frozen=True, eq=False)
class _Decided:
    """The QPs of one job's segments, and what codes them. curves: None where a QP was given."""

    job: _Job
    choices: Sequence[SegmentChoice]
    pieces: Pieces
    folder: Path
    curves: Curves | None = None


def encode_file(request: EncodeRequest, progress: Progress = SILENT, on_event: OnEvent | None = None) -> EncodeReport:
    """Encode one file: see `encode_together`."""
    return encode_together((request,), progress, on_event)[0]


def encode_together(
    requests: Sequence[EncodeRequest],
    progress: Progress = SILENT,
    on_event: OnEvent | None = None,
    judges: Judges | None = None,
) -> tuple[EncodeReport, ...]:
    """Encode files as one job: under `mean` they meet the target together. One report per file, in order.

    requests: equal but for their inputs and outputs. Each output is written only when it is complete and verified.
    on_event: called with an event's name and its fields ('segments', 'probe', 'segment'). judges: of `judges_of`,
    to be used again; None: opened here.
    Raises InputError, OutputError, UnsupportedError, MissingToolError, EncoderError, VerificationError, and
    TargetMissedError when `strict`.
    """
    started = time.monotonic()
    emit = on_event or (lambda event, **fields: None)
    progress.phase("analysis")
    jobs = [_checked(request) for request in requests]
    target = _pooled(jobs)
    with ExitStack() as stack:
        # Before the clips are gone through: a machine that is broken, or absent, is told at once.
        opened = judges or stack.enter_context(judges_of(requests[0]))
        if target is not None:
            opened.require()
        with ThreadPoolExecutor(1) as ahead:
            # Importing torch takes seconds: while the clips are gone through, that costs no time.
            codings = dict.fromkeys(job.options.coding for job in jobs) if target is not None else ()
            curves = [ahead.submit(opened.curves, coding) for coding in codings]
            segments = [_segments(job, progress) for job in jobs]
            for future in curves:
                future.result()
        emit("segments", count=sum(map(len, segments)), frames=sum(job.clip.n_frames for job in jobs))
        folders = [stack.enter_context(work_folder(job.request.output)) for job in jobs]
        group = stack.enter_context(guarded_group())
        if target is not None:
            decided = _decide(jobs, target, segments, folders, group, opened, progress, emit)
        else:
            decided = [_fixed(*parts, group) for parts in zip(jobs, segments, folders, strict=True)]
        _check_reached(decided, target)
        return _finish(decided, target, opened, group, progress, started)


def judges_of(request: EncodeRequest) -> AbstractContextManager[Judges]:
    """Those who judge for a request, for as long as the context lasts. Raises InputError, MissingToolError."""
    codec = get_encoder(request.codec, request.executable).codec
    task: Tasks = request.target.task if request.target else "both"
    needed = request.target is not None or request.verify_smr
    machines = request.machines if needed else None
    return open_judges(codec, task, machines, request.workers or os.cpu_count() or 1, request.weights)


def _checked(request: EncodeRequest) -> _Job:
    request.check()
    encoder = get_encoder(request.codec, request.executable)
    capabilities = encoder.capabilities()
    preset = encoder.default_preset if request.preset is None else request.preset
    capabilities.require_preset(preset)
    if request.qp is not None:
        capabilities.require_qp(request.qp)
    clip = open_clip(request.input)
    check_output(request.input, request.output, request.overwrite)
    check_suffix(request.output, encoder)
    if clip.kind == "video":
        check_companions(clip.path, request.output)
    workers = request.workers or os.cpu_count() or 1
    options = EncodeOptions(preset, "still" if clip.kind == "still" else "inter", workers, segmented=True)
    job = _Job(request, clip, encoder, options, list(request.notes))
    if clip.has_audio and request.output.suffix.lower() in (".266", ".265", ".obu", ".vvc", ".hevc"):
        job.notes.append("a raw stream holds pictures only: audio and timestamps are left out")
    return job


def _pooled(jobs: Sequence[_Job]) -> Target | None:
    """The target with its pool: by default 'each' for one still, 'mean' for all else."""
    target = jobs[0].request.target
    if target is None or target.pool is not None:
        return target
    pooled = replace(target, pool="each" if len(jobs) == 1 and jobs[0].clip.kind == "still" else "mean")
    pooled.check()
    return pooled


def _fixed(job: _Job, segments: Sequence[range], folder: Path, group: ProcessGroup) -> _Decided:
    """All segments at the QP that was given."""
    assert job.request.qp is not None
    chosen = [Segment(s.start, s.stop, job.request.qp) for s in segments]
    qp_map = _legal_map(job, chosen, folder, group)
    pieces = Pieces(job.clip, job.encoder, job.options, folder / "pieces", group, qp_map)
    return _Decided(job, [SegmentChoice(segment, True, None, 0) for segment in chosen], pieces, folder)


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
    longest = job.request.segment_seconds * SEGMENT_SLACK
    if clip.kind == "still":
        return (range(1),)
    shortest = min(0.5, longest / 2)
    cuts = SceneCuts(clip, shortest)
    progress.phase("analysis", clip.n_frames)
    fan_out(clip, [cuts], on_frame=lambda done, total: progress.advance(1))
    return segments_from_cuts(clip, cuts.cuts, longest, shortest)


def _decide(
    jobs: Sequence[_Job],
    target: Target,
    segments: Sequence[tuple[range, ...]],
    folders: Sequence[Path],
    group: ProcessGroup,
    judges: Judges,
    progress: Progress,
    emit: OnEvent,
) -> list[_Decided]:
    sources = [
        Source(parts, Pieces(job.clip, job.encoder, job.options, folder / "pieces", group, yielding=True))
        for job, parts, folder in zip(jobs, segments, folders, strict=True)
    ]
    decision = Decider(jobs[0].request, target, sources, judges, progress, emit).decide()
    decided = []
    for place, job in enumerate(jobs):
        job.notes.extend(decision.notes)
        pieces, folder = sources[place].pieces, folders[place]
        decided.append(_Decided(job, decision.choices[place], pieces, folder, decision.curves[place]))
    return decided


def _check_reached(decided: Sequence[_Decided], target: Target | None) -> None:
    choices = [choice for item in decided for choice in item.choices]
    missed = [choice for choice in choices if not choice.reached]
    request = decided[0].job.request
    if target is None or not missed or not request.strict:
        return
    told = [
        (choice.probe.smr(target.task) if choice.probe else choice.predicted.smr if choice.predicted else None)
        for choice in missed
    ]
    worst = min((value for value in told if value is not None), default=None)
    name = f"{request.input}" if len(decided) == 1 else f"{request.input} and {len(decided) - 1} more"
    found = "" if worst is None else f" (worst {worst:.3f} at the best QP)"
    where = f"in {len(missed)} of {len(choices)} segments" if target.pool == "each" else "in the mean"
    raise TargetMissedError(
        f"{name}: SMR {target.smr} is not reached {where}{found};"
        " lower the target, or leave out --strict for the best effort"
    )


def _finish(
    decided: Sequence[_Decided],
    target: Target | None,
    judges: Judges,
    group: ProcessGroup,
    progress: Progress,
    started: float,
) -> tuple[EncodeReport, ...]:
    if decided[0].job.request.dry_run:
        return tuple(_report(item, target, None, None, None, None, started) for item in decided)
    progress.phase("encoding", sum(len(item.choices) for item in decided))
    wanted = [(place, choice.segment) for place, item in enumerate(decided) for choice in item.choices]
    coded = _code(wanted, [item.pieces for item in decided], progress)
    progress.phase("finishing")
    pieces = [[coded[place, choice.segment] for choice in item.choices] for place, item in enumerate(decided)]
    sizes = [_written(item, parts) for item, parts in zip(decided, pieces, strict=True)]
    reports = []
    for item, parts, size in zip(decided, pieces, sizes, strict=True):
        item.job.notes.extend(yield_notes(item.job.clip.path, item.choices, parts))
        if target is not None:
            item.job.notes.extend(size_notes(item.job.clip.path, size, target.smr))
        verified = _verified(item, judges, progress) if item.job.request.verify_smr else None
        reports.append(_report(item, target, parts, _anchor(item, parts), verified, size, started))
    return tuple(reports)


def _written(item: _Decided, coded: Sequence[CodedJob]) -> int:
    """Join, verify and rename one file; returns its bytes."""
    job, clip = item.job, item.job.clip
    timing = Timing(clip.time_base, clip.pts)
    return assemble(coded, job.encoder, job.request.output, timing, item.folder, companions_of(clip)).file_bytes


def _code(
    wanted: Sequence[tuple[int, Segment]], pieces: Sequence[Pieces], progress: Progress
) -> dict[tuple[int, Segment], CodedJob]:
    """Code segments in parallel, longest first; those that a probe has coded are there already."""

    def run(key: tuple[int, Segment]) -> CodedJob:
        coded = pieces[key[0]].get(key[1])
        progress.advance(1)
        return coded

    order = sorted(wanted, key=lambda key: -key[1].n_frames)
    return in_parallel(run, order, pieces[0].options.n_workers, pieces[0].group.close)


def _anchor(item: _Decided, coded: Sequence[CodedJob]) -> AnchorReport | None:
    """Evenly spread segments at the anchor QP against the bits of just these; predicted where that is enough. All files
    are written already: an anchor that cannot be coded is a note."""
    request, job = item.job.request, item.job
    if request.anchor is False:
        return None
    if request.anchor is None and item.curves is not None and request.mode == "predicted":
        return predicted_anchor(ANCHOR_QP, item.curves, item.choices, [piece.bits for piece in coded])
    count = min(ANCHOR_SEGMENTS, len(coded))
    chosen = [coded[(2 * k + 1) * len(coded) // (2 * count)] for k in range(count)]
    at_anchor = [(0, Segment(c.segments[0].start, c.segments[-1].stop, ANCHOR_QP)) for c in chosen]
    try:
        with guarded_group() as group:
            flat = Pieces(job.clip, job.encoder, job.options, item.folder / "anchor", group)
            anchors = _code(at_anchor, [flat], SILENT)
    except EncoderError as error:
        job.notes.append(f"no saving is told, as the anchor at QP {ANCHOR_QP} could not be coded: {error}")
        return None
    bits, anchor_bits = sum(c.bits for c in chosen), sum(a.bits for a in anchors.values())
    return AnchorReport(ANCHOR_QP, count, anchor_bits, 1.0 - bits / anchor_bits)


def _verified(item: _Decided, judges: Judges, progress: Progress) -> VerifiedSmr:
    """The final file as the machines see it, on about twice as many frames as were looked at: most chose nothing."""
    from vcm_ratecontrol.measure import measure
    from vcm_ratecontrol.media.sampling import sample_indices

    assert judges.room is not None
    request = item.job.request
    ranges = (range(choice.segment.start, choice.segment.stop) for choice in item.choices)
    n_frames = 2 * request.frames_per_segment + 1
    indices = [index for frames in ranges for index in sample_indices(frames, n_frames)]
    measured = measure(
        item.job.clip, open_clip(request.output), judges.room, request.thresholds, indices, progress
    ).smr(request.target.task if request.target else "both")  # fmt: skip
    return VerifiedSmr(measured.mean, measured.minimum, measured.frames)


def _report(
    item: _Decided,
    target: Target | None,
    coded: Sequence[CodedJob] | None,
    anchor: AnchorReport | None,
    verified: VerifiedSmr | None,
    file_bytes: int | None,
    started: float,
) -> EncodeReport:
    """coded: None for a plan."""
    job, request, clip, output = item.job, item.job.request, item.job.clip, item.job.request.output
    task: Tasks = target.task if target else "both"
    pieces = coded if coded is not None else [None] * len(item.choices)
    expected = predicted_bits(item.curves, item.choices)
    parts = zip(item.choices, pieces, expected, strict=True)
    segments = tuple(segment_report(choice, piece, task, bits) for choice, piece, bits in parts)
    return EncodeReport(
        mode=request.mode,
        input=request.input,
        output=output,
        encoder=job.encoder.name,
        encoder_version=job.encoder.capabilities().version,
        preset=job.options.preset or job.encoder.default_preset,
        width=clip.width,
        height=clip.height,
        n_frames=clip.n_frames,
        duration=float(clip.duration),
        target=target.smr if target else None,
        task=target.task if target else None,
        pool=target.pool if target else None,
        floor=target.floor if target else None,
        smr=frame_mean(segments, "smr"),
        smr_min=min((s.smr_min for s in segments if s.smr_min is not None), default=None),
        predicted_smr=frame_mean(segments, "predicted_smr"),
        predicted_low=frame_mean(segments, "predicted_low"),
        predicted_high=frame_mean(segments, "predicted_high"),
        reached=all(choice.reached for choice in item.choices),
        segments=segments,
        bits=total(segment.bits for segment in segments),
        predicted_bits=total(segment.predicted_bits for segment in segments),
        file_bytes=file_bytes,
        anchor=anchor,
        verified=verified,
        probes=sum(choice.probes for choice in item.choices),
        seconds=time.monotonic() - started,
        notes=tuple(job.notes),
        commands=tuple(
            beside(piece.argv, piece.piece.parent, output) if piece else item.pieces.command(choice.segment, output)
            for choice, piece in zip(item.choices, pieces, strict=True)
        ),
    )
