"""All detections of a table matched at once: what `satisfaction.detection_score` does row by row, in NumPy.

The rows of a table are the decoded pictures of many detectors; each is compared with its detector's result on
the original. The loop runs over ranks (the most confident detection of every row, then the second, ...), so
its length is the largest number of detections in a row and not the number of rows.
"""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.labels.schema import BOX_STEP
from vcm_ratecontrol.satisfaction import Thresholds, has_area

if TYPE_CHECKING:
    import pyarrow as pa

IntArray = npt.NDArray[np.int64]

# Pairs compared at a time: bounds the memory (about 100 bytes each), whatever the size of the table.
PAIRS_AT_A_TIME = 4_000_000


@dataclass(frozen=True)
class RaggedDetections:
    """Detections of many results, one after the other, each result's by falling confidence.

    offsets: int64 [R + 1]; result r holds offsets[r]..offsets[r+1]. boxes: float32 [N, 4], x1 y1 x2 y2 in pixels;
    scores: float32 [N]; classes: int16 [N]; index: int64 [N], its place among all stored ones of the result.
    """

    offsets: IntArray
    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int16]
    index: IntArray

    @property
    def counts(self) -> IntArray:
        return np.diff(self.offsets)

    def counted(self, confidence: float) -> RaggedDetections:
        """Those that `satisfaction.detection_score` counts: of at least this confidence, and with an area."""
        keep = (self.scores >= confidence) & has_area(self.boxes)
        before = np.concatenate([[0], np.cumsum(keep)])
        return RaggedDetections(
            before[self.offsets], self.boxes[keep], self.scores[keep], self.classes[keep], self.index[keep]
        )

    def take(self, results: IntArray) -> RaggedDetections:
        """Only these results, in this order."""
        counts = self.counts[results]
        starts = np.cumsum(counts) - counts
        within = np.arange(int(counts.sum())) - np.repeat(starts, counts)
        at = np.repeat(self.offsets[:-1][results], counts) + within
        offsets = np.concatenate([starts, [len(at)]])
        return RaggedDetections(offsets, self.boxes[at], self.scores[at], self.classes[at], self.index[at])


def ragged_detections(table: pa.Table) -> RaggedDetections:
    """Columns labels, confidences and boxes of detectors' rows, one result per row."""
    offsets, classes = _flat(table["labels"])
    _, scores = _flat(table["confidences"])
    _, boxes = _flat(table["boxes"])
    counts = np.diff(offsets)
    index = np.arange(offsets[-1]) - np.repeat(offsets[:-1], counts)
    pixels = boxes.reshape(-1, 4).astype(np.float32) * np.float32(BOX_STEP)
    return RaggedDetections(offsets, pixels, scores.astype(np.float32), classes.astype(np.int16), index)


def first_entries(column: pa.ChunkedArray) -> npt.NDArray[Any]:
    """First entry of each list of a column; none may be empty."""
    offsets, values = _flat(column)
    first: npt.NDArray[Any] = values[offsets[:-1]]
    return first


def _flat(column: pa.ChunkedArray) -> tuple[IntArray, npt.NDArray[Any]]:
    """Offsets from 0, and the values, of a column of lists."""
    import pyarrow as pa

    array = column.combine_chunks()
    if isinstance(array, pa.ChunkedArray):
        array = pa.concat_arrays(array.chunks) if array.num_chunks else pa.array([], column.type)
    offsets = array.offsets.to_numpy().astype(np.int64)
    return offsets - offsets[0], array.flatten().to_numpy(zero_copy_only=False)


@dataclass(frozen=True)
class Matches:
    """Result of matching R rows, each with its own original.

    tp, found, wanted: int64 [R]: matched pairs, detections of the decoded picture, of the original.
    recognised_row, recognised_object: int64 [K]: in that row the object of that index (among the original's
    detections with at least T_conf) has a detection of its class with IoU >= T_IoU.
    """

    tp: IntArray
    found: IntArray
    wanted: IntArray
    recognised_row: IntArray
    recognised_object: IntArray


def match(
    originals: RaggedDetections,
    decoded: RaggedDetections,
    original_of: IntArray,
    thresholds: Thresholds,
) -> Matches:
    """Match each decoded result r with original original_of[r] (int64 [R])."""
    wanted, found = originals.counted(thresholds.confidence), decoded.counted(thresholds.confidence)
    n_wanted, n_found = wanted.counts[original_of], found.counts
    ends = np.cumsum(n_wanted * n_found)
    tp = np.zeros(len(original_of), np.int64)
    rows, objects = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
    first = 0
    while first < len(original_of):
        done = ends[first - 1] if first else 0
        last = max(first + 1, int(np.searchsorted(ends, done + PAIRS_AT_A_TIME, side="right")))
        row, rank, target, overlap = _pairs(wanted, found, original_of, first, last, thresholds.iou)
        tp[first:last] = _greedy(row - first, rank, target, overlap, n_wanted[first:last])
        rows.append(row)
        objects.append(target)
        first = last
    width = int(n_wanted.max(initial=0)) + 1
    once = np.unique(np.concatenate(rows) * width + np.concatenate(objects))
    return Matches(tp, n_found, n_wanted, once // width, once % width)


def _pairs(
    wanted: RaggedDetections,
    found: RaggedDetections,
    original_of: IntArray,
    first: int,
    last: int,
    least: float,
) -> tuple[IntArray, IntArray, IntArray, npt.NDArray[np.float64]]:
    """Pairs of one class that overlap enough, of rows first..last-1: row, rank of the detection, object, IoU."""
    rows = np.arange(first, last)
    n_wanted, n_found = wanted.counts[original_of[rows]], found.counts[rows]
    size = n_wanted * n_found
    row = np.repeat(rows, size)
    within = np.arange(len(row)) - np.repeat(np.cumsum(size) - size, size)
    width = np.repeat(n_wanted, size)
    rank, target = within // np.maximum(width, 1), within % np.maximum(width, 1)
    a, b = found.offsets[row] + rank, wanted.offsets[original_of[row]] + target
    same = found.classes[a] == wanted.classes[b]
    row, rank, target, a, b = row[same], rank[same], target[same], a[same], b[same]
    overlap = _iou(found.boxes[a], wanted.boxes[b])
    near = overlap >= least
    return row[near], rank[near], target[near], overlap[near]


def _iou(a: npt.NDArray[np.float32], b: npt.NDArray[np.float32]) -> npt.NDArray[np.float64]:
    """IoU of box a[i] and b[i], in the very arithmetic of `satisfaction.iou_matrix`."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    low, high = np.maximum(a64[:, :2], b64[:, :2]), np.minimum(a64[:, 2:], b64[:, 2:])
    overlap = np.clip(high - low, 0.0, None).prod(axis=1)
    area_a = np.clip(a64[:, 2:] - a64[:, :2], 0.0, None).prod(axis=1)
    area_b = np.clip(b64[:, 2:] - b64[:, :2], 0.0, None).prod(axis=1)
    union = area_a + area_b - overlap
    result: npt.NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return result


def _greedy(
    row: IntArray, rank: IntArray, target: IntArray, overlap: npt.NDArray[np.float64], n_wanted: IntArray
) -> IntArray:
    """Number of matches of each row: each rank in turn takes the free object that it overlaps most."""
    tp = np.zeros(len(n_wanted), np.int64)
    order = np.lexsort((target, -overlap, row, rank))
    row, rank, target = row[order], rank[order], target[order]
    slot = (np.cumsum(n_wanted) - n_wanted)[row] + target
    taken = np.zeros(int(n_wanted.sum()), bool)
    bounds = np.searchsorted(rank, np.arange(int(rank[-1]) + 2)) if len(rank) else np.zeros(1, np.int64)
    for start, stop in itertools.pairwise(bounds.tolist()):
        free = start + np.flatnonzero(~taken[slot[start:stop]])
        if not len(free):
            continue
        best = free[np.concatenate([[True], row[free][1:] != row[free][:-1]])]
        taken[slot[best]] = True
        tp[row[best]] += 1
    return tp
