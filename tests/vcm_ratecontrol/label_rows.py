"""Label rows from made-up results of machines, by the project's own rules."""

import hashlib
from collections.abc import Mapping
from typing import Any

import numpy as np

from vcm_ratecontrol.annotate.rows import ORIGINAL, CodedPicture, Row, picture_rows, rounded
from vcm_ratecontrol.labels.schema import ORIGINAL_QP
from vcm_ratecontrol.machines.machine import Classification, Detections, Result

QPS = (20, 30, 40)


def key(number: int) -> str:
    return hashlib.sha256(f"picture {number}".encode()).hexdigest()


def line(picture: str) -> dict[str, Any]:
    """A line of the picture list."""
    return {"picture": picture, "source": "a.jpg", "width": 64, "height": 48, "split": "train"}


def detections(*found: tuple[float, float, float, float, float, int]) -> Detections:
    """From (x1, y1, x2, y2, score, class)."""
    values = np.array(sorted(found, key=lambda row: -row[4]), np.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].astype(np.int16))


def classification(label: int, confidence: float = 0.5) -> Classification:
    """Of ten classes, the rest of the probability spread evenly."""
    probabilities = np.full(10, (1 - confidence) / 9, np.float32)
    probabilities[label] = confidence
    return Classification(label, confidence, probabilities)


def machine_rows(picture: str, machine: str, results: Mapping[int, Result | None]) -> list[Row]:
    """All rows of one machine. results: QP (ORIGINAL_QP for the original) -> result, None where it failed."""
    first = results[ORIGINAL_QP]
    original = None if first is None else rounded(first)
    task = "classification" if machine.startswith("c") else "detection"
    base = {"picture": picture, "codec": "vvc", "preset": "faster", "coding": "still"}
    base |= {"machine": machine, "task": task}
    rows: list[Row] = []
    for qp, result in results.items():
        coded = ORIGINAL if qp == ORIGINAL_QP else CodedPicture(qp, qp, 1000 - 10 * qp)
        now = None if result is None else rounded(result)
        status = "ok" if now is not None and original is not None else "failed"
        rows += picture_rows(base, coded, original if status == "ok" else None, now, status)
    return rows
