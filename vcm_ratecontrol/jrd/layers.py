"""Per-object quality from encoders without block QPs: everything coarser than the finest object is pre-coded.

The clip is coded at each coarser QP, without loop filters, and decoded; those blocks take the place of the original
in what is coded last, at the QP of the finest objects, which are untouched. What was quantised coarsely has little
left to code. It needs nothing of encoder or decoder, and works on any of them.

Measured on VVenC (docs/jrd.md): filters off in the first coding brings the bits from 22 % to 12 % above an ideal
two-QP coding, as the last coding can predict unfiltered blocks again. Steps matched in units of 6 QPs bring nothing,
a blended border costs 1 to 3 %.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codec_wrappers.color import split_planes
from codec_wrappers.encoder import EncodeCommand, EncodeJob, Encoder, PictureRecord
from codec_wrappers.frames import PixelFormat, VideoFormat
from codec_wrappers.pipeline import EncodeOptions, encode_segment
from codec_wrappers.plan import Segment
from codec_wrappers.process import ProcessGroup
from codec_wrappers.qpmap import QPMap
from codec_wrappers.qpmap_legal import MapRules, legalise

if TYPE_CHECKING:
    from codec_wrappers.capabilities import Capabilities
    from vcm_ratecontrol.media import Clip

BLOCK_SIZE = 32
"""Blocks that are replaced as a whole: half a CTU of VVenC's fast presets, which it splits without much ado."""
MAX_LAYERS = 4
"""QPs of one segment, each of which is one more encode; with three to four nearly all that levels give is there."""
LEAST_STEP = 6
"""QPs that a background must be coarser by to be coded beforehand. With less, what is saved there goes
into coding it twice, and the proof that it acted may fail."""
LOOP_FILTERS_OFF = "LoopFilterDisable=1:SAO=0:ALF=0:CCALF=0"


@dataclass(frozen=True, eq=False)
class SegmentLayers:
    """How a segment is made. qps: rising; the first is that of the last coding. choice: uint8 [frames, rows, cols],
    index of each block's QP."""

    segment: Segment
    qps: tuple[int, ...]
    choice: npt.NDArray[np.uint8]


def segment_layers(frames: range, qp: npt.NDArray[np.int16], max_layers: int = MAX_LAYERS) -> SegmentLayers:
    """The layers of a segment from the QPs of its blocks, int16 [frames, rows, cols].

    More QPs than layers are lowered to some of them, at the least sum lowered.
    """
    n, rows, cols = qp.shape
    tall = QPMap(qp.reshape(1, n * rows, cols), 1, cols, n * rows)
    few = legalise(tall, MapRules(0, 255, max_levels=max_layers)).map.qp.reshape(qp.shape)
    qps = np.unique(few)
    choice = np.searchsorted(qps, few).astype(np.uint8)
    return SegmentLayers(Segment(frames.start, frames.stop, int(qps[0])), tuple(qps.tolist()), choice)


def evened(qp_map: QPMap, segments: Sequence[range], background_qp: int) -> QPMap:
    """The map with the mean of their QPs for all object blocks of a segment, where levels are pooled; and for its
    background too, where that is not coarser by LEAST_STEP.

    What is pre-coded is coded again at the finest QP, the dearer the farther its own lies: twice the step doubles each
    coefficient. Between objects that costs more than their levels gain, between them and the background it does not
    (docs/jrd.md).
    """
    qp = qp_map.qp.copy()
    for segment in segments:
        part = qp[segment.start : segment.stop]
        inside = part < background_qp
        if inside.any():
            mean = round(float(part[inside].mean()))
            part[inside if mean <= background_qp - LEAST_STEP else ...] = mean
    return qp_map.with_qp(qp)


class Unfiltered:
    """An encoder with its loop filters off, where it is known how; else as it is."""

    def __init__(self, inner: Encoder) -> None:
        self._inner = inner
        self.name, self.codec = inner.name, inner.codec
        self.raw_format, self.default_preset = inner.raw_format, inner.default_preset

    def capabilities(self) -> Capabilities:
        return self._inner.capabilities()

    def map_rules(self) -> MapRules | None:
        return self._inner.map_rules()

    def command(self, job: EncodeJob) -> EncodeCommand:
        command = self._inner.command(job)
        return replace(command, argv=tuple(_unfiltered(command.argv)))

    def read_back(self, job: EncodeJob, log: str) -> tuple[PictureRecord, ...]:
        return self._inner.read_back(job, log)


def _unfiltered(argv: Sequence[str]) -> Iterator[str]:
    yield argv[0]
    for before, word in itertools.pairwise(argv):
        yield f"{word}:{LOOP_FILTERS_OFF}" if before in ("-vvenc-params", "--additional") else word


class LayeredSource:
    """A clip with the coarse blocks of its segments pre-coded. A `FrameSource`; segments may be read in parallel."""

    def __init__(
        self,
        clip: Clip,
        plan: Sequence[SegmentLayers],
        encoder: Encoder,
        options: EncodeOptions,
        folder: Path,
        group: ProcessGroup,
    ) -> None:
        """folder: a private one, made here. group: its encoder processes are killed with it."""
        self.clip, self._plan, self._options, self._folder, self._group = clip, tuple(plan), options, folder, group
        self._encoder = Unfiltered(encoder)
        self._pieces: dict[tuple[int, int], Path] = {}
        folder.mkdir()

    @property
    def format(self) -> VideoFormat:
        return self.clip.format

    @property
    def n_frames(self) -> int:
        return self.clip.n_frames

    def read(self, start: int, stop: int, pix_fmt: PixelFormat) -> Iterator[bytes]:
        """Frames start..stop-1, which must lie in one segment; its layers are coded whole, once."""
        layers = next(layers for layers in self._plan if layers.segment.start <= start < layers.segment.stop)
        pieces = [self._piece(layers.segment, qp) for qp in layers.qps[1:]]
        first, last = start - layers.segment.start, stop - layers.segment.start
        decoded = [self.decoded(piece, first, last, pix_fmt) for piece in pieces]
        originals = self.clip.read(start, stop, pix_fmt)
        for index, (original, *coarse) in enumerate(zip(originals, *decoded, strict=True), first):
            yield composite(original, coarse, layers.choice[index], self.format, pix_fmt)

    def _piece(self, segment: Segment, qp: int) -> Path:
        key = segment.start, qp
        if key not in self._pieces:
            work = self._folder / f"{segment.start:07d}-{qp:02d}"
            at_qp = Segment(segment.start, segment.stop, qp)
            self._pieces[key] = encode_segment(at_qp, self.clip, self._encoder, work, self._options, self._group).piece
        return self._pieces[key]

    def decoded(self, piece: Path, start: int, stop: int, pix_fmt: PixelFormat) -> Iterator[bytes]:
        """Packed frames of a coded piece, as `read` would yield them."""
        from vcm_ratecontrol.media import open_clip
        from vcm_ratecontrol.media.convert import pack_frame
        from vcm_ratecontrol.media.decode import FrameDecoder

        coded = open_clip(piece)
        tagged = replace(coded.format, color=self.clip.color)
        with FrameDecoder(coded) as decoder:
            for frame in decoder.frames(start, stop):
                yield pack_frame(frame, pix_fmt, tagged)


def composite(
    original: bytes,
    coarse: Sequence[bytes],
    choice: npt.NDArray[np.uint8],
    video: VideoFormat,
    pix_fmt: PixelFormat,
    block_size: int = BLOCK_SIZE,
) -> bytes:
    """One packed padded frame, each block of `choice` [rows, cols] from its layer: 0 the original, 1.. `coarse`."""
    width, height = video.padded_width, video.padded_height
    layers = [split_planes(frame, width, height, pix_fmt) for frame in (original, *coarse)]
    made = []
    for plane in range(3):
        side = block_size if plane == 0 else block_size // 2
        mixed = layers[0][plane].copy()
        rows, cols = mixed.shape
        grid = choice.repeat(side, axis=0).repeat(side, axis=1)
        # Padding lies outside the map's picture: it goes with its neighbour.
        grid = np.pad(grid, ((0, max(0, rows - grid.shape[0])), (0, max(0, cols - grid.shape[1]))), mode="edge")
        for number in range(1, len(layers)):
            here = grid[:rows, :cols] == number
            mixed[here] = layers[number][plane][here]
        made.append(mixed.tobytes())
    return b"".join(made)
