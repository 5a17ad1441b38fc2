"""What is benchmarked: pictures and clips, and the units of them that get one QP each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from codec_wrappers.errors import InputError
from vcm_ratecontrol.annotate.clips import SegmentTask, clip_tasks, read_segment
from vcm_ratecontrol.annotate.sources import (
    CLIP_SUFFIXES,
    PICTURE_SUFFIXES,
    content_hash,
    find_sources,
    read_picture,
)
from vcm_ratecontrol.annotate.task import PictureTask
from vcm_ratecontrol.labels.splits import split_of
from vcm_ratecontrol.progress import SILENT, Progress

if TYPE_CHECKING:
    from vcm_ratecontrol.annotate.sources import RGB


@dataclass(frozen=True)
class Item:
    """A picture or a clip.

    name: of the file; content: SHA-256 of it. width, height: as coded, after scaling; scale: coded width over that of
    the file. n_frames: coded; duration: seconds, 0 for a still.
    """

    name: str
    source: str
    content: str
    kind: str
    width: int
    height: int
    scale: float
    n_frames: int
    duration: float

    @property
    def pixels(self) -> int:
        """Over all frames."""
        return self.width * self.height * self.n_frames


@dataclass(frozen=True)
class Unit:
    """What gets one QP: a still, or a segment of a clip. item: index of its item."""

    item: int
    work: PictureTask | SegmentTask

    @property
    def n_frames(self) -> int:
        """Coded frames."""
        return 1 if isinstance(self.work, PictureTask) else self.work.stop - self.work.start

    @property
    def picks(self) -> tuple[int, ...]:
        """Frames that machines look at, counted within the unit."""
        if isinstance(self.work, PictureTask):
            return (0,)
        return tuple(frame.index - self.work.start for frame in self.work.frames)

    @property
    def key(self) -> dict[str, Any]:
        """What makes its pictures what they are, besides their scaling."""
        if isinstance(self.work, PictureTask):
            return {"picture": self.work.sha256}
        return {"clip": self.work.clip_sha256, "frames": [self.work.start, self.work.stop], "picks": self.picks}

    @property
    def coding(self) -> str:
        return "still" if isinstance(self.work, PictureTask) else "inter"

    def originals(self, max_side: int) -> list[RGB]:
        """The sampled frames, uint8 [H, W, 3] each. Raises InputError."""
        if isinstance(self.work, PictureTask):
            return [read_picture(self.work.source, max_side)]
        frames, _ = read_segment(self.work, max_side)
        return [frames[at] for at in self.picks]


@dataclass(frozen=True)
class LeftOut:
    """An item that takes part in nothing, and why (one line)."""

    name: str
    reason: str


@dataclass(frozen=True)
class Collection:
    """What was found. units: of all items, in their order."""

    items: tuple[Item, ...]
    units: tuple[Unit, ...]
    left_out: tuple[LeftOut, ...]


@dataclass(frozen=True)
class Selection:
    """What of the files is taken, and how. max_side: larger pictures are scaled down, 0 leaves them. segments: of each
    clip, spread evenly; 0 for all. split: 'train', 'validation' or 'test' of `labels.splits`, None for all. limit: the
    first so many in the order of content hashes, 0 for all.
    """

    max_side: int = 640
    frames_per_segment: int = 2
    segments: int = 0
    split: str | None = None
    limit: int = 0


EVERYTHING = Selection()


def collect(given: Sequence[str], selection: Selection, progress: Progress = SILENT) -> Collection:
    """Look at every file of files and folders: a picture is one unit, a clip is cut into segments of at most 2 s.

    A file that cannot be read, or that is there twice, is left out; one of another split is not mentioned. Raises
    InputError for a path that is not there, or when no file can be read.
    """
    sources = find_sources(given, PICTURE_SUFFIXES | CLIP_SUFFIXES)
    hashes, left_out = _distinct(sources, selection)
    progress.phase("looking at the files", len(hashes))
    items: list[Item] = []
    units: list[Unit] = []
    for source, content in hashes.items():
        name = Path(source).name
        try:
            item, parts = _look(source, name, content, selection)
            units += [Unit(len(items), part) for part in parts]
            items.append(item)
        except InputError as error:
            left_out.append(LeftOut(name, str(error)))
        progress.advance()
    if not items:
        first = f"; the first: {left_out[0].reason}" if left_out else f": none is of the split {selection.split}"
        raise InputError(f"none of {len(sources)} files can be used{first}")
    return Collection(tuple(items), tuple(units), tuple(left_out))


def _distinct(sources: Sequence[str], selection: Selection) -> tuple[dict[str, str], list[LeftOut]]:
    """Source -> hash of the files to take, in the order of sources; and what is not taken."""
    left_out: list[LeftOut] = []
    first: dict[str, str] = {}
    for source in sources:
        name = Path(source).name
        try:
            content = content_hash(source)
        except InputError as error:
            left_out.append(LeftOut(name, str(error)))
            continue
        if selection.split is not None and split_of(content) != selection.split:
            continue
        if content in first:
            left_out.append(LeftOut(name, f"the same content as {Path(first[content]).name}"))
        else:
            first[content] = source
    taken = sorted(first)[: selection.limit] if selection.limit else sorted(first)
    by_source = {first[content]: content for content in taken}
    return {source: by_source[source] for source in sources if source in by_source}, left_out


def _look(
    source: str, name: str, content: str, selection: Selection
) -> tuple[Item, Sequence[PictureTask | SegmentTask]]:
    from vcm_ratecontrol.media import open_clip

    clip = open_clip(Path(source))
    width, height = clip.upright_size
    max_side = selection.max_side
    if clip.kind == "still":
        shape = read_picture(source, max_side).shape
        item = Item(name, source, content, "still", shape[1], shape[0], shape[1] / width, 1, 0.0)
        return item, [PictureTask(source, content)]
    tasks = clip_tasks(source, max_side, selection.frames_per_segment, selection.segments)
    shrink = min(1.0, max_side / max(width, height)) if max_side else 1.0
    coded = sum(task.stop - task.start for task in tasks)
    size = max(1, round(width * shrink)), max(1, round(height * shrink))
    return Item(name, source, content, "clip", *size, shrink, coded, float(coded / clip.frame_rate)), tasks
