"""Average precision through the COCO evaluator, and top-1 agreement."""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from codec_wrappers.errors import InputError
from vcm_ratecontrol.bench.detection_metrics import (
    NoGroundTruthError,
    TrueBoxes,
    average_precision,
    human_ground_truth,
    pseudo_average_precision,
    pseudo_ground_truth,
    top1_agreement,
)


@dataclass(frozen=True, eq=False)
class Found:
    boxes: np.ndarray
    scores: np.ndarray
    classes: np.ndarray


def found(*rows: tuple[float, float, float, float, float, int]) -> Found:
    table = np.array(rows, float).reshape(-1, 6)
    return Found(table[:, :4].astype(np.float32), table[:, 4].astype(np.float32), table[:, 5].astype(np.int16))


@st.composite
def detections(draw: st.DrawFn) -> Found:
    rows = draw(
        st.lists(
            st.tuples(
                st.floats(0, 500),
                st.floats(0, 500),
                st.floats(8, 200),
                st.floats(8, 200),
                st.floats(0.05, 1),
                st.integers(0, 79),
            ),
            max_size=8,
        )
    )
    return found(*((x, y, x + w, y + h, score, label) for x, y, w, h, score, label in rows))


@given(st.lists(detections(), min_size=1, max_size=6))
@settings(deadline=None, max_examples=60)
def test_an_unchanged_machine_scores_one(original: list[Found]) -> None:
    boxes = sum(len(pseudo_ground_truth(d).classes) for d in original)
    if boxes == 0:
        with pytest.raises(NoGroundTruthError):
            pseudo_average_precision(original, original)
        return
    result = pseudo_average_precision(original, original)
    assert result.ap == pytest.approx(1.0) and result.ap50 == pytest.approx(1.0)
    assert result.n_boxes == boxes and result.n_pictures == len(original)


def test_only_confident_boxes_are_pseudo_ground_truth() -> None:
    truth = pseudo_ground_truth(found((0, 0, 9, 9, 0.9, 3), (5, 5, 30, 30, 0.29, 3), (1, 1, 8, 8, 0.3, 5)))
    assert truth.classes.tolist() == [3, 5]


def test_ap_by_hand() -> None:
    # Two objects of class 0. The surer detection hits, the other is off by 4 of 20: IoU 320 / 480 = 0.667.
    truth = [TrueBoxes(np.array([[0, 0, 20, 20], [50, 50, 70, 70.0]]), np.array([0, 0]))]
    shifted = [found((0, 0, 20, 20, 0.9, 0), (50, 54, 70, 74, 0.8, 0))]
    result = average_precision(truth, shifted)
    assert result.ap50 == pytest.approx(1.0)
    # IoU 0.5..0.65 (4 of 10): both found, AP 1. Above: recall 0.5 at precision 1, 51 of 101 recall points.
    assert result.ap == pytest.approx((4 * 1.0 + 6 * 51 / 101) / 10)


def test_wrong_class_missing_and_false_boxes_cost() -> None:
    original = [found((0, 0, 20, 20, 0.9, 0)), found((0, 0, 20, 20, 0.9, 1))]
    assert pseudo_average_precision(original, [original[0], found((0, 0, 20, 20, 0.9, 2))]).ap50 == 0.5
    assert pseudo_average_precision(original, [found(), found()]).ap == 0.0
    surer_false = found((100, 100, 130, 130, 0.95, 0), (0, 0, 20, 20, 0.9, 0))
    assert pseudo_average_precision(original, [surer_false, original[1]]).ap50 == pytest.approx(0.75)
    with pytest.raises(InputError, match="2 pictures"):
        pseudo_average_precision(original, [original[0]])


def test_classes_that_a_machine_does_not_know_are_not_held_against_it() -> None:
    truth = [TrueBoxes(np.array([[0, 0, 20, 20], [40, 40, 60, 60.0]]), np.array([0, 7]))]
    seen = [found((0, 0, 20, 20, 0.9, 0))]
    assert average_precision(truth, seen).ap == pytest.approx(0.5)
    assert average_precision(truth, seen, classes={0, 1}).ap == pytest.approx(1.0)
    with pytest.raises(NoGroundTruthError):
        average_precision(truth, seen, classes={4})


def test_human_boxes_of_the_shared_data(shared_data: Path) -> None:
    truth = human_ground_truth(shared_data / "annotations" / "coco_subset_instances.json")
    assert len(truth) == 141 and sum(len(boxes.classes) for boxes in truth.values()) == 918
    assert sum(int(boxes.crowd.sum()) for boxes in truth.values()) == 6
    assert max(int(boxes.classes.max()) for boxes in truth.values() if len(boxes.classes)) <= 79
    # The annotators' own boxes, handed in as detections, are perfect; crowds neither help nor hurt.
    perfect = [
        Found(boxes.boxes[~boxes.crowd], np.ones(int((~boxes.crowd).sum())), boxes.classes[~boxes.crowd])
        for boxes in truth.values()
    ]
    result = average_precision(list(truth.values()), perfect)
    assert result.ap == pytest.approx(1.0, abs=1e-3) and result.n_boxes == 912


def test_annotation_file_errors_name_the_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"none\.json"):
        human_ground_truth(tmp_path / "none.json")
    for name, content in (("text.json", "no json"), ("list.json", "[]"), ("empty.json", "{}")):
        (tmp_path / name).write_text(content)
        with pytest.raises(InputError, match=name):
            human_ground_truth(tmp_path / name)
    (tmp_path / "ok.json").write_text(
        json.dumps(
            {
                "images": [{"id": 5, "file_name": "a.jpg"}, {"id": 6, "file_name": "b.jpg"}],
                "categories": [{"id": 90, "name": "brush"}, {"id": 3, "name": "car"}],
                "annotations": [{"image_id": 5, "category_id": 90, "bbox": [1, 2, 3, 4]}],
            }
        )
    )
    truth = human_ground_truth(tmp_path / "ok.json")
    assert truth["a.jpg"].boxes.tolist() == [[1, 2, 4, 6]] and truth["a.jpg"].classes.tolist() == [1]
    assert len(truth["b.jpg"].classes) == 0
    assert len(human_ground_truth(tmp_path / "ok.json", classes=["car"])["a.jpg"].classes) == 0


def test_top1_agreement() -> None:
    assert top1_agreement([1, 2, 3, 4], [1, 2, 3, 5]) == 0.75
    with pytest.raises(InputError):
        top1_agreement([], [])
    with pytest.raises(InputError):
        top1_agreement([1], [1, 2])
