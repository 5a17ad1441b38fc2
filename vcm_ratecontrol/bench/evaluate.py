"""What a choice is worth, as the judging machines see it: satisfaction, accuracy, bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vcm_ratecontrol.bench.accuracy import Answers
from vcm_ratecontrol.bench.table import Floats, Indices, Table


@dataclass(frozen=True, eq=False)
class Scores:
    """Of one operating point, by the judges.

    columns: intp [U]. item_smr, item_bits: float64 [items]. smr: mean over items, 0..1; classification, detection: the
    same over one task, None where it has no valid judge. bits: sum over items; bpp: of all pixels; kbps: of the
    clips, None without. top1: share of frames on which a classifier keeps its label, mean over classifiers.
    pseudo, human: (mAP@0.5, mAP@[.5:.95]), mean over detectors, against their own results on the originals and against
    human boxes. quality: means over items.
    """

    columns: Indices
    item_smr: Floats
    item_bits: Floats
    smr: float
    classification: float | None
    detection: float | None
    bits: float
    bpp: float
    kbps: float | None
    top1: float | None
    pseudo: tuple[float, float] | None
    human: tuple[float, float] | None
    quality: Mapping[str, float]


class Judge:
    """Scores choices with some machines of a table; all of its items have a valid judge."""

    def __init__(self, table: Table, names: Sequence[str], task: str, answers: Answers) -> None:
        self._table, self._answers = table, answers
        self._smr = {of: table.frame_smr(names, of) for of in (task, "classification", "detection")}
        self._task = task
        self._known: dict[bytes, Scores] = {}

    def score(self, columns: Indices) -> Scores:
        """columns: intp [U], the coding of each unit. Methods that choose alike are scored once."""
        key = columns.tobytes()
        if key not in self._known:
            self._known[key] = self._scored(columns)
        return self._known[key]

    def _scored(self, columns: Indices) -> Scores:
        table = self._table
        n_items, rows = len(table.items), np.arange(len(columns))
        bits: Floats = np.bincount(table.unit_item, table.bits[rows, columns], n_items).astype(np.float64)
        item_smr = self.item_smr(columns, self._task)
        clips = np.array([item.kind == "clip" for item in table.items])
        duration = sum(item.duration for item in table.items)
        quality = {
            name: float(np.mean(_item_means(values[rows, columns], table.unit_item, n_items)))
            for name, values in table.quality.items()
        }
        return Scores(
            columns=columns,
            item_smr=item_smr,
            item_bits=bits,
            smr=float(item_smr.mean()),
            classification=_mean(self.item_smr(columns, "classification")),
            detection=_mean(self.item_smr(columns, "detection")),
            bits=float(bits.sum()),
            bpp=float(bits.sum() / sum(item.pixels for item in table.items)),
            kbps=float(bits[clips].sum() / duration / 1000) if clips.any() and duration > 0 else None,
            top1=self._answers.top1(columns),
            pseudo=self._answers.pseudo(columns),
            human=self._answers.human(columns),
            quality=quality,
        )

    def item_smr(self, columns: Indices, task: str) -> Floats:
        """SMR of each item, mean over its frames that have a valid machine: float64 [items], NaN where none has."""
        table = self._table
        frames = np.arange(len(table.frame_unit))
        return _item_means(self._smr[task][frames, columns[table.frame_unit]], table.frame_item, len(table.items))


def _item_means(values: Floats, owner: Indices, n_items: int) -> Floats:
    """Mean of the values (NaN: unknown) of each item, NaN where it has none."""
    known = ~np.isnan(values)
    number = np.bincount(owner[known], minlength=n_items)
    total = np.bincount(owner[known], values[known], n_items)
    mean: Floats = np.divide(total, number, out=np.full(n_items, np.nan), where=number > 0)
    return mean


def _mean(values: Floats) -> float | None:
    known = values[~np.isnan(values)]
    return float(known.mean()) if len(known) else None
