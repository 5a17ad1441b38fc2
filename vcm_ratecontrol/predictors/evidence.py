"""What machines at hand say about a picture, as numbers that a network can pool. Pure numpy.

In a pilot the confidences that machines have on the original told how robust a picture is to coding better
than anything else, also for machines that were not asked. Only what the satisfaction table keeps is used.
"""

from __future__ import annotations

from dataclasses import astuple, dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

N_EVIDENCE = 14
"""Numbers per machine that `evidence_features` gives."""

_LOGIT_SCALE = 4.0  # most confidences then lie within -1..1
_MIN_CONFIDENCE = 1e-3


@dataclass(frozen=True)
class ConfidenceStatistics:
    """How sure one machine is of its result on one picture.

    highest: 0..1, of all detections, however weak; of a classifier: its top-1 probability.
    mean, lowest: 0..1, of the detections that count (confidence >= T_conf); 0 if there are none.
    count: number of detections that count; 1 for a classifier.
    size: 0..1, mean of sqrt(box area / picture area) of those; 1 for a classifier.
    """

    highest: float
    mean: float
    lowest: float
    count: int
    size: float


@dataclass(frozen=True)
class MachineEvidence:
    """One machine's view of one picture.

    original: on the original. coded: on the coded picture, where it was asked. agreement: 0..1, how far the
    result on the coded picture agrees with that on the original (detectors: S; classifiers: 1 for the same
    label, else 0).
    """

    task: Literal["classification", "detection"]
    original: ConfidenceStatistics
    coded: ConfidenceStatistics | None = None
    agreement: float | None = None


def classification_statistics(confidence: float) -> ConfidenceStatistics:
    """Statistics of a classifier from its top-1 probability, 0..1."""
    return ConfidenceStatistics(confidence, confidence, confidence, count=1, size=1.0)


def detection_statistics(
    scores: ArrayLike, boxes: ArrayLike, width: int, height: int, *, t_conf: float = 0.3
) -> ConfidenceStatistics:
    """Statistics of a detector.

    Args: scores: [N], 0..1; boxes: [N, 4], x1, y1, x2, y2 in pixels; width, height: of the picture; t_conf:
    as in `satisfaction.Thresholds`.
    """
    score = np.asarray(scores, dtype=np.float64)
    box = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)
    counts = score >= t_conf
    highest = float(score.max(initial=0.0))
    if not counts.any():
        return ConfidenceStatistics(highest, 0.0, 0.0, count=0, size=0.0)
    area = np.clip(box[:, 2] - box[:, 0], 0, width) * np.clip(box[:, 3] - box[:, 1], 0, height)
    size = np.sqrt(area[counts] / (width * height)).mean()
    kept = score[counts]
    return ConfidenceStatistics(
        highest, float(kept.mean()), float(kept.min()), count=int(counts.sum()), size=float(size)
    )


def evidence_features(evidence: MachineEvidence) -> NDArray[np.float32]:
    """The evidence of one machine as float32 [N_EVIDENCE], each about within -2..2.

    Order: is a classifier, is a detector, five of the original, coded is there, five of the coded, agreement.
    Raises: ValueError for values that are not finite or confidences outside 0..1.
    """
    is_classifier = evidence.task == "classification"
    original = _statistics_features(evidence.original)
    coded = _statistics_features(evidence.coded) if evidence.coded else np.zeros(5)
    agreement = evidence.agreement if evidence.agreement is not None else 0.0
    row = [is_classifier, not is_classifier, *original, evidence.coded is not None, *coded, agreement]
    features = np.array(row, dtype=np.float32)
    if not np.isfinite(features).all():
        raise ValueError(f"evidence of a {evidence.task} machine is not finite: {evidence}")
    return features


def _statistics_features(statistics: ConfidenceStatistics) -> NDArray[np.float64]:
    highest, mean, lowest, count, size = astuple(statistics)
    confidences = np.array([highest, mean, lowest])
    if not ((confidences >= 0) & (confidences <= 1)).all():
        raise ValueError(f"confidences must be within 0..1, got {confidences.tolist()}")
    clipped = np.clip(confidences, _MIN_CONFIDENCE, 1 - _MIN_CONFIDENCE)
    return np.array([*np.log(clipped / (1 - clipped)) / _LOGIT_SCALE, np.log1p(count) / 2, size])


def confidence_map(
    boxes: ArrayLike, scores: ArrayLike, width: int, height: int, *, block_size: int = 16
) -> NDArray[np.float32]:
    """Where a detector is how sure, per block: float32 [ceil(height / 16), ceil(width / 16)].

    A block that boxes touch holds the lowest of their scores: what is easiest lost decides. Others hold 0.
    (MVRNet, AAAI 2026, holds 1 there; 0 lets the network tell background from a sure object.)

    Args: boxes: [N, 4], x1, y1, x2, y2 in pixels, clipped to the picture; scores: [N], 0..1.
    """
    rows, cols = -(-height // block_size), -(-width // block_size)
    values = np.zeros((rows, cols), dtype=np.float32)
    order = np.argsort(-np.asarray(scores, dtype=np.float64), kind="stable")
    for index in order:  # falling scores: the lowest is written last and stays
        x1, y1, x2, y2 = np.asarray(boxes, dtype=np.float64).reshape(-1, 4)[index]
        left, top = max(int(x1 // block_size), 0), max(int(y1 // block_size), 0)
        right, bottom = min(int(-(-x2 // block_size)), cols), min(int(-(-y2 // block_size)), rows)
        if left < right and top < bottom:
            values[top:bottom, left:right] = np.asarray(scores, dtype=np.float64)[index]
    return values
