"""One unit of annotation work, and the object that does it in a worker: the same for every executor."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from codec_wrappers.encoder import get_encoder
from codec_wrappers.errors import OutputError, VcmError
from vcm_ratecontrol.annotate.clips import SegmentTask, coded_segment, read_segment
from vcm_ratecontrol.annotate.picture import Spent, annotate_picture, coded_stills, never
from vcm_ratecontrol.annotate.sources import read_picture, short_name
from vcm_ratecontrol.labels.dataset import DatasetConfig
from vcm_ratecontrol.labels.splits import split_of
from vcm_ratecontrol.labels.store import LabelStore
from vcm_ratecontrol.machines.library import LibraryRef

if TYPE_CHECKING:
    from vcm_ratecontrol.annotate.sources import RGB


@dataclass(frozen=True)
class PictureTask:
    """A picture to annotate: its path or fsspec URL, and the SHA-256 of the file's content."""

    source: str
    sha256: str

    @property
    def label(self) -> str:
        return self.source


Task = PictureTask | SegmentTask


@dataclass(frozen=True)
class Recipe:
    """All that a worker needs: the label folder, what it is made with, and the machines to open."""

    store_url: str
    config: DatasetConfig
    library: LibraryRef

    def open(self) -> Annotator:
        return Annotator(self)


@dataclass(frozen=True)
class Outcome:
    """What became of a task: error is None when its pictures are stored."""

    task: Task
    spent: Spent
    error: str | None = None


class Annotator:
    """Annotates in one process with one opened library."""

    def __init__(self, recipe: Recipe) -> None:
        """Raises InputError, MissingToolError (machines, encoder)."""
        self.config = recipe.config
        self.library = recipe.library.open()
        self.store = LabelStore(recipe.store_url)
        self.encoder = get_encoder(recipe.config.encoder)

    def run(self, task: Task, stop: Callable[[], bool] = never) -> Outcome:
        """Annotate and store; an error that concerns this task only becomes part of the outcome.

        Raises OutputError when nothing can be stored any more, StoppedError when stop() was true.
        """
        spent = Spent()
        try:
            if isinstance(task, SegmentTask):
                self._annotate_segment(task, spent, stop)
            else:
                self._annotate_picture(task, spent, stop)
        except OutputError:
            raise
        except VcmError as error:
            return Outcome(task, spent, str(error))
        return Outcome(task, spent)

    def _annotate_picture(self, task: PictureTask, spent: Spent, stop: Callable[[], bool]) -> None:
        rgb = read_picture(task.source, self.config.max_side)
        coded = coded_stills(rgb, self.encoder, self.config.preset, self.config.qps, spent, stop)
        rows = annotate_picture(self._key(task.sha256), rgb, coded, self.library, spent)
        line = picture_line(task.sha256, short_name(task.source), rgb, task.sha256)
        self.store.write_part(line, rows)

    def _annotate_segment(self, task: SegmentTask, spent: Spent, stop: Callable[[], bool]) -> None:
        frames, rate = read_segment(task, self.config.max_side)
        picks = [frame.index - task.start for frame in task.frames]
        coded = coded_segment(frames, rate, picks, self.encoder, self.config.preset, self.config.qps, spent, stop)
        for frame, pick, versions in zip(task.frames, picks, coded, strict=True):
            rows = annotate_picture(self._key(frame.key), frames[pick], versions, self.library, spent)
            source = f"{short_name(task.source)}#{frame.index}"
            self.store.write_part(picture_line(frame.key, source, frames[pick], task.clip_sha256), rows)

    def _key(self, picture: str) -> dict[str, Any]:
        config = self.config
        return {"picture": picture, "codec": config.codec, "preset": config.preset, "coding": config.coding}


def picture_line(key: str, source: str, rgb: RGB, split_key: str) -> dict[str, Any]:
    """A picture's row of the picture list. split_key: content hash of its file or, for a frame, its clip."""
    return {
        "picture": key,
        "source": source,
        "width": rgb.shape[1],
        "height": rgb.shape[0],
        "split": split_of(split_key),
    }
