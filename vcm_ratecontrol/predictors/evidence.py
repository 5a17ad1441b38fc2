"""What machines at hand say about a picture, as numbers that a network can pool. Pure numpy.

In a pilot the confidences that machines have on the original told how robust a picture is to coding better
than anything else, also for machines that were not asked. Only what the satisfaction table keeps is used.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_EVIDENCE = 16
"""Numbers per machine that `evidence_features` gives."""

MIN_CONFIDENCE = 0.2
"""Weaker detections are left out, as the satisfaction table leaves them out (`MIN_STORED_CONFIDENCE`)."""

_LOGIT_SCALE = 4.0  # most confidences then lie within -1..1
_LOGIT_FLOOR = 1e-3
_N_STATISTICS = 6


@dataclass(frozen=True)
class ConfidenceStatistics:
    """How sure one machine is of its result on one picture.

    highest: 0..1, of all detections from 0.2 on (0 if there are none); of a classifier: its top-1 probability.
    mean, lowest: 0..1, of the detections that count (confidence >= T_conf), 0 if there are none; of a classifier
        its top-1 probability.
    margin: 0..1, of a classifier: top-1 minus top-2 probability (near ties flip at the slightest change); else 0.
    count: number of detections that count; 1 for a classifier.
    size: 0..1, mean of sqrt(box area / picture area) of those; 1 for a classifier.
    """

    highest: float
    mean: float
    lowest: float
    margin: float
    count: int
    size: float


@dataclass(frozen=True)
class MachineEvidence:
    """One machine's view of one picture.

    original: on the original. coded: on the coded picture, where it was asked.
    agreement: 0..1, the score of the satisfaction table: F1 of a detector's detections; the probability that a
        classifier gives its original label.
    """

    task: Literal["classification", "detection"]
    original: ConfidenceStatistics
    coded: ConfidenceStatistics | None = None
    agreement: float | None = None


def classification_statistics(confidences: ArrayLike) -> ConfidenceStatistics:
    """Statistics of a classifier from its probabilities, [k], best first, k >= 2 (the table keeps five)."""
    best, second = (float(value) for value in np.asarray(confidences, dtype=np.float64)[:2])
    return ConfidenceStatistics(best, best, best, best - second, count=1, size=1.0)


def detection_statistics(
    scores: ArrayLike, boxes: ArrayLike, width: int, height: int, *, t_conf: float = 0.3
) -> ConfidenceStatistics:
    """Statistics of a detector.

    Args:
        scores: [N], 0..1. boxes: [N, 4], x1, y1, x2, y2 in pixels.
        width, height: of the picture. t_conf: as in `satisfaction.Thresholds`.
    """
    score = np.asarray(scores, dtype=np.float64)
    box = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    counts = score >= t_conf
    highest = float(score[score >= MIN_CONFIDENCE].max(initial=0.0))
    if not counts.any():
        return ConfidenceStatistics(highest, 0.0, 0.0, 0.0, count=0, size=0.0)
    area = np.clip(box[:, 2] - box[:, 0], 0, width) * np.clip(box[:, 3] - box[:, 1], 0, height)
    size = float(np.sqrt(area[counts] / (width * height)).mean())
    kept = score[counts]
    return ConfidenceStatistics(highest, float(kept.mean()), float(kept.min()), 0.0, int(counts.sum()), size)


def evidence_features(evidence: MachineEvidence) -> NDArray[np.float32]:
    """The evidence of one machine as float32 [N_EVIDENCE], each about within -2..2.

    Order: is a classifier, is a detector, six of the original, coded is there, six of the coded, agreement.
    Raises: ValueError for values that are not finite or confidences outside 0..1.
    """
    is_classifier = evidence.task == "classification"
    original = _statistics_features(evidence.original)
    coded = _statistics_features(evidence.coded) if evidence.coded else np.zeros(_N_STATISTICS)
    agreement = evidence.agreement if evidence.agreement is not None else 0.0
    row = [is_classifier, not is_classifier, *original, evidence.coded is not None, *coded, agreement]
    features = np.array(row, dtype=np.float32)
    if not np.isfinite(features).all():
        raise ValueError(f"evidence of a {evidence.task} machine is not finite: {evidence}")
    return features


def statistics_features(statistics: NDArray[np.floating]) -> NDArray[np.float64]:
    """The fields of `ConfidenceStatistics` as features: float [..., 6] -> float64 [..., 6]."""
    values = np.asarray(statistics, dtype=np.float64)
    clipped = np.clip(values[..., :3], _LOGIT_FLOOR, 1 - _LOGIT_FLOOR)
    logits = np.log(clipped / (1 - clipped)) / _LOGIT_SCALE
    count = np.log1p(values[..., 4:5]) / 2
    return np.concatenate([logits, values[..., 3:4], count, values[..., 5:6]], axis=-1)


def _statistics_features(statistics: ConfidenceStatistics) -> NDArray[np.float64]:
    values = np.array(astuple(statistics), dtype=np.float64)
    if not ((values[:3] >= 0) & (values[:3] <= 1)).all():
        raise ValueError(f"confidences must be within 0..1, got {values[:3].tolist()}")
    return statistics_features(values)


def confidence_map(
    boxes: ArrayLike, scores: ArrayLike, width: int, height: int, *, block_size: int = 16
) -> NDArray[np.float32]:
    """Where a detector is how sure, per block: float32 [ceil(height / 16), ceil(width / 16)].

    A block that boxes touch holds the lowest of their scores: what is easiest lost decides. Others hold 0.
    (MVRNet, AAAI 2026, holds 1 there; 0 lets the network tell background from a sure object.)

    Args: boxes: [N, 4], x1, y1, x2, y2 in pixels, clipped to the picture; scores: [N], 0..1.
    Raises: ValueError for values that are not finite.
    """
    rows, cols = -(-height // block_size), -(-width // block_size)
    values = np.zeros((rows, cols), dtype=np.float32)
    score = np.asarray(scores, dtype=np.float64)
    box = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    if not (np.isfinite(score).all() and np.isfinite(box).all()):
        raise ValueError("boxes and scores must be finite")
    for index in np.argsort(-score, kind="stable"):  # falling scores: the lowest is written last and stays
        x1, y1, x2, y2 = box[index]
        left, top = max(int(x1 // block_size), 0), max(int(y1 // block_size), 0)
        right, bottom = min(int(-(-x2 // block_size)), cols), min(int(-(-y2 // block_size)), rows)
        if left < right and top < bottom:
            values[top:bottom, left:right] = score[index]
    return values
