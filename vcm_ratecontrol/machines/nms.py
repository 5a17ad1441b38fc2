"""Class-wise greedy non-maximum suppression."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

# Pairwise overlaps are taken block by block: one matrix of all candidates would grow with their square.
_BLOCK = 128


def non_maximum_suppression(
    boxes: npt.NDArray[np.float32],
    scores: npt.NDArray[np.float32],
    classes: npt.NDArray[np.intp],
    iou: float,
    limit: int,
) -> npt.NDArray[np.intp]:
    """Indices of the kept boxes by falling score, at most `limit`.

    A box is dropped when a kept box of its class and of higher score overlaps it by more than `iou`.
    boxes [N, 4] x1, y1, x2, y2; scores [N]; classes [N].
    """
    order = np.argsort(-scores, kind="stable")
    kept: list[npt.NDArray[np.intp]] = []
    n_kept = 0
    b = boxes.astype(np.float64)
    area = np.maximum(b[:, 2] - b[:, 0], 0) * np.maximum(b[:, 3] - b[:, 1], 0)
    while len(order) and n_kept < limit:
        block, order = order[:_BLOCK], order[_BLOCK:]
        clash = _overlaps(b, area, classes, block, block, iou)
        alive = np.ones(len(block), bool)
        for i in np.flatnonzero(np.triu(clash, 1).any(1)):
            if alive[i]:
                alive[i + 1 :] &= ~clash[i, i + 1 :]
        winners = block[alive]
        kept.append(winners)
        n_kept += len(winners)
        if len(order):
            order = order[~_overlaps(b, area, classes, winners, order, iou).any(0)]
    return np.concatenate(kept)[:limit] if kept else np.zeros(0, np.intp)


def _overlaps(
    boxes: npt.NDArray[np.float64],
    area: npt.NDArray[np.float64],
    classes: npt.NDArray[np.intp],
    rows: npt.NDArray[np.intp],
    columns: npt.NDArray[np.intp],
    iou: float,
) -> npt.NDArray[np.bool_]:
    """bool [rows, columns]: same class and IoU above the threshold."""
    r, c = boxes[rows][:, None], boxes[columns][None]
    width = np.minimum(r[..., 2], c[..., 2]) - np.maximum(r[..., 0], c[..., 0])
    height = np.minimum(r[..., 3], c[..., 3]) - np.maximum(r[..., 1], c[..., 1])
    shared = np.maximum(width, 0) * np.maximum(height, 0)
    union = area[rows][:, None] + area[columns][None] - shared + 1e-9
    clash: npt.NDArray[np.bool_] = (shared > iou * union) & (classes[rows][:, None] == classes[columns][None])
    return clash
