"""A frame -> the highest level that each of its pixels may be coded at, from objects or from the dense predictor."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.jrd.costs import block_costs, object_costs
from vcm_ratecontrol.jrd.levels import LevelRule
from vcm_ratecontrol.jrd.objects import NO_OBJECTS, RGB, Floats, FrameObjects, ObjectSource
from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.predictors.evidence import confidence_map
from vcm_ratecontrol.predictors.interface import BLOCK_SIZE, Sample

if TYPE_CHECKING:
    from vcm_ratecontrol.predictors.inference import JRDMapPredictor
    from vcm_ratecontrol.predictors.interface import JRDMap

BACKGROUND = N_LEVELS - 1
"""Level of what nobody needs to recognise."""

UNKNOWN_CONFIDENCE = 0.5
"""For boxes that come without a confidence: the middle of what detectors have for the objects that they report."""

# Context around an object. A block that is touched is kept whole, which is most of what detectors need: an eighth of
# the side and 8 pixels cost 2 % more bits than this for the same objects, none at all as much (docs/jrd.md).
MARGIN_SHARE = 1 / 32
MARGIN_PIXELS = 4.0

LEAST_PROBABILITY = 0.2
"""From which a block that the dense predictor alone has looked at may hold an object: one that is missed costs more
than the bits of a block (docs/jrd.md)."""

# A box's level and the dense map's there contradict each other from here on (two standard errors of either).
CONTRADICTION = 12.0


@dataclass(frozen=True)
class Margin:
    """Context kept around a box on each side: this share of the box's side there, and at least so many pixels."""

    share: float = MARGIN_SHARE
    pixels: float = MARGIN_PIXELS

    def around(self, boxes: Floats) -> Floats:
        """Boxes [N, 4], x1 y1 x2 y2, with their margin; they may reach beyond the picture."""
        sides = boxes[:, 2:] - boxes[:, :2]
        extra = np.maximum(self.share * sides, self.pixels)
        return np.concatenate([boxes[:, :2] - extra, boxes[:, 2:] + extra], axis=1)


DEFAULT_MARGIN = Margin()


@dataclass(frozen=True, eq=False)
class FrameLevels:
    """level: uint8 [H, W], 0..63 per pixel of the upright frame, 63 where nothing is to be recognised.

    objects: what it was made from, none with the dense predictor alone; object_levels: float64 [N], theirs.
    contradictions: objects for which two predictions differed by more than they should; the lower one was taken.
    """

    level: npt.NDArray[np.uint8]
    objects: FrameObjects
    object_levels: Floats
    contradictions: int = 0


class LevelSource(Protocol):
    """Anything that gives a frame's levels."""

    def look(self, rgb: RGB, frame: int) -> FrameLevels:
        """uint8 RGB [H, W, 3], upright; its number from 0."""
        ...

    @property
    def notes(self) -> tuple[str, ...]: ...


@dataclass(frozen=True)
class DenseLevels:
    """Levels by the dense predictor alone: no detector needed."""

    predictor: JRDMapPredictor
    rule: LevelRule
    notes: tuple[str, ...] = ()

    def look(self, rgb: RGB, frame: int) -> FrameLevels:
        (dense,) = self.predictor.predict([Sample(rgb)], ratio=self.rule.ratio, threshold=LEAST_PROBABILITY)
        own = np.clip(dense.level + laplace_quantile(self.rule.caution) * dense.deviation, 0.0, BACKGROUND)
        levels = self.rule.job_levels(own, block_costs(rgb), dense.object_probability.astype(np.float64))
        levels = np.where(dense.object_probability < LEAST_PROBABILITY, BACKGROUND, levels)
        return FrameLevels(pixels_of(dense, levels), NO_OBJECTS, np.zeros(0))


@dataclass(frozen=True)
class ObjectLevels:
    """Levels of the objects of a source, by the rule, and by the dense predictor where there is one.

    The dense predictor is told where the objects are, and how sure of them the detector is. Where a box came
    without confidence its word alone counts; where the two contradict each other, the lower level; else their mean.
    """

    source: ObjectSource
    rule: LevelRule
    margin: Margin = DEFAULT_MARGIN
    predictor: JRDMapPredictor | None = None

    def look(self, rgb: RGB, frame: int) -> FrameLevels:
        objects = self.source.see(rgb, frame)
        height, width = rgb.shape[:2]
        levels, contradictions = self._levels(rgb, objects, width, height)
        return FrameLevels(
            drawn(self.margin.around(objects.boxes), levels, width, height), objects, levels, contradictions
        )

    @property
    def notes(self) -> tuple[str, ...]:
        return self.source.notes

    def _levels(self, rgb: RGB, objects: FrameObjects, width: int, height: int) -> tuple[Floats, int]:
        if not len(objects):
            return np.zeros(0), 0
        sizes = np.sqrt((objects.boxes[:, 2:] - objects.boxes[:, :2]).prod(axis=1) / (width * height))
        silent = np.isnan(objects.confidences)
        confidences = np.where(silent, UNKNOWN_CONFIDENCE, objects.confidences)
        levels = self.rule.own_levels(confidences, sizes, several=objects.several)
        contradictions = 0
        if self.predictor is not None:
            told = confidence_map(objects.boxes, confidences, width, height)
            (dense,) = self.predictor.predict([Sample(rgb, confidence_map=told)], ratio=self.rule.ratio, threshold=0.0)
            seen = np.array([_median_inside(dense, box) for box in objects.boxes])
            apart = np.abs(seen - levels) > CONTRADICTION
            both = np.where(apart, np.minimum(seen, levels), (seen + levels) / 2)
            levels = np.where(silent, seen, both)
            contradictions = int((apart & ~silent).sum())
        costs = object_costs(rgb, self.margin.around(objects.boxes))
        return self.rule.job_levels(levels, costs, confidences, several=objects.several), contradictions


def drawn(boxes: Floats, levels: Floats, width: int, height: int) -> npt.NDArray[np.uint8]:
    """Boxes [N, 4] painted with their levels [N], rounded down, the lowest where they overlap: uint8 [H, W]."""
    picture = np.full((height, width), BACKGROUND, np.uint8)
    for at in np.argsort(-levels, kind="stable"):  # the lowest is painted last
        left, top = np.maximum(np.floor(boxes[at, :2]), 0).astype(int)
        right, bottom = np.ceil(boxes[at, 2:]).astype(int)
        picture[top : max(bottom, 0), left : max(right, 0)] = int(levels[at])
    return picture


def laplace_quantile(share: float) -> float:
    """Of a Laplace distribution of mean 0 and standard deviation 1, by whose likelihood the dense network learns its
    levels. share: 0..1."""
    tail = max(min(share, 1.0 - share), 1e-6)  # at most 0.5: the logarithm is not above 0
    return math.copysign(math.log(2.0 * tail), share - 0.5) / math.sqrt(2.0)


def pixels_of(dense: JRDMap, levels: Floats) -> npt.NDArray[np.uint8]:
    """Levels of a map's blocks as a level per pixel, rounded down: uint8 [height, width]."""
    floor = np.clip(np.floor(levels), 0, BACKGROUND).astype(np.uint8)
    return floor.repeat(BLOCK_SIZE, axis=0).repeat(BLOCK_SIZE, axis=1)[: dense.height, : dense.width]


def _median_inside(dense: JRDMap, box: Floats) -> float:
    """Of the blocks that a box touches; an empty box on the picture's edge takes the last one."""
    rows, cols = dense.level.shape
    left, top = min(int(box[0] // BLOCK_SIZE), cols - 1), min(int(box[1] // BLOCK_SIZE), rows - 1)
    right, bottom = (int(-(-value // BLOCK_SIZE)) for value in box[2:])
    return float(np.median(dense.level[top : max(bottom, top + 1), left : max(right, left + 1)]))
