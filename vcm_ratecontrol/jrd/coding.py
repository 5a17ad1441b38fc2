"""A QP map carried out in the way that an encoder allows: per block, per rectangle, or by pre-coding."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np
import numpy.typing as npt

from codec_wrappers.encoder import Encoder
from codec_wrappers.join import Timing
from codec_wrappers.pipeline import (
    EncodeOptions,
    EncodeResult,
    encode,
    guarded_group,
    legal_plan,
    segment_command,
)
from codec_wrappers.plan import EncodePlan, Segment
from codec_wrappers.qpmap import QPMap
from codec_wrappers.workfolder import beside, work_folder
from vcm_ratecontrol.jrd.layer_proof import prove_layers
from vcm_ratecontrol.jrd.layers import LayeredSource, Unfiltered, evened, segment_layers
from vcm_ratecontrol.jrd.maps import PlannedMap, without_needless_maps
from vcm_ratecontrol.media import Clip
from vcm_ratecontrol.outputs import companions_of
from vcm_ratecontrol.progress import SILENT, Progress

Method = Literal["map", "rectangles", "pre-coding"]


def code_map(
    clip: Clip,
    qp_map: QPMap,
    segments: Sequence[range],
    encoder: Encoder,
    output: Path,
    options: EncodeOptions,
    progress: Progress = SILENT,
) -> tuple[EncodeResult, tuple[int, ...]]:
    """Code a clip by a map of its frames, in the way that the encoder allows; it is proven to act.

    qp_map: in the encoder's QPs and blocks, of `layers.BLOCK_SIZE` where it takes no QP per block. Returns the
    written file, and the QPs that its blocks have, rising.
    """
    timing, companions = Timing(clip.time_base, clip.pts), companions_of(clip)

    def run(plan: EncodePlan, source: Clip | LayeredSource) -> EncodeResult:
        progress.phase("encoding", clip.n_frames)
        return encode(plan, source, encoder, output, timing, options, companions, progress.advance)

    if method_of(encoder) != "pre-coding":
        plan = _map_plan(qp_map, segments, encoder)
        assert plan.qp_map is not None
        return run(plan, clip), tuple(np.unique(plan.qp_map.qp).tolist())
    layers = [segment_layers(s, qp_map.qp[s.start : s.stop]) for s in segments]
    with ExitStack() as stack:
        folder = stack.enter_context(work_folder(output))
        group = stack.enter_context(guarded_group())
        source = LayeredSource(clip, layers, encoder, options, folder / "layers", group)
        progress.phase("proving that pre-coding acts")
        prove_layers(layers, source, encoder, options, folder, group)
        result = run(EncodePlan(tuple(one.segment for one in layers)), source)
    return result, tuple(sorted({qp for one in layers for qp in one.qps}))


def pooled(
    wanted: PlannedMap, segments: Sequence[range], encoder: Encoder, background_qp: int, *, guessed: bool | None
) -> PlannedMap:
    """A map of pooled levels as it is coded: without what costs more than it saves. guessed: None for a
    still; of a video, whether nobody but the dense predictor said where objects are."""
    if guessed or (guessed is not None and method_of(encoder) == "pre-coding"):
        wanted = without_needless_maps(wanted, segments, background_qp)
    if method_of(encoder) == "pre-coding":
        wanted = replace(wanted, map=evened(wanted.map, segments, background_qp))
    return wanted


def planned(
    clip: Clip, qp_map: QPMap, segments: Sequence[range], encoder: Encoder, output: Path, options: EncodeOptions
) -> tuple[tuple[tuple[str, ...], ...], tuple[int, ...]]:
    """The command lines that `code_map` would run, without its proofs, and the QPs that blocks would have, rising.

    Nothing is run or made; the files that they name lie beside the output.
    """

    def line(segment: Segment, made_by: Encoder, legal: QPMap | None = None) -> tuple[str, ...]:
        folder = output.parent / f"{segment.start:07d}-{segment.stop:07d}-{segment.qp:02d}"
        return beside(segment_command(segment, clip, made_by, folder, options, legal), folder, output)

    if method_of(encoder) != "pre-coding":
        plan = legal_plan(_map_plan(qp_map, segments, encoder), clip, encoder).plan
        assert plan.qp_map is not None
        lines = tuple(line(segment, encoder, plan.qp_map) for segment in plan.segments)
        return lines, tuple(np.unique(plan.qp_map.qp).tolist())
    commands: list[tuple[str, ...]] = []
    used: set[int] = set()
    for segment in segments:
        layers = segment_layers(segment, qp_map.qp[segment.start : segment.stop])
        used.update(layers.qps)
        for qp in reversed(layers.qps):
            made_by: Encoder = encoder if qp == layers.qps[0] else Unfiltered(encoder)
            commands.append(line(replace(layers.segment, qp=qp), made_by))
    return tuple(commands), tuple(sorted(used))


def _map_plan(qp_map: QPMap, segments: Sequence[range], encoder: Encoder) -> EncodePlan:
    qp = qp_map.qp if method_of(encoder) == "map" else _still_in_segments(qp_map, segments)
    planned = tuple(Segment(s.start, s.stop, _commonest(qp[s.start : s.stop])) for s in segments)
    return EncodePlan(planned, qp_map.with_qp(qp))


def method_of(encoder: Encoder) -> Method:
    """How an encoder is made to code objects finer."""
    methods: dict[str, Method] = {"map": "map", "rectangles": "rectangles", "none": "pre-coding"}
    return methods[encoder.capabilities().block_qp]


def _still_in_segments(qp_map: QPMap, segments: Sequence[range]) -> npt.NDArray[np.int16]:
    """Maps that hold still within each segment: the lowest QP that a block has in it."""
    qp = qp_map.qp.copy()
    for segment in segments:
        qp[segment.start : segment.stop] = qp[segment.start : segment.stop].min(axis=0)
    return qp


def _commonest(qp: npt.NDArray[np.int16]) -> int:
    """The QP that most blocks of a segment have: as base it costs least to signal."""
    values, counts = np.unique(qp, return_counts=True)
    return int(values[counts.argmax()])
