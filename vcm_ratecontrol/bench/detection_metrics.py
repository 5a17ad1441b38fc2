"""Detection and classification accuracy of machines on compressed pictures.

Average precision is COCO's, computed by `faster-coco-eval` (the maintained successor of pycocotools, same
numbers): 101 recall points, at most 100 detections per picture, classes without a true box left out,
crowd boxes ignored. Against *pseudo ground truth* - what the machine itself detects on the original with
at least 0.3 confidence - AP says how much the compression changed the machine, without labels (BD-rates
of the two differ by less than 0.7 points at middle rates, arXiv 2205.06519); against human boxes it
says how good the machine still is.
"""

from __future__ import annotations

import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from codec_wrappers.errors import InputError, VcmError

# The satisfaction threshold T_conf: boxes below it are not what a user of the detector acts on.
PSEUDO_GROUND_TRUTH_CONFIDENCE = 0.3


class NoGroundTruthError(VcmError):
    """There is no true box in any of the pictures, so that average precision is not defined."""

    exit_code = 2


class DetectionsLike(Protocol):
    """boxes float [N, 4] x1, y1, x2, y2 in pixels; scores float [N] in 0..1; classes int [N]."""

    @property
    def boxes(self) -> NDArray[Any]: ...
    @property
    def scores(self) -> NDArray[Any]: ...
    @property
    def classes(self) -> NDArray[Any]: ...


@dataclass(frozen=True, eq=False)
class TrueBoxes:
    """What is to be found in one picture.

    boxes: float64 [N, 4] x1, y1, x2, y2 in pixels; classes: int64 [N], the machines' class index; crowd:
    bool [N], boxes over a crowd: detections inside them count neither for nor against.
    """

    boxes: NDArray[np.float64]
    classes: NDArray[np.int64]
    crowd: NDArray[np.bool_] = field(default_factory=lambda: np.zeros(0, bool))

    def __post_init__(self) -> None:
        if self.crowd.size == 0:
            object.__setattr__(self, "crowd", np.zeros(len(self.classes), bool))


@dataclass(frozen=True)
class AveragePrecision:
    """ap: mean AP over IoU 0.5:0.05:0.95, ap50: at IoU 0.5; both 0..1. n_pictures, n_boxes (true, not
    crowd): what it was computed on."""

    ap: float
    ap50: float
    n_pictures: int
    n_boxes: int


def pseudo_ground_truth(original: DetectionsLike, min_confidence: float = PSEUDO_GROUND_TRUTH_CONFIDENCE) -> TrueBoxes:
    """A machine's own detections on the original picture that its result on the coded one is held against."""
    sure = np.asarray(original.scores) >= min_confidence
    return TrueBoxes(
        np.asarray(original.boxes, np.float64).reshape(-1, 4)[sure],
        np.asarray(original.classes, np.int64)[sure],
    )


def human_ground_truth(annotation_file: Path, classes: Sequence[str] | None = None) -> Mapping[str, TrueBoxes]:
    """Human boxes from a file in COCO's format: picture file name -> true boxes.

    classes: the machines' class names in the order of their index; None for the file's categories in
    the order of their ids, which for COCO's 80 is the usual COCO-80 order. Boxes of other classes are left
    out. Raises InputError when the file is missing or not in this format.
    """
    try:
        content = json.loads(annotation_file.read_text(encoding="utf-8"))
        categories = sorted(content["categories"], key=lambda category: category["id"])
        names = [category["name"] for category in categories] if classes is None else list(classes)
        index_of = {c["id"]: names.index(c["name"]) for c in categories if c["name"] in names}
        name_of = {image["id"]: image["file_name"] for image in content["images"]}
        boxes_of: dict[str, list[tuple[list[float], int, bool]]] = {name: [] for name in name_of.values()}
        for annotation in content["annotations"]:
            if annotation["category_id"] in index_of:
                x, y, width, height = annotation["bbox"]
                boxes_of[name_of[annotation["image_id"]]].append(
                    (
                        [x, y, x + width, y + height],
                        index_of[annotation["category_id"]],
                        bool(annotation.get("iscrowd", 0)),
                    )
                )
    except OSError as error:
        raise InputError(f"{annotation_file}: cannot be read ({error.strerror}); check the path") from error
    except (ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{annotation_file}: not COCO annotations ({error!r}); needs images, annotations, categories"
        ) from error
    return {
        name: TrueBoxes(
            np.array([box for box, _, _ in rows], np.float64).reshape(-1, 4),
            np.array([index for _, index, _ in rows], np.int64),
            np.array([crowd for _, _, crowd in rows], bool),
        )
        for name, rows in boxes_of.items()
    }


def average_precision(
    truth: Sequence[TrueBoxes],
    detections: Sequence[DetectionsLike],
    *,
    classes: Collection[int] | None = None,
) -> AveragePrecision:
    """COCO's mAP of `detections` against `truth`, picture by picture in the same order.

    Give all detections of a machine, not only the confident ones: AP ranks them itself. classes: the
    class indices that the machine knows, where it does not know all; others are not held against it. Raises
    NoGroundTruthError when no picture has a true box, InputError when the lists differ in length.
    """
    if len(truth) != len(detections):
        raise InputError(
            f"average precision: {len(truth)} pictures with true boxes but {len(detections)} with detections"
        )
    if classes is not None:
        truth = [_only_classes(boxes, classes) for boxes in truth]
    n_boxes = int(sum(np.count_nonzero(~boxes.crowd) for boxes in truth))
    if n_boxes == 0:
        raise NoGroundTruthError(f"average precision: no true box in {len(truth)} picture(s); leave this machine out")
    ap, ap50 = _coco_stats(_truth_rows(truth), _detection_rows(detections), len(truth))
    return AveragePrecision(ap=ap, ap50=ap50, n_pictures=len(truth), n_boxes=n_boxes)


def pseudo_average_precision(
    original: Sequence[DetectionsLike],
    decoded: Sequence[DetectionsLike],
    min_confidence: float = PSEUDO_GROUND_TRUTH_CONFIDENCE,
) -> AveragePrecision:
    """mAP of one machine's detections on the coded pictures against its own on the originals.

    1 when nothing changed. Raises as `average_precision`.
    """
    return average_precision([pseudo_ground_truth(d, min_confidence) for d in original], decoded)


def top1_agreement(original: Sequence[int], decoded: Sequence[int]) -> float:
    """Share (0..1) of pictures for which a classifier's top-1 label is the same on original and coded
    picture. Raises InputError for none or for lists of different lengths."""
    if len(original) == 0 or len(original) != len(decoded):
        raise InputError(f"top-1 agreement: {len(original)} labels on originals, {len(decoded)} on coded pictures")
    return float(np.mean(np.asarray(original) == np.asarray(decoded)))


def _only_classes(truth: TrueBoxes, classes: Collection[int]) -> TrueBoxes:
    known = np.isin(truth.classes, list(classes))
    return TrueBoxes(truth.boxes[known], truth.classes[known], truth.crowd[known])


def _truth_rows(truth: Sequence[TrueBoxes]) -> list[dict[str, Any]]:
    return [
        {**_row(picture, box, label), "iscrowd": int(crowd)}
        for picture, boxes in enumerate(truth)
        for box, label, crowd in zip(boxes.boxes, boxes.classes, boxes.crowd, strict=True)
    ]


def _detection_rows(detections: Sequence[DetectionsLike]) -> list[dict[str, Any]]:
    return [
        {**_row(picture, box, label), "score": float(score)}
        for picture, found in enumerate(detections)
        for box, label, score in zip(
            np.asarray(found.boxes, np.float64).reshape(-1, 4), found.classes, found.scores, strict=True
        )
    ]


def _row(picture: int, box: NDArray[Any], label: int) -> dict[str, Any]:
    x1, y1, x2, y2 = (float(value) for value in box)
    width, height = x2 - x1, y2 - y1
    # COCO counts from 1: an id of 0 reads as 'no match' in its tables.
    return {
        "image_id": picture + 1,
        "category_id": int(label) + 1,
        "bbox": [x1, y1, width, height],
        "area": width * height,
    }


def _coco_stats(truth: list[dict[str, Any]], detections: list[dict[str, Any]], n_pictures: int) -> tuple[float, float]:
    """AP at 0.5:0.95 and at 0.5, from the evaluator."""
    from faster_coco_eval import COCO, COCOeval_faster

    if not detections:
        return 0.0, 0.0
    labels = sorted({row["category_id"] for row in truth} | {row["category_id"] for row in detections})
    ground_truth = COCO(
        {
            "images": [{"id": number + 1} for number in range(n_pictures)],
            "categories": [{"id": label, "name": str(label)} for label in labels],
            "annotations": [{**row, "id": number + 1} for number, row in enumerate(truth)],
        }
    )
    evaluator = COCOeval_faster(ground_truth, ground_truth.loadRes(detections), iouType="bbox")
    evaluator.evaluate()
    evaluator.accumulate()
    evaluator.summarize()
    return float(evaluator.stats[0]), float(evaluator.stats[1])
