"""When a machine is satisfied by a compressed picture: pure numpy over results, no input or output.

A machine is compared with itself: its result on the decoded picture against its result on the original,
never against human annotation (arXiv 2211.06797; thresholds as in that paper's released detection setting).
"""

from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.machines.machine import Classification, Detections

BoxArray = npt.NDArray[np.floating]


@dataclass(frozen=True)
class Thresholds:
    """What counts as satisfaction, each in 0..1. The first three are a detector's.

    confidence (T_conf): detections below it do not count, on either picture.
    iou (T_IoU): least intersection over union of a match.
    score (T_S): least F1 score S at which the machine is satisfied.
    label_confidence: a classifier's opinion counts only where its label on the original has at least this
        probability. 0, the published setting, counts near ties too, which flip at the slightest change.
    """

    confidence: float = 0.3
    iou: float = 0.5
    score: float = 0.5
    label_confidence: float = 0.0

    def __post_init__(self) -> None:
        for name in ("confidence", "iou", "score", "label_confidence"):
            value = getattr(self, name)
            if not 0.0 <= value <= 1.0:
                raise InputError(f"threshold {name}={value}: must lie in 0..1")


DEFAULT_THRESHOLDS = Thresholds()

# A classifier that changed its label on an exact tie missed by next to nothing.
FINEST_MARGIN = 1e-6


@dataclass(frozen=True)
class DetectionScore:
    """Matches of a detector's two results: true positives, false positives, false negatives."""

    tp: int
    fp: int
    fn: int

    @property
    def valid(self) -> bool:
        """The machine saw at least one object on the original; else its opinion does not count."""
        return self.tp + self.fn > 0

    @property
    def f1(self) -> float:
        """S = 2TP / (2TP + FP + FN); 0 when there is nothing at all."""
        total = 2 * self.tp + self.fp + self.fn
        return 2 * self.tp / total if total else 0.0


@dataclass(frozen=True)
class Verdict:
    """One machine's opinion of one decoded picture.

    valid: its opinion counts; satisfied: score reaches the threshold (False when not valid);
    score: 0..1, F1 for a detector, the probability that it now gives its own original label for a classifier
    (a soft value; satisfaction itself is equality of the top-1 label). margin: by how much it is satisfied
    (>= 0) or not (< 0), -1..1: S - T_S; probability of the original's label minus the highest other. A search
    interpolates on it.
    """

    machine: str
    task: str
    valid: bool
    satisfied: bool
    score: float
    margin: float = 0.0


@dataclass(frozen=True)
class SMR:
    """Satisfied Machine Ratio: satisfied / valid, in 0..1; None when no machine is valid."""

    satisfied: int
    valid: int

    @property
    def value(self) -> float | None:
        return self.satisfied / self.valid if self.valid else None


def classification_verdict(
    name: str,
    original: Classification,
    decoded: Classification,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> Verdict:
    """Satisfied when the top-1 label on the decoded picture equals the one on the original."""
    valid = original.confidence >= thresholds.label_confidence
    same = decoded.label == original.label
    others = np.delete(decoded.probabilities, original.label)
    gap = float(decoded.probabilities[original.label] - others.max(initial=0.0))
    return Verdict(
        machine=name,
        task="classification",
        valid=valid,
        satisfied=valid and same,
        score=float(decoded.probabilities[original.label]),
        # Quantised outputs tie; the sign follows the machine's own choice.
        margin=max(gap, 0.0) if same else min(gap, -FINEST_MARGIN),
    )


def detection_verdict(
    name: str, original: Detections, decoded: Detections, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> Verdict:
    """Satisfied when S >= T_S; valid when the original has an object with confidence >= T_conf."""
    score = detection_score(original, decoded, thresholds)
    return Verdict(
        machine=name,
        task="detection",
        valid=score.valid,
        satisfied=score.valid and score.f1 >= thresholds.score,
        score=score.f1,
        margin=score.f1 - thresholds.score,
    )


def verdict(
    name: str,
    original: Classification | Detections,
    decoded: Classification | Detections,
    thresholds: Thresholds = DEFAULT_THRESHOLDS,
) -> Verdict:
    """The verdict of one machine from its two results, which must be of one kind."""
    if isinstance(original, Classification) and isinstance(decoded, Classification):
        return classification_verdict(name, original, decoded, thresholds)
    if isinstance(original, Detections) and isinstance(decoded, Detections):
        return detection_verdict(name, original, decoded, thresholds)
    raise TypeError(f"{name}: results of two different tasks")


def detection_score(
    original: Detections, decoded: Detections, thresholds: Thresholds = DEFAULT_THRESHOLDS
) -> DetectionScore:
    """Match decoded detections to the original's, greedily by falling confidence.

    Only detections with confidence >= T_conf take part on either side, and only boxes with an area: some
    networks give boxes turned inside out, which overlap with nothing, not even with themselves. Each
    decoded detection takes the free original object of its class with the highest IoU, when that is >= T_IoU.
    """
    wanted = (original.scores >= thresholds.confidence) & has_area(original.boxes)
    found = (decoded.scores >= thresholds.confidence) & has_area(decoded.boxes)
    n_wanted, n_found = int(wanted.sum()), int(found.sum())
    if n_wanted == 0 or n_found == 0:
        return DetectionScore(0, n_found, n_wanted)
    order = np.argsort(-decoded.scores[found], kind="stable")
    overlap = iou_matrix(decoded.boxes[found][order], original.boxes[wanted])
    same = decoded.classes[found][order][:, None] == original.classes[wanted][None, :]
    overlap = np.where(same, overlap, -1.0)
    tp = 0
    for row in overlap:
        best = int(row.argmax())
        if row[best] >= thresholds.iou:
            tp += 1
            overlap[:, best] = -1.0
    return DetectionScore(tp, n_found - tp, n_wanted - tp)


def has_area(boxes: BoxArray) -> npt.NDArray[np.bool_]:
    """Of boxes [N, 4] (x1, y1, x2, y2): bool [N], whether x2 > x1 and y2 > y1."""
    inside: npt.NDArray[np.bool_] = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
    return inside


def iou_matrix(a: BoxArray, b: BoxArray) -> npt.NDArray[np.float64]:
    """Intersection over union of boxes a [N, 4] and b [M, 4] (x1, y1, x2, y2): float64 [N, M] in 0..1."""
    a64, b64 = a.astype(np.float64), b.astype(np.float64)
    top_left = np.maximum(a64[:, None, :2], b64[None, :, :2])
    bottom_right = np.minimum(a64[:, None, 2:], b64[None, :, 2:])
    overlap = np.clip(bottom_right - top_left, 0.0, None).prod(axis=2)
    area_a = np.clip(a64[:, 2:] - a64[:, :2], 0.0, None).prod(axis=1)
    area_b = np.clip(b64[:, 2:] - b64[:, :2], 0.0, None).prod(axis=1)
    union = area_a[:, None] + area_b[None, :] - overlap
    result: npt.NDArray[np.float64] = np.divide(overlap, union, out=np.zeros_like(overlap), where=union > 0)
    return result


def smr(verdicts: Iterable[Verdict], task: str = "both") -> SMR:
    """Satisfied Machine Ratio over the valid machines of a task ('classification', 'detection', 'both')."""
    counted = [v for v in verdicts if v.valid and task in ("both", v.task)]
    return SMR(sum(v.satisfied for v in counted), len(counted))
