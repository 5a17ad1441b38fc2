"""`vcm-train distil`: the teachers look at crops, on as many threads as there are cores; killed, it goes on."""

from __future__ import annotations

import threading
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import CacheError, InputError
from vcm_ratecontrol.machines.library import LibraryRef, MachineLibrary
from vcm_ratecontrol.machines.machine import Classification, Detections, Result
from vcm_ratecontrol.machines.manifest import read_manifest
from vcm_ratecontrol.machines.preprocess import PreparedPicture
from vcm_ratecontrol.predictors.evidence import MIN_CONFIDENCE, confidence_map
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.crop_sources import CropPictures, crop_sources
from vcm_ratecontrol.training.crops import MAX_CELLS, ROW_LENGTH, SIZES, Recipe, draw_recipe, make_crop
from vcm_ratecontrol.training.disk_cache import DiskCache
from vcm_ratecontrol.training.machine_split import split_machines
from vcm_ratecontrol.training.pictures import find_pictures
from vcm_ratecontrol.training.prefetch import loaded_ahead
from vcm_ratecontrol.training.teacher_cache import SHARD, TeacherCache, TeacherIndex, TeacherShard
from vcm_ratecontrol.training.teacher_space import N_COCO, SUMMARIES

Floats = npt.NDArray[np.float32]

T_CONF = 0.3
CODINGS = (0.4, 0.35, 0.1, 0.15)
"""How often a crop is not coded, or as JPEG, VVC, HEVC: VVC takes as long as all teachers together."""

PER_VISIT = 8
"""Crops that are cut from a source one after another, so that it is decoded once."""


@dataclass(frozen=True)
class TeachRequest:
    """machines: library folder. judges: see `split_machines`; those never teach. crops: how many, all runs together.
    cache: folder of the answers and of coded crops. max_bytes: of the answers; coded_bytes: of coded crops and frames.
    max_minutes: of this run, 0 for no limit."""

    machines: Path
    pictures: tuple[str, ...]
    cache: Path
    judges: str = "hash"
    crops: int = 50_000
    seed: int = 0
    frames_per_clip: int = 40
    max_bytes: int = 4 << 30
    coded_bytes: int = 4 << 30
    max_minutes: float = 0.0
    workers: int = 1


@dataclass(frozen=True)
class TeachReport:
    """crops: in the cache now; made: by this run; seconds: it took."""

    crops: int
    made: int
    seconds: float
    sources: int
    teachers: tuple[str, ...]


def teach(request: TeachRequest, progress: Progress = SILENT) -> TeachReport:
    """Fill the cache. Raises InputError, CacheError (made with other settings), MissingToolError, OutputError."""
    started = time.monotonic()
    cache = TeacherCache(request.cache)
    coded = DiskCache(request.cache / "coded", request.coded_bytes)
    sources = find_pictures(request.pictures, progress)
    index = cache.index()
    asked = _index(request)
    if index is None:
        index = replace(asked, sources=tuple(crop_sources(sources, coded, request.frames_per_clip, progress)))
        cache.write_index(index)
    elif (index.machines, index.teachers, index.seed) != (asked.machines, asked.teachers, asked.seed):
        raise CacheError(f"{request.cache}: made with other machines, judges or seed; use another --cache")
    classroom = _Classroom(request, index, CropPictures(sources, coded), coded)
    done = set(cache.shard_numbers())
    wanted = [number for number in range(-(-request.crops // SHARD)) if number not in done]
    progress.phase("teaching", request.crops)
    progress.advance(len(done) * SHARD)
    made = 0
    for number in wanted:
        late = request.max_minutes and time.monotonic() - started > request.max_minutes * 60
        if late or cache.total_bytes() > request.max_bytes:
            progress.note("time is up" if late else "the cache is full")
            break
        cache.write_shard(number, classroom.shard(number, progress))
        made += SHARD
    return TeachReport((len(done) * SHARD) + made, made, time.monotonic() - started, len(index.sources), index.teachers)


def _index(request: TeachRequest) -> TeacherIndex:
    """The index without its sources."""
    specs = read_manifest(request.machines).machines
    names = tuple(spec.name for spec in specs)
    split = split_machines(names, [spec.task for spec in specs], request.judges)
    return TeacherIndex(names, split.choosing, (), 1000, request.seed)


class _Classroom:
    """Teachers of each thread, and the crops that they are shown."""

    def __init__(self, request: TeachRequest, index: TeacherIndex, pictures: CropPictures, coded: DiskCache) -> None:
        self.request, self.index, self.pictures, self.coded = request, index, pictures, coded
        self._own = threading.local()
        self._library()  # A library that cannot be opened is told before any work.

    def _library(self) -> MachineLibrary:
        if not hasattr(self._own, "library"):
            ref = LibraryRef(self.request.machines, names=self.index.teachers, min_confidence=MIN_CONFIDENCE)
            self._own.library = ref.open()
        library: MachineLibrary = self._own.library
        return library

    def shard(self, number: int, progress: Progress) -> TeacherShard:
        """Shard `number`: a function of seed and number alone."""
        recipes = self._recipes(number)
        groups = [recipes[at : at + PER_VISIT] for at in range(0, len(recipes), PER_VISIT)]
        answers: list[dict[str, npt.NDArray[np.generic]]] = []
        for told in loaded_ahead(self._answers, groups, self.request.workers):
            answers += told
            progress.advance(len(told))
        stacked = {name: np.stack([answer[name] for answer in answers]) for name in answers[0]}
        rows = np.array([recipe.to_row() for recipe in recipes], np.float64).reshape(-1, ROW_LENGTH)
        return TeacherShard(recipes=rows, **stacked)

    def _recipes(self, number: int) -> list[Recipe]:
        rng = np.random.default_rng([self.index.seed, number])
        found: list[Recipe] = []
        while len(found) < SHARD:
            at = int(rng.integers(len(self.index.sources)))
            source = self.index.sources[at]
            for _ in range(PER_VISIT):
                found.append(draw_recipe(rng, at, source.width, source.height, source.split, CODINGS))
        return found[:SHARD]

    def _answers(self, recipes: Sequence[Recipe]) -> list[dict[str, npt.NDArray[np.generic]]]:
        source = self.index.sources[recipes[0].source]
        picture = self.pictures.rgb(source)
        library = self._library()
        found = []
        for recipe in recipes:
            crop = make_crop(recipe, picture, source.key, self.coded)
            results, _ = library.try_run(PreparedPicture(crop))
            found.append(answer(results, self.index, *SIZES[recipe.size]))
        return found


def answer(
    results: Mapping[str, Result], index: TeacherIndex, height: int, width: int
) -> dict[str, npt.NDArray[np.generic]]:
    """What teachers say of one crop, as a shard stores it. results: machine -> result, failed ones left out."""
    confidence = np.full(len(index.machines), np.nan, np.float16)
    classifiers = [r for r in results.values() if isinstance(r, Classification)]
    detectors = [r for r in results.values() if isinstance(r, Detections)]
    for name, result in results.items():
        highest = result.confidence if isinstance(result, Classification) else float(result.scores.max(initial=0.0))
        confidence[index.machines.index(name)] = highest
    alike = [r.probabilities for r in classifiers if len(r.probabilities) == index.n_classes]
    probabilities = np.mean(alike, axis=0) if alike else np.full(index.n_classes, 1 / index.n_classes)
    return {
        "confidence": confidence,
        "probabilities": probabilities.astype(np.float16),
        "class_scores": class_scores(detectors).astype(np.float16),
        "summaries": summary(classifiers, detectors, height * width).astype(np.float16),
        "maps": object_maps(detectors, height, width),
    }


def class_scores(detectors: Sequence[Detections]) -> Floats:
    """Highest confidence in each COCO class, mean over the detectors: float32 [80]."""
    scores = np.zeros((max(1, len(detectors)), N_COCO), np.float32)
    for row, found in zip(scores, detectors, strict=False):
        known = (found.classes >= 0) & (found.classes < N_COCO)
        np.maximum.at(row, found.classes[known], found.scores[known])
    mean: Floats = scores.mean(axis=0)
    return mean


def summary(classifiers: Sequence[Classification], detectors: Sequence[Detections], area: int) -> Floats:
    """Eight numbers.

    Of the classifiers: mean top-1 probability, mean margin to the second, mean entropy (nats / 7), share that agrees on
    the commonest label. Of the detectors: mean highest confidence, mean of log(1 + objects), share that sees one,
    mean size of objects (square root of the area's share).
    """
    values = np.zeros(SUMMARIES, np.float32)
    if classifiers:
        ranked = [np.sort(r.probabilities)[::-1][:2] for r in classifiers]
        entropies = [float(-(r.probabilities * np.log(np.maximum(r.probabilities, 1e-9))).sum()) for r in classifiers]
        labels = np.array([r.label for r in classifiers])
        values[:4] = [
            np.mean([one[0] for one in ranked]),
            np.mean([one[0] - one[-1] for one in ranked]),
            np.mean(entropies) / 7,
            np.unique(labels, return_counts=True)[1].max() / len(labels),
        ]
    if detectors:
        counted = [found.above(T_CONF) for found in detectors]
        sizes = [
            np.sqrt(np.prod(f.boxes[:, 2:] - f.boxes[:, :2], axis=1).clip(0) / area).mean() for f in counted if len(f)
        ]
        values[4:] = [
            np.mean([float(found.scores.max(initial=0.0)) for found in detectors]),
            np.mean([np.log1p(len(found)) for found in counted]),
            np.mean([len(found) > 0 for found in counted]),
            np.mean(sizes) if sizes else 0.0,
        ]
    return values


def object_maps(detectors: Sequence[Detections], height: int, width: int) -> npt.NDArray[np.uint8]:
    """See `TeacherShard.maps`: uint8 [2, MAX_CELLS], 0 beyond the crop's cells."""
    maps = [
        confidence_map(found.boxes, found.scores, width, height) for found in (d.above(T_CONF) for d in detectors)
    ] or [np.zeros((height // 16, width // 16), np.float32)]
    stacked = np.stack(maps)
    seen = stacked > 0
    sure = stacked.sum(axis=0) / np.maximum(seen.sum(axis=0), 1)
    both = np.stack([seen.mean(axis=0), sure])
    cells = np.round(both.reshape(2, -1) * 255).astype(np.uint8)
    return np.pad(cells, ((0, 0), (0, MAX_CELLS - cells.shape[1])))


def check_machines(index: TeacherIndex, teachers: int) -> None:
    """Raise InputError when a network has another number of confidence outputs than the library has machines."""
    if len(index.machines) != teachers:
        raise InputError(
            f"the teachers' cache is of {len(index.machines)} machines, the network has {teachers} outputs; set"
            f" [network] teachers = {len(index.machines)}"
        )
