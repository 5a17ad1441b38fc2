"""vcm-qpmap as a user runs it: maps of pictures and clips in each format, overlays, and what it refuses."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codec_wrappers.encoder import get_encoder
from codec_wrappers.qpmap_io import RoiContext, read_qpmap
from codec_wrappers.qpmap_legal import is_legal
from tests.vcm_ratecontrol.encode_runs import Run, left_in, vcm_encode
from tests.vcm_ratecontrol.test_events import check_event
from vcm_ratecontrol import jrd_map
from vcm_ratecontrol.cli.common import run_command
from vcm_ratecontrol.cli.qpmap import main

DETECTORS = "yolo_fastestv2,fastestdet"


QpMap = Callable[..., Run]


@pytest.fixture
def vcm_qpmap(capfd: pytest.CaptureFixture[str]) -> QpMap:
    """The command in this process: what it prints and how it ends."""

    def run(*arguments: object) -> Run:
        capfd.readouterr()
        code = run_command(main, [str(argument) for argument in arguments])
        return Run(code, *capfd.readouterr())

    return run


@pytest.fixture(scope="module")
def photo(picture: Callable[[str], Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """People in a room, 300x220: neither side fits the blocks."""
    path = tmp_path_factory.mktemp("photo") / "photo.png"
    with Image.open(picture("coco/000000465822.jpg")) as image:
        image.convert("RGB").crop((0, 50, 450, 380)).resize((300, 220)).save(path)
    return path


def boxes(folder: Path, rows: list[tuple[int, list[float]]]) -> Path:
    path = folder / "boxes.json"
    found = [{"image_id": f, "bbox": b, "category_id": 1, "score": 0.6} for f, b in rows]
    path.write_text(json.dumps(found))
    return path


def objects_options(folder: Path, *rows: tuple[int, list[float]]) -> list[object]:
    return ["--objects", boxes(folder, list(rows))]


def test_a_detector_makes_a_map_and_an_overlay(photo: Path, machines_dir: Path, tmp_path: Path) -> None:
    output, overlay = tmp_path / "map.npz", tmp_path / "overlay.png"
    run = vcm_encode(
        photo, "--machines", machines_dir, "--names", DETECTORS, "--detector", "yolo_fastestv2",
        "-o", output, "--overlay", overlay, "--json", module="qpmap",
    )  # fmt: skip
    assert (run.code, run.err) == (0, "")
    for event in run.events:
        check_event(event)
    end = run.end
    qp_map = read_qpmap(output)
    assert (qp_map.width, qp_map.height, qp_map.block_size) == (300, 220, 64)
    rules = get_encoder("hevc-kvazaar").map_rules()
    assert rules is not None
    assert is_legal(qp_map, rules)
    assert end["objects"] > 0
    assert (end["rows"], end["cols"], end["n_frames"]) == (4, 5, 1)
    assert qp_map.qp.min() == end["lowest_qp"] < end["background_qp"]
    with Image.open(overlay) as drawn:
        assert drawn.width == 1200  # enlarged by a whole factor, the legend below
        assert drawn.height > 880
        assert np.unique(np.asarray(drawn)[:880].reshape(-1, 3), axis=0).shape[0] > 1000
    assert sorted(left_in(tmp_path)) == ["map.npz", "overlay.png"]


@pytest.mark.parametrize("suffix", [".npz", ".png", ".txt", ".bin"])
def test_each_format_holds_the_same_map(vcm_qpmap: QpMap, suffix: str, photo: Path, tmp_path: Path) -> None:
    output = tmp_path / f"map{suffix}"
    options = objects_options(tmp_path, (0, [100, 70, 40, 50]))
    end = vcm_qpmap(photo, *options, "-o", output, "--background-qp", 47, "--json").end
    qp_map = read_qpmap(output, RoiContext(end["base_qp"], 300, 220) if end["base_qp"] is not None else None)
    inside = qp_map.qp[0] < 47
    assert (
        inside.tolist() == [[False, True, True, False, False]] * 2 + [[False] * 5] * 2
        or inside.sum() == end["object_share"] * inside.size
    )
    assert (end["base_qp"] is None) == (suffix in (".npz", ".png"))


def test_a_clip_has_a_map_per_frame(vcm_qpmap: QpMap, synthetic_clip: Callable[[str], Path], tmp_path: Path) -> None:
    output = tmp_path / "map.npz"
    options = objects_options(tmp_path, *((frame, [10.0, 10.0, 40.0, 40.0]) for frame in range(3)))
    end = vcm_qpmap(synthetic_clip("plain.mp4"), *options, "-o", output, "--overlay", tmp_path / "o.png", "--json").end
    qp_map = read_qpmap(output)
    assert qp_map.n_frames == end["n_frames"] == 25
    assert qp_map.qp[0, 0, 0] < qp_map.qp[0, -1, -1] == end["background_qp"]
    assert (qp_map.qp[-1] == end["background_qp"]).all()


def test_boxes_of_other_pictures_make_no_map(vcm_qpmap: QpMap, photo: Path, tmp_path: Path) -> None:
    path = boxes(tmp_path, [(0, [100, 70, 40, 50]), (1, [0, 0, 300, 220])])
    images = [{"id": 0, "file_name": f"somewhere/{photo.name}"}, {"id": 1, "file_name": "other.png"}]
    path.write_text(json.dumps({"images": images, "annotations": json.loads(path.read_text())}))
    run = vcm_qpmap(photo, "--objects", path, "-o", tmp_path / "map.npz", "--json")
    assert (run.code, run.end["objects"]) == (0, 1), run.err
    assert run.end["object_share"] < 1
    assert any("the first of other.png" in note for note in run.end["notes"])


def test_a_turned_clip_has_its_boxes_turned_back(
    vcm_qpmap: QpMap, synthetic_clip: Callable[[str], Path], tmp_path: Path
) -> None:
    """Shown upright it is 128x192; coded 192x128."""
    output = tmp_path / "map.npz"
    options = objects_options(tmp_path, *((frame, [2.0, 2.0, 20.0, 20.0]) for frame in range(25)))
    vcm_qpmap(synthetic_clip("rotated.mp4"), *options, "-o", output, "--block-size", 64)
    qp_map = read_qpmap(output)
    assert (qp_map.width, qp_map.height) == (192, 128)
    fine = np.argwhere(qp_map.qp[0] < qp_map.qp.max())
    # Turned by 90 degrees anticlockwise for display: its top left corner is coded at the top right.
    assert fine.tolist() == [[0, 2]]


def test_blocks_of_another_size(vcm_qpmap: QpMap, photo: Path, tmp_path: Path) -> None:
    output = tmp_path / "map.png"
    options = objects_options(tmp_path, (0, [100, 70, 40, 50]))
    end = vcm_qpmap(photo, *options, "-o", output, "--block-size", 16, "--codec", "vvc", "--json").end
    assert (end["rows"], end["cols"], end["block_size"]) == (14, 19, 16)


def test_the_same_map_in_three_lines(vcm_qpmap: QpMap, photo: Path, tmp_path: Path) -> None:
    path = boxes(tmp_path, [(0, [100, 70, 40, 50])])
    vcm_qpmap(photo, "--objects", path, "-o", tmp_path / "map.npz")
    assert jrd_map(photo, ratio=0.75, objects=path) == read_qpmap(tmp_path / "map.npz")


def test_what_was_cut_off_is_said(vcm_qpmap: QpMap, photo: Path, tmp_path: Path) -> None:
    options = objects_options(tmp_path, (0, [-30, -30, 100, 100]), (0, [400, 10, 20, 20]))
    run = vcm_qpmap(photo, *options, "-o", tmp_path / "map.npz")
    assert run.code == 0
    assert "note: 1 boxes reached beyond the picture" in run.out
    assert "note: 1 boxes without area inside" in run.out


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (["-o", "{}/map.jpg"], 2, "name it *.npz, *.png, *.txt, *.bin"),
        (["--overlay", "{}/map.jpg"], 2, "name it *.png"),
        ([], 2, "give -o FILE, --overlay FILE.png, or both"),
        (["-o", "{}/map.npz", "--detector", "yolox_nano"], 2, "--detector yolox_nano: give the library"),
        (["-o", "{}/map.npz", "--objects", "{}/none.json"], 2, "none.json: cannot be read"),
        (["-o", "{}/map.npz", "--target-jrd", "0"], 2, "0 is not in the range"),
        (["-o", "{}/map.npz", "--objects", "{}/boxes.json", "--background-qp", "63"], 2, "QP 63: "),
        (["-o", "{}/map.npz", "--objects", "{}/boxes.json", "--overlay-frame", "1"], 2, "has 1 frames"),
        (["-o", "{}/boxes.json", "--objects", "{}/boxes.json"], 2, "name it"),
    ],
)
def test_refusals(vcm_qpmap: QpMap, arguments: list[str], code: int, told: str, photo: Path, tmp_path: Path) -> None:
    boxes(tmp_path, [(0, [1, 2, 3, 4])])
    run = vcm_qpmap(photo, *(argument.format(tmp_path) for argument in arguments))
    assert run.code == code
    assert told in run.err
    assert len(run.err.splitlines()) == 1
    assert list(left_in(tmp_path)) == ["boxes.json"]


def test_a_detector_that_is_not_there(vcm_qpmap: QpMap, photo: Path, machines_dir: Path, tmp_path: Path) -> None:
    library = ["--machines", machines_dir, "--names", DETECTORS]
    run = vcm_qpmap(photo, *library, "--detector", "x", "-o", tmp_path / "m.npz")
    assert run.code == 2
    assert run.err.endswith("--detector x: no detector of the library; it has yolo_fastestv2, fastestdet\n")


def test_frames_that_the_clip_has_not(vcm_qpmap: QpMap, synthetic_clip: Callable[[str], Path], tmp_path: Path) -> None:
    options = objects_options(tmp_path, (0, [1, 2, 3, 4]), (40, [1, 2, 3, 4]))
    run = vcm_qpmap(synthetic_clip("plain.mp4"), *options, "-o", tmp_path / "map.npz")
    assert run.code == 2
    assert "has boxes for frame 40; " in run.err
