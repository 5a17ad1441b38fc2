"""Per-object coding of one file: objects -> levels -> a map, rectangles or pre-coded layers -> a verified file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

from codec_wrappers.capabilities import Capabilities
from codec_wrappers.encoder import Encoder, get_encoder
from codec_wrappers.errors import EncoderError
from codec_wrappers.join import check_companions, check_suffix
from codec_wrappers.pipeline import EncodeOptions, EncodeResult, encode_segment, guarded_group
from codec_wrappers.plan import Segment
from codec_wrappers.workfolder import work_folder
from vcm_ratecontrol.encoding import ANCHOR_QP, ANCHOR_SEGMENTS
from vcm_ratecontrol.jrd.analysis import ClipLevels, clip_levels
from vcm_ratecontrol.jrd.coding import Method, code_map, method_of, planned, pooled
from vcm_ratecontrol.jrd.layers import BLOCK_SIZE
from vcm_ratecontrol.jrd.maps import background_qp_of, qp_map_of
from vcm_ratecontrol.jrd.sources import Finders, JRDSettings, open_finders, read_boxes
from vcm_ratecontrol.jrd.verify import LostObject, lost_objects
from vcm_ratecontrol.media import Clip, cut_segments, open_clip
from vcm_ratecontrol.media.segments import FRAMES_PER_SEGMENT, SEGMENT_SECONDS
from vcm_ratecontrol.outputs import check_output
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.ratecontrol.parallel import in_parallel
from vcm_ratecontrol.report import AnchorReport
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, Thresholds

if TYPE_CHECKING:
    from vcm_ratecontrol.jrd.object_file import BoxesFile
    from vcm_ratecontrol.machines.library import LibraryRef, MachineLibrary

OnEvent = Callable[..., None]


@dataclass(frozen=True)
class JRDRequest:
    """What to code per object, and how; the fields that it shares with `request.EncodeRequest` mean the same.

    verify: a library that looks at the result and lists what it lost; frames_per_segment: of a clip, for it.
    """

    input: Path
    output: Path
    settings: JRDSettings
    codec: str = "vvc"
    executable: Path | None = None
    preset: str | None = None
    segment_seconds: float = SEGMENT_SECONDS
    workers: int = 0
    verify: LibraryRef | None = None
    thresholds: Thresholds = DEFAULT_THRESHOLDS
    frames_per_segment: int = FRAMES_PER_SEGMENT
    anchor: bool = True
    overwrite: bool = False
    dry_run: bool = False


@dataclass(frozen=True)
class JRDReport:
    """A finished per-object encode, or a planned one (no bits then, and no bytes).

    method: how the encoder was made to code objects finer. qp_levels: QPs in use, rising; lowest_qp: of the most
    fragile object, None when there is none. object_share: of the blocks, 0..1. objects: boxes found on the frames
    looked at. lost: what the result lost, None when nobody looked; checked: objects that were looked for.
    """

    input: Path
    output: Path
    encoder: str
    encoder_version: str
    preset: str
    width: int
    height: int
    n_frames: int
    duration: float
    ratio: float
    method: Method
    qp_levels: tuple[int, ...]
    lowest_qp: int | None
    background_qp: int
    object_share: float
    objects: int
    looked: int
    segments: int
    bits: int | None
    file_bytes: int | None
    seconds: float
    anchor: AnchorReport | None = None
    lost: tuple[LostObject, ...] | None = None
    checked: int = 0
    notes: tuple[str, ...] = ()
    commands: tuple[tuple[str, ...], ...] = field(default=(), repr=False)

    @property
    def bits_per_pixel(self) -> float | None:
        """Bits per pixel over all frames; None for a plan."""
        return None if self.bits is None else self.bits / (self.width * self.height * self.n_frames)

    @property
    def kilobits_per_second(self) -> float | None:
        """Rate in 1000 bits per second, None for a still, and for a plan."""
        return None if self.bits is None or self.n_frames == 1 else self.bits / self.duration / 1000.0


@dataclass(frozen=True)
class _Job:
    """A checked request with everything opened."""

    request: JRDRequest
    clip: Clip
    encoder: Encoder
    options: EncodeOptions
    capabilities: Capabilities
    background_qp: int


@dataclass(frozen=True)
class Opened:
    """What the files of a job share. verifier: looks at the results, None where nobody does."""

    finders: Finders
    verifier: MachineLibrary | None


@contextmanager
def opened_for(request: JRDRequest, boxes: BoxesFile | None) -> Iterator[Opened]:
    """Open it, for as long as the block lasts. boxes: of `sources.read_boxes`. Raises InputError, MissingToolError."""
    with open_finders(request.settings, boxes) as finders:
        verifier = None
        if request.verify is not None:
            room = finders.room
            verifier = room.library if room and request.verify == request.settings.machines else request.verify.open()
        yield Opened(finders, verifier)


def encode_jrd(
    request: JRDRequest,
    progress: Progress = SILENT,
    on_event: OnEvent | None = None,
    opened: Opened | None = None,
) -> JRDReport:
    """Code one file per object. The output is written only when it is complete and verified.

    on_event: called with an event's name and its fields ('objects', 'segments', 'lost'). opened: of `opened_for`, to be
    used again; None: opened here.
    Raises InputError, OutputError, UnsupportedError, MissingToolError, EncoderError, MapHadNoEffectError,
    VerificationError.
    """
    started = time.monotonic()
    progress.phase("analysis")
    boxes = None if opened else read_boxes(request.settings)
    job = _checked(request)
    with ExitStack() as stack:
        shared = opened or stack.enter_context(opened_for(request, boxes))
        return _coded(job, shared, progress, on_event or (lambda event, **fields: None), started)


def _coded(job: _Job, opened: Opened, progress: Progress, emit: OnEvent, started: float) -> JRDReport:
    request, clip, settings = job.request, job.clip, job.request.settings
    block_size = job.capabilities.block_size or BLOCK_SIZE
    source = opened.finders.levels(clip, job.encoder.codec)
    found = clip_levels(clip, source, block_size, settings.looks_per_second, progress)
    emit("objects", objects=found.objects, looked=found.looked, share=found.object_share)
    longest = request.segment_seconds
    segments = cut_segments(clip, longest, min(0.5, longest / 2)) if clip.kind == "video" else (range(1),)
    emit("segments", count=len(segments), frames=clip.n_frames)
    limits = job.capabilities.qp_min, job.capabilities.qp_max
    wanted = qp_map_of(found.levels, clip.width, clip.height, block_size, job.background_qp, limits)
    if settings.pooling is not None:
        wanted = pooled(wanted, segments, job.encoder, job.background_qp, guessed=settings.guessed_in(clip))
    if request.dry_run:
        commands, levels = planned(clip, wanted.map, segments, job.encoder, request.output, job.options)
        return _report(job, found, wanted.notes, None, levels, len(segments), started, commands)
    result, levels = code_map(clip, wanted.map, segments, job.encoder, request.output, job.options, progress)
    notes = list(wanted.notes)
    anchor = _anchor(job, segments, result, notes, progress) if request.anchor else None
    lost: tuple[LostObject, ...] | None = None
    checked = 0
    if opened.verifier is not None:
        lost, checked = lost_objects(
            clip, request.output, opened.verifier, request.thresholds, segments, request.frames_per_segment, progress
        )
        for one in lost:
            emit("lost", **vars(one))
    report = _report(job, found, notes, result, levels, len(segments), started, result.commands)
    return replace(report, anchor=anchor, lost=lost, checked=checked, seconds=time.monotonic() - started)


def encoder_of(request: JRDRequest) -> tuple[Encoder, Capabilities, int]:
    """The encoder, what it can do, and the background's QP. Raises InputError, UnsupportedError, MissingToolError."""
    encoder = get_encoder(request.codec, request.executable)
    capabilities = encoder.capabilities()
    capabilities.require_preset(encoder.default_preset if request.preset is None else request.preset)
    return encoder, capabilities, background_qp_of(request.settings.background_qp, capabilities)


def _checked(request: JRDRequest) -> _Job:
    encoder, capabilities, background = encoder_of(request)
    clip = open_clip(request.input)
    check_output(request.input, request.output, request.overwrite)
    check_suffix(request.output, encoder)
    if clip.kind == "video":
        check_companions(clip.path, request.output)
    options = EncodeOptions(request.preset, "still" if clip.kind == "still" else "inter", request.workers)
    return _Job(request, clip, encoder, options, capabilities, background)


def _anchor(
    job: _Job, segments: Sequence[range], result: EncodeResult, notes: list[str], progress: Progress
) -> AnchorReport | None:
    """The same segments, evenly spread ones of a clip, flat at the anchor QP. The file is written already: an anchor
    that cannot be coded is a note."""
    if not result.pictures:
        return None  # an encoder that does not tell the bits of pictures
    progress.phase("anchor")
    count = min(ANCHOR_SEGMENTS, len(segments))
    chosen = [segments[(2 * k + 1) * len(segments) // (2 * count)] for k in range(count)]
    try:
        with work_folder(job.request.output) as folder, guarded_group() as group:

            def run(segment: range) -> int:
                flat, place = Segment(segment.start, segment.stop, ANCHOR_QP), folder / f"anchor{segment.start:07d}"
                return encode_segment(flat, job.clip, job.encoder, place, job.options, group).bits

            coded = in_parallel(run, chosen, job.options.n_workers, group.close)
    except EncoderError as error:
        notes.append(f"no saving is told, as the anchor at QP {ANCHOR_QP} could not be coded: {error}")
        return None
    anchor_bits = sum(coded.values())
    frames = {frame for one in chosen for frame in one}
    bits = sum(picture.bits for picture in result.pictures if picture.index in frames)
    return AnchorReport(ANCHOR_QP, count, anchor_bits, 1.0 - bits / anchor_bits)


def _report(
    job: _Job,
    found: ClipLevels,
    notes: Sequence[str],
    result: EncodeResult | None,
    levels: tuple[int, ...],
    n_segments: int,
    started: float,
    commands: tuple[tuple[str, ...], ...],
) -> JRDReport:
    clip = job.clip
    told = [*found.notes, *notes]
    if result is not None and result.moved_cells:
        told.append(f"{result.moved_cells} blocks lowered because the encoder cannot jump so far between QPs")
    if job.encoder.codec == "av1":
        told.append("levels are those of VVC, QP for QP: no labels of AV1 were made")
    return JRDReport(
        input=job.request.input,
        output=job.request.output,
        encoder=job.encoder.name,
        encoder_version=job.capabilities.version,
        preset=job.options.preset or job.encoder.default_preset,
        width=clip.width,
        height=clip.height,
        n_frames=clip.n_frames,
        duration=float(clip.duration),
        ratio=job.request.settings.ratio,
        method=method_of(job.encoder),
        qp_levels=levels,
        lowest_qp=min(levels) if levels and found.lowest is not None else None,
        background_qp=job.background_qp,
        object_share=found.object_share,
        objects=found.objects,
        looked=found.looked,
        segments=n_segments,
        bits=result.bits if result else None,
        file_bytes=result.file_bytes if result else None,
        seconds=time.monotonic() - started,
        notes=tuple(told),
        commands=commands,
    )
