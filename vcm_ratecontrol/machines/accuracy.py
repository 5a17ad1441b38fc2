"""How good the machines of a library are on labelled pictures, beside what their manifest says of them."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError, MissingToolError
from vcm_ratecontrol.progress import SILENT, Progress

from .coco import COCO_CATEGORY_IDS
from .library import MachineLibrary
from .machine import Classification, Detections
from .manifest import MachineSpec
from .preprocess import PreparedPicture

if TYPE_CHECKING:
    from vcm_ratecontrol.bench.detection_metrics import TrueBoxes

# `measured` counts a picture of 200 as half a point; rounding of other builds of the runtimes moves a few.
TOLERANCE_POINTS = 1.5
# The floor at which `measured` was taken: AP ranks weak detections too, and at 0.05 loses up to two points.
MIN_CONFIDENCE = 0.01
N_CLASSIFICATION_PICTURES = 200


@dataclass(frozen=True)
class Accuracy:
    """One machine's figures in percent.

    measured: top1 and top5 of a classifier, ap and ap50 (COCO) of a detector; expected: the manifest's figures
    of the same names, empty where it has none; n_pictures: what was measured on.
    """

    name: str
    task: str
    measured: Mapping[str, float]
    expected: Mapping[str, float]
    n_pictures: int

    @property
    def deviation(self) -> float:
        """The largest distance to an expected figure in points; 0 without expectations."""
        return max((abs(self.measured[k] - v) for k, v in self.expected.items()), default=0.0)

    def within(self, points: float = TOLERANCE_POINTS) -> bool:
        return self.deviation <= points


@dataclass(frozen=True)
class LabelledPictures:
    """Pictures with what they show.

    classes: picture -> ImageNet class 0..999; boxes: picture -> human boxes, COCO-80 classes.
    """

    classes: Mapping[Path, int]
    boxes: Mapping[Path, TrueBoxes]


def read_labelled_pictures(
    directory: Path, annotations: str = "annotations/coco_subset_instances.json"
) -> LabelledPictures:
    """The labelled pictures of a folder whose manifest.json lists `images` (file, class_index).

    Classified: the first 200 by name that have a class. With boxes: those of the annotation file (COCO format).
    Raises InputError.
    """
    from vcm_ratecontrol.bench.detection_metrics import human_ground_truth

    path = directory / "manifest.json"
    try:
        images = json.loads(path.read_text(encoding="utf-8"))["images"]
        by_name = {Path(image["file"]).name: directory / image["file"] for image in images}
        labelled = sorted((i["file"], int(i["class_index"])) for i in images if "class_index" in i)
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{path}: no list 'images' of labelled pictures ({error!r})") from error
    truth = human_ground_truth(directory / annotations)
    return LabelledPictures(
        {directory / file: label for file, label in labelled[:N_CLASSIFICATION_PICTURES]},
        {by_name[name]: boxes for name, boxes in truth.items() if name in by_name},
    )


def measure_accuracy(
    library: MachineLibrary,
    pictures: LabelledPictures,
    progress: Progress = SILENT,
) -> list[Accuracy]:
    """Runs every machine of the library on every picture of its task; each picture is decoded once.

    Load the library with min_confidence=MIN_CONFIDENCE to compare with the manifest.
    Raises InputError (a picture cannot be read), MachineRunError, MissingToolError (no COCO evaluator).
    """
    classifiers = [m for m in library if m.task == "classification"]
    detectors = [m for m in library if m.task == "detection"]
    work = [(p, classifiers) for p in pictures.classes if classifiers]
    work += [(p, detectors) for p in pictures.boxes if detectors]
    results: dict[str, list[Any]] = {m.name: [] for m in library}
    progress.phase("machines", len(work))
    for path, machines in work:
        prepared = PreparedPicture(_read_rgb(path))
        for machine in machines:
            results[machine.name].append(machine.run_one(prepared))
        progress.advance()
    labels, truth = list(pictures.classes.values()), list(pictures.boxes.values())
    figures = []
    for machine in library:
        found = results[machine.name]
        if machine.task == "classification":
            measured = classification_accuracy(found, labels)
        else:
            measured = detection_accuracy(found, truth, machine.spec)
        expected = {k: float(machine.spec.measured[k]) for k in measured if k in machine.spec.measured}
        figures.append(Accuracy(machine.name, machine.task, measured, expected, len(found)))
    return figures


def classification_accuracy(results: Sequence[Classification], labels: Sequence[int]) -> dict[str, float]:
    """Percent of the pictures whose true label (0..999) is the first, or among the first five."""
    if not labels:
        raise InputError("accuracy: no picture with a class; list some with 'class_index' in the manifest")
    first = [r.label == label for r, label in zip(results, labels, strict=True)]
    five = [label in _top5(r) for r, label in zip(results, labels, strict=True)]
    return {"top1": 100 * float(np.mean(first)), "top5": 100 * float(np.mean(five))}


def _top5(result: Classification) -> npt.NDArray[np.intp]:
    # Stable: quantised machines tie, and then the lower label goes first, as it does for the top-1.
    return np.argsort(-result.probabilities, kind="stable")[:5]


def detection_accuracy(
    results: Sequence[Detections], truth: Sequence[TrueBoxes], spec: MachineSpec
) -> dict[str, float]:
    """COCO AP and AP50 in percent over the machine's own classes."""
    from vcm_ratecontrol.bench.detection_metrics import average_precision

    own = None
    if spec.eval_categories is not None:
        own = [COCO_CATEGORY_IDS.index(c) for c in spec.eval_categories]
    try:
        precision = average_precision(truth, results, classes=own)
    except ImportError as error:
        raise MissingToolError(
            "accuracy: detectors are scored by faster-coco-eval, which is not installed:"
            " pip install 'vcm-ratecontrol[bench]'"
        ) from error
    return {"ap": 100 * precision.ap, "ap50": 100 * precision.ap50}


def _read_rgb(path: Path) -> npt.NDArray[np.uint8]:
    from PIL import Image

    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read as a picture ({error})") from error
