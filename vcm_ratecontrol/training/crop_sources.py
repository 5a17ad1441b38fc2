"""Pictures and clip frames that crops are cut from; those of the test split are left out."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.annotate.sources import content_hash, local_copy, read_picture, scaled, short_name
from vcm_ratecontrol.labels.splits import split_of
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.disk_cache import DiskCache
from vcm_ratecontrol.training.pictures import Sources

RGB = npt.NDArray[np.uint8]

MAX_SIDE = 960
"""Larger pictures are scaled down to this: machines of the library look at 128 to 640 pixels."""

MEMORY_BYTES = 1 << 30
FRAME_QUALITY = 95
"""JPEG quality at which frames are kept; what it decodes to is the source."""

SPLITS = ("train", "validation")


@dataclass(frozen=True)
class CropSource:
    """key: content hash of the picture, or of the clip and '#' and the frame's index. name: of the file, for people.
    frame: index in its clip, -1 for a picture. split: 0 train, 1 validation. width, height: as read."""

    key: str
    name: str
    frame: int
    split: int
    width: int
    height: int

    def to_json(self) -> dict[str, object]:
        return asdict(self)


class CropPictures:
    """Reads sources, and keeps some in memory. Safe for threads."""

    def __init__(self, sources: Sources, cache: DiskCache, memory_bytes: int = MEMORY_BYTES) -> None:
        """cache: for frames of clips."""
        self.sources = sources
        self.cache = cache
        self._memory: OrderedDict[str, RGB] = OrderedDict()
        self._held = 0
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()

    def rgb(self, source: CropSource) -> RGB:
        """uint8 [H, W, 3]. Raises InputError when its file is gone."""
        with self._lock:
            if source.key in self._memory:
                self._memory.move_to_end(source.key)
                return self._memory[source.key]
        picture = self._read(source)
        if picture.shape[:2] != (source.height, source.width):
            raise InputError(f"{source.name}: has another size than when the teachers saw it; make the cache anew")
        with self._lock:
            if source.key not in self._memory:
                self._memory[source.key] = picture
                self._held += picture.nbytes
            while self._held > self._memory_bytes and len(self._memory) > 1:
                self._held -= self._memory.popitem(last=False)[1].nbytes
        return picture

    def _read(self, source: CropSource) -> RGB:
        if source.frame < 0:
            path = self.sources.pictures.get(source.key)
            if path is None:
                raise InputError(
                    f"{source.name}: none of the pictures given is this one; give its folder to --pictures"
                )
            return read_picture(path, MAX_SIDE)
        kept = self.cache.get(f"source {source.key}")
        if kept is None:
            clip_hash = source.key.partition("#")[0]
            path = next((p for p in self.sources.clips.get(source.name, ()) if content_hash(p) == clip_hash), None)
            if path is None:
                raise InputError(f"{source.name}: none of the clips given is this one; give its folder to --pictures")
            kept = dict(_frames(path, [source.frame]))[source.frame]
            self.cache.put(f"source {source.key}", kept)
        return _from_jpeg(kept)


def crop_sources(
    sources: Sources, cache: DiskCache, frames_per_clip: int, progress: Progress = SILENT
) -> list[CropSource]:
    """All pictures, and frames spread evenly over each clip, that are not of the test split; in a fixed order.

    What cannot be read is left out, and told as a note.
    """
    progress.phase("looking at pictures", len(sources.pictures) + sum(map(len, sources.clips.values())))
    found: list[CropSource] = []
    for key, path in sorted(sources.pictures.items()):
        progress.advance()
        split = split_of(key)
        if split == "test":
            continue
        try:
            height, width = read_picture(path, MAX_SIDE).shape[:2]
        except InputError as error:
            progress.note(f"left out: {error}")
            continue
        found.append(CropSource(key, short_name(path), -1, SPLITS.index(split), width, height))
    for name, paths in sorted(sources.clips.items()):
        for path in paths:
            progress.advance()
            try:
                found += _clip_sources(path, name, cache, frames_per_clip)
            except InputError as error:
                progress.note(f"left out: {error}")
    if not found:
        raise InputError("--pictures: nothing of the training split is among them")
    return found


def _clip_sources(path: str, name: str, cache: DiskCache, count: int) -> list[CropSource]:
    from vcm_ratecontrol.media import open_clip, sample_indices

    key = content_hash(path)
    split = split_of(key)
    if split == "test" or count < 1:
        return []
    with local_copy(path) as file:
        n_frames = open_clip(file).n_frames
    wanted = sample_indices(range(n_frames), min(count, n_frames))
    found = []
    for index, content in _frames(path, wanted):
        cache.put(f"source {key}#{index}", content)
        height, width = _from_jpeg(content).shape[:2]
        found.append(CropSource(f"{key}#{index}", name, index, SPLITS.index(split), width, height))
    return found


def _frames(path: str, indices: Sequence[int]) -> list[tuple[int, bytes]]:
    """Frames of a clip as JPEG."""
    from PIL import Image

    from vcm_ratecontrol.media import open_clip

    found = []
    with local_copy(path) as file:
        for index, rgb in zip(indices, open_clip(file).read_rgb(indices), strict=True):
            sink = io.BytesIO()
            Image.fromarray(scaled(rgb, MAX_SIDE)).save(sink, "JPEG", quality=FRAME_QUALITY, subsampling=0)
            found.append((index, sink.getvalue()))
    return found


def _from_jpeg(content: bytes) -> RGB:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))
