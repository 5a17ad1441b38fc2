"""Objects from a file in COCO's format: the boxes of one picture, or of the frames of a clip.

Either an object with `annotations` (and `images`, `categories`), or a bare list of results. A box is `bbox`: x, y,
width, height in pixels of the upright picture; `score` is its confidence. The frame of a box: `frame_index` of its
image, or the last number in the image's file name, or `image_id` where there are no images; counted from 0, or from
1 where frame numbers end with the number of frames.

One file may serve several inputs, of one job or one after the other: then each image's file name says whose boxes
those are. It is the input's own name (for a frame of a clip beside a `frame_index`), or lies in a folder that is called
like the input. An input that is alone may go by another name than the only one of its file.
"""

from __future__ import annotations

import json
import math
import re
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from codec_wrappers.errors import InputError
from vcm_ratecontrol.jrd.objects import NO_OBJECTS, RGB, FrameObjects, class_name
from vcm_ratecontrol.machines.coco import COCO_CATEGORY_IDS

_LAST_NUMBER = re.compile(r"(\d+)\D*$")
_NAMED_AT_MOST = 5

Rows = dict[int, list[tuple[list[float], str, float]]]


@dataclass(frozen=True)
class BoxesFile:
    """A file of boxes, read once. parts: of a file for several inputs what is for each, by the input's name; None for a
    file that is all for one input. notes: what the user should know of the whole."""

    path: Path
    content: Mapping[str, Any]
    parts: Mapping[str, Mapping[str, Any]] | None = None
    notes: tuple[str, ...] = ()

    @classmethod
    def read(cls, path: Path, inputs: Sequence[Path] = ()) -> BoxesFile:
        """inputs: all of the job, no two of one name. Raises InputError: not readable, not in this format."""
        content = _content(path)
        _check(path, content)
        if len(inputs) < 2:
            return cls(path, content)
        return cls(path, content, *_shared_out(path, content, [source.name for source in inputs]))

    def of(self, picture: Path, n_frames: int, width: int, height: int) -> FileObjects:
        """The boxes of one input; n_frames, width, height: its, upright. Raises InputError as `FileObjects` does, and
        for an input that the file does not name."""
        if self.parts is None:
            content, notes = _of_one(self.path, self.content, picture.name, n_frames)
        elif picture.name in self.parts:
            content, notes = self.parts[picture.name], ()
        else:
            raise InputError(
                f"{self.path}: names no image {picture.name}; add it to `images`, without boxes if it has none"
            )
        return FileObjects(self.path, content, picture, n_frames, width, height, notes)


class FileObjects:
    """The boxes of one input, by frame. An `ObjectSource`."""

    def __init__(
        self,
        path: Path,
        content: Mapping[str, Any],
        picture: Path,
        n_frames: int,
        width: int,
        height: int,
        notes: tuple[str, ...] = (),
    ) -> None:
        """path: to be named in errors. picture: the input that boxes are for; n_frames, width, height: its, upright.
        notes: what else the user should know.

        Raises InputError: not in this format, boxes for other pictures or frames.
        """
        self._width, self._height, self._told = width, height, notes
        self.clipped = self.outside = 0
        named = _category_names(path, content)
        frames = _frames_of_images(path, content, picture, n_frames)
        rows: Rows = defaultdict(list)
        for number, annotation in enumerate(content["annotations"]):
            image, box, score, category = _annotation(path, number, annotation)
            rows[frames.get(image, image) if frames is not None else image].append(
                (box, named.get(category, f"class {category}"), score)
            )
        if frames is None and n_frames == 1 and len(rows) == 1:
            rows = {0: next(iter(rows.values()))}  # one picture: whatever number it has
        rows = _from_zero(rows, n_frames)
        if strangers := [frame for frame in sorted(rows) if not 0 <= frame < n_frames]:
            more = ", ..." if len(strangers) > _NAMED_AT_MOST else ""
            some = ", ".join(map(str, strangers[:_NAMED_AT_MOST])) + more
            raise InputError(
                f"{path}: has boxes for frame {some}; {picture} has frames 0..{n_frames - 1}: leave those boxes out"
            )
        self._objects = {frame: self._inside(boxes) for frame, boxes in rows.items()}

    def see(self, rgb: RGB, frame: int) -> FrameObjects:
        return self._objects.get(frame, NO_OBJECTS)

    @property
    def notes(self) -> tuple[str, ...]:
        told = list(self._told)
        if self.clipped:
            told.append(f"{self.clipped} boxes reached beyond the picture and were clipped to it")
        if self.outside:
            told.append(f"{self.outside} boxes without area inside the picture were left out")
        return tuple(told)

    def _inside(self, rows: list[tuple[list[float], str, float]]) -> FrameObjects:
        given = np.array([box for box, _, _ in rows], np.float64)
        limits = np.array([self._width, self._height] * 2, np.float64)
        boxes = np.clip(given, 0.0, limits)
        keep = (boxes[:, 2] > boxes[:, 0]) & (boxes[:, 3] > boxes[:, 1])
        self.outside += int((~keep).sum())
        # Annotations are rounded: half a pixel over the edge is none.
        self.clipped += int((keep & (np.abs(given - boxes).max(axis=1) > 0.5)).sum())
        names = tuple(name for (_, name, _), kept in zip(rows, keep, strict=True) if kept)
        scores = np.array([score for _, _, score in rows], np.float64)
        return FrameObjects(boxes[keep], names, scores[keep])


def _content(path: Path) -> dict[str, Any]:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); check the path") from error
    except ValueError as error:
        raise InputError(f"{path}: not JSON ({error}); --objects takes COCO's format") from error
    if isinstance(content, list):
        content = {"annotations": content}
    if not isinstance(content, dict) or not isinstance(content.get("annotations"), list):
        raise InputError(f"{path}: has no list 'annotations'; --objects takes COCO's format")
    return content


def _check(path: Path, content: Mapping[str, Any]) -> None:
    """Raises InputError for what is wrong whatever the pictures are."""
    _category_names(path, content)
    for number, annotation in enumerate(content["annotations"]):
        _annotation(path, number, annotation)
    try:
        for image in content.get("images") or ():
            _ = int(image["id"]), int(image.get("frame_index", 0))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: an image without id and file_name; --objects takes COCO's format") from error


def _shared_out(
    path: Path, content: Mapping[str, Any], names: Sequence[str]
) -> tuple[dict[str, dict[str, Any]], tuple[str, ...]]:
    """The part of each input that is named, and a note where images with boxes are of no input."""
    if not content.get("images"):
        raise InputError(
            f"{path}: lists no `images`, so that nothing says which of the {len(names)} inputs a box is for;"
            " add them with their file names, or code each input with a file of its own"
        )
    known = {key: name for name in names for key in (Path(name).stem, name)}
    parts: dict[str, dict[str, Any]] = {}
    owner: dict[Any, str | None] = {}
    called = {}
    try:
        for image in content["images"]:
            file = Path(str(image["file_name"]))
            name = file.name if file.name in names else known.get(file.parent.name)
            owner[image["id"]], called[image["id"]] = name, str(file)
            if name is not None:
                empty = {"images": [], "annotations": [], "categories": content.get("categories", [])}
                parts.setdefault(name, empty)["images"].append(image)
    except (TypeError, KeyError) as error:
        raise InputError(f"{path}: an image without id and file_name; --objects takes COCO's format") from error
    others: dict[str, None] = {}
    for number, annotation in enumerate(content["annotations"]):
        image = _annotation(path, number, annotation)[0]
        name = owner.get(image)
        if name is not None:
            parts[name]["annotations"].append(annotation)
        else:
            others[called.get(image, f"image {image}")] = None
    if not others:
        return parts, ()
    first = next(iter(others))
    return parts, (f"{path}: boxes of {len(others)} pictures that are no input were left out, the first of {first}",)


def _of_one(
    path: Path, content: Mapping[str, Any], name: str, n_frames: int
) -> tuple[Mapping[str, Any], tuple[str, ...]]:
    """The part of an input that is alone, and notes. Raises InputError where all images are of other pictures."""
    images = content.get("images") or []
    called = [str(image["file_name"]) for image in images if image.get("file_name")]
    if not called or len(called) < len(images):
        return content, ()
    parts, notes = _shared_out(path, content, [name])
    if name in parts:
        return parts[name], notes
    alone = len(set(called)) == 1
    if n_frames == 1 and not alone:
        raise InputError(
            f"{path}: names {called[0]} and {len(called) - 1} more images, and none {name}; add it to `images`, without"
            " boxes if it has none"
        )
    # Frames of a clip have names of their own, in any folder; that of a picture, or of a whole clip, is another's.
    another = alone and (n_frames == 1 or "frame_index" in images[0])
    return content, (f"{path}: its only image is {called[0]}, whose boxes were taken for {name}",) if another else ()


def _category_names(path: Path, content: Mapping[str, Any]) -> dict[int, str]:
    try:
        given = {int(category["id"]): str(category["name"]) for category in content.get("categories", [])}
    except (TypeError, KeyError, ValueError) as error:
        raise InputError(f"{path}: a category without id and name; --objects takes COCO's format") from error
    usual = {number: class_name(index) for index, number in enumerate(COCO_CATEGORY_IDS)}
    return given or usual


def _annotation(path: Path, number: int, annotation: Any) -> tuple[int, list[float], float, int]:
    """Image id, box x1 y1 x2 y2, confidence (NaN: none), category."""
    try:
        x, y, width, height = (float(value) for value in annotation["bbox"])
        score = float(annotation.get("score", math.nan))
        image, category = int(annotation["image_id"]), int(annotation.get("category_id", 0))
    except (TypeError, KeyError, ValueError, AttributeError) as error:
        raise InputError(f"{path}: annotation {number} lacks a bbox of four numbers or an image_id") from error
    box = [x, y, x + width, y + height]
    if not all(map(math.isfinite, box)) or width < 0 or height < 0 or score < 0 or score > 1:
        raise InputError(f"{path}: annotation {number} has bbox {annotation['bbox']}, score {score}: out of range")
    return image, box, score, category


def _frames_of_images(path: Path, content: Mapping[str, Any], picture: Path, n_frames: int) -> dict[int, int] | None:
    """Image id -> frame; None where the file lists no images. Raises InputError for images of other pictures."""
    images = content.get("images")
    if not images:
        return None
    used = {annotation["image_id"] for annotation in content["annotations"]}
    frames: dict[int, int] = {}
    called: dict[int, str] = {}
    for image in images:
        if image["id"] in used:
            frame = frames[int(image["id"])] = _frame_of(path, image, picture, n_frames)
            name = str(image.get("file_name") or f"image {image['id']}")
            if called.setdefault(frame, name) != name:
                which = picture.name if n_frames == 1 else f"frame {frame} of {picture.name}"
                raise InputError(
                    f"{path}: has boxes of {called[frame]} and of {name} for {which}; leave those of one out"
                )
    return frames


def _frame_of(path: Path, image: Mapping[str, Any], picture: Path, n_frames: int) -> int:
    if "frame_index" in image:
        return int(image["frame_index"])
    name = str(image.get("file_name", ""))
    if n_frames == 1:
        return 0
    if Path(name).name == picture.name:
        raise InputError(f"{path}: image {image['id']} names the clip {name} and no frame of it; add a `frame_index`")
    number = _LAST_NUMBER.search(Path(name).stem)
    return int(number.group(1)) if number else int(image["id"])


def _from_zero(rows: Rows, n_frames: int) -> Rows:
    """Frames counted from 1 become frames counted from 0."""
    from_one = bool(rows) and max(rows) == n_frames and min(rows) >= 1
    return {frame - 1: boxes for frame, boxes in rows.items()} if from_one else rows
