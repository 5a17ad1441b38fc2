"""Pictures of several label sets as one list of samples, and what of each is known without pixels."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import numpy.typing as npt

from codec_wrappers.errors import InputError
from vcm_ratecontrol.jrd_rules import N_LEVELS
from vcm_ratecontrol.labels.splits import Split
from vcm_ratecontrol.predictors.evidence import N_EVIDENCE, confidence_map
from vcm_ratecontrol.predictors.picture_statistics import picture_statistics
from vcm_ratecontrol.progress import SILENT, Progress
from vcm_ratecontrol.training.evidence_table import ORIGINAL
from vcm_ratecontrol.training.label_set import LabelSet
from vcm_ratecontrol.training.pictures import RGB, PictureStore
from vcm_ratecontrol.training.views import View

Floats = npt.NDArray[np.float32]
Flags = npt.NDArray[np.bool_]
Indices = npt.NDArray[np.int64]

BLOCK = 16


@dataclass(frozen=True, eq=False)
class Samples:
    """N pictures of label sets that can be read. labels_at: int64 [N], which set; row: int64 [N], which picture."""

    sets: tuple[LabelSet, ...]
    store: PictureStore
    labels_at: Indices
    row: Indices
    _statistics: dict[tuple[str, int], Floats] = field(default_factory=dict)
    _lock: threading.Lock = field(default_factory=threading.Lock)

    @classmethod
    def of(cls, sets: Sequence[LabelSet], store: PictureStore) -> Samples:
        """Raises InputError when no picture of the labels can be read."""
        labels_at: list[int] = []
        rows: list[int] = []
        for at, labels in enumerate(sets):
            there = np.flatnonzero(store.available(labels))
            labels_at += [at] * len(there)
            rows += there.tolist()
        if not rows:
            raise InputError("--pictures: holds none of the annotated pictures; give the folders that were annotated")
        return cls(
            tuple(sets),
            store,
            np.array(labels_at, np.int64),
            np.array(rows, np.int64),
        )

    def __len__(self) -> int:
        return len(self.row)

    def only(self, keep: Indices) -> Samples:
        """These samples alone."""
        return replace(self, labels_at=self.labels_at[keep], row=self.row[keep])

    def of_split(self, split: Split) -> Indices:
        """Sample indices. Raises InputError when there is none of train or validation."""
        found = [self.sets[at].splits[row] == split for at, row in zip(self.labels_at, self.row, strict=True)]
        samples = np.flatnonzero(np.array(found, bool))
        if not len(samples):
            raise InputError(f"no {split} picture among those given; annotate more, or give all folders to --pictures")
        return samples

    def labels(self, sample: int) -> tuple[LabelSet, int]:
        """Label set and row of a sample."""
        return self.sets[int(self.labels_at[sample])], int(self.row[sample])

    def sizes(self) -> tuple[list[int], list[int]]:
        """Heights and widths of all samples."""
        pairs = [self.labels(sample) for sample in range(len(self))]
        return [int(s.heights[r]) for s, r in pairs], [int(s.widths[r]) for s, r in pairs]

    def picture(self, sample: int) -> RGB:
        """uint8 [H, W, 3] as annotated."""
        return self.store.rgb(*self.labels(sample))

    def statistics(self, sample: int) -> Floats:
        """`picture_statistics` of the whole picture, computed once."""
        labels, row = self.labels(sample)
        key = (labels.verdicts.pictures[row], labels.config.max_side)
        with self._lock:
            if key in self._statistics:
                return self._statistics[key]
        values = picture_statistics(self.picture(sample))
        with self._lock:
            return self._statistics.setdefault(key, values)

    def all_statistics(self, progress: Progress = SILENT) -> Floats:
        """float32 [N, N_STATISTICS] of all samples."""
        progress.phase("looking at pictures", len(self))
        rows = []
        for sample in range(len(self)):
            rows.append(self.statistics(sample))
            progress.advance()
        return np.stack(rows)

    def log2_bits(self) -> Floats:
        """Measured log2 of bits per pixel, float32 [N, 64], NaN at levels that were not measured."""
        values = np.full((len(self), N_LEVELS), np.nan, np.float32)
        for at, labels in enumerate(self.sets):
            of_set = np.flatnonzero(self.labels_at == at)
            measured = labels.log2_bits_per_pixel()[self.row[of_set]]
            values[np.ix_(of_set, np.array(labels.qps))] = measured
        return values

    def evidence(self, qp_at: int | None = None) -> tuple[Floats, Flags]:
        """Evidence of all machines, padded to the largest set: float32 [N, M, 16], and bool [N, M], who ran.

        qp_at: column of a coded version whose results are evidence too; None: the originals' alone.
        """
        width = max(len(labels.verdicts.machines) for labels in self.sets)
        features = np.zeros((len(self), width, N_EVIDENCE), np.float32)
        asked = np.zeros((len(self), width), bool)
        for at, labels in enumerate(self.sets):
            of_set = np.flatnonzero(self.labels_at == at)
            table = labels.evidence
            known = table.on_original() if qp_at is None else table.on_coded(qp_at)
            features[of_set, : known.shape[1]] = known[self.row[of_set]]
            asked[of_set, : known.shape[1]] = table.asked[self.row[of_set], :, ORIGINAL]
        return features, asked

    def map_of(self, sample: int, machine: int, view: View) -> Floats | None:
        """A detector's confidence map of a view of a picture; None when the machine is no detector that ran."""
        labels, row = self.labels(sample)
        found = labels.originals.of(row, machine)
        if found is None:
            return None
        boxes, inside = view.boxes(found[0])
        return confidence_map(boxes[inside], found[1][inside], view.width, view.height, block_size=BLOCK)
