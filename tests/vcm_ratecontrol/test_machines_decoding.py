"""Suppression against its definition, the decoders that no shared machine uses, and the edits of ONNX files."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vcm_ratecontrol.machines.coco import COCO_CATEGORY_IDS, COCO_NAMES
from vcm_ratecontrol.machines.decoders import tflite_post, yolov8
from vcm_ratecontrol.machines.manifest import Geometry, MachineSpec, Normalisation
from vcm_ratecontrol.machines.nms import non_maximum_suppression
from vcm_ratecontrol.machines.onnx_graph import with_input_shape, without_initializer_inputs
from vcm_ratecontrol.machines.preprocess import InputFormat, PreparedPicture, quantisation_tables
from vcm_ratecontrol.machines.runtimes import QuantisedArray


def specification(decode: str, size: tuple[int, int], **options: Any) -> MachineSpec:
    return MachineSpec(
        name="test", task="detection", runtime="onnxruntime", files=(), geometry=Geometry(size, "stretch"),
        normalisation=Normalisation(), layout="NCHW", decode=decode, options=options,
    )  # fmt: skip


def plain_nms(boxes: Any, scores: Any, classes: Any, threshold: float, limit: int) -> list[int]:
    """The definition, one pair at a time."""
    kept: list[int] = []
    for i in np.argsort(-scores, kind="stable"):
        for k in kept:
            width = min(boxes[i, 2], boxes[k, 2]) - max(boxes[i, 0], boxes[k, 0])
            height = min(boxes[i, 3], boxes[k, 3]) - max(boxes[i, 1], boxes[k, 1])
            shared = max(width, 0) * max(height, 0)
            areas = [(b[2] - b[0]) * (b[3] - b[1]) for b in (boxes[i], boxes[k])]
            if classes[i] == classes[k] and shared > threshold * (sum(areas) - shared + 1e-9):
                break
        else:
            kept.append(int(i))
    return kept[:limit]


@settings(max_examples=25, deadline=None)
@given(st.integers(0, 400), st.integers(1, 5), st.sampled_from([0.3, 0.45, 0.6]), st.integers(0, 2**32 - 1))
def test_suppression_follows_its_definition(n: int, n_classes: int, threshold: float, seed: int) -> None:
    random = np.random.default_rng(seed)
    corner = random.uniform(0, 60, (n, 2))
    boxes = np.concatenate([corner, corner + random.uniform(1, 40, (n, 2))], 1).astype(np.float32)
    scores = random.choice(np.linspace(0.05, 1, 50), n).astype(np.float32)  # with ties
    classes = random.integers(0, n_classes, n)
    limit = int(random.integers(1, 301))
    found = non_maximum_suppression(boxes, scores, classes, threshold, limit)
    assert found.tolist() == plain_nms(boxes.astype(np.float64), scores, classes, threshold, limit)


def test_yolov8_outputs_are_read() -> None:
    values = np.zeros((1, 4 + 80, 50), np.float32)
    values[0, :4, 7] = [100, 50, 20, 10]
    values[0, 4 + 16, 7], values[0, 4 + 3, 7], values[0, 4 + 3, 8] = 0.9, 0.4, 0.2
    found = yolov8({"y": values}, specification("yolov8", (640, 320)), 0.3)
    assert found.classes.tolist() == [3, 16]
    assert found.scores.tolist() == pytest.approx([0.4, 0.9])
    np.testing.assert_allclose(found.boxes, [[90, 45, 110, 55]] * 2)
    relative = values.copy()
    relative[0, :4] /= np.array([640, 320, 640, 320])[:, None]
    found = yolov8({"y": relative}, specification("yolov8", (640, 320), normalised=True), 0.3)
    np.testing.assert_allclose(found.boxes, [[90, 45, 110, 55]] * 2, rtol=1e-6)


@pytest.mark.parametrize("scores_first", [False, True])
def test_tflite_postprocessed_outputs_are_read(scores_first: bool) -> None:
    boxes = np.zeros((1, 10, 4), np.float32)
    boxes[0, :3] = [[0.1, 0.2, 0.3, 0.4], [0, 0, 1, 1], [0.5, 0.5, 0.6, 0.6]]
    classes, scores = np.zeros((1, 10), np.float32), np.zeros((1, 10), np.float32)
    classes[0, :3], scores[0, :3] = [0, 89, 11], [0.4, 0.8, 0.7]  # 11 is one of COCO's unused numbers
    middle: Mapping[str, Any] = {"s": scores, "c": classes} if scores_first else {"c": classes, "s": scores}
    outputs = {"b": boxes, **middle, "n": np.array([3.0], np.float32)}
    options = {"map90": True, **({"post_order": "sc"} if scores_first else {})}
    found = tflite_post(outputs, specification("tflite_post", (200, 100), **options), 0.3)
    assert found.classes.tolist() == [79, 0] and found.scores.tolist() == pytest.approx([0.8, 0.4])
    np.testing.assert_allclose(found.boxes, [[0, 0, 200, 100], [40, 10, 80, 30]], rtol=1e-6)


def test_coco_classes_are_counted_right() -> None:
    assert len(COCO_NAMES) == len(COCO_CATEGORY_IDS) == 80
    assert COCO_CATEGORY_IDS[0] == 1 and COCO_CATEGORY_IDS[-1] == 90
    assert COCO_CATEGORY_IDS[COCO_NAMES.index("stop sign")] == 13


def test_a_quantised_output_is_dequantised_where_it_is_indexed() -> None:
    data = np.arange(24, dtype=np.uint8).reshape(1, 4, 6)
    array = QuantisedArray(data, 0.5, 3)
    assert array.shape == (1, 4, 6)
    np.testing.assert_array_equal(array[0, 1:3], (data[0, 1:3].astype(np.float32) - 3) * 0.5)
    assert array[0, 2, 5].dtype == np.float32


@pytest.mark.parametrize("layout", ["NCHW", "NHWC"])
@pytest.mark.parametrize("color", ["RGB", "BGR"])
@pytest.mark.parametrize(
    ("dtype", "mean", "quantisation"),
    [
        ("uint8", (0.0, 0.0, 0.0), None),
        ("uint8", (127.5, 127.5, 127.5), (0.0078125, 128.0)),
        ("int8", (127.5, 127.5, 127.5), (0.0078, -1.0)),
        ("uint8", (10.0, 127.5, 30.0), (0.5, 100.0)),  # a table for each channel
        ("float32", (103.5, 116.2, 123.6), None),
    ],
)
def test_tensors_follow_the_arithmetic(layout: str, color: Any, dtype: str, mean: Any, quantisation: Any) -> None:
    rgb = np.random.default_rng(1).integers(0, 256, (20, 30, 3), np.uint8)
    std = (1.0, 1.0, 1.0) if quantisation is None else (127.5, 127.5, 127.5)
    form = InputFormat(Normalisation(mean, std, color), layout, dtype, quantisation)
    found = PreparedPicture(rgb).tensor(Geometry((30, 20), "stretch"), form)
    pixels = rgb.astype(np.float32)[..., :: -1 if color == "BGR" else 1]
    values = (pixels - np.array(mean, np.float32)) / np.array(std, np.float32)
    if dtype != "float32":
        if quantisation:
            values = values / np.float32(quantisation[0]) + np.float32(quantisation[1])
        values = np.clip(np.round(values), np.iinfo(dtype).min, np.iinfo(dtype).max)
        assert quantisation_tables(form, np.dtype(dtype)).shape == (3, 256)
    expected = values[None].astype(dtype)
    expected = expected.transpose(0, 3, 1, 2) if layout == "NCHW" else expected
    assert found.dtype == dtype and found.flags.c_contiguous
    np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize("rule", ["stretch", "letterbox", "letterbox-topleft"])
@pytest.mark.parametrize("view", [None, (52, 52)])
def test_boxes_find_their_way_back(rule: str, view: tuple[int, int] | None) -> None:
    rgb = np.zeros((60, 120, 3), np.uint8)
    rgb[20:40, 30:90] = 255
    seen, place = PreparedPicture(rgb).placed(Geometry((208, 208), rule, pad=0, view=view))
    rows, columns = np.where(seen[..., 0] > 127)
    x = (np.array([columns.min(), columns.max() + 1]) - place.offset_x) / place.scale_x
    y = (np.array([rows.min(), rows.max() + 1]) - place.offset_y) / place.scale_y
    np.testing.assert_allclose([*x, *y], [30, 90, 20, 40], atol=1.5)


def onnx_session(model: bytes) -> Any:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])


def test_weights_leave_the_inputs_and_nothing_else_changes(machines_dir: Path) -> None:
    model = (machines_dir / "nanodet_m_0.5x/nanodet_m_0.5x.onnx").read_bytes()
    edited = without_initializer_inputs(model)
    assert 0 < len(model) - len(edited) < 10_000
    assert without_initializer_inputs(edited) == edited
    tensor = np.random.default_rng(0).random((1, 3, 320, 320), np.float32)
    before, after = (onnx_session(m).run(None, {"input.1": tensor}) for m in (model, edited))
    for one, other in zip(before, after, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-4)


def test_an_input_gets_another_shape(machines_dir: Path) -> None:
    model = (machines_dir / "yolo_fastest_1.1_body/yolo_fastest_1.1_body.onnx").read_bytes()
    session = onnx_session(with_input_shape(model, (1, 3, 256, 384)))
    assert session.get_inputs()[0].shape == [1, 3, 256, 384]
    outputs = session.run(None, {"image": np.zeros((1, 3, 256, 384), np.float32)})
    assert [o.shape for o in outputs] == [(1, 18, 8, 12), (1, 18, 16, 24)]


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes_are_edited_or_refused(data: bytes) -> None:
    with suppress(ValueError):
        assert len(without_initializer_inputs(data)) <= len(data)
