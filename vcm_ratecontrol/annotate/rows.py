"""From machines' results to rows of the label schema: rounding, matching, verdicts. No input or output."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from vcm_ratecontrol.labels.schema import (
    BOX_STEP,
    FRACTION_STEP,
    MIN_OBJECT_CONFIDENCE,
    MIN_STORED_CONFIDENCE,
    ORIGINAL_QP,
    TOP_LABELS,
)
from vcm_ratecontrol.machines.machine import Classification, Detections, Result
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, detection_score, has_area, iou_matrix

Row = dict[str, Any]

# The largest number that a stored coordinate takes: 16 bit, unsigned.
MAX_BOX_STEPS = 65535


@dataclass(frozen=True)
class CodedPicture:
    """Where a decoded picture comes from. qp is ORIGINAL_QP, slice_qp and bits 0 for the original."""

    qp: int
    slice_qp: int
    bits: int


ORIGINAL = CodedPicture(ORIGINAL_QP, 0, 0)


def rounded(result: Result) -> Result:
    """The result as the table stores it. Verdicts are computed from this, so that they can be derived again.

    Detections whose box has no area are left out: they overlap with nothing, not even with themselves.
    """
    if isinstance(result, Classification):
        return result
    kept = result.above(MIN_STORED_CONFIDENCE)
    boxes = (np.clip(np.round(kept.boxes / BOX_STEP), 0, MAX_BOX_STEPS) * BOX_STEP).astype(np.float32)
    real = has_area(boxes)
    return Detections(boxes[real], round_down(kept.scores[real]), kept.classes[real])


def round_down(values: Any) -> Any:
    """Fractions rounded down to FRACTION_STEP, as float32 (an array in, an array out)."""
    # 1e-6: a step that double precision missed by its last bits is that step.
    steps = np.floor(np.asarray(values, np.float64) / FRACTION_STEP + 1e-6)
    return (steps * FRACTION_STEP).astype(np.float32)


def picture_rows(
    base: Row, coded: CodedPicture, original: Result | None, decoded: Result | None, status: str
) -> Iterator[Row]:
    """Rows of one machine for one decoded picture (or for the original, when coded is ORIGINAL).

    base: the key columns that all rows of this machine and picture share.
    original, decoded: rounded results; None where the machine was not run (`invalid`) or failed.
    """
    row = {**base, "object": -1, "qp": coded.qp, "slice_qp": coded.slice_qp, "bits": coded.bits}
    row |= {"status": status, "score": None, "satisfied": None, "match_iou": None}
    row |= {"labels": [], "confidences": [], "boxes": []}
    if original is None or decoded is None:
        yield row
        return
    if isinstance(original, Classification) and isinstance(decoded, Classification):
        yield row | _classification(original, decoded)
        return
    assert isinstance(original, Detections) and isinstance(decoded, Detections)
    score = detection_score(original, decoded)
    yield row | {
        "score": float(round_down(score.f1)),
        "satisfied": score.f1 >= DEFAULT_THRESHOLDS.score if score.valid else None,
        **_listed(decoded, range(len(decoded))),
    }
    yield from _objects(row, coded, original, decoded)


def _classification(original: Classification, decoded: Classification) -> Row:
    best = np.argsort(-decoded.probabilities, kind="stable")[:TOP_LABELS]
    # The winner by the machine's own rule stands first even when a quantised output ties.
    labels = [decoded.label, *(int(i) for i in best if i != decoded.label)][:TOP_LABELS]
    return {
        "score": float(round_down(decoded.probabilities[original.label])),
        "satisfied": decoded.label == original.label,
        "labels": labels,
        "confidences": [float(x) for x in round_down(decoded.probabilities[labels])],
    }


def _objects(row: Row, coded: CodedPicture, original: Detections, decoded: Detections) -> Iterator[Row]:
    n_objects = int((original.scores >= MIN_OBJECT_CONFIDENCE).sum())
    overlap = iou_matrix(original.boxes[:n_objects], decoded.boxes)
    for index in range(n_objects):
        if coded.qp == ORIGINAL_QP:
            match, iou = index, 1.0
        else:
            match = best_match(overlap[index], decoded, int(original.classes[index]))
            iou = float(round_down(overlap[index, match])) if match >= 0 else 0.0
        found = match >= 0
        recognised = found and iou >= DEFAULT_THRESHOLDS.iou and decoded.classes[match] == original.classes[index]
        confidence = float(decoded.scores[match]) if recognised else 0.0
        yield row | {
            "object": index,
            "score": confidence,
            "satisfied": confidence >= DEFAULT_THRESHOLDS.confidence,
            "match_iou": iou,
            **_listed(decoded, [match] if found else []),
        }


def best_match(overlap: np.ndarray[Any, Any], decoded: Detections, wanted_class: int) -> int:
    """Index of the detection that stands for an object now, -1 when none overlaps.

    Of those with the object's class and IoU >= 0.5 the most confident; else the one with the highest IoU.
    """
    if len(overlap) == 0 or overlap.max() <= 0.0:
        return -1
    good = (overlap >= DEFAULT_THRESHOLDS.iou) & (decoded.classes == wanted_class)
    return int(np.where(good, decoded.scores, -1.0).argmax()) if good.any() else int(overlap.argmax())


def _listed(detections: Detections, which: range | list[int]) -> Row:
    chosen = list(which)
    return {
        "labels": [int(c) for c in detections.classes[chosen]],
        "confidences": [float(s) for s in detections.scores[chosen]],
        "boxes": [int(v) for v in np.round(detections.boxes[chosen].reshape(-1) / BOX_STEP)],
    }
