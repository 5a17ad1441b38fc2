"""What the machines of a label table say of each picture, as arrays: `predictors.evidence` for all rows at once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.labels.matching import RaggedDetections, ragged_detections
from vcm_ratecontrol.labels.verdicts import WholePictures
from vcm_ratecontrol.predictors.evidence import (
    N_EVIDENCE,
    ConfidenceStatistics,
    MachineEvidence,
    statistics_features,
)

if TYPE_CHECKING:
    import pyarrow as pa

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]

N_STATISTICS = 6
"""Numbers of a `ConfidenceStatistics`: highest, mean, lowest, margin, count, size."""

ORIGINAL = 0
"""Column of the original among the QPs."""


@dataclass(frozen=True)
class EvidenceTable:
    """What M machines say of P pictures, each at Q QPs of which the first is the original.

    statistics: float32 [P, M, Q, 6], fields of `ConfidenceStatistics`; asked: bool [P, M, Q], whether it ran.
    agreement: float32 [P, M, Q], 0..1, the score of the table (0 where there is none).
    is_classifier: bool [M].
    """

    statistics: Floats
    asked: Flags
    agreement: Floats
    is_classifier: Flags

    def on_original(self) -> Floats:
        """`evidence_features` of the originals: float32 [P, M, N_EVIDENCE]; zeros where not asked."""
        return self._features(None)

    def on_coded(self, qp_at: int) -> Floats:
        """The same with the results on the coded pictures at column `qp_at` >= 1; where a machine was not asked
        there (it saw nothing on the original) only with those on the original."""
        return self._features(qp_at)

    def machine_evidence(self, picture: int, machine: int, qp_at: int | None = None) -> MachineEvidence:
        """One machine's view of one picture as the predictors take it."""
        task: Literal["classification", "detection"]
        task = "classification" if self.is_classifier[machine] else "detection"
        original = _record(self.statistics[picture, machine, ORIGINAL])
        if qp_at is None or not self.asked[picture, machine, qp_at]:
            return MachineEvidence(task, original)
        coded = _record(self.statistics[picture, machine, qp_at])
        return MachineEvidence(task, original, coded, float(self.agreement[picture, machine, qp_at]))

    def _features(self, qp_at: int | None) -> Floats:
        shape = self.asked.shape[:2]
        features = np.zeros((*shape, N_EVIDENCE), np.float32)
        features[..., 0] = self.is_classifier
        features[..., 1] = ~self.is_classifier
        features[..., 2:8] = statistics_features(self.statistics[:, :, ORIGINAL])
        if qp_at is not None:
            there = self.asked[:, :, qp_at]
            features[..., 8] = there
            features[..., 9:15] = np.where(there[..., None], statistics_features(self.statistics[:, :, qp_at]), 0)
            features[..., 15] = np.where(there, self.agreement[:, :, qp_at], 0)
        features[~self.asked[:, :, ORIGINAL]] = 0
        return features


@dataclass(frozen=True)
class OriginalDetections:
    """All detectors' results on the originals. at: int64 [P, M], the result's place in `detections`, -1 = none."""

    at: npt.NDArray[np.int64]
    detections: RaggedDetections

    def of(self, picture: int, machine: int) -> tuple[Floats, Floats] | None:
        """Boxes float32 [N, 4] (pixels) and scores float32 [N] of a detector; None for another machine."""
        place = int(self.at[picture, machine])
        if place < 0:
            return None
        part = slice(int(self.detections.offsets[place]), int(self.detections.offsets[place + 1]))
        return self.detections.boxes[part], self.detections.scores[part]


def evidence_table(
    whole: WholePictures, sizes: Mapping[str, tuple[int, int]], t_conf: float, score: Floats
) -> tuple[EvidenceTable, OriginalDetections]:
    """Evidence of the whole-picture rows of a table.

    sizes: picture -> width and height. t_conf: as in `satisfaction.Thresholds`. score: float32 [P, M, Q], of the
    verdicts (NaN where not valid).
    """
    statistics = np.zeros((*whole.shape, N_STATISTICS), np.float32)
    asked = np.zeros(whole.shape, bool)
    is_classifier = np.array([task == "classification" for task in whole.tasks], bool)
    ran = _ran(whole)
    _classifiers(whole, np.flatnonzero(ran & is_classifier[whole.machine]), statistics, asked)
    rows = np.flatnonzero(ran & ~is_classifier[whole.machine])
    _detectors(whole, rows, sizes, t_conf, statistics, asked)
    table = EvidenceTable(statistics, asked, np.nan_to_num(score, nan=0.0), is_classifier)
    return table, _originals(whole, rows[whole.qp[rows] == ORIGINAL])


def join_evidence(
    parts: Sequence[tuple[EvidenceTable, OriginalDetections]],
    machines_of: Sequence[Sequence[str]],
    machines: Sequence[str],
    order: npt.NDArray[np.int64],
) -> tuple[EvidenceTable, OriginalDetections]:
    """Evidence of several tables of one data set, pictures put into `order`; as `labels.verdicts.join`."""
    n_pictures = sum(len(table.asked) for table, _ in parts)
    n_qps = parts[0][0].asked.shape[2]
    shape = (n_pictures, len(machines), n_qps)
    statistics = np.zeros((*shape, N_STATISTICS), np.float32)
    asked, agreement = np.zeros(shape, bool), np.zeros(shape, np.float32)
    is_classifier = np.zeros(len(machines), bool)
    at = np.full(shape[:2], -1, np.int64)
    first, results = 0, 0
    for (table, originals), names in zip(parts, machines_of, strict=True):
        rows, columns = slice(first, first + len(table.asked)), [machines.index(name) for name in names]
        statistics[rows, columns], asked[rows, columns] = table.statistics, table.asked
        agreement[rows, columns], is_classifier[columns] = table.agreement, table.is_classifier
        at[rows, columns] = np.where(originals.at >= 0, originals.at + results, -1)
        first, results = first + len(table.asked), results + len(originals.detections.counts)
    joined = EvidenceTable(statistics[order], asked[order], agreement[order], is_classifier)
    return joined, OriginalDetections(at[order], _joined([originals.detections for _, originals in parts]))


def _joined(parts: Sequence[RaggedDetections]) -> RaggedDetections:
    counts = np.concatenate([part.counts for part in parts])
    return RaggedDetections(
        np.concatenate([[0], np.cumsum(counts)]),
        np.concatenate([part.boxes for part in parts]),
        np.concatenate([part.scores for part in parts]),
        np.concatenate([part.classes for part in parts]),
        np.concatenate([part.index for part in parts]),
    )


def _record(values: Floats) -> ConfidenceStatistics:
    highest, mean, lowest, margin, count, size = (float(value) for value in values)
    return ConfidenceStatistics(highest, mean, lowest, margin, round(count), size)


def _ran(whole: WholePictures) -> Flags:
    """Rows with a result of the machine: all that worked, and the original of a detector that saw nothing there."""
    status = whole.table["status"].cast("string").to_numpy(zero_copy_only=False)
    ran: Flags = (status == "ok") | ((status == "invalid") & (whole.qp == ORIGINAL))
    return ran


def _classifiers(whole: WholePictures, rows: npt.NDArray[np.int64], statistics: Floats, asked: Flags) -> None:
    if not len(rows):
        return
    offsets, confidences = _lists(whole.table.take(rows)["confidences"])
    best = confidences[offsets[:-1]]
    # A classifier of one class has no second; its margin is the confidence itself.
    has_second = np.diff(offsets) > 1
    second = np.where(has_second, confidences[np.minimum(offsets[:-1] + 1, len(confidences) - 1)], 0)
    ones = np.ones(len(rows), np.float32)
    place = whole.picture[rows], whole.machine[rows], whole.qp[rows]
    statistics[place] = np.stack([best, best, best, best - second, ones, ones], axis=1)
    asked[place] = True


def _detectors(
    whole: WholePictures,
    rows: npt.NDArray[np.int64],
    sizes: Mapping[str, tuple[int, int]],
    t_conf: float,
    statistics: Floats,
    asked: Flags,
) -> None:
    if not len(rows):
        return
    found = ragged_detections(whole.table.take(rows))
    result = np.repeat(np.arange(len(rows)), found.counts)
    size_of = np.array([sizes[name] for name in whole.pictures], np.float64)[whole.picture[rows]]
    width, height = size_of[result, 0], size_of[result, 1]
    box = found.boxes.astype(np.float64)
    area = np.clip(box[:, 2] - box[:, 0], 0, width) * np.clip(box[:, 3] - box[:, 1], 0, height)
    counted = found.scores >= t_conf
    side = np.sqrt(area / (width * height))
    number = np.bincount(result[counted], minlength=len(rows))
    many = np.maximum(number, 1)
    highest, lowest = np.zeros(len(rows)), np.ones(len(rows))
    np.maximum.at(highest, result, found.scores)
    np.minimum.at(lowest, result[counted], found.scores[counted])
    mean = np.bincount(result[counted], found.scores[counted], len(rows)) / many
    size = np.bincount(result[counted], side[counted], len(rows)) / many
    lowest[number == 0] = 0
    place = whole.picture[rows], whole.machine[rows], whole.qp[rows]
    statistics[place] = np.stack([highest, mean, lowest, np.zeros(len(rows)), number, size], axis=1)
    asked[place] = True


def _originals(whole: WholePictures, rows: npt.NDArray[np.int64]) -> OriginalDetections:
    at = np.full(whole.shape[:2], -1, np.int64)
    at[whole.picture[rows], whole.machine[rows]] = np.arange(len(rows))
    return OriginalDetections(at, ragged_detections(whole.table.take(rows)))


def _lists(column: pa.ChunkedArray) -> tuple[npt.NDArray[np.int64], Floats]:
    """Offsets from 0, and the values as float32, of a column of lists."""
    import pyarrow as pa

    array = pa.concat_arrays(column.chunks) if column.num_chunks != 1 else column.chunk(0)
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], array.flatten().to_numpy(zero_copy_only=False).astype(np.float32)
