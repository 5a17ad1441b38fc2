"""One label folder in memory, as training and evaluation read it: verdicts, evidence, sizes, splits."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.labels.dataset import DatasetConfig
from vcm_ratecontrol.labels.objects import ObjectFlags, join_objects, object_flags
from vcm_ratecontrol.labels.splits import Split
from vcm_ratecontrol.labels.store import LabelStore
from vcm_ratecontrol.labels.verdicts import COLUMNS, Verdicts, join, verdicts, whole_pictures
from vcm_ratecontrol.predictors.interface import Condition, Task
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, Thresholds
from vcm_ratecontrol.training.evidence_table import (
    EvidenceTable,
    OriginalDetections,
    evidence_table,
    join_evidence,
)

TASKS: tuple[Task, ...] = ("classification", "detection", "both")


@dataclass(frozen=True, eq=False)
class LabelSet:
    """A label folder of P pictures, M machines and Q QPs (without the original).

    verdicts: as `labels.verdicts`, with the original as the first of its QPs. evidence, originals: see
    `evidence_table`; pictures and machines in the verdicts' order. objects: what detectors see on the originals.
    widths, heights: int64 [P], as annotated. splits: str [P]. sources: names of files, for people and for frames.
    """

    url: str
    config: DatasetConfig
    verdicts: Verdicts
    evidence: EvidenceTable
    originals: OriginalDetections
    objects: ObjectFlags
    widths: npt.NDArray[np.int64]
    heights: npt.NDArray[np.int64]
    splits: npt.NDArray[np.str_]
    sources: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.verdicts.pictures)

    @property
    def qps(self) -> tuple[int, ...]:
        """The measured QPs, rising."""
        return self.verdicts.qps[1:]

    @property
    def name(self) -> str:
        """'codec/coding type'."""
        return f"{self.config.codec}/{self.config.coding}"

    def condition(self, task: Task) -> Condition:
        """What a curve of this folder is for. Raises InputError for a coding that no predictor knows."""
        try:
            return Condition(self.config.codec, self.config.coding, task)  # type: ignore[arg-type]
        except ValueError as error:
            raise InputError(f"{self.url}: {error}") from None

    def rows_of(self, split: Split) -> npt.NDArray[np.int64]:
        """Indices of the pictures of a split."""
        return np.flatnonzero(self.splits == split)

    def machines_at(self, names: Iterable[str], task: Task = "both") -> npt.NDArray[np.int64]:
        """Indices of the machines of these names and of a task; names that this folder lacks are left out."""
        wanted = set(names)
        found = [
            at
            for at, (name, of) in enumerate(zip(self.verdicts.machines, self.verdicts.tasks, strict=True))
            if name in wanted and task in ("both", of)
        ]
        return np.array(found, np.int64)

    def qp_columns(self, wanted: Sequence[int] = ()) -> npt.NDArray[np.int64]:
        """Columns of `verdicts.qps` (where the original is the first) measured nearest the wanted QPs; all for ()."""
        measured = np.array(self.qps, np.int64)
        if not len(wanted):
            return np.arange(1, len(measured) + 1)
        return np.unique(np.abs(measured[None] - np.array(wanted)[:, None]).argmin(axis=1)) + 1

    def log2_bits_per_pixel(self) -> npt.NDArray[np.float32]:
        """float32 [P, Q]."""
        area = (self.widths * self.heights)[:, None]
        found: npt.NDArray[np.float32] = np.log2(np.maximum(self.verdicts.bits[:, 1:], 1) / area).astype(np.float32)
        return found

    def sha256(self) -> str:
        """Hash of all that training takes from the folder, whatever its files look like; hexadecimal."""
        digest = hashlib.sha256(self.config.to_json().encode())
        digest.update("\n".join(self.verdicts.pictures).encode())
        arrays = [getattr(self.verdicts, name) for name in ("valid", "satisfied", "score", "bits")]
        arrays += [getattr(self.evidence, f.name) for f in fields(self.evidence)]
        arrays += [self.objects.boxes, self.objects.classes, self.objects.recognised, self.widths, self.heights]
        for array in arrays:
            digest.update(np.ascontiguousarray(array).tobytes())
        return digest.hexdigest()


def load_label_set(url: str, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> LabelSet:
    """Read a label folder once, shard after shard. Raises InputError (none there), CacheError (damaged)."""
    store = LabelStore(url)
    listed = store.pictures().to_pylist()
    config = store.config()
    if config is None:
        raise InputError(f"{url}: has no dataset.json; it is no label folder")
    sizes = {line["picture"]: (line["width"], line["height"]) for line in listed}
    names = tuple(config.machines)
    opinions, evidence, objects = [], [], []
    for table in store.tables(COLUMNS):
        part = verdicts(table, thresholds, names, config.qps)
        opinions.append(part)
        whole = whole_pictures(table, names, config.qps)
        evidence.append(evidence_table(whole, sizes, thresholds.confidence, part.score))
        objects.append(object_flags(table, thresholds, names, config.qps))
    joined = join(opinions)
    hashes = np.array([name for part in opinions for name in part.pictures], dtype=str)
    order = np.argsort(hashes, kind="stable")
    machines_of = [part.machines for part in opinions]
    known, originals = join_evidence(evidence, machines_of, joined.machines, order)
    lines = {line["picture"]: line for line in listed}
    ordered = [lines[name] for name in joined.pictures]
    return LabelSet(
        url=str(url),
        config=config,
        verdicts=joined,
        evidence=known,
        originals=originals,
        objects=_in_order(join_objects(objects), joined),
        widths=np.array([line["width"] for line in ordered], np.int64),
        heights=np.array([line["height"] for line in ordered], np.int64),
        splits=np.array([line["split"] for line in ordered], str),
        sources=tuple(line["source"] for line in ordered),
    )


def load_label_sets(
    urls: Sequence[str], thresholds: Thresholds = DEFAULT_THRESHOLDS, progress: Progress = SILENT
) -> tuple[LabelSet, ...]:
    """Several folders. Raises InputError when two hold labels of one codec and coding."""
    progress.phase("reading labels", len(urls))
    sets: list[LabelSet] = []
    for url in urls:
        sets.append(load_label_set(url, thresholds))
        progress.advance()
    names = [item.name for item in sets]
    if repeated := {name for name in names if names.count(name) > 1}:
        raise InputError(f"--labels: two folders are of {min(repeated)}; give one, or annotate into one folder")
    return tuple(sets)


def _in_order(objects: ObjectFlags, opinions: Verdicts) -> ObjectFlags:
    """Objects whose picture and machine indices are those of the verdicts."""
    picture = np.array([opinions.pictures.index(name) for name in objects.pictures], np.int64)
    machine = np.array([opinions.machines.index(name) for name in objects.machines], np.int64)
    return replace(
        objects,
        pictures=opinions.pictures,
        machines=opinions.machines,
        picture=picture[objects.picture],
        machine=machine[objects.machine],
    )
