"""The job of vcm-qpmap, and of `jrd_map` of the library: a picture or clip -> its QP map."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from codec_wrappers.encoder import Encoder, get_encoder
from codec_wrappers.errors import InputError
from codec_wrappers.qpmap import CTU_SIZE, QPMap
from codec_wrappers.qpmap_io import SUFFIXES, write_qpmap
from codec_wrappers.qpmap_legal import legalise
from vcm_ratecontrol.jrd.analysis import ClipLevels, clip_levels
from vcm_ratecontrol.jrd.frame_levels import BACKGROUND, FrameLevels
from vcm_ratecontrol.jrd.maps import background_qp_of, qp_map_of
from vcm_ratecontrol.jrd.sources import JRDSettings, opened_levels, read_boxes
from vcm_ratecontrol.media import Clip, open_clip
from vcm_ratecontrol.outputs import check_output
from vcm_ratecontrol.progress import SILENT, Progress

if TYPE_CHECKING:
    from vcm_ratecontrol.machines.library import LibraryRef


@dataclass(frozen=True)
class MapRequest:
    """What vcm-qpmap is asked. block_size: None for the encoder's. overlay_frame: None for the one with the most
    object blocks."""

    input: Path
    settings: JRDSettings
    output: Path | None = None
    overlay: Path | None = None
    overlay_frame: int | None = None
    codec: str = "hevc-kvazaar"
    executable: Path | None = None
    block_size: int | None = None
    overwrite: bool = False


@dataclass(frozen=True)
class MapReport:
    """A written map. objects: boxes on the frames looked at. object_share: of the blocks, 0..1. lowest_qp,
    highest_object_qp: of object blocks, None when there are none. base_qp: of a ROI file, else None."""

    output: Path | None
    overlay: Path | None
    n_frames: int
    rows: int
    cols: int
    block_size: int
    looked: int
    objects: int
    object_share: float
    lowest_qp: int | None
    highest_object_qp: int | None
    background_qp: int
    base_qp: int | None
    notes: tuple[str, ...]
    map: QPMap = field(repr=False)

    def fields(self) -> dict[str, Any]:
        """For the end event: everything but the map."""
        return {name: value for name, value in vars(self).items() if name != "map"}


def jrd_map(
    source: Path | str,
    ratio: float = 0.75,
    *,
    machines: Path | str | LibraryRef | None = None,
    detector: str | None = None,
    objects: Path | str | None = None,
    background_qp: int | None = None,
    codec: str = "hevc-kvazaar",
    **settings: Any,
) -> QPMap:
    """QP map of a picture or clip, one per frame, legal for the encoder: `jrd_map("street.jpg", 0.75)`.

    source: the file. ratio: share of the machines that shall still recognise an object. machines: folder of a
    library whose detectors find the objects, detector: one of them; objects: a file of boxes in COCO's format;
    neither: the dense predictor. codec: the encoder that the map is for. settings: other fields of `JRDSettings`.
    Raises InputError, UnsupportedError, MissingToolError.
    """
    from vcm_ratecontrol.machines.library import LibraryRef

    folder = machines if machines is None or isinstance(machines, LibraryRef) else Path(machines)
    chosen = JRDSettings(
        ratio=ratio,
        machines=LibraryRef(folder, task="detection") if isinstance(folder, Path) else folder,
        detector=detector,
        objects=None if objects is None else Path(objects),
        background_qp=background_qp,
        **settings,
    )
    return write_map(MapRequest(Path(source), chosen, codec=codec)).map


def write_map(request: MapRequest, progress: Progress = SILENT) -> MapReport:
    """Make the map, write what was asked for. Raises InputError, OutputError, UnsupportedError, MissingToolError."""
    boxes = read_boxes(request.settings)
    clip = open_clip(request.input)
    for path, kinds in ((request.output, SUFFIXES), (request.overlay, (".png",))):
        if path is not None:
            if path.suffix.lower() not in kinds:
                raise InputError(f"{path}: name it {', '.join('*' + kind for kind in kinds)}")
            check_output(request.input, path, request.overwrite)
    if request.overlay_frame is not None and request.overlay_frame >= clip.n_frames:
        raise InputError(f"--overlay-frame {request.overlay_frame}: {clip.path} has {clip.n_frames} frames, from 0 on")
    encoder = get_encoder(request.codec, request.executable)
    capabilities = encoder.capabilities()
    background = background_qp_of(request.settings.background_qp, capabilities)
    block_size = request.block_size or capabilities.block_size or CTU_SIZE
    with opened_levels(request.settings, clip, encoder.codec, boxes) as source:
        found = clip_levels(clip, source, block_size, request.settings.looks_per_second, progress)
        planned = qp_map_of(
            found.levels, clip.width, clip.height, block_size, background, (capabilities.qp_min, capabilities.qp_max)
        )
        legal, notes = _legal(planned.map, encoder)
        if request.overlay is not None:
            progress.phase("drawing")
            _draw(request, clip, found, legal, source)
    base = None
    if request.output is not None:
        base = _base_qp(legal, background) if request.output.suffix.lower() in (".txt", ".bin") else None
        write_qpmap(legal, request.output, base)
        if base is not None and clip.n_frames > 1:
            notes.append("the maps stand in display order; kvazaar reads them in coding order: run it with --gop 0")
    return _report(request, found, legal, background, base, [*found.notes, *planned.notes, *notes])


def _legal(qp_map: QPMap, encoder: Encoder) -> tuple[QPMap, list[str]]:
    rules = encoder.map_rules()
    if rules is None or qp_map.block_size != encoder.capabilities().block_size:
        return qp_map, []
    legal = legalise(qp_map, rules)
    return legal.map, [f"{legal.moved} blocks lowered because of jumps"] if legal.moved else []


def _base_qp(qp_map: QPMap, background: int) -> int:
    from codec_wrappers.kvazaar import base_qp_for

    return base_qp_for(qp_map, background)


def _draw(request: MapRequest, clip: Clip, found: ClipLevels, qp_map: QPMap, source: Any) -> None:
    from vcm_ratecontrol.jrd.overlay import overlay
    from vcm_ratecontrol.media.write import write_png

    assert request.overlay is not None
    objects_in = (found.levels != BACKGROUND).sum(axis=(1, 2))
    frame = int(np.argmax(objects_in)) if request.overlay_frame is None else request.overlay_frame
    (rgb,) = clip.read_rgb([frame])
    seen: FrameLevels = source.look(rgb, frame)
    title = f"{clip.path.name}, frame {frame}: objects at {request.settings.ratio:.0%} of machines, {request.codec}"
    write_png(overlay(rgb, qp_map, frame, seen, clip.display_matrix, title), request.overlay)


def _report(
    request: MapRequest, found: ClipLevels, qp_map: QPMap, background: int, base: int | None, notes: list[str]
) -> MapReport:
    inside = qp_map.qp[found.levels != BACKGROUND]
    return MapReport(
        output=request.output,
        overlay=request.overlay,
        n_frames=qp_map.n_frames,
        rows=qp_map.rows,
        cols=qp_map.cols,
        block_size=qp_map.block_size,
        looked=found.looked,
        objects=found.objects,
        object_share=found.object_share,
        lowest_qp=int(inside.min()) if inside.size else None,
        highest_object_qp=int(inside.max()) if inside.size else None,
        background_qp=background,
        base_qp=base,
        notes=tuple(notes),
        map=qp_map,
    )
