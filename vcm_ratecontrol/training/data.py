"""All data of a run: labels, the pictures behind them, coded versions, who trains and who judges."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from codec_wrappers.errors import InputError
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, Thresholds
from vcm_ratecontrol.training.coded import CodedPictures
from vcm_ratecontrol.training.disk_cache import DiskCache
from vcm_ratecontrol.training.label_set import LabelSet, load_label_sets
from vcm_ratecontrol.training.machine_split import MachineSplit, split_machines
from vcm_ratecontrol.training.pictures import PictureStore, find_pictures, missing_pictures
from vcm_ratecontrol.training.samples import Samples


@dataclass(frozen=True)
class DataRequest:
    """labels: folders of vcm-annotate. pictures: files, folders, URLs. judges: see `split_machines`.
    cache: folder for coded pictures and frames, bounded by cache_bytes. limit: 0, or only the first so many training
    pictures in the order of their hashes (for learning curves)."""

    labels: tuple[str, ...]
    pictures: tuple[str, ...]
    judges: str
    cache: Path
    cache_bytes: int = 8 << 30
    limit: int = 0
    thresholds: Thresholds = DEFAULT_THRESHOLDS


@dataclass(frozen=True, eq=False)
class TrainingData:
    """sets: label folders. samples: their pictures that are there; missing: names of those that are not."""

    request: DataRequest
    sets: tuple[LabelSet, ...]
    machines: MachineSplit
    store: PictureStore
    samples: Samples
    missing: tuple[str, ...]

    @cached_property
    def coded(self) -> CodedPictures:
        return CodedPictures(self.store, cache_of(self.request))


def load_data(request: DataRequest, progress: Progress = SILENT) -> TrainingData:
    """Read labels, find pictures. Raises InputError (none there, unknown judge), CacheError (damaged labels)."""
    sets = load_label_sets(request.labels, request.thresholds, progress)
    opinions = [labels.verdicts for labels in sets]
    tasks = {n: t for o in opinions for n, t in zip(o.machines, o.tasks, strict=True)}
    machines = split_machines(list(tasks), list(tasks.values()), request.judges)
    if not request.pictures:
        raise InputError("--pictures: give the folders of the annotated pictures")
    store = PictureStore(find_pictures(request.pictures, progress), cache_of(request))
    samples = limited(Samples.of(sets, store), request.limit)
    return TrainingData(request, sets, machines, store, samples, tuple(missing_pictures(store, sets)))


def cache_of(request: DataRequest) -> DiskCache:
    return DiskCache(request.cache / "pictures", request.cache_bytes)


def limited(samples: Samples, limit: int) -> Samples:
    """Only the first `limit` training pictures of each label set in the order of their hashes; 0: all."""
    if not limit:
        return samples
    keep = np.zeros(len(samples), bool)
    for at, labels in enumerate(samples.sets):
        of_set = np.flatnonzero(samples.labels_at == at)
        training = labels.splits[samples.row[of_set]] == "train"
        keep[of_set[~training]] = True
        keep[of_set[training][:limit]] = True
    return samples.only(np.flatnonzero(keep))


def join_paths(paths: Sequence[str]) -> str:
    """A few names, for people."""
    shown = ", ".join(paths[:5])
    return shown + (f" and {len(paths) - 5} more" if len(paths) > 5 else "")
