"""What a method may look at when it chooses: levels, bits, and the opinions of the choosing machines."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from vcm_ratecontrol.annotate.clips import SegmentTask
from vcm_ratecontrol.annotate.task import PictureTask
from vcm_ratecontrol.bench.table import Floats, Table


@dataclass(frozen=True, eq=False)
class Prediction:
    """Of a predictor: smr, bits: float64 [U, L]; deviation: float64 [U], how far a curve may be off, QP. seconds:
    float64 [U], machines on the original and the network."""

    smr: Floats
    bits: Floats
    deviation: Floats
    seconds: Floats


@dataclass(frozen=True, eq=False)
class View:
    """levels: float64 [L]. bits: float64 [U, L]. smr: float64 [U, L], of the choosing machines, the mean curve where
    none is valid. mean: float64 [L], their mean over items. weights: float64 [U], so that every item counts alike.
    quality: metric -> float64 [U, L]. n_items: pictures and clips. n_machines: that choose. known: they judge as well.
    works: of the units. n_columns: C. seed: for what is random.
    """

    levels: Floats
    bits: Floats
    smr: Floats
    mean: Floats
    weights: Floats
    quality: Mapping[str, Floats]
    prediction: Prediction | None
    n_items: int
    n_machines: int
    known: bool
    works: tuple[PictureTask | SegmentTask, ...]
    n_columns: int
    seed: int

    @property
    def shape(self) -> tuple[int, int]:
        return self.smr.shape[0], self.smr.shape[1]


def make_view(
    table: Table, choosing: Sequence[str], task: str, prediction: Prediction | None, known: bool, seed: int
) -> View:
    """The view of a table whose items all have a valid choosing machine."""
    n_levels = len(table.levels)
    smr, weights = unit_smr(table, choosing, task)
    smr = smr[:, :n_levels]
    share = weights / weights.sum()
    seen = ~np.isnan(smr[:, 0])
    mean = (share[seen] / share[seen].sum()) @ smr[seen]
    return View(
        levels=np.asarray(table.levels, np.float64),
        bits=table.bits[:, :n_levels],
        smr=np.where(np.isnan(smr), mean, smr),
        mean=mean,
        weights=share,
        quality={name: values[:, :n_levels] for name, values in table.quality.items()},
        prediction=prediction,
        n_items=len(table.items),
        n_machines=len(table.machines_at(choosing, task)),
        known=known,
        works=tuple(unit.work for unit in table.units),
        n_columns=table.n_columns,
        seed=seed,
    )


def unit_smr(table: Table, names: Sequence[str], task: str) -> tuple[Floats, Floats]:
    """SMR of each unit, float64 [U, C] (NaN without a valid machine), and the share of its item's frames [U]."""
    smr = table.frame_smr(names, task)
    seen = ~np.isnan(smr[:, 0])
    n_units = len(table.units)
    frames = np.bincount(table.frame_unit[seen], minlength=n_units).astype(np.float64)
    total = np.zeros((n_units, smr.shape[1]))
    np.add.at(total, table.frame_unit[seen], smr[seen])
    mean = np.divide(total, frames[:, None], out=np.full(total.shape, np.nan), where=frames[:, None] > 0)
    # A unit on which nobody sees anything weighs as little as one frame can.
    weight = np.maximum(frames, 1e-3)
    per_item = np.bincount(table.unit_item, weight, len(table.items))
    return mean, weight / per_item[table.unit_item]
