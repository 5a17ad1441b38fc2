"""Results of the judges as accuracy: does a classifier keep its label, a detector find what it found, what is there?"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.bench.detection_metrics import (
    AveragePrecision,
    NoGroundTruthError,
    TrueBoxes,
    average_precision,
    pseudo_average_precision,
    top1_agreement,
)
from vcm_ratecontrol.bench.table import Indices, Table
from vcm_ratecontrol.labels.matching import first_entries, ragged_detections

# Number of the original among columns shifted by one.
_ORIGINAL = 0


@dataclass(frozen=True, eq=False)
class Found:
    """Detections of one result; boxes float32 [N, 4] in pixels as coded, scores float32 [N], classes int16 [N]."""

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int16]


NOTHING = Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int16))


class Answers:
    """Raw results of some machines of a table."""

    def __init__(
        self,
        table: Table,
        names: Sequence[str],
        truth: Mapping[str, TrueBoxes] | None = None,
        classes: Mapping[str, Sequence[int]] | None = None,
    ) -> None:
        """truth: name of an item (stills) -> human boxes, in pixels as coded. classes: machine -> the COCO-80
        classes that it knows; it is not held to others."""
        self._table = table
        self._detectors = table.machines_at(names, "detection")
        self._classifiers = table.machines_at(names, "classification")
        self._truth, self._classes = dict(truth or {}), dict(classes or {})
        whole = table.whole
        rows = whole.rows_of("detection")
        self._place = np.full(whole.shape, -1, np.int64)
        self._place[whole.picture[rows], whole.machine[rows], whole.qp[rows]] = np.arange(len(rows))
        self._found = ragged_detections(whole.table.take(rows))
        rows = whole.rows_of("classification")
        self._labels = np.full(whole.shape, -1, np.int64)
        labels = first_entries(whole.table.take(rows)["labels"])
        self._labels[whole.picture[rows], whole.machine[rows], whole.qp[rows]] = labels

    def top1(self, columns: Indices) -> float | None:
        """Top-1 agreement, mean over classifiers; None without one. A failure is a disagreement."""
        frames = np.arange(len(self._table.frame_unit))
        column = columns[self._table.frame_unit] + 1
        values = []
        for machine in self._classifiers.tolist():
            original, now = self._labels[frames, machine, _ORIGINAL], self._labels[frames, machine, column]
            known = original >= 0
            if known.any():
                values.append(top1_agreement(original[known].tolist(), now[known].tolist()))
        return float(np.mean(values)) if values else None

    def pseudo(self, columns: Indices) -> tuple[float, float] | None:
        """mAP@0.5 and mAP@[.5:.95] against the detectors' own results on the originals."""
        values = []
        for machine in self._detectors.tolist():
            original = [self._at(frame, machine, _ORIGINAL) for frame in range(len(self._table.frame_unit))]
            try:
                values.append(pseudo_average_precision(original, self._decoded(machine, columns)))
            except NoGroundTruthError:
                continue
        return _means(values)

    def human(self, columns: Indices) -> tuple[float, float] | None:
        """The same against human boxes, over the items that have them."""
        table = self._table
        annotated = [frame for frame, item in enumerate(table.frame_item) if table.items[item].name in self._truth]
        truth = [self._truth[table.items[table.frame_item[frame]].name] for frame in annotated]
        values = []
        for machine in self._detectors.tolist() if annotated else []:
            decoded = self._decoded(machine, columns)
            name = table.opinions.machines[machine]
            try:
                found = [decoded[frame] for frame in annotated]
                values.append(average_precision(truth, found, classes=self._classes.get(name)))
            except NoGroundTruthError:
                continue
        return _means(values)

    def on_original(self, frame: int, machine: int) -> Found:
        """What a detector (index) finds on the original frame."""
        return self._at(frame, machine, _ORIGINAL)

    def _decoded(self, machine: int, columns: Indices) -> list[Found]:
        chosen = columns[self._table.frame_unit] + 1
        return [self._at(frame, machine, int(column)) for frame, column in enumerate(chosen)]

    def _at(self, frame: int, machine: int, column: int) -> Found:
        place = int(self._place[frame, machine, column])
        if place < 0:
            return NOTHING
        found = self._found
        part = slice(int(found.offsets[place]), int(found.offsets[place + 1]))
        return Found(found.boxes[part], found.scores[part], found.classes[part])


def _means(values: Sequence[AveragePrecision]) -> tuple[float, float] | None:
    if not values:
        return None
    return float(np.mean([v.ap50 for v in values])), float(np.mean([v.ap for v in values]))
