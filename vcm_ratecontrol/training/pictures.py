"""The pictures behind the labels: files and clips are found by their content, and read as they were annotated."""

from __future__ import annotations

import io
import threading
from collections import OrderedDict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import CacheError, InputError
from vcm_ratecontrol.annotate.clips import frame_key
from vcm_ratecontrol.annotate.sources import (
    CLIP_SUFFIXES,
    PICTURE_SUFFIXES,
    content_hash,
    find_sources,
    local_copy,
    read_picture,
    scaled,
    short_name,
)
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.disk_cache import DiskCache
from vcm_ratecontrol.training.label_set import LabelSet

RGB = npt.NDArray[np.uint8]

MEMORY_BYTES = 1 << 30
"""Decoded pictures that are kept in memory."""

FRAME_MARK = "#"
"""Between the file's name and the frame's index in the source of a clip's frame."""


@dataclass(frozen=True)
class Sources:
    """Where the pictures lie. pictures: content hash -> path or URL. clips: file name -> paths of that name."""

    pictures: Mapping[str, str]
    clips: Mapping[str, tuple[str, ...]]


def find_pictures(given: Sequence[str], progress: Progress = SILENT) -> Sources:
    """Hash every picture in files, folders and fsspec URLs, and list the clips.

    Raises InputError for a path that is not there or holds neither.
    """
    files = find_sources(given, PICTURE_SUFFIXES | CLIP_SUFFIXES)
    progress.phase("hashing pictures", len(files))
    pictures: dict[str, str] = {}
    clips: dict[str, tuple[str, ...]] = {}
    for path in files:
        if path.lower().endswith(tuple(CLIP_SUFFIXES)):
            name = short_name(path)
            clips[name] = (*clips.get(name, ()), path)
        else:
            pictures.setdefault(content_hash(path), path)
        progress.advance()
    return Sources(pictures, clips)


class PictureStore:
    """Pictures of label sets by hash, at the size of the labels. Safe for threads."""

    def __init__(self, sources: Sources, cache: DiskCache | None = None, memory_bytes: int = MEMORY_BYTES) -> None:
        """cache: keeps frames of clips, which are slow to reach; memory_bytes: of decoded pictures."""
        self._sources = sources
        self._cache = cache
        self._memory: OrderedDict[tuple[str, int], RGB] = OrderedDict()
        self._held = 0
        self._memory_bytes = memory_bytes
        self._lock = threading.Lock()

    def available(self, labels: LabelSet) -> npt.NDArray[np.bool_]:
        """bool [P]: which pictures of a label set can be read (frames: whose clip is there, by its name)."""
        pairs = zip(labels.verdicts.pictures, labels.sources, strict=True)
        return np.array([self._has(key, source) for key, source in pairs], bool)

    def rgb(self, labels: LabelSet, row: int) -> RGB:
        """A picture as annotated, uint8 [H, W, 3]; do not change it. Raises InputError, CacheError (another size)."""
        key = (labels.verdicts.pictures[row], labels.config.max_side)
        with self._lock:
            if key in self._memory:
                self._memory.move_to_end(key)
                return self._memory[key]
        picture = self._read(labels, row)
        if picture.shape[:2] != (labels.heights[row], labels.widths[row]):
            raise CacheError(
                f"{labels.sources[row]}: is {picture.shape[1]}x{picture.shape[0]} now, the labels say"
                f" {labels.widths[row]}x{labels.heights[row]}; annotate it again"
            )
        with self._lock:
            if key not in self._memory:
                self._memory[key] = picture
                self._held += picture.nbytes
            while self._held > self._memory_bytes and len(self._memory) > 1:
                self._held -= self._memory.popitem(last=False)[1].nbytes
        return picture

    def clip_of(self, labels: LabelSet, row: int) -> tuple[str, int]:
        """Path of the clip that a frame is of, and the frame's index. Raises InputError."""
        key = labels.verdicts.pictures[row]
        name, _, index = labels.sources[row].rpartition(FRAME_MARK)
        for path in self._sources.clips.get(name, ()):
            if frame_key(_frame(path, int(index), labels.config.max_side)) == key:
                return path, int(index)
        raise InputError(f"{labels.sources[row]}: no clip of that name holds this frame; give its folder to --pictures")

    def _has(self, key: str, source: str) -> bool:
        name, mark, index = source.rpartition(FRAME_MARK)
        return key in self._sources.pictures or (bool(mark) and index.isdigit() and name in self._sources.clips)

    def _read(self, labels: LabelSet, row: int) -> RGB:
        key = labels.verdicts.pictures[row]
        path = self._sources.pictures.get(key)
        if path is not None:
            return read_picture(path, labels.config.max_side)
        name = f"frame {key}"
        kept = self._cache.get(name) if self._cache else None
        if kept is not None:
            return from_png(kept)
        clip, index = self.clip_of(labels, row)
        picture = _frame(clip, index, labels.config.max_side)
        if self._cache:
            self._cache.put(name, to_png(picture))
        return picture


def missing_pictures(store: PictureStore, sets: Iterable[LabelSet]) -> list[str]:
    """Names of the annotated pictures that no given file holds, sorted."""
    names: set[str] = set()
    for labels in sets:
        there = store.available(labels)
        names.update(labels.sources[row] for row in np.flatnonzero(~there))
    return sorted(names)


def to_png(picture: RGB) -> bytes:
    """uint8 [H, W, 3] as PNG, quickly written."""
    from PIL import Image

    sink = io.BytesIO()
    Image.fromarray(picture).save(sink, "PNG", compress_level=1)
    return sink.getvalue()


def from_png(content: bytes) -> RGB:
    from PIL import Image

    with Image.open(io.BytesIO(content)) as image:
        return np.asarray(image.convert("RGB"))


def _frame(path: str, index: int, max_side: int) -> RGB:
    from vcm_ratecontrol.media import open_clip

    with local_copy(path) as file:
        clip = open_clip(file)
        if index >= clip.n_frames:
            raise InputError(f"{path}: has {clip.n_frames} frames, the labels name frame {index}; it is another clip")
        return scaled(next(iter(clip.read_rgb([index]))), max_side)
