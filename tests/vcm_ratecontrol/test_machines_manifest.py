"""Manifests: small ones and virtual machines load; each mistake is one clear line with the right exit code."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from codec_wrappers.errors import InputError, MissingToolError, VcmError
from vcm_ratecontrol.machines import Classification, Detections, MachineLibrary, MachineRunError
from vcm_ratecontrol.machines.check import check_machine
from vcm_ratecontrol.machines.manifest import read_manifest

YOLOX = {
    "name": "yolox",
    "file": "yolox_nano.onnx",
    "decode": "yolox",
    "size": 416,
    "fit": "letterbox-topleft",
    "pre": {"color": "BGR"},
}
BODY: dict[str, Any] = {
    "name": "body",
    "file": "yolo_fastest_1.1_body.onnx",
    "decode": "darknet",
    "size": 320,
    "pre": {"std": 255},
    "nms": 0.45,
    "class_map": [0],
    "heads": [
        {"name": "yolo0", "anchors": [[64, 187], [123, 211], [227, 264]], "classes": 1},
        {"name": "yolo1", "anchors": [[7, 17], [20, 50], [45, 99]], "classes": 1},
    ],
}
SQUEEZENET = {
    "name": "squeezenet",
    "file": "squeezenet_v1.0_tf.onnx",
    "size": 224,
    "pre": {"mean": [123.68, 116.78, 103.94], "std": 255},
}
WriteLibrary = Callable[..., Path]


@pytest.fixture
def write_library(tmp_path: Path, machines_dir: Path) -> WriteLibrary:
    """Writes a library of these entries, with the model files they name, and returns its folder."""

    def write(*entries: dict[str, Any]) -> Path:
        folder = tmp_path / "mine"
        folder.mkdir(exist_ok=True)
        for entry in entries:
            for model in machines_dir.glob(f"*/{entry.get('file')}"):
                shutil.copyfile(model, folder / model.name)
        (folder / "manifest.json").write_text(json.dumps({"machines": entries}))
        return folder

    return write


@pytest.fixture(scope="module")
def rgb(shared_data: Path) -> Any:
    return np.asarray(Image.open(shared_data / "images/coco/train2017_000000417793.jpg").convert("RGB"))


def assert_clear(error: VcmError, *words: str) -> None:
    text = str(error)
    assert "\n" not in text and len(text) < 500
    for word in words:
        assert word in text, text


def test_a_ten_line_manifest_gives_the_same_machine(write_library: WriteLibrary, machines_dir: Path, rgb: Any) -> None:
    mine = MachineLibrary.load(write_library(YOLOX, BODY, SQUEEZENET)).run(rgb)
    full = MachineLibrary.load(machines_dir, ["yolox_nano", "yolo_fastest_1.1_body", "squeezenet_v1.0_tf"]).run(rgb)
    for here, there in zip(mine.values(), full.values(), strict=True):
        if isinstance(here, Classification):
            assert isinstance(there, Classification) and here.label == there.label
        else:
            assert isinstance(there, Detections)
            np.testing.assert_array_equal(here.boxes, there.boxes)


def test_virtual_machines_are_machines_of_their_own(write_library: WriteLibrary, rgb: Any) -> None:
    folder = write_library(
        BODY,
        {"name": "body_256", "base": "body", "size": 256},
        {"name": "body_wide", "base": "body", "size": [416, 320]},
        {"name": "body_boxed", "base": "body", "fit": "letterbox"},
        {"name": "body_far", "base": "body", "view": 160},
        SQUEEZENET,
        {"name": "squeezenet_whole", "base": "squeezenet", "resize": {"mode": "direct"}},
        {"name": "squeezenet_crop", "base": "squeezenet", "resize": {"mode": "crop", "short": 256}},
        {"name": "squeezenet_160", "base": "squeezenet", "size": 160},
    )
    library = MachineLibrary.load(folder)
    assert len(set(library.hashes.values())) == len(library) == 9
    results = library.run(rgb)
    bodies = [r for r in results.values() if isinstance(r, Detections)]
    assert all(len(r) and r.scores[0] > 0.5 for r in bodies)
    # The same person, seen in five ways: nearly the same box, never the same confidence.
    assert len({float(r.scores[0]) for r in bodies}) == 5
    for result in bodies:
        np.testing.assert_allclose(result.boxes[0], bodies[0].boxes[0], atol=0.15 * max(rgb.shape))
    assert len({r.confidence for r in results.values() if isinstance(r, Classification)}) == 4


def test_a_size_that_the_network_does_not_bear_is_refused(write_library: WriteLibrary, machines_dir: Path) -> None:
    entries = json.loads((machines_dir.parent / "manifest.json").read_text())["machines"]
    chosen = {
        "nanodet_m_0.5x": 352,  # fails inside ONNX Runtime
        "mobilenet_v1_0.5_128_quant_onnx": 64,  # crashes it
        "tinymaix_mbnet128_0.25": 160,  # LiteRT: never tried
    }
    for entry in entries:
        if entry["name"] in chosen:
            folder = write_library({**entry, "size": chosen[entry["name"]]})
            with pytest.raises(InputError) as caught:
                MachineLibrary.load(folder)
            assert_clear(caught.value, entry["name"], "view")


def test_the_name_does_not_change_the_hash_but_what_matters_does(write_library: WriteLibrary) -> None:
    def sha256(**changes: Any) -> str:
        return MachineLibrary.load(write_library({**BODY, **changes})).machines[0].sha256

    plain = sha256()
    assert sha256(name="other", measured={"ap": 1.0}, note="unrelated") == plain
    changed = [sha256(**c) for c in ({"nms": 0.5}, {"fit": "letterbox"}, {"pre": {"std": 254}}, {"view": 160})]
    assert len({plain, *changed}) == 5


def test_the_manifest_may_lie_above_or_be_named(machines_dir: Path) -> None:
    names = ["tinymaix_mbnet128_0.25"]
    hashes = [
        dict(MachineLibrary.load(place, names).hashes)
        for place in (machines_dir, machines_dir.parent, machines_dir.parent / "manifest.json")
    ]
    assert hashes[0] == hashes[1] == hashes[2]


@pytest.mark.parametrize(
    ("entry", "words"),
    [
        ({**BODY, "decode": "yolo99"}, ["body", "decode", "yolox"]),
        ({**BODY, "runtime": "tensorrt"}, ["body", "runtime", "onnxruntime"]),
        ({**BODY, "layout": "CHWN"}, ["body", "layout"]),
        ({**BODY, "fit": "squeeze"}, ["body", "fit", "letterbox"]),
        ({**BODY, "size": 0}, ["body", "size"]),
        ({**BODY, "size": "big"}, ["body", "size"]),
        ({**BODY, "size": None}, ["body", "size"]),
        ({**BODY, "pre": {"color": "YUV"}}, ["body", "color"]),
        ({**BODY, "pre": {"mean": [1, 2]}}, ["body", "wrong form"]),
        ({**BODY, "nms": "much"}, ["body", "wrong form"]),
        ({**BODY, "task": "segmentation"}, ["body", "task"]),
        ({**BODY, "file": None}, ["body", "file"]),
        ({**BODY, "name": ""}, ["name"]),
        ({**BODY, "name": "a@b"}, ["name", "@"]),
        ({**BODY, "base": "nobody"}, ["body", "nobody"]),
        ({**BODY, "url": "https://example.org/x.onnx"}, ["body", "url", "sha256"]),
        ({**SQUEEZENET, "resize": {"mode": "fill"}}, ["squeezenet", "resize", "fraction"]),
    ],
)
def test_a_wrong_field_is_named(write_library: WriteLibrary, entry: dict[str, Any], words: list[str]) -> None:
    folder = write_library(entry)
    with pytest.raises(InputError) as caught:
        read_manifest(folder)
    assert_clear(caught.value, "manifest.json", *words)
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["", "{", "[1, 2]", '{"machines": 3}', "\x00\x01", '"text"'])
def test_what_is_no_manifest_is_refused(tmp_path: Path, text: str) -> None:
    (tmp_path / "manifest.json").write_text(text)
    with pytest.raises(InputError) as caught:
        MachineLibrary.load(tmp_path)
    assert_clear(caught.value, "manifest.json")


def test_a_library_that_is_not_there_is_named(tmp_path: Path) -> None:
    with pytest.raises(InputError) as caught:
        MachineLibrary.load(tmp_path / "nowhere")
    assert_clear(caught.value, "nowhere", "manifest.json")
    (tmp_path / "a/b").mkdir(parents=True)
    with pytest.raises(InputError) as caught:
        MachineLibrary.load(tmp_path / "a/b")
    assert_clear(caught.value, "manifest.json", "docs/machines.md")


def test_two_machines_of_one_name_are_refused(write_library: WriteLibrary) -> None:
    with pytest.raises(InputError) as caught:
        read_manifest(write_library(BODY, BODY))
    assert_clear(caught.value, "body", "own name")


def test_an_unknown_name_or_an_empty_choice_is_refused(write_library: WriteLibrary) -> None:
    folder = write_library(BODY)
    with pytest.raises(InputError) as caught:
        MachineLibrary.load(folder, ["bodi"])
    assert_clear(caught.value, "bodi", "body")
    with pytest.raises(InputError):
        MachineLibrary.load(folder, task="classification")
    with pytest.raises(InputError):
        MachineLibrary.load(folder, runtime="tpu")


def test_a_missing_file_and_a_wrong_checksum_are_told(write_library: WriteLibrary) -> None:
    folder = write_library({**BODY, "sha256": "0" * 64})
    with pytest.raises(MissingToolError) as caught:
        MachineLibrary.load(folder)
    assert_clear(caught.value, "checksum", "body", "yolo_fastest_1.1_body.onnx")
    assert caught.value.exit_code == 7
    (folder / "yolo_fastest_1.1_body.onnx").unlink()
    with pytest.raises(MissingToolError) as caught:
        MachineLibrary.load(folder)
    assert_clear(caught.value, "body", "yolo_fastest_1.1_body.onnx")


@pytest.mark.parametrize("damage", ["empty", "cut", "text"])
@pytest.mark.parametrize("name", ["yolo_fastest_1.1_body", "tinymaix_mbnet128_0.25", "yolo_fastestv2@ncnn"])
def test_a_corrupt_model_is_one_clear_error(tmp_path: Path, machines_dir: Path, name: str, damage: str) -> None:
    (spec,) = (s for m in [read_manifest(machines_dir)] for s in (*m.machines, *m.twins) if s.name == name)
    entries = json.loads((machines_dir.parent / "manifest.json").read_text())["machines"]
    (entry,) = (e for e in entries if e["name"] == name.partition("@")[0])
    del entry["files"]
    (tmp_path / "manifest.json").write_text(json.dumps({"machines": [entry]}))
    for file in spec.files:
        content = file.path.read_bytes()
        content = {"empty": b"", "cut": content[: len(content) // 2], "text": b"not a network\n"}[damage]
        (tmp_path / file.path.name).write_bytes(content)
    with pytest.raises(MissingToolError) as caught:
        MachineLibrary.load(tmp_path, [name])
    assert_clear(caught.value, spec.files[0].path.name, name)


@pytest.mark.parametrize(
    ("module", "name"),
    [
        ("onnxruntime", "yolo_fastest_1.1_body"),
        ("ai_edge_litert.interpreter", "tinymaix_mbnet128_0.25"),
        ("ncnn", "yolo_fastestv2@ncnn"),
    ],
)
def test_a_runtime_that_is_not_installed_is_named_with_the_extra(
    machines_dir: Path, monkeypatch: pytest.MonkeyPatch, module: str, name: str
) -> None:
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(MissingToolError) as caught:
        MachineLibrary.load(machines_dir, [name])
    assert_clear(caught.value, name, module.partition(".")[0], "pip install 'vcm-ratecontrol[machines]'")


def test_a_machine_that_fails_on_a_picture_says_so(write_library: WriteLibrary, rgb: Any) -> None:
    library = MachineLibrary.load(write_library(BODY, {**YOLOX, "decode": "darknet", "heads": BODY["heads"]}))
    with pytest.raises(MachineRunError) as caught:
        library.run(rgb)
    assert_clear(caught.value, "yolox")
    assert caught.value.exit_code == 7
    results, failures = library.try_run(rgb)
    assert list(results) == ["body"] and list(failures) == ["yolox"]


def test_a_check_tells_of_every_machine(write_library: WriteLibrary) -> None:
    good, bad = read_manifest(write_library(BODY, {**YOLOX, "sha256": "f" * 64})).machines
    assert check_machine(good).error is None and check_machine(good).milliseconds > 0
    error = check_machine(bad).error
    assert error is not None and "checksum" in str(error)


def test_what_is_no_picture_is_refused(write_library: WriteLibrary, rgb: Any) -> None:
    machine = MachineLibrary.load(write_library(BODY)).machines[0]
    for wrong in (rgb[..., 0], rgb.astype(np.float32), rgb[:0], np.dstack([rgb, rgb[..., :1]])):
        with pytest.raises(MachineRunError):
            machine.run([wrong])
