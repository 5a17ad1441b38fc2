"""Coding per object: QP maps from the JRD of the objects that the choosing detectors see; stills only."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codec_wrappers.encoder import Encoder
from codec_wrappers.errors import InputError, MissingToolError, UnsupportedError, VcmError
from codec_wrappers.qpmap import QPMap
from codec_wrappers.qpmap_legal import legalise
from vcm_ratecontrol.annotate.clips import SegmentTask
from vcm_ratecontrol.annotate.task import PictureTask
from vcm_ratecontrol.bench.choice import NOTHING, Choice
from vcm_ratecontrol.bench.items import Unit
from vcm_ratecontrol.bench.machine_sets import MachineSets
from vcm_ratecontrol.bench.measuring import Coding
from vcm_ratecontrol.bench.view import View
from vcm_ratecontrol.jrd.coding import method_of
from vcm_ratecontrol.jrd.frame_levels import DenseLevels, LevelSource, ObjectLevels
from vcm_ratecontrol.jrd.layers import BLOCK_SIZE, evened
from vcm_ratecontrol.jrd.levels import level_rule
from vcm_ratecontrol.jrd.maps import background_qp_of, block_levels, qp_map_of
from vcm_ratecontrol.jrd.objects import DetectedObjects, FrameObjects
from vcm_ratecontrol.progress import SILENT, Progress

if TYPE_CHECKING:
    from vcm_ratecontrol.annotate.sources import RGB
    from vcm_ratecontrol.predictors.inference import JRDMapPredictor

LABELS = {
    "jrd": "QP per object by its JRD",
    "jrd-uniform": "the picture's lowest JRD everywhere",
    "jrd-random": "control: the same blocks' QPs in random places",
}
MAPPED = ("jrd", "jrd-random")

# Shares of the machines that shall still recognise an object: the operating points.
RATIOS = (0.5, 0.75, 0.9)

DENSE_WEIGHTS = "jrd_map_small"

Work = PictureTask | SegmentTask


@dataclass(frozen=True, eq=False)
class ObjectMethod:
    """columns: unit's work and ratio -> column. seconds: per work, of finding its objects and levels."""

    name: str
    label: str
    columns: Mapping[tuple[Work, float], int]
    seconds: Mapping[Work, float]
    asks: str = NOTHING

    def settings(self, view: View, targets: Sequence[float]) -> Sequence[float]:
        return RATIOS

    def choose(self, view: View, setting: float) -> Choice:
        columns = np.array([self.columns[work, setting] for work in view.works], np.intp)
        probed = np.zeros((view.shape[0], view.n_columns), bool)
        return Choice(columns, probed, sum(self.seconds[work] for work in view.works))


@dataclass
class MapPlan:
    """codings: unit -> what is coded besides its levels, as many for each. failed: unit -> why it has none."""

    methods: tuple[ObjectMethod, ...] = ()
    codings: dict[int, tuple[Coding, ...]] = field(default_factory=dict)
    failed: dict[int, str] = field(default_factory=dict)
    unavailable: dict[str, str] = field(default_factory=dict)


def plan_maps(
    names: Sequence[str],
    units: Sequence[Unit],
    encoder: Encoder,
    levels: Sequence[int],
    sets: MachineSets,
    max_side: int,
    seed: int,
    progress: Progress = SILENT,
) -> MapPlan:
    """The codings and methods of some of LABELS. What cannot be had here is unavailable, with its reason."""
    plan = MapPlan()
    try:
        wanted = _possible(names, units, encoder, plan)
        if not wanted:
            return plan
        with _sources(sets, encoder.codec) as sources:
            progress.phase("finding objects", len(units))
            _plan(plan, wanted, units, encoder, levels, sources, max_side, seed, progress)
    except (MissingToolError, InputError) as error:
        plan = MapPlan(unavailable={**plan.unavailable, **dict.fromkeys(names, str(error))})
    return plan


def _possible(names: Sequence[str], units: Sequence[Unit], encoder: Encoder, plan: MapPlan) -> list[str]:
    if any(isinstance(unit.work, SegmentTask) for unit in units):
        plan.unavailable |= dict.fromkeys(names, "maps are benchmarked on stills; give pictures only")
        return []
    if encoder.capabilities().block_qp == "rectangles":
        reason = str(UnsupportedError(f"{encoder.name}: takes no QP per block; use --codec hevc-kvazaar or vvc"))
        plan.unavailable |= {name: reason for name in names if name in MAPPED}
        return [name for name in names if name not in MAPPED]
    return list(names)


@dataclass(frozen=True)
class _Seen:
    """Objects that were found before, as an `ObjectSource`."""

    objects: FrameObjects
    notes: tuple[str, ...] = ()

    def see(self, rgb: RGB, frame: int) -> FrameObjects:
        return self.objects


@dataclass(frozen=True)
class _Sources:
    """detected: the choosing detectors, None where none chooses; dense: the map predictor, None without weights."""

    detected: DetectedObjects | None
    dense: JRDMapPredictor | None
    codec: str

    def of(self, rgb: RGB) -> dict[float, LevelSource]:
        """Per ratio what gives a picture's levels."""
        if self.detected is None:
            assert self.dense is not None
            return {ratio: DenseLevels(self.dense, level_rule(self.codec, ratio)) for ratio in RATIOS}
        seen = _Seen(self.detected.see(rgb, 0))
        return {ratio: ObjectLevels(seen, level_rule(self.codec, ratio), predictor=self.dense) for ratio in RATIOS}


@contextmanager
def _sources(sets: MachineSets, codec: str) -> Iterator[_Sources]:
    from dataclasses import replace

    from vcm_ratecontrol.machines.library import select
    from vcm_ratecontrol.machines.manifest import read_manifest
    from vcm_ratecontrol.scoring import MachineRoom

    library = sets.libraries[0]
    specs = select(read_manifest(library.directory), sets.choosing, None, None)
    detectors = tuple(spec.name for spec in specs if spec.task == "detection")
    try:
        dense: JRDMapPredictor | None = _dense()
    except MissingToolError:
        if not detectors:
            raise
        dense = None
    if not detectors:
        yield _Sources(None, dense, codec)
        return
    with MachineRoom(replace(library, names=detectors).open()) as room:
        yield _Sources(DetectedObjects(room, None), dense, codec)


def _dense() -> JRDMapPredictor:
    from vcm_ratecontrol.predictors.inference import JRDMapPredictor, load_predictor

    predictor = load_predictor(DENSE_WEIGHTS)
    assert isinstance(predictor, JRDMapPredictor)
    return predictor


def _plan(
    plan: MapPlan,
    names: Sequence[str],
    units: Sequence[Unit],
    encoder: Encoder,
    levels: Sequence[int],
    sources: _Sources,
    max_side: int,
    seed: int,
    progress: Progress,
) -> None:
    columns: dict[str, dict[tuple[Work, float], int]] = {name: {} for name in names}
    seconds: dict[Work, float] = {}
    for at, unit in enumerate(units):
        started = time.monotonic()
        try:
            (rgb,) = unit.originals(max_side)
            maps = {ratio: _map(source, rgb, encoder) for ratio, source in sources.of(rgb).items()}
        except VcmError as error:
            plan.failed[at] = f"{unit.work.label}: {error}"
            continue
        finally:
            progress.advance()
        seconds[unit.work] = time.monotonic() - started
        codings: list[Coding] = []
        for name in names:
            for ratio, qp_map in maps.items():
                if name == "jrd-uniform":
                    below = np.flatnonzero(np.asarray(levels) <= qp_map.qp.min())
                    columns[name][unit.work, ratio] = int(below[-1]) if len(below) else 0
                    continue
                columns[name][unit.work, ratio] = len(levels) + len(codings)
                codings.append(_coding(_mixed(qp_map, seed + at) if name == "jrd-random" else qp_map, encoder))
        plan.codings[at] = tuple(codings)
    plan.methods = tuple(ObjectMethod(name, LABELS[name], columns[name], seconds) for name in names)


def _map(source: LevelSource, rgb: RGB, encoder: Encoder) -> QPMap:
    capabilities = encoder.capabilities()
    block_size = capabilities.block_size or BLOCK_SIZE
    height, width = rgb.shape[:2]
    blocks = block_levels(source.look(rgb, 0).level, block_size)
    background = background_qp_of(None, capabilities)
    limits = capabilities.qp_min, capabilities.qp_max
    qp_map = qp_map_of(blocks[None], width, height, block_size, background, limits).map
    return evened(qp_map, (range(1),), background) if method_of(encoder) == "pre-coding" else qp_map


def _mixed(qp_map: QPMap, seed: int) -> QPMap:
    """The same QPs in random places."""
    mixed: npt.NDArray[np.int16] = np.random.default_rng(seed).permutation(qp_map.qp.ravel())
    return qp_map.with_qp(mixed.reshape(qp_map.qp.shape))


def _coding(qp_map: QPMap, encoder: Encoder) -> Coding:
    rules = encoder.map_rules()
    legal = legalise(qp_map, rules).map if rules is not None else qp_map
    values, counts = np.unique(legal.qp, return_counts=True)
    # The commonest QP as base costs least to signal.
    return Coding(int(values[counts.argmax()]), legal)
