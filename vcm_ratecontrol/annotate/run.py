"""The whole job: what there is to do, what is done already, the rest to an executor, parts into shards."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Literal

from codec_wrappers.encoder import get_encoder
from codec_wrappers.errors import InputError
from vcm_ratecontrol.annotate.clips import SegmentTask, clip_tasks
from vcm_ratecontrol.annotate.picture import Spent
from vcm_ratecontrol.annotate.sources import CLIP_SUFFIXES, PICTURE_SUFFIXES, content_hash, find_sources
from vcm_ratecontrol.annotate.task import Outcome, PictureTask, Recipe, Task
from vcm_ratecontrol.labels.dataset import DatasetConfig
from vcm_ratecontrol.labels.store import LabelStore
from vcm_ratecontrol.progress import SILENT, Progress

if TYPE_CHECKING:
    from vcm_ratecontrol.machines.library import LibraryRef

Coding = Literal["still", "inter"]
Executor = Callable[[Recipe, Sequence[Task], Callable[[Outcome], None]], None]


@dataclass(frozen=True)
class Settings:
    """What to make.

    codec: a name or alias of codec_wrappers. preset: None for the encoder's default. qps: rising.
    max_side: pictures are scaled down so that no side is longer, 0 leaves them.
    limit: only the first so many pictures (or clip segments) in the order of content hashes, 0 for all.
    frames_per_segment, segments: of clips, see `clips.clip_tasks`.
    """

    codec: str
    qps: tuple[int, ...]
    preset: str | None = None
    coding: Coding = "still"
    max_side: int = 640
    limit: int = 0
    frames_per_segment: int = 2
    segments: int = 0


@dataclass(frozen=True)
class Broken:
    """A picture or clip that was skipped, and why (one line)."""

    source: str
    reason: str


@dataclass(frozen=True)
class Report:
    """What a run did.

    annotated: pictures finished by it; known: finished before; duplicates: of the same content as another.
    seconds: wall time of annotating; spent: of all workers together.
    """

    annotated: int
    known: int
    duplicates: int
    broken: tuple[Broken, ...]
    spent: Spent
    seconds: float


@dataclass(frozen=True)
class Work:
    """Tasks that are left, in the order of content hashes, and what was found besides."""

    tasks: tuple[Task, ...]
    known: int
    duplicates: int
    broken: tuple[Broken, ...]


def annotate(
    given: Sequence[str],
    out: str,
    library: LibraryRef,
    settings: Settings,
    executor: Executor,
    progress: Progress = SILENT,
    on_outcome: Callable[[Outcome], None] | None = None,
) -> Report:
    """Annotate pictures (or clips) into the label folder `out`, which may be begun already.

    given: files, folders, fsspec URLs. on_outcome: told of every task, after the progress.
    Raises InputError (nothing to do, bad settings), MissingToolError (encoder, machine, runtime), CacheError (the
    folder was made otherwise), OutputError (it cannot be written). Broken pictures are no error unless all are.
    """
    config = dataset_config(library, settings)
    sources = find_sources(given, PICTURE_SUFFIXES if settings.coding == "still" else CLIP_SUFFIXES)
    store = LabelStore(out)
    with store.exclusive():
        store.open(config)
        work = plan_work(sources, settings, store.finished(), progress)
        total, broken = Spent(), list(work.broken)
        for one in broken:
            progress.note(f"skipped: {one.reason}")

        def told(outcome: Outcome) -> None:
            total.add(outcome.spent)
            progress.advance()
            if outcome.error is not None:
                broken.append(Broken(outcome.task.source, outcome.error))
                progress.note(f"skipped: {outcome.error}")
            if on_outcome is not None:
                on_outcome(outcome)

        progress.phase("annotating", len(work.tasks))
        started = time.monotonic()
        if work.tasks:
            executor(Recipe(out, config, library), work.tasks, told)
        seconds = time.monotonic() - started
        progress.phase("gathering")
        store.gather()
    if broken and not total.pictures and not work.known:
        raise InputError(f"no picture of {len(broken)} could be annotated; the first: {broken[0].reason}")
    return Report(total.pictures, work.known, work.duplicates, tuple(broken), total, seconds)


def dataset_config(library: LibraryRef, settings: Settings) -> DatasetConfig:
    """What the label folder is made with. Opens the machines once, so that a missing one is told at once.

    Raises InputError, MissingToolError, UnsupportedError.
    """
    encoder = get_encoder(settings.codec)
    capabilities = encoder.capabilities()
    for qp in settings.qps:
        capabilities.require_qp(qp)
    preset = settings.preset or encoder.default_preset
    capabilities.require_preset(preset)
    return DatasetConfig(
        encoder=encoder.name,
        codec=encoder.codec,
        preset=preset,
        coding=settings.coding,
        qps=settings.qps,
        machines=dict(library.open().hashes),
        encoder_version=capabilities.version,
        max_side=settings.max_side,
    )


def plan_work(sources: Sequence[str], settings: Settings, finished: set[str], progress: Progress = SILENT) -> Work:
    """Look at every source: what is new, what is done, what is there twice, what is broken."""
    progress.phase("looking at the pictures" if settings.coding == "still" else "cutting clips", len(sources))
    broken: list[Broken] = []
    found: list[Task] = []
    for source in sources:
        try:
            if settings.coding == "still":
                found.append(PictureTask(source, content_hash(source)))
            else:
                found += clip_tasks(source, settings.max_side, settings.frames_per_segment, settings.segments)
        except InputError as error:
            broken.append(Broken(source, str(error)))
        progress.advance()
    tasks, duplicates = _distinct(sorted(found, key=_order))
    tasks = tasks[: settings.limit] if settings.limit else tasks
    left = [task for task in (_unfinished(task, finished) for task in tasks) if task is not None]
    known = sum(_n_pictures(task) for task in tasks) - sum(_n_pictures(task) for task in left)
    return Work(tuple(left), known, duplicates, tuple(broken))


def _order(task: Task) -> tuple[str, int, str]:
    """By content, so that what comes first does not depend on names; of equal ones the first name wins."""
    if isinstance(task, SegmentTask):
        return task.clip_sha256, task.start, task.source
    return task.sha256, 0, task.source


def _distinct(tasks: Iterable[Task]) -> tuple[list[Task], int]:
    """Each content once, in the first task that has it; and how many there were more."""
    seen: set[str] = set()
    distinct: list[Task] = []
    duplicates = 0
    for task in tasks:
        keys = _keys(task)
        fresh = tuple(key for key in dict.fromkeys(keys) if key not in seen)
        duplicates += len(keys) - len(fresh)
        seen.update(fresh)
        if fresh:
            distinct.append(_only(task, fresh))
    return distinct, duplicates


def _unfinished(task: Task, finished: set[str]) -> Task | None:
    left = tuple(key for key in _keys(task) if key not in finished)
    return _only(task, left) if left else None


def _keys(task: Task) -> tuple[str, ...]:
    return tuple(frame.key for frame in task.frames) if isinstance(task, SegmentTask) else (task.sha256,)


def _only(task: Task, keys: tuple[str, ...]) -> Task:
    """The task with one frame for each of these keys."""
    if not isinstance(task, SegmentTask):
        return task
    by_key = {frame.key: frame for frame in reversed(task.frames)}
    return replace(task, frames=tuple(by_key[key] for key in keys))


def _n_pictures(task: Task) -> int:
    return len(_keys(task))
