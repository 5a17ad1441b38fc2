"""JRD of objects: per machine, and over the machines that see the same physical object."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.jrd_rules import first_lasting_failures, published_window_rules
from vcm_ratecontrol.labels.matching import ragged_detections
from vcm_ratecontrol.labels.schema import ORIGINAL_QP
from vcm_ratecontrol.labels.verdicts import COLUMNS, match_rows, whole_pictures
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, Thresholds, iou_matrix

if TYPE_CHECKING:
    import pyarrow as pa

    from vcm_ratecontrol.labels.store import LabelStore

Rule = Literal["window", "first-failure"]

# Two machines' boxes of at least this IoU are one physical object, whatever class each gives it.
SAME_OBJECT_IOU = 0.5


@dataclass(frozen=True)
class ObjectFlags:
    """N objects, each as one detector sees it on the original, and the QPs at which it still does.

    pictures, machines: names; picture, machine: int64 [N], indices into them.
    index: int64 [N], place among the detector's detections on the original.
    boxes: float32 [N, 4], x1 y1 x2 y2 in pixels; classes: int16 [N]; confidences: float32 [N], on the original.
    qps: rising, without the original. recognised: bool [N, Q], a detection of its class with confidence >= T_conf
    and IoU >= T_IoU is there. Where the machine failed it is not recognised.
    """

    pictures: tuple[str, ...]
    machines: tuple[str, ...]
    qps: tuple[int, ...]
    picture: npt.NDArray[np.int64]
    machine: npt.NDArray[np.int64]
    index: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int16]
    confidences: npt.NDArray[np.float32]
    recognised: npt.NDArray[np.bool_]

    def __len__(self) -> int:
        return len(self.picture)

    def of_machines(self, names: Sequence[str]) -> ObjectFlags:
        """Only what these machines see. Raises InputError for an unknown name."""
        if unknown := set(names) - set(self.machines):
            raise InputError(f"machine {sorted(unknown)[0]!r}: no detector of these labels")
        wanted = np.array([name in names for name in self.machines], bool)
        return self._chosen(wanted[self.machine])

    def of_pictures(self, pictures: Sequence[str]) -> ObjectFlags:
        """Only the objects on these pictures, such as those of one split."""
        wanted = np.isin(np.array(self.pictures, str), np.array(list(pictures), str))
        return self._chosen(wanted[self.picture])

    def _chosen(self, keep: npt.NDArray[np.bool_]) -> ObjectFlags:
        names = ("picture", "machine", "index", "boxes", "classes", "confidences", "recognised")
        return replace(self, **{name: getattr(self, name)[keep] for name in names})


def object_flags(
    table: pa.Table,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
    machines: Sequence[str] | None = None,
    qps: Sequence[int] | None = None,
) -> ObjectFlags:
    """All objects of a table (columns `verdicts.COLUMNS` suffice): detections on the original with >= T_conf.

    machines, qps: as in the data set's description (default: those found).
    Raises InputError for thresholds that the table cannot tell.
    """
    whole = whole_pictures(table, machines, qps)
    matched = match_rows(whole, thresholds)
    rows = matched.rows
    at_original = rows[whole.qp[rows] == 0]
    seen = ragged_detections(whole.table.take(at_original)).counted(thresholds.confidence)
    counts = seen.counts
    first = np.full(whole.shape[:2], -1, np.int64)
    first[whole.picture[at_original], whole.machine[at_original]] = seen.offsets[:-1]
    recognised = np.zeros((len(seen.scores), len(whole.qps)), bool)
    row = rows[matched.matches.recognised_row]
    object_at = first[whole.picture[row], whole.machine[row]] + matched.matches.recognised_object
    recognised[object_at, whole.qp[row]] = True
    return ObjectFlags(
        pictures=whole.pictures,
        machines=whole.machines,
        qps=tuple(qp for qp in whole.qps if qp != ORIGINAL_QP),
        picture=np.repeat(whole.picture[at_original], counts),
        machine=np.repeat(whole.machine[at_original], counts),
        index=seen.index,
        boxes=seen.boxes,
        classes=seen.classes,
        confidences=seen.scores,
        recognised=recognised[:, 1:],
    )


def load_objects(store: LabelStore, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> ObjectFlags:
    """The objects of a whole label folder, shard after shard. Raises as `verdicts.load_verdicts`."""
    config = store.config()
    names, qps = (tuple(config.machines), config.qps) if config else (None, None)
    return join_objects([object_flags(t, thresholds, names, qps) for t in store.tables(COLUMNS)])


def join_objects(parts: Sequence[ObjectFlags]) -> ObjectFlags:
    """Objects of several tables of one data set (same QPs, no picture in two of them)."""
    machines = tuple(dict.fromkeys(name for part in parts for name in part.machines))
    starts = np.cumsum([0, *(len(part.pictures) for part in parts)])
    renamed = [np.array([machines.index(n) for n in part.machines], np.int64)[part.machine] for part in parts]
    return ObjectFlags(
        pictures=tuple(name for part in parts for name in part.pictures),
        machines=machines,
        qps=parts[0].qps,
        picture=np.concatenate([part.picture + start for part, start in zip(parts, starts, strict=False)]),
        machine=np.concatenate(renamed),
        index=np.concatenate([part.index for part in parts]),
        boxes=np.concatenate([part.boxes for part in parts]),
        classes=np.concatenate([part.classes for part in parts]),
        confidences=np.concatenate([part.confidences for part in parts]),
        recognised=np.concatenate([part.recognised for part in parts]),
    )


def object_jrd(objects: ObjectFlags, rule: Rule = "window") -> npt.NDArray[np.int16]:
    """JRD of each object for its machine, int16 [N] in 0..63.

    rule: 'window' is the published error-tolerance rule (OW-JRD), 'first-failure' the first lasting failure.
    It is one of the measured QPs (the conservative reading of a grid, see `jrd_rules`), or 0: not recognised
    at the lowest measured QP.
    """
    rules = {"window": published_window_rules, "first-failure": first_lasting_failures}
    if rule not in rules:
        raise InputError(f"JRD rule {rule!r}: use {' or '.join(rules)}")
    if not len(objects):
        return np.zeros(0, np.int16)
    return rules[rule](objects.recognised, objects.qps)


def physical_objects(objects: ObjectFlags, least_iou: float = SAME_OBJECT_IOU) -> npt.NDArray[np.int64]:
    """Which objects of different machines are one physical object: int64 [N], equal numbers 0.. are one.

    In each picture, detections are taken by falling confidence; each joins the physical object whose first
    (most confident) member it overlaps most, if by IoU >= least_iou and without regard to class, and if its
    machine has no member there yet; else it founds a new one. Ties go to the machine that stands first.
    """
    order = np.lexsort((objects.index, objects.machine, -objects.confidences, objects.picture))
    bounds = np.searchsorted(objects.picture[order], np.arange(len(objects.pictures) + 1))
    groups = np.zeros(len(objects), np.int64)
    n_groups = 0
    for start, stop in itertools.pairwise(bounds.tolist()):
        members = order[start:stop]
        local = _grouped(objects.boxes[members], objects.machine[members], least_iou)
        groups[members] = n_groups + local
        n_groups += int(local.max(initial=-1)) + 1
    return groups


def _grouped(boxes: npt.NDArray[np.float32], machine: npt.NDArray[np.int64], least_iou: float) -> npt.NDArray[np.int64]:
    """Groups of one picture's detections, which stand in order of falling confidence."""
    overlap = iou_matrix(boxes, boxes)
    founders: list[int] = []
    present: list[set[int]] = []
    groups = np.zeros(len(boxes), np.int64)
    for at, who in enumerate(machine.tolist()):
        near = [
            (-overlap[at, founder], number)
            for number, founder in enumerate(founders)
            if overlap[at, founder] >= least_iou and who not in present[number]
        ]
        if near:
            groups[at] = min(near)[1]
            present[groups[at]].add(who)
        else:
            groups[at] = len(founders)
            founders.append(at)
            present.append({who})
    return groups


@dataclass(frozen=True)
class PhysicalObjects:
    """K physical objects. jrd: int16 [K], the highest QP at which at least the asked share of the machines that
    see the object on the original still recognise it. n_machines: int64 [K], how many see it.
    picture: int64 [K]; boxes: float32 [K, 4], classes: int16 [K] and confidences: float32 [K] of its most
    confident detection.
    """

    jrd: npt.NDArray[np.int16]
    n_machines: npt.NDArray[np.int64]
    picture: npt.NDArray[np.int64]
    boxes: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int16]
    confidences: npt.NDArray[np.float32]

    def __len__(self) -> int:
        return len(self.jrd)


def jrd_at_ratio(
    objects: ObjectFlags,
    jrd: npt.NDArray[np.int16],
    groups: npt.NDArray[np.int64],
    ratio: float,
    least_machines: int = 1,
) -> PhysicalObjects:
    """JRD at a ratio of machines: with n machines the ceil(ratio * n)-th highest of their JRDs.

    jrd: as `object_jrd`; groups: as `physical_objects`. ratio: above 0, up to 1.
    least_machines: objects that fewer machines see are left out. Raises InputError for a ratio outside.
    """
    if not 0.0 < ratio <= 1.0:
        raise InputError(f"ratio {ratio}: must be above 0 and at most 1")
    counts = np.bincount(groups, minlength=int(groups.max(initial=-1)) + 1)
    starts = np.cumsum(counts) - counts
    by_jrd = np.lexsort((-jrd.astype(np.int64), groups))
    # Rounding: 0.1 * 30 is 3.0000000000000004, which asks for three machines and not for four.
    needed = np.maximum(1, np.ceil(ratio * counts - 1e-9).astype(np.int64))
    by_confidence = np.lexsort((objects.index, objects.machine, -objects.confidences, groups))
    keep = counts >= least_machines
    first = by_confidence[starts[keep]]
    return PhysicalObjects(
        jrd=jrd[by_jrd[(starts + needed - 1)[keep]]],
        n_machines=counts[keep],
        picture=objects.picture[first],
        boxes=objects.boxes[first],
        classes=objects.classes[first],
        confidences=objects.confidences[first],
    )
