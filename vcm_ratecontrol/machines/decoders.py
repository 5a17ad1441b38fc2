"""From network outputs to candidate boxes, before suppression.

Every decoder asks the cheap question first: which cells can reach the confidence at all (objectness, or the
class map itself), and decodes boxes only for those. `Outputs` maps names to arrays that keep the batch axis.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
import numpy.typing as npt

from .coco import COCO_CATEGORY_IDS
from .manifest import MachineSpec

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]


class OutputArray(Protocol):
    """A float32 array, or a quantised one that dequantises what is indexed (see runtimes.QuantisedArray)."""

    @property
    def shape(self) -> tuple[int, ...]: ...
    def __getitem__(self, key: Any, /) -> Any: ...


Outputs = Mapping[str, OutputArray]


class Candidates(NamedTuple):
    """boxes [N, 4] x1, y1, x2, y2 in network pixels; scores [N] >= the confidence; classes [N], own index."""

    boxes: Floats
    scores: Floats
    classes: Indices


# Class scores are probabilities, so a cell's objectness bounds its scores; the slack covers quantised ones,
# whose largest step may lie slightly above 1.
_OBJECTNESS_SLACK = 0.9


def _sigmoid(x: Floats) -> Floats:
    return np.reciprocal(np.exp(-np.clip(x, -60, 60)) + np.float32(1))


def _logit(p: float) -> float:
    return float(np.log(p) - np.log1p(-p)) if 0 < p < 1 else float("-inf")


def _select(scores: Floats, confidence: float) -> tuple[Indices, Indices, Floats]:
    """(row, class, score) of each entry of [N, C] that reaches the confidence, row by row."""
    flat = np.flatnonzero(scores.ravel() >= confidence)
    rows, classes = np.divmod(flat, scores.shape[1])
    return rows, classes, scores.ravel()[flat]


def _from_centres(centres: Floats, sizes: Floats) -> Floats:
    return np.concatenate([centres - sizes / 2, centres + sizes / 2], 1)


def _cells(index: Indices, columns: int) -> Floats:
    """[N, 2] column and row of a cell counted line by line."""
    row, column = np.divmod(index, columns)
    return np.stack([column, row], 1).astype(np.float32)


def _stride(spec: MachineSpec, columns: int, lines: int) -> Floats:
    """[2] network pixels per cell."""
    width, height = spec.geometry.size
    return np.array([width / columns, height / lines], np.float32)


def _first(outputs: Outputs) -> OutputArray:
    return next(iter(outputs.values()))


def _join(parts: list[Candidates]) -> Candidates:
    return Candidates(*(np.concatenate(column) for column in zip(*parts, strict=True)))


def _objectness_rows(y: OutputArray, confidence: float) -> tuple[Floats, Indices, Indices, Floats]:
    """What [1, N, 5 + C] (box, objectness, classes) finds: values, row, class and score of each."""
    rows = np.flatnonzero(y[0, :, 4] >= confidence * _OBJECTNESS_SLACK)
    values = y[0, rows]
    at, classes, scores = _select(values[:, 4:5] * values[:, 5:], confidence)
    return values[at], rows[at], classes, scores


def yolox(outputs: Outputs, spec: MachineSpec, confidence: float) -> Candidates:
    """One [1, N, 5 + C] over strides 8, 16, 32: centre offsets in cells, log sizes (arXiv 2107.08430)."""
    width, height = spec.geometry.size
    values, index, classes, scores = _objectness_rows(_first(outputs), confidence)
    cells, strides = np.zeros((len(index), 2), np.float32), np.zeros((len(index), 1), np.float32)
    start = 0
    for stride in (8, 16, 32):
        columns, count = width // stride, (width // stride) * (height // stride)
        here = (index >= start) & (index < start + count)
        cells[here], strides[here] = _cells(index[here] - start, columns), stride
        start += count
    centres, sizes = (values[:, :2] + cells) * strides, np.exp(values[:, 2:4]) * strides
    return Candidates(_from_centres(centres, sizes), scores, classes)


def _expected_distances(distribution: Floats) -> Floats:
    """[N, 4 * bins] logits -> [N, 4]: the mean of each softmax (Generalized Focal Loss, arXiv 2006.04388)."""
    bins = distribution.shape[1] // 4
    if bins == 1:
        return distribution
    e = distribution.reshape(len(distribution), 4, bins)
    e = np.exp(e - e.max(-1, keepdims=True))
    mean: Floats = (e / e.sum(-1, keepdims=True) * np.arange(bins)).sum(-1)
    return mean


def gfl(outputs: Outputs, spec: MachineSpec, confidence: float) -> Candidates:
    """NanoDet and PicoDet: per stride a class map [N, 80] and distances to the four sides [N, 4 * bins].

    Either an output each, or, in NanoDet-Plus, all strides in one [1, N, 80 + 4 * bins].
    """
    n_classes = 80
    logits = bool(spec.options.get("cls_logits"))
    floor = _logit(confidence) if logits else confidence
    centre, parts, start = float(spec.options.get("centre", 0.5)), [], 0
    for stride in spec.options.get("strides", (8, 16, 32)):
        columns, lines = (-(-side // stride) for side in spec.geometry.size)
        count = columns * lines
        if len(outputs) == 1:
            whole = _first(outputs)
            class_map = whole[0, start : start + count, :n_classes]
            distances = whole[0, start : start + count, n_classes:]
            start += count
        else:
            maps = [y for y in outputs.values() if y.shape[-2] == count]
            class_map = next(y for y in maps if y.shape[-1] == n_classes)[0]
            distances = next(y for y in maps if y.shape[-1] != n_classes)[0]
        index, classes, scores = _select(class_map, floor)
        sides = _expected_distances(distances[index]) * stride
        centres = (_cells(index, columns) + centre) * stride
        boxes = np.concatenate([centres - sides[:, :2], centres + sides[:, 2:]], 1)
        parts.append(Candidates(boxes, _sigmoid(scores) if logits else scores, classes))
    return _join(parts)


def _network_pixels(boxes: Floats, spec: MachineSpec) -> Floats:
    scale = np.array(spec.geometry.size, np.float32) if spec.options.get("normalised") else np.float32(1)
    return _from_centres(boxes[:, :2] * scale, boxes[:, 2:4] * scale)


def yolov5(outputs: Outputs, spec: MachineSpec, confidence: float) -> Candidates:
    """One [1, N, 5 + C]: centre, size, objectness, classes; `normalised`: in units of the input size."""
    values, _, classes, scores = _objectness_rows(_first(outputs), confidence)
    return Candidates(_network_pixels(values[:, :4], spec), scores, classes)


def yolov8(outputs: Outputs, spec: MachineSpec, confidence: float) -> Candidates:
    """One [1, 4 + C, N]: centre, size, classes; no objectness."""
    y = _first(outputs)
    flat_classes, index = np.divmod(np.flatnonzero((y[0, 4:] >= confidence).ravel()), y.shape[2])
    order = np.lexsort((flat_classes, index))
    index, classes = index[order], flat_classes[order]
    return Candidates(_network_pixels(y[0, :4][:, index].T, spec), y[0, 4:][classes, index], classes)


def darknet(outputs: Outputs, spec: MachineSpec, confidence: float) -> Candidates:
    """YOLOv3 heads [1, anchors * (5 + C), rows, columns] of logits (arXiv 1804.02767, section 2.1)."""
    floor, parts = _logit(confidence * _OBJECTNESS_SLACK), []
    for head in spec.options["heads"]:
        y = outputs[head["name"]]
        lines, columns = y.shape[2:]
        anchors, n_classes = np.array(head["anchors"], np.float32), int(head["classes"])
        maps = y[0].reshape(len(anchors), 5 + n_classes, lines * columns)
        anchor, cell = np.divmod(np.flatnonzero((maps[:, 4] >= floor).ravel()), lines * columns)
        values = maps[anchor, :, cell]
        at, classes, scores = _select(_sigmoid(values[:, 4:5]) * _sigmoid(values[:, 5:]), confidence)
        values, anchor, cell = values[at], anchor[at], cell[at]
        stride = _stride(spec, columns, lines)
        grow = np.float32(head.get("scale_x_y", 1))
        offsets = _sigmoid(values[:, :2]) * grow - (grow - np.float32(1)) / np.float32(2)
        centres = (offsets + _cells(cell, columns)) * stride
        sizes = np.exp(np.clip(values[:, 2:4], -20, 10)) * anchors[anchor]
        parts.append(Candidates(_from_centres(centres, sizes), scores, classes))
    return _join(parts)


def fastestv2(outputs: Outputs, spec: MachineSpec, confidence: float) -> Candidates:
    """Yolo-FastestV2 heads [1, rows, columns, 3 * 4 boxes + 3 objectness + C classes for all anchors]."""
    names = spec.output_names or tuple(outputs)
    anchors, parts = np.array(spec.options["anchors"], np.float32).reshape(len(names), 3, 2), []
    for level, name in enumerate(names):
        y = outputs[name]
        lines, columns = y.shape[1:3]
        cells_by_channel = y[0].reshape(lines * columns, -1)
        stride = _stride(spec, columns, lines)
        for b in range(3):
            rows = np.flatnonzero(cells_by_channel[:, 12 + b] >= confidence * _OBJECTNESS_SLACK)
            values = cells_by_channel[rows]
            at, classes, scores = _select(values[:, 12 + b : 13 + b] * values[:, 15:], confidence)
            box = values[at, b * 4 : b * 4 + 4]
            centres = (box[:, :2] * 2 - 0.5 + _cells(rows[at], columns)) * stride
            sizes = np.square(box[:, 2:4] * 2) * anchors[level, b]
            parts.append(Candidates(_from_centres(centres, sizes), scores, classes))
    return _join(parts)


def fastestdet(outputs: Outputs, spec: MachineSpec, confidence: float) -> Candidates:
    """One [1, 5 + C, rows, columns]; score = objectness^0.6 * class^0.4."""
    y = _first(outputs)
    lines, columns = y.shape[2:]
    maps = y[0].reshape(y.shape[1], -1)
    cells = np.flatnonzero(maps[0] >= (confidence * _OBJECTNESS_SLACK) ** (1 / 0.6))
    values = maps[:, cells].T
    # score >= confidence, solved for the class value, so that the powers are taken of few numbers.
    objectness = np.maximum(values[:, :1], 0) ** 0.6
    floor = (confidence * _OBJECTNESS_SLACK / np.maximum(objectness, 1e-12)) ** (1 / 0.4)
    at, classes = np.nonzero(values[:, 5:] >= floor)
    scores = objectness[at, 0] * np.maximum(values[at, classes + 5], 0) ** 0.4
    reached = scores >= confidence
    at, classes, scores = at[reached], classes[reached], scores[reached]
    values = values[at]
    size = np.array(spec.geometry.size, np.float32)
    stride = _stride(spec, columns, lines)
    centres = (_cells(cells[at], columns) + np.tanh(values[:, 1:3])) * stride
    return Candidates(_from_centres(centres, _sigmoid(values[:, 3:5]) * size), scores, classes)


def ssd_anchors(outputs: Outputs, spec: MachineSpec, confidence: float) -> Candidates:
    """SSD with offsets of the corners in anchor sizes.

    Classes [1, N, 1 + C], background first; offsets [1, N, 4]; anchors [1, N, 4] x1, y1, x2, y2 in 0..1.
    """
    scores_of, offsets_of, anchors_of = (outputs[name] for name in spec.output_names or tuple(outputs))
    rows, classes, scores = _select(np.ascontiguousarray(scores_of[0, :, 1:]), confidence)
    offsets, anchors = offsets_of[0, rows], anchors_of[0, rows]
    sizes = np.tile(anchors[:, 2:] - anchors[:, :2], 2)
    pixels = np.array(spec.geometry.size * 2, np.float32)
    return Candidates((offsets * sizes + anchors) * pixels, scores, classes)


def tflite_post(outputs: Outputs, spec: MachineSpec, confidence: float) -> Candidates:
    """TFLite_Detection_PostProcess: boxes [1, N, 4] y1, x1, y2, x2 in 0..1, classes, scores [1, N], count.

    Suppressed by the network already. Classes are told from scores by being whole numbers; `post_order` 'sc'
    says that the scores come first. `map90`: classes are COCO's 90 ids minus 1.
    """
    arrays = [np.asarray(v[...], np.float32) for v in outputs.values()]
    boxes = next(a for a in arrays if a.ndim == 3)[0]
    one, two = (a[0] for a in arrays if a.ndim == 2)
    count = min(int(next(a for a in arrays if a.ndim == 1)[0]), len(boxes))
    classes_first = np.allclose(one, np.round(one)) and spec.options.get("post_order", "cs") == "cs"
    found, scores = (one[:count], two[:count]) if classes_first else (two[:count], one[:count])
    classes = found.astype(np.intp)
    if spec.options.get("map90"):
        to_coco80 = np.full(256, -1, np.intp)
        to_coco80[np.array(COCO_CATEGORY_IDS) - 1] = np.arange(80)
        classes = to_coco80[np.clip(classes, 0, 255)]
    keep = np.flatnonzero((scores >= confidence) & (classes >= 0))
    keep = keep[np.argsort(-scores[keep], kind="stable")]
    pixels = boxes[keep][:, [1, 0, 3, 2]] * np.array(spec.geometry.size * 2, np.float32)
    return Candidates(pixels, scores[keep], classes[keep])


Decoder = Callable[[Outputs, MachineSpec, float], Candidates]
DECODERS: dict[str, Decoder] = {
    "yolox": yolox,
    "gfl": gfl,
    "yolov5": yolov5,
    "yolov8": yolov8,
    "darknet": darknet,
    "fastestv2": fastestv2,
    "fastestdet": fastestdet,
    "ssd_anchors": ssd_anchors,
    "tflite_post": tflite_post,
}
