"""Which objects the coded picture lost: each machine's objects on the original, looked for on the decoded one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.jrd.objects import class_name
from vcm_ratecontrol.labels.objects import SAME_OBJECT_IOU
from vcm_ratecontrol.machines.machine import Detections
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.satisfaction import Thresholds, has_area, iou_matrix

if TYPE_CHECKING:
    from vcm_ratecontrol.machines.library import MachineLibrary
    from vcm_ratecontrol.media import Clip


@dataclass(frozen=True)
class LostObject:
    """An object that fewer machines recognise than saw it.

    frame: number in the clip. name: class. box: x1, y1, x2, y2 in pixels; size: sqrt of its area in pixels.
    machines: those that lost it; seen_by: how many saw it on the original.
    """

    frame: int
    name: str
    box: tuple[float, float, float, float]
    size: float
    machines: tuple[str, ...]
    seen_by: int

    @property
    def kept(self) -> float:
        """Share of the machines that still recognise it, 0..1."""
        return 1.0 - len(self.machines) / self.seen_by


def lost_objects(
    original: Clip,
    coded: Path,
    library: MachineLibrary,
    thresholds: Thresholds,
    segments: Sequence[range],
    frames_per_segment: int,
    progress: Progress = SILENT,
) -> tuple[tuple[LostObject, ...], int]:
    """Objects that at least one machine lost, worst first, and how many objects there are on the frames looked at.

    Raises InputError when the library has no detector, MachineRunError when none gives a result.
    """
    from vcm_ratecontrol.media.sampling import sample_indices
    from vcm_ratecontrol.ratecontrol.probing import decoded_like
    from vcm_ratecontrol.scoring import MachineRoom, run_originals

    detectors = [machine.name for machine in library if machine.task == "detection"]
    if not detectors:
        raise InputError(f"{library.ref.directory}: --verify-jrd needs a detector among the machines")
    frames = sorted({index for segment in segments for index in sample_indices(segment, frames_per_segment)})
    progress.phase("looking for lost objects", len(frames))
    lost, count = [], 0
    with MachineRoom(library) as room:
        pairs = zip(frames, original.read_rgb(frames), decoded_like(original, coded, frames), strict=True)
        for frame, before, after in pairs:
            (seen,), now = run_originals([before], room), room.look(after, detectors)
            there = [
                (name, seen.results[name], now.results[name])
                for name in detectors
                if name in seen.results and name in now.results
            ]
            found, n = _lost_of_frame(frame, there, thresholds)
            lost += found
            count += n
            progress.advance(1)
    return tuple(sorted(lost, key=lambda one: (one.kept, -one.seen_by, one.frame))), count


def _lost_of_frame(
    frame: int, results: Sequence[tuple[str, object, object]], thresholds: Thresholds
) -> tuple[list[LostObject], int]:
    """Lost objects of one frame from (machine, on the original, on the decoded), and the number of its objects."""
    boxes, classes, scores, machines, kept = [], [], [], [], []
    for name, before, after in results:
        assert isinstance(before, Detections) and isinstance(after, Detections)
        wanted = before.above(thresholds.confidence)
        real = has_area(wanted.boxes)
        wanted = Detections(wanted.boxes[real], wanted.scores[real], wanted.classes[real])
        boxes.append(wanted.boxes)
        classes.append(wanted.classes)
        scores.append(wanted.scores)
        machines += [name] * len(wanted)
        kept.append(still_recognised(wanted, after.above(thresholds.confidence), thresholds.iou))
    if not machines:
        return [], 0
    box, kind, recognised = np.concatenate(boxes), np.concatenate(classes), np.concatenate(kept)
    lost, objects = [], _same_objects(box, np.concatenate(scores), machines)
    for members in objects:
        losers = tuple(machines[at] for at in members if not recognised[at])
        if losers:
            first = box[members[0]].astype(float)
            size = float(np.sqrt((first[2] - first[0]) * (first[3] - first[1])))
            x1, y1, x2, y2 = (round(float(value), 1) for value in first)
            name = class_name(int(kind[members[0]]))
            lost.append(LostObject(frame, name, (x1, y1, x2, y2), round(size, 1), losers, len(members)))
    return lost, len(objects)


def still_recognised(wanted: Detections, found: Detections, iou: float) -> npt.NDArray[np.bool_]:
    """Which objects still have a detection of their class at this IoU, each detection for one object: bool [N]."""
    kept = np.zeros(len(wanted), bool)
    overlap = iou_matrix(wanted.boxes, found.boxes) * (wanted.classes[:, None] == found.classes[None])
    for column in range(len(found)):
        free = np.where(kept, -1.0, overlap[:, column])
        if len(free) and free.max() >= iou:
            kept[free.argmax()] = True
    return kept


def _same_objects(
    boxes: npt.NDArray[np.floating], scores: npt.NDArray[np.floating], machines: Sequence[str]
) -> list[list[int]]:
    """Detections by physical object, the most confident first; each machine sees an object once."""
    groups: list[list[int]] = []
    overlap = iou_matrix(boxes, boxes)
    for at in np.argsort(-scores, kind="stable").tolist():
        free = [group for group in groups if all(machines[at] != machines[member] for member in group)]
        near = max(free, key=lambda group: overlap[at, group[0]], default=None)
        if near is not None and overlap[at, near[0]] >= SAME_OBJECT_IOU:
            near.append(at)
        else:
            groups.append([at])
    return groups
