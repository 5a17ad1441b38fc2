"""Boxes from files in COCO's format: which frame they are for, what is clipped, what is refused."""

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from codec_wrappers.errors import InputError
from tests.vcm_ratecontrol.encode_runs import environment
from vcm_ratecontrol.jrd.object_file import BoxesFile, FileObjects

RGB = np.zeros((100, 200, 3), np.uint8)


def boxes_file(tmp_path: Path, content: Any) -> Path:
    path = tmp_path / "boxes.json"
    path.write_text(content if isinstance(content, str) else json.dumps(content))
    return path


def box(image: int, bbox: list[float], **more: Any) -> dict[str, Any]:
    return {"image_id": image, "bbox": bbox, "category_id": 3, **more}


def read(path: Path, n_frames: int = 1, name: str = "street.png") -> FileObjects:
    return BoxesFile.read(path).of(Path(name), n_frames, 200, 100)


def test_a_list_of_results_is_boxes_by_frame(tmp_path: Path) -> None:
    path = boxes_file(tmp_path, [box(0, [10, 20, 30, 40], score=0.7), box(4, [0, 0, 50, 50])])
    objects = read(path, 5)
    first, fifth = objects.see(RGB, 0), objects.see(RGB, 4)
    assert first.boxes.tolist() == [[10, 20, 40, 60]]
    assert first.names == ("car",)
    assert first.confidences.tolist() == [0.7]
    assert np.isnan(fifth.confidences[0])
    assert len(objects.see(RGB, 2)) == 0
    assert objects.notes == ()


def test_boxes_outside_are_clipped_and_counted(tmp_path: Path) -> None:
    rows = [box(0, [-10, -10, 50, 50]), box(0, [190, 90, 50, 50]), box(0, [300, 10, 5, 5]), box(0, [5, 5, 0, 9])]
    objects = read(boxes_file(tmp_path, rows))
    assert objects.see(RGB, 0).boxes.tolist() == [[0, 0, 40, 40], [190, 90, 200, 100]]
    assert (objects.clipped, objects.outside) == (2, 2)
    assert "2 boxes reached beyond" in objects.notes[0]


@pytest.mark.parametrize(
    ("image", "frame"),
    [
        ({"id": 7, "file_name": "x.png", "frame_index": 3}, 3),
        ({"id": 7, "file_name": "frame_00002.png"}, 2),
        ({"id": 4, "file_name": "still.png"}, 4),
    ],
)
def test_frames_of_images(tmp_path: Path, image: dict[str, Any], frame: int) -> None:
    content = {
        "images": [image],
        "annotations": [box(image["id"], [1, 2, 3, 4])],
        "categories": [{"id": 3, "name": "bus"}],
    }
    objects = read(boxes_file(tmp_path, content), 6)
    assert [len(objects.see(RGB, index)) for index in range(6)] == [int(index == frame) for index in range(6)]
    assert objects.see(RGB, frame).names == ("bus",)


def test_frames_counted_from_one(tmp_path: Path) -> None:
    objects = read(boxes_file(tmp_path, [box(number, [1, 2, 3, 4]) for number in (1, 2, 3)]), 3)
    assert [len(objects.see(RGB, index)) for index in range(3)] == [1, 1, 1]


def test_boxes_for_other_frames_are_refused_by_name(tmp_path: Path) -> None:
    path = boxes_file(tmp_path, [box(0, [1, 2, 3, 4]), box(12, [1, 2, 3, 4]), box(31, [1, 2, 3, 4])])
    with pytest.raises(InputError, match=r"frame 12, 31; clip.mp4 has frames 0..4: leave those boxes out"):
        read(path, 5, "clip.mp4")


def test_of_a_file_for_many_only_the_boxes_of_the_input_count(tmp_path: Path) -> None:
    images = [{"id": 1, "file_name": "photos/street.png"}, {"id": 2, "file_name": "other.png"}]
    content = {"images": images, "annotations": [box(1, [1, 2, 3, 4]), box(2, [1, 2, 3, 4]), box(2, [5, 6, 7, 8])]}
    path = boxes_file(tmp_path, content)
    objects = read(path)
    assert objects.see(RGB, 0).boxes.tolist() == [[1, 2, 4, 6]]
    assert len(objects.notes) == 1
    assert "boxes of 1 pictures that are no input were left out, the first of other.png" in objects.notes[0]
    assert len(read(path, name="other.png").see(RGB, 0)) == 2
    with pytest.raises(InputError, match=r"names photos/street.png and 1 more images, and none third.png; add it"):
        read(path, name="third.png")
    # Also where only one of the pictures has boxes.
    content["annotations"] = content["annotations"][1:]
    path = boxes_file(tmp_path, content)
    assert len(read(path).see(RGB, 0)) == 0
    with pytest.raises(InputError, match=r"and none third.png"):
        read(path, name="third.png")


def test_the_only_image_of_a_file_may_have_another_name(tmp_path: Path) -> None:
    content = {"images": [{"id": 7, "file_name": "before.png"}], "annotations": [box(7, [1, 2, 3, 4])]}
    objects = read(boxes_file(tmp_path, content))
    assert len(objects.see(RGB, 0)) == 1
    assert "its only image is before.png, whose boxes were taken for street.png" in objects.notes[0]
    assert read(boxes_file(tmp_path, content), name="before.png").notes == ()


def test_two_images_of_one_picture_or_frame_are_refused(tmp_path: Path) -> None:
    content: dict[str, Any] = {"annotations": [box(1, [1, 2, 3, 4]), box(2, [1, 2, 3, 4])]}
    for names, n_frames, told in (
        (("a/street.png", "b/street.png"), 1, "boxes of a/street.png and of b/street.png for street.png; leave"),
        ((None, None), 1, "boxes of image 1 and of image 2 for street.png"),
        (("a/03.png", "b/03.png"), 5, "boxes of a/03.png and of b/03.png for frame 3 of street.png"),
    ):
        content["images"] = [{"id": at + 1, "file_name": name} for at, name in enumerate(names)]
        with pytest.raises(InputError, match=told):
            read(boxes_file(tmp_path, content), n_frames)


def test_of_a_file_for_many_clips_only_the_frames_of_the_input_count(tmp_path: Path) -> None:
    images: list[dict[str, Any]] = [
        {"id": 1, "file_name": "cam1/0002.png"},
        {"id": 2, "file_name": "cam2/0002.png"},
        {"id": 3, "file_name": "cam2.mp4", "frame_index": 4},
    ]
    content = {"images": images, "annotations": [box(image["id"], [1, 2, 3, 4]) for image in images]}
    path = boxes_file(tmp_path, content)
    for name, frames in (("cam1.mp4", [2]), ("cam2.mp4", [2, 4])):
        objects = read(path, 6, name)
        assert [frame for frame in range(6) if len(objects.see(RGB, frame))] == frames
        assert "that are no input were left out" in objects.notes[0]
    content["images"] = [{"id": at, "file_name": "cam1.mp4", "frame_index": at} for at in (1, 2, 3)]
    objects = read(boxes_file(tmp_path, content), 6, "renamed.mp4")
    assert [frame for frame in range(6) if len(objects.see(RGB, frame))] == [1, 2, 3]
    assert "its only image is cam1.mp4, whose boxes were taken for renamed.mp4" in objects.notes[0]


@pytest.mark.parametrize(
    ("content", "told"),
    [
        ("not json", "not JSON"),
        ({"boxes": []}, "no list 'annotations'"),
        ([{"image_id": 0}], "annotation 0 lacks a bbox"),
        ([box(0, [1, 2, 3, 4]), box(0, [1, 2, -3, 4])], "annotation 1 .* out of range"),
        ([box(0, [1, 2, 3, 4], score=1.5)], "out of range"),
        ([box(0, [1, 2, float("inf"), 4])], "out of range"),
        ({"annotations": [], "categories": [{"name": "x"}]}, "a category without id"),
        ({"annotations": [box(1, [1, 2, 3, 4])], "images": [{"id": 1}, {"file_name": "y"}]}, "image without id"),
    ],
)
def test_what_is_not_the_format_is_refused(tmp_path: Path, content: Any, told: str) -> None:
    with pytest.raises(InputError, match=told):
        read(boxes_file(tmp_path, content))


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="cannot be read"):
        read(tmp_path / "none.json")


def test_one_file_for_several_inputs_goes_by_their_names(tmp_path: Path) -> None:
    images = [
        {"id": 1, "file_name": "a.png"},
        {"id": 2, "file_name": "photos/b.png"},
        {"id": 3, "file_name": "film/00002.png"},
        {"id": 4, "file_name": "film.mp4", "frame_index": 4},
        {"id": 5, "file_name": "none.png"},
        {"id": 9, "file_name": "stranger.png"},
    ]
    rows = [box(1, [0, 0, 10, 10]), box(1, [1, 1, 10, 10]), box(2, [2, 2, 10, 10]), box(3, [3, 3, 10, 10])]
    content = {"images": images, "annotations": [*rows, box(4, [4, 4, 10, 10]), box(9, [9, 9, 10, 10])]}
    inputs = [Path(name) for name in ("in/a.png", "in/b.png", "in/film.mp4", "in/none.png", "in/absent.png")]
    read_file = BoxesFile.read(boxes_file(tmp_path, content), inputs)
    a, b, film, none = (read_file.of(source, n, 200, 100) for source, n in zip(inputs, (1, 1, 6, 1), strict=False))
    assert [len(one.see(RGB, 0)) for one in (a, b, none)] == [2, 1, 0]
    assert b.see(RGB, 0).boxes.tolist() == [[2, 2, 12, 12]]
    assert [len(film.see(RGB, frame)) for frame in range(6)] == [0, 0, 1, 0, 1, 0]
    assert len(read_file.notes) == 1
    assert "boxes of 1 pictures that are no input were left out, the first of stranger.png" in read_file.notes[0]
    with pytest.raises(InputError, match=r"names no image absent.png; add it to `images`"):
        read_file.of(inputs[4], 1, 200, 100)


def test_a_file_without_names_cannot_serve_several(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="which of the 2 inputs a box is for"):
        BoxesFile.read(boxes_file(tmp_path, [box(1, [1, 2, 3, 4])]), [Path("a.png"), Path("b.png")])


def test_a_clip_without_the_frame_is_refused(tmp_path: Path) -> None:
    content = {"images": [{"id": 1, "file_name": "cam2.mp4"}], "annotations": [box(1, [1, 2, 3, 4])]}
    with pytest.raises(InputError, match=r"names the clip cam2.mp4 and no frame of it"):
        read(boxes_file(tmp_path, content), 5, "cam2.mp4")


HASTY = """
import sys
from importlib import import_module
try:
    import_module("vcm_ratecontrol.cli." + sys.argv.pop(1)).main()
finally:
    print({"av", "torch"} & set(sys.modules))
"""


@pytest.mark.parametrize("command", ["encode", "qpmap"])
@pytest.mark.parametrize(
    ("content", "told"),
    [
        (None, "cannot be read (No such file or directory)"),
        ('{"annotations": [', "not JSON"),
        ({"annotations": [{"image_id": 0, "bbox": [1, 2]}]}, "annotation 0 lacks a bbox of four numbers"),
        ({"annotations": [], "images": [{"file_name": "plain.mp4"}]}, "an image without id"),
    ],
)
def test_a_slip_is_told_at_once(
    command: str, content: Any, told: str, synthetic_clip: Callable[[str], Path], tmp_path: Path
) -> None:
    """Before anything can open the clip or compute: what they need is not even imported. No clock measures that."""
    path = tmp_path / "none.json" if content is None else boxes_file(tmp_path, content)
    arguments = [command, synthetic_clip("plain.mp4"), "--target-jrd", "0.7", "-o", tmp_path / "o.mkv"]
    done = subprocess.run(
        [sys.executable, "-c", HASTY, *map(str, arguments), "--objects", str(path)],
        capture_output=True, text=True, timeout=60, env=environment(),
    )  # fmt: skip
    assert done.returncode == 2
    assert done.stderr.startswith(f"error: {path}: ")
    assert told in done.stderr
    assert done.stdout == "set()\n"
