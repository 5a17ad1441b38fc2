"""From results to rows: rounding, best matches; and the machines' share of annotating one picture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.vcm_ratecontrol.label_rows import classification, detections
from vcm_ratecontrol.annotate.rows import ORIGINAL, CodedPicture, best_match, picture_rows, round_down, rounded
from vcm_ratecontrol.annotate.sources import scaled
from vcm_ratecontrol.machines.machine import Detections
from vcm_ratecontrol.satisfaction import detection_score, iou_matrix

BASE = {"picture": "ab", "codec": "vvc", "preset": "faster", "coding": "still", "machine": "d1", "task": "detection"}
CODED = CodedPicture(30, 30, 1000)


@given(st.floats(0, 1))
def test_fractions_are_rounded_down_and_fit_into_16_bits(value: float) -> None:
    stored = float(round_down(value))
    assert stored <= value + 1e-8
    assert value - stored < 1 / 1024 + 1e-8
    assert float(np.float16(stored)) == stored


@pytest.mark.parametrize("value", [0.0, 0.25, 0.5, 0.5 - 1e-10, 1.0])
def test_a_value_on_a_threshold_stays_on_it(value: float) -> None:
    assert float(round_down(value)) == pytest.approx(value, abs=1e-6)


def test_rounding_twice_is_rounding_once() -> None:
    once = rounded(detections((0.13, 0.9, 10.38, 20.6, 0.9123, 1), (5, 5, 5.1, 9, 0.8, 2), (0, 0, 4, 4, 0.19, 3)))
    assert isinstance(once, Detections)
    # The second has no width in quarter pixels, the third is too faint to be stored.
    assert once.classes.tolist() == [1]
    assert once.boxes.tolist() == [[0.25, 1.0, 10.5, 20.5]]
    twice = rounded(once)
    assert isinstance(twice, Detections)
    assert np.array_equal(once.boxes, twice.boxes)
    assert np.array_equal(once.scores, twice.scores)


def test_best_match_prefers_what_recognises() -> None:
    decoded = detections((0, 0, 10, 10, 0.4, 2), (0, 0, 10, 12, 0.7, 1), (0, 0, 10, 14, 0.9, 1))
    overlap = iou_matrix(np.array([[0, 0, 10, 10]], np.float32), decoded.boxes)[0]
    # Sorted by confidence: IoU 0.71 and 0.83 with the class, IoU 1 without.
    assert best_match(overlap, decoded, 1) == 0
    assert best_match(overlap, decoded, 2) == 2
    assert best_match(overlap, decoded, 3) == 2
    assert best_match(np.zeros(3), decoded, 1) == -1
    assert best_match(np.zeros(0), detections(), 1) == -1


def test_rows_of_a_detector() -> None:
    original = rounded(detections((0, 0, 10, 10, 0.9, 1), (20, 20, 30, 30, 0.5, 2), (40, 0, 50, 10, 0.25, 3)))
    decoded = rounded(detections((0, 0, 10, 8, 0.75, 1), (60, 60, 70, 70, 0.5, 2)))
    whole, first, second = picture_rows(BASE, CODED, original, decoded, "ok")
    assert isinstance(original, Detections)
    assert isinstance(decoded, Detections)
    assert whole["score"] == pytest.approx(detection_score(original, decoded).f1, abs=1 / 1024)
    assert (whole["labels"], whole["boxes"]) == ([1, 2], [0, 0, 40, 32, 240, 240, 280, 280])
    assert (first["object"], first["score"], first["match_iou"]) == (0, 0.75, pytest.approx(0.8, abs=1 / 1024))
    assert (first["satisfied"], first["boxes"]) == (True, [0, 0, 40, 32])
    assert (second["object"], second["score"], second["match_iou"], second["labels"]) == (1, 0.0, 0.0, [])
    assert second["satisfied"] is False
    at_original = list(picture_rows(BASE, ORIGINAL, original, original, "ok"))
    assert [(row["object"], row["satisfied"], row["match_iou"]) for row in at_original[1:]] == [
        (0, True, 1.0),
        (1, True, 1.0),
    ]
    assert at_original[0]["confidences"] == [pytest.approx(c, abs=1 / 1024) for c in (0.9, 0.5, 0.25)]


def test_rows_of_a_classifier() -> None:
    (row,) = picture_rows(BASE, CODED, classification(3, 0.5), classification(4, 0.4), "ok")
    assert row["satisfied"] is False
    assert row["labels"][0] == 4
    assert len(row["labels"]) == len(row["confidences"]) == 5
    assert row["score"] == pytest.approx(0.6 / 9, abs=1 / 1024)


def test_without_a_result_there_is_a_row_without_verdict() -> None:
    (row,) = picture_rows(BASE, CODED, None, None, "failed")
    assert (row["status"], row["score"], row["satisfied"], row["boxes"]) == ("failed", None, None, [])


@pytest.mark.parametrize(
    ("size", "limit", "expected"),
    [
        ((480, 640), 320, (240, 320)),
        ((480, 640), 640, (480, 640)),
        ((480, 640), 0, (480, 640)),
        ((3, 900), 300, (1, 300)),
    ],
)
def test_scaling_down(size: tuple[int, int], limit: int, expected: tuple[int, int]) -> None:
    assert scaled(np.zeros((*size, 3), np.uint8), limit).shape == (*expected, 3)
