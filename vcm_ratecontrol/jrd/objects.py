"""Objects on a frame, and where they come from: a detector of a machine library, or a file in COCO's format."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.labels.objects import SAME_OBJECT_IOU
from vcm_ratecontrol.machines.coco import COCO_NAMES
from vcm_ratecontrol.machines.machine import Detections, MachineRunError
from vcm_ratecontrol.satisfaction import iou_matrix

if TYPE_CHECKING:
    from vcm_ratecontrol.scoring import MachineRoom

Floats = npt.NDArray[np.float64]

FEW_MACHINES = 3
"""From so many machines on their mean confidence is taken for what the whole library thinks."""

RGB = npt.NDArray[np.uint8]


@dataclass(frozen=True, eq=False)
class FrameObjects:
    """N objects on one upright frame.

    boxes: float64 [N, 4], x1 y1 x2 y2 in pixels, inside the picture. names: of their classes. confidences: float64
    [N], 0..1; NaN where the source tells none. several: they are means over several machines.
    """

    boxes: Floats
    names: tuple[str, ...]
    confidences: Floats
    several: bool = False

    def __len__(self) -> int:
        return len(self.names)


NO_OBJECTS = FrameObjects(np.zeros((0, 4)), (), np.zeros(0))


class ObjectSource(Protocol):
    """Anything that finds objects. `notes`: what the user should know once all frames were looked at."""

    def see(self, rgb: RGB, frame: int) -> FrameObjects:
        """The objects of a frame: uint8 RGB [H, W, 3], upright; its number from 0."""
        ...

    @property
    def notes(self) -> tuple[str, ...]: ...


@dataclass
class DetectedObjects:
    """The objects that one detector of a library sees, or all that its detectors see.

    room: the library. detector: name of the machine whose boxes count, None for those of all detectors.
    least: confidence from which a box is an object. Raises InputError when the library has no such detector.
    """

    room: MachineRoom
    detector: str | None
    least: float = 0.3
    _failures: dict[str, str] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        known = [machine.name for machine in self.room.library if machine.task == "detection"]
        if not known:
            raise InputError(f"{self.room.library.ref.directory}: has no detector; add one, or give --objects FILE")
        if self.detector is not None and self.detector not in known:
            raise InputError(f"--detector {self.detector}: no detector of the library; it has {', '.join(known)}")
        self._detectors = known

    def see(self, rgb: RGB, frame: int) -> FrameObjects:
        """Raises MachineRunError when the detector, or all of them, fail on the frame."""
        look = self.room.look(rgb, self._detectors)
        self._failures.update(look.failures)
        found = {name: found.above(self.least) for name, found in look.results.items() if isinstance(found, Detections)}
        if not found or (self.detector is not None and self.detector not in found):
            raise MachineRunError("; ".join(look.failures.values()))
        boxes, classes, scores = self._physical(found)
        several = len(found) >= FEW_MACHINES
        if several:
            scores = mean_confidences(boxes, list(found.values()))
        names = tuple(class_name(int(number)) for number in classes)
        return FrameObjects(boxes, names, scores, several)

    @property
    def notes(self) -> tuple[str, ...]:
        return tuple(f"a machine gave no result on some frames: {why}" for why in self._failures.values())

    def _physical(self, found: dict[str, Detections]) -> tuple[Floats, npt.NDArray[np.int64], Floats]:
        """Boxes, classes and confidences of the detector; of all of them, one box per object, the most confident."""
        chosen = [found[self.detector]] if self.detector is not None else list(found.values())
        boxes = np.concatenate([one.boxes for one in chosen]).astype(np.float64)
        classes = np.concatenate([one.classes for one in chosen]).astype(np.int64)
        scores = np.concatenate([one.scores for one in chosen]).astype(np.float64)
        if self.detector is None:
            keep = _founders(boxes, scores)
            boxes, classes, scores = boxes[keep], classes[keep], scores[keep]
        return boxes, classes, scores


def class_name(number: int) -> str:
    """COCO's name of a class index, or the number in words for a machine's own classes."""
    return COCO_NAMES[number] if 0 <= number < len(COCO_NAMES) else f"class {number}"


def mean_confidences(boxes: Floats, results: Sequence[Detections]) -> Floats:
    """Mean over machines of the confidence that each has in each box, 0 where it has none of IoU >= 0.5 there."""
    total = np.zeros(len(boxes))
    for result in results:
        if len(boxes) and len(result):
            same = iou_matrix(boxes, result.boxes) >= SAME_OBJECT_IOU
            total += np.where(same, result.scores.astype(np.float64)[None], 0.0).max(axis=1)
    return total / len(results)


def _founders(boxes: Floats, scores: Floats) -> list[int]:
    """Of boxes that overlap by IoU >= 0.5 only the most confident."""
    kept: list[int] = []
    overlap = iou_matrix(boxes, boxes)
    for at in np.argsort(-scores, kind="stable").tolist():
        if not kept or overlap[at, kept].max() < SAME_OBJECT_IOU:
            kept.append(at)
    return kept
