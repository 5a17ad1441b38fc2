"""The machines of the shared library: all load, and see what the plain reading of the manifest sees."""

import importlib
import json
import pickle
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
from PIL import Image

from vcm_ratecontrol.machines import Classification, Detections, Machine, MachineLibrary, PreparedPicture
from vcm_ratecontrol.machines.accuracy import MIN_CONFIDENCE, measure_accuracy, read_labelled_pictures

N_MACHINES = 31
TWINS = ("mobilenet_v1_0.25_224_float@onnx", "squeezenet_v1.1_ncnn_fp16@ncnn", "yolo_fastestv2@ncnn")
PICTURES = ("coco/train2017_000000000030.jpg", "imagenet/n01443537_goldfish.JPEG")

# Three small ones of each runtime; of ncnn there are two.
QUICK = (
    "mobilenet_v1_0.5_128_quant_onnx",
    "yolo_fastest_1.1_body",
    "mobilenetv2_yolo_fastest_voc",
    "mobilenet_v1_0.25_128_quant",
    "tinymaix_mbnet128_0.25",
    "st_ssd_mobilenet_v1_025_256_coco",
    "squeezenet_v1.1_ncnn_fp16@ncnn",
    "yolo_fastestv2@ncnn",
)


@pytest.fixture(scope="module")
def library(machines_dir: Path) -> MachineLibrary:
    return MachineLibrary.load(machines_dir)


@pytest.fixture(scope="module")
def twins(machines_dir: Path) -> MachineLibrary:
    return MachineLibrary.load(machines_dir, TWINS)


@pytest.fixture(scope="module")
def images(shared_data: Path) -> list[Image.Image]:
    return [Image.open(shared_data / "images" / name).convert("RGB") for name in PICTURES]


@pytest.fixture(scope="module")
def reference(shared_data: Path) -> Iterator[tuple[ModuleType, ModuleType]]:
    """The modules common and detect of the plain reading."""
    folder = str(shared_data / "reference")
    sys.path.insert(0, folder)
    try:
        modules = importlib.import_module("common"), importlib.import_module("detect")
        modules[0].ROOT = str(shared_data)  # type: ignore[attr-defined]
        yield modules
    finally:
        sys.path.remove(folder)
        for name in ("common", "detect"):
            sys.modules.pop(name, None)


def expected_classification(common: Any, entry: dict[str, Any], run: Any, image: Image.Image) -> Any:
    pixels = np.asarray(common.classify_input(image, entry["size"], entry["resize"]))
    outputs = run(common.to_tensor(common.normalise(pixels, entry["pre"]), entry["layout"]))
    values = next(iter(outputs.values())).ravel()
    return values[1:] if len(values) == 1001 else values


def test_all_machines_see_what_the_plain_reading_sees(
    library: MachineLibrary,
    shared_data: Path,
    images: list[Image.Image],
    reference: tuple[Any, Any],
) -> None:
    common, detect = reference
    entries = {m["name"]: m for m in json.loads((shared_data / "manifest.json").read_text())["machines"]}
    assert len(library) == N_MACHINES and set(library.names) == set(entries)
    for machine in library:
        entry = entries[machine.name]
        run = common.open_machine(entry)
        for image in images:
            (result,) = machine.run([np.asarray(image)])
            if isinstance(result, Classification):
                values = expected_classification(common, entry, run, image)
                assert result.label == int(values.argmax()), machine.name
                assert result.confidence == result.probabilities[result.label]
                assert result.probabilities.shape == (1000,)
                assert result.probabilities.sum() == pytest.approx(1, abs=1e-4)
            else:
                rows = detect.detect(entry, run, image)
                assert len(result) == len(rows), machine.name
                np.testing.assert_allclose(result.boxes, rows[:, :4], atol=0.02, err_msg=machine.name)
                np.testing.assert_allclose(result.scores, rows[:, 4], atol=1e-4, err_msg=machine.name)
                np.testing.assert_array_equal(result.classes, rows[:, 5], err_msg=machine.name)


def test_twins_in_another_runtime_see_the_same(
    library: MachineLibrary, twins: MachineLibrary, images: list[Image.Image]
) -> None:
    rgb = np.asarray(images[0])
    for twin in twins:
        original = library[twin.name.partition("@")[0]]
        assert original.sha256 != twin.sha256
        here, there = original.run([rgb])[0], twin.run([rgb])[0]
        if isinstance(here, Classification):
            assert isinstance(there, Classification)
            np.testing.assert_allclose(here.probabilities, there.probabilities, atol=1e-4)
        else:
            assert isinstance(there, Detections)
            np.testing.assert_allclose(here.boxes, there.boxes, atol=0.05)
            np.testing.assert_allclose(here.scores, there.scores, atol=1e-4)


def test_results_are_in_the_stated_form(library: MachineLibrary, images: list[Image.Image]) -> None:
    width, height = images[0].size
    results = library.run(np.asarray(images[0]))
    assert tuple(results) == library.names
    for machine in library:
        assert isinstance(machine, Machine)
        assert len(machine.sha256) == 64
        result = results[machine.name]
        if isinstance(result, Classification):
            assert 0 <= result.label < 1000 and 0 < result.confidence <= 1
            assert result.probabilities.dtype == np.float32
        else:
            assert result.boxes.dtype == result.scores.dtype == np.float32
            assert result.classes.dtype == np.int16
            assert result.boxes.shape == (len(result), 4)
            assert (np.diff(result.scores) <= 0).all()
            assert (result.scores >= 0.05).all() and (result.scores <= 1.01).all()
            assert (result.boxes >= 0).all() and (result.boxes <= [width, height] * 2).all()
            assert (result.boxes[:, 2:] >= result.boxes[:, :2]).all()
            assert ((result.classes >= 0) & (result.classes < 80)).all()
            assert len(result.above(0.3)) == (result.scores >= 0.3).sum()


def test_hashes_tell_all_machines_apart(library: MachineLibrary, twins: MachineLibrary) -> None:
    assert len({*library.hashes.values(), *twins.hashes.values()}) == N_MACHINES + len(TWINS)


def test_sharing_the_resized_picture_changes_nothing(library: MachineLibrary, images: list[Image.Image]) -> None:
    rgb = np.asarray(images[1])
    prepared = PreparedPicture(rgb)
    for machine in library:
        alone, shared = machine.run([rgb])[0], machine.run([prepared])[0]
        for field in ("probabilities",) if isinstance(alone, Classification) else ("boxes", "scores"):
            np.testing.assert_array_equal(getattr(alone, field), getattr(shared, field))


def test_a_batch_gives_what_single_pictures_give(machines_dir: Path, images: list[Image.Image]) -> None:
    library = MachineLibrary.load(machines_dir, ["yolo_fastest_1.1_body", "tinymaix_mbnet128_0.25"])
    pictures = [np.asarray(image) for image in images]
    batch = library.run_batch(pictures)
    for name in library.names:
        together = library[name].run(pictures)
        for picture, one, result in zip(pictures, batch, together, strict=True):
            alone = library.run(picture)[name]
            for field in ("confidence",) if isinstance(alone, Classification) else ("scores",):
                np.testing.assert_array_equal(getattr(alone, field), getattr(one[name], field))
                np.testing.assert_array_equal(getattr(alone, field), getattr(result, field))


@pytest.mark.parametrize("shape", [(1, 1, 3), (1, 900, 3), (900, 2, 3)])
def test_tiny_and_thin_pictures_are_looked_at(library: MachineLibrary, shape: tuple[int, ...]) -> None:
    results = library.run(np.full(shape, 90, np.uint8))
    assert len(results) == N_MACHINES


def test_pixels_need_not_lie_in_one_block(machines_dir: Path, images: list[Image.Image]) -> None:
    machine = MachineLibrary.load(machines_dir, ["yolo_fastest_1.1_body"]).machines[0]
    rgb = np.asarray(images[0])
    mirrored = machine.run([rgb[:, ::-1]])[0]
    again = machine.run([np.ascontiguousarray(rgb[:, ::-1])])[0]
    assert isinstance(mirrored, Detections) and isinstance(again, Detections)
    np.testing.assert_array_equal(mirrored.boxes, again.boxes)


def test_a_library_opens_again_from_its_reference(machines_dir: Path) -> None:
    library = MachineLibrary.load(machines_dir, task="classification", min_confidence=0.1)
    again = pickle.loads(pickle.dumps(library.ref)).open()
    assert again.hashes == library.hashes and again.names == library.names
    assert len(again) == 13


def test_min_confidence_only_cuts_the_tail(machines_dir: Path, images: list[Image.Image]) -> None:
    rgb = np.asarray(images[0])
    low = MachineLibrary.load(machines_dir, task="detection", min_confidence=0.05).run(rgb)
    high = MachineLibrary.load(machines_dir, task="detection", min_confidence=0.3).run(rgb)
    for name, result in low.items():
        cut, kept = high[name], result
        assert isinstance(cut, Detections) and isinstance(kept, Detections)
        np.testing.assert_allclose(cut.boxes, kept.above(0.3).boxes, atol=1e-4, err_msg=name)


def test_nothing_heavy_is_imported_before_a_machine_is_opened() -> None:
    code = (
        "import sys, vcm_ratecontrol.machines as m; m.MachineLibrary, m.PreparedPicture;"
        "print([n for n in ('onnxruntime', 'ai_edge_litert', 'ncnn', 'PIL', 'torch') if n in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.strip() == "[]"


def test_accuracy_is_what_the_manifest_states_for_three_of_each_runtime(shared_data: Path, machines_dir: Path) -> None:
    library = MachineLibrary.load(machines_dir, QUICK, min_confidence=MIN_CONFIDENCE)
    figures = measure_accuracy(library, read_labelled_pictures(shared_data))
    assert {machine.spec.runtime for machine in library} == {"onnxruntime", "litert", "ncnn"}
    assert all(figure.expected for figure in figures)
    assert {f.name: dict(f.measured) for f in figures if not f.within()} == {}


@pytest.mark.slow
def test_accuracy_is_what_the_manifest_states_for_all(
    shared_data: Path, machines_dir: Path, library: MachineLibrary
) -> None:
    """About three minutes on one core."""
    everything = MachineLibrary.load(machines_dir, [*library.names, *TWINS], min_confidence=MIN_CONFIDENCE)
    figures = measure_accuracy(everything, read_labelled_pictures(shared_data))
    assert len(figures) == N_MACHINES + len(TWINS) and all(figure.expected for figure in figures)
    assert {f.name: dict(f.measured) for f in figures if not f.within()} == {}


def test_the_example_of_an_own_detector_runs(machines_dir: Path, picture: Callable[[str], Path]) -> None:
    script = Path(__file__).resolve().parents[2] / "examples" / "own_detector.py"
    model = machines_dir / "yolox_nano" / "yolox_nano.onnx"
    command = [sys.executable, str(script), str(model), str(picture(PICTURES[0]))]
    done = subprocess.run(command, check=True, capture_output=True, text=True, timeout=60)
    assert done.stdout.startswith("vase ")
