"""Machines made of one network file: classifiers and detectors."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError

from .decoders import DECODERS, Candidates
from .machine import Classification, Detections, MachineRunError, Task
from .manifest import MachineSpec
from .nms import non_maximum_suppression
from .preprocess import InputFormat, PreparedPicture
from .runtimes import Session, input_shape, open_session

Picture = npt.NDArray[np.uint8] | PreparedPicture

IMAGENET_CLASSES = 1000
MAX_CANDIDATES = 3000
MAX_DETECTIONS = 300
DEFAULT_MIN_CONFIDENCE = 0.05


class _Network:
    """What classifiers and detectors have in common: the session and the way in."""

    def __init__(self, spec: MachineSpec, sha256: str, threads: int) -> None:
        self.spec = spec
        self.sha256 = sha256
        self._session: Session = open_session(spec, threads)
        self._format = InputFormat(
            spec.normalisation, spec.layout, self._session.input_dtype, self._session.input_quantisation
        )
        self._check_shape(self._session.input_shape)

    @property
    def name(self) -> str:
        return self.spec.name

    @property
    def task(self) -> Task:
        return self.spec.task

    def _check_shape(self, shape: tuple[int | None, ...]) -> None:
        wanted = input_shape(self.spec)
        fits = len(shape) == 4 and all(have in (want, None, -1) for have, want in zip(shape, wanted, strict=True))
        if not fits:
            raise InputError(
                f"machine '{self.name}': size and layout give an input of {list(wanted)}, but"
                f" {self.spec.files[0].path.name} wants {list(shape)}; correct them, or use 'view' for another one"
            )

    def _prepare(self, picture: Picture) -> PreparedPicture:
        if isinstance(picture, PreparedPicture):
            return picture
        return PreparedPicture(picture)


class NetworkClassifier(_Network):
    """A classifier: top-1 label and probabilities."""

    def run(self, pictures: Sequence[Picture]) -> list[Classification]:
        """See Machine.run; prepared pictures are taken too, to share the resizing among machines."""
        return [self.run_one(p) for p in pictures]

    def run_one(self, picture: Picture) -> Classification:
        try:
            prepared = self._prepare(picture)
            outputs = self._session.run(prepared.tensor(self.spec.geometry, self._format))
            values = np.asarray(next(iter(outputs.values()))[...], np.float32).ravel()
            return self._classification(values)
        except Exception as error:
            raise MachineRunError(f"machine '{self.name}' failed on a picture: {_one_line(error)}") from error

    def _classification(self, values: npt.NDArray[np.float32]) -> Classification:
        if not np.isfinite(values).all():
            raise ValueError("the network gave values that are not numbers")
        probabilities = _probabilities(values, self.spec.options.get("output"))
        if len(values) == IMAGENET_CLASSES + 1:
            values, probabilities = values[1:], _scaled(probabilities[1:])
        label = int(values.argmax())
        return Classification(label, float(probabilities[label]), probabilities.astype(np.float32))


def _probabilities(values: npt.NDArray[np.float32], kind: str | None) -> npt.NDArray[np.float32]:
    """Probabilities that sum to 1.

    Without a word in the manifest (`output`: logits or probabilities), outputs within 0..1 or 0..255 in whole
    numbers (a quantised softmax whose scale the file does not carry) are taken as probabilities.
    """
    whole = values.max() > 1 and bool((values == np.round(values)).all())
    if kind == "probabilities" or (kind is None and values.min() >= 0 and (values.max() <= 1.001 or whole)):
        return _scaled(values)
    return _scaled(np.exp(values - values.max()))


def _scaled(values: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    total = float(values.sum())
    return values / np.float32(total) if total > 0 else np.full_like(values, 1 / len(values))


class NetworkDetector(_Network):
    """A detector: decoded, suppressed class by class, in the picture's pixels."""

    def __init__(self, spec: MachineSpec, sha256: str, threads: int, min_confidence: float) -> None:
        super().__init__(spec, sha256, threads)
        self.min_confidence = min_confidence
        self._decode = DECODERS[str(spec.decode)]
        self._class_map = None if spec.class_map is None else np.array(spec.class_map, np.intp)

    def run(self, pictures: Sequence[Picture]) -> list[Detections]:
        """See Machine.run; prepared pictures are taken too, to share the resizing among machines."""
        return [self.run_one(p) for p in pictures]

    def run_one(self, picture: Picture) -> Detections:
        try:
            prepared = self._prepare(picture)
            outputs = self._session.run(prepared.tensor(self.spec.geometry, self._format))
            found = self._decode(outputs, self.spec, self.min_confidence)
            return self._detections(found, prepared)
        except Exception as error:
            raise MachineRunError(f"machine '{self.name}' failed on a picture: {_one_line(error)}") from error

    def _detections(self, found: Candidates, prepared: PreparedPicture) -> Detections:
        boxes, scores, classes = found
        if self.spec.decode != "tflite_post":
            if len(scores) > MAX_CANDIDATES:
                best = np.argsort(-scores)[:MAX_CANDIDATES]
                boxes, scores, classes = boxes[best], scores[best], classes[best]
            keep = non_maximum_suppression(boxes, scores, classes, self.spec.nms_iou, MAX_DETECTIONS)
            boxes, scores, classes = boxes[keep], scores[keep], classes[keep]
        if self._class_map is not None:
            classes = self._class_map[classes]
            named = classes >= 0
            boxes, scores, classes = boxes[named], scores[named], classes[named]
        place = prepared.placed(self.spec.geometry)[1]
        offset = np.array([place.offset_x, place.offset_y] * 2, np.float32)
        scale = np.array([place.scale_x, place.scale_y] * 2, np.float32)
        limit = np.array([prepared.width, prepared.height] * 2, np.float32)
        in_picture = np.clip((boxes - offset) / scale, 0, limit)
        if not np.isfinite(in_picture).all():
            raise ValueError("the network gave boxes that are not numbers")
        return Detections(in_picture.astype(np.float32), scores.astype(np.float32), classes.astype(np.int16))


def _one_line(error: Exception) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
