"""When a machine is satisfied: values worked out by hand, and laws."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec_wrappers.errors import InputError
from vcm_ratecontrol.machines.machine import Classification, Detections
from vcm_ratecontrol.satisfaction import (
    Thresholds,
    classification_verdict,
    detection_score,
    detection_verdict,
    iou_matrix,
    smr,
    verdict,
)


def detections(*found: tuple[float, float, float, float, float, int]) -> Detections:
    """From (x1, y1, x2, y2, score, class), sorted by falling score as machines give them."""
    rows = sorted(found, key=lambda row: -row[4])
    values = np.array(rows, np.float32).reshape(-1, 6)
    return Detections(values[:, :4], values[:, 4], values[:, 5].astype(np.int16))


def classification(*probabilities: float) -> Classification:
    values = np.array(probabilities, np.float32)
    label = int(values.argmax())
    return Classification(label, float(values[label]), values)


boxes = st.tuples(
    *(st.integers(0, 60), st.integers(0, 60), st.integers(1, 40), st.integers(1, 40)),
    *(st.integers(0, 100), st.integers(0, 2)),
).map(lambda b: (b[0], b[1], b[0] + b[2], b[1] + b[3], b[4] / 100, b[5]))
results = st.lists(boxes, max_size=8).map(lambda found: detections(*found))

A = (0, 0, 10, 10, 0.9, 1)
B = (20, 20, 40, 40, 0.8, 2)


def test_iou_of_known_boxes() -> None:
    a = np.array([[0, 0, 10, 10], [0, 0, 10, 10]], np.float32)
    b = np.array([[0, 0, 10, 10], [5, 0, 15, 10], [10, 0, 20, 10]], np.float32)
    assert np.allclose(iou_matrix(a, b), [[1, 1 / 3, 0], [1, 1 / 3, 0]])


@pytest.mark.parametrize(
    ("decoded", "counts", "f1"),
    [
        ((A, B), (2, 0, 0), 1.0),
        ((A,), (1, 0, 1), 2 / 3),
        ((), (0, 0, 2), 0.0),
        # B found as another class counts twice: as missed, and as something that is not there
        ((A, (20, 20, 40, 40, 0.8, 3)), (1, 1, 1), 0.5),
        # IoU 1/3 is too little
        (((5, 0, 15, 10, 0.9, 1), B), (1, 1, 1), 0.5),
        # below T_conf: as if it were not there
        ((A, (20, 20, 40, 40, 0.29, 2)), (1, 0, 1), 2 / 3),
        # two detections of one object: the second finds it taken
        ((A, (0, 0, 10, 9, 0.5, 1), B), (2, 1, 0), 0.8),
    ],
)
def test_score_by_hand(decoded: tuple[tuple[float, ...], ...], counts: tuple[int, int, int], f1: float) -> None:
    score = detection_score(detections(A, B), detections(*decoded))  # type: ignore[arg-type]
    assert (score.tp, score.fp, score.fn) == counts
    assert score.f1 == pytest.approx(f1)


def test_the_more_confident_detection_chooses_first() -> None:
    original = detections((0, 0, 10, 10, 0.9, 1), (0, 2, 10, 12, 0.8, 1))
    # Both overlap most with the first object; the confident one takes it, the other gets the second.
    decoded = detections((0, 0, 10, 10, 0.6, 1), (0, 1, 10, 11, 0.5, 1))
    assert detection_score(original, decoded, Thresholds(iou=0.6)).tp == 2


def test_satisfied_at_exactly_the_threshold() -> None:
    found = detection_verdict("m", detections(A, B), detections(A, (20, 20, 40, 40, 0.8, 3)))
    assert found.score == 0.5
    assert found.satisfied
    assert not detection_verdict("m", detections(A, B), detections(A), Thresholds(score=0.7)).satisfied


def test_a_detector_that_sees_nothing_is_not_valid() -> None:
    found = detection_verdict("m", detections((0, 0, 9, 9, 0.2, 1)), detections(A))
    assert (found.valid, found.satisfied) == (False, False)


def test_boxes_without_area_do_not_count() -> None:
    inside_out = (10, 10, 5, 20, 0.9, 1)
    assert detection_score(detections(A, inside_out), detections(A, inside_out)).f1 == 1.0
    assert not detection_score(detections(inside_out), detections(A)).valid


def test_classifier_by_label_alone() -> None:
    original = classification(0.5, 0.4, 0.1)
    assert classification_verdict("m", original, classification(0.4, 0.3, 0.3)).satisfied
    flipped = classification_verdict("m", original, classification(0.45, 0.5, 0.05))
    assert (flipped.valid, flipped.satisfied) == (True, False)
    assert flipped.score == pytest.approx(0.45)


def test_near_ties_can_be_left_out() -> None:
    tie = classification(0.36, 0.34, 0.3)
    assert not classification_verdict("m", tie, tie, Thresholds(label_confidence=0.4)).valid


def test_smr_counts_valid_machines_of_the_task() -> None:
    verdicts = [
        detection_verdict("a", detections(A), detections(A)),
        detection_verdict("b", detections(A), detections()),
        detection_verdict("c", detections(), detections(A)),
        classification_verdict("d", classification(0.9, 0.1), classification(0.8, 0.2)),
    ]
    assert (smr(verdicts).satisfied, smr(verdicts).valid) == (2, 3)
    assert smr(verdicts, "detection").value == 0.5
    assert smr([]).value is None


@pytest.mark.parametrize("name", ["confidence", "iou", "score", "label_confidence"])
def test_thresholds_outside_are_refused(name: str) -> None:
    with pytest.raises(InputError, match=name):
        Thresholds(**{name: 1.5})


@given(results)
def test_the_original_satisfies_its_own_machine(result: Detections) -> None:
    found = verdict("m", result, result)
    assert found.satisfied == found.valid
    assert not found.valid or found.score == 1.0


@given(results, results)
def test_counts_add_up(original: Detections, decoded: Detections) -> None:
    score = detection_score(original, decoded)
    assert score.tp + score.fn == len(original.above(0.3))
    assert score.tp + score.fp == len(decoded.above(0.3))
    assert 0.0 <= score.f1 <= 1.0
