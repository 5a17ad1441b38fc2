"""What is in a label folder, in numbers: counts, mean SMR curves, JRD distributions, agreement of machines."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.labels.curves import SMRCurves, mean_smr, smr_curves
from vcm_ratecontrol.labels.dataset import DatasetConfig
from vcm_ratecontrol.labels.objects import (
    ObjectFlags,
    Rule,
    jrd_at_ratio,
    load_objects,
    object_jrd,
    physical_objects,
)
from vcm_ratecontrol.labels.schema import ORIGINAL_QP
from vcm_ratecontrol.labels.verdicts import Verdicts, load_verdicts
from vcm_ratecontrol.satisfaction import DEFAULT_THRESHOLDS, Thresholds

if TYPE_CHECKING:
    from vcm_ratecontrol.labels.store import LabelStore

TASKS = ("both", "detection", "classification")
RULES: tuple[Rule, ...] = ("window", "first-failure")
RATIOS = (0.5, 0.75, 0.9)

# Fewer machines than this make no share: of two, 'at least 75 %' is both.
LEAST_MACHINES = 4


@dataclass(frozen=True)
class Distribution:
    """Of n labels: mean, median and standard deviation in QP; share of zeros (not recognised at the lowest QP)."""

    n: int
    mean: float
    median: float
    deviation: float
    zeros: float

    @classmethod
    def of(cls, values: npt.NDArray[np.int16]) -> Distribution:
        if not len(values):
            return cls(0, np.nan, np.nan, np.nan, np.nan)
        return cls(
            len(values),
            float(values.mean()),
            float(np.median(values)),
            float(values.std()),
            float((values == 0).mean()),
        )


@dataclass(frozen=True)
class Summary:
    """A label folder in numbers.

    pictures: split -> number. kinds: number of whole-picture verdicts by status ('ok', 'invalid', 'failed'),
    the original's included. curves: task -> SMRCurves. with_objects: pictures with an object of some detector.
    jrd: 'object, rule' or 'JRD at ratio' -> labels. physical: number of physical objects.
    """

    config: DatasetConfig
    thresholds: Thresholds
    pictures: dict[str, int]
    rows: int
    statuses: dict[str, int]
    verdicts: Verdicts
    curves: dict[str, SMRCurves]
    objects: ObjectFlags
    physical: int
    with_objects: int
    jrd: dict[str, npt.NDArray[np.int16]]
    bits_per_pixel: npt.NDArray[np.float64]

    def mean_curve(self, task: str) -> npt.NDArray[np.float64]:
        return mean_smr(self.curves[task])

    @property
    def distributions(self) -> dict[str, Distribution]:
        return {name: Distribution.of(values) for name, values in self.jrd.items()}


def summarise(store: LabelStore, thresholds: Thresholds = DEFAULT_THRESHOLDS) -> Summary:
    """Read a label folder once and count. Raises InputError (empty folder), CacheError (damaged)."""
    listed = store.pictures()
    config = store.config()
    assert config is not None
    statuses: Counter[str] = Counter()
    rows = 0
    for table in store.tables(["object", "status"]):
        rows += table.num_rows
        counted = table.group_by(["object", "status"]).aggregate([([], "count_all")]).to_pylist()
        for line in counted:
            if line["object"] == -1:
                statuses[line["status"]] += line["count_all"]
    opinions = load_verdicts(store, thresholds)
    objects = load_objects(store, thresholds)
    groups = physical_objects(objects)
    jrd = {f"object, {rule}": object_jrd(objects, rule) for rule in RULES}
    for ratio in RATIOS:
        shared = jrd_at_ratio(objects, jrd["object, window"], groups, ratio, LEAST_MACHINES)
        jrd[f"physical, {ratio:.0%} of machines"] = shared.jrd
    areas = dict(zip(listed["picture"].to_pylist(), _areas(listed), strict=True))
    area = np.array([areas[name] for name in opinions.pictures], np.float64)
    return Summary(
        config=config,
        thresholds=thresholds,
        pictures=dict(Counter(listed["split"].to_pylist())),
        rows=rows,
        statuses=dict(statuses),
        verdicts=opinions,
        curves={task: smr_curves(opinions, task) for task in TASKS},
        objects=objects,
        physical=int(groups.max(initial=-1)) + 1,
        with_objects=len(np.unique(objects.picture)),
        jrd=jrd,
        bits_per_pixel=(opinions.bits[:, 1:] / area[:, None]).mean(axis=0),
    )


def _areas(listed: object) -> list[int]:
    widths, heights = listed["width"].to_pylist(), listed["height"].to_pylist()  # type: ignore[index]
    return [w * h for w, h in zip(widths, heights, strict=True)]


def machine_satisfaction(verdicts: Verdicts) -> npt.NDArray[np.float64]:
    """Share of the pictures on which each machine is satisfied, among those where it is valid: float64 [M, Q]."""
    valid, satisfied = verdicts.valid.sum(axis=0), verdicts.satisfied.sum(axis=0)
    share = np.full(valid.shape, np.nan)
    np.divide(satisfied, valid, out=share, where=valid > 0)
    return share


def agreement(verdicts: Verdicts) -> tuple[npt.NDArray[np.float64], npt.NDArray[np.float64]]:
    """How far machines agree, each float64 [M, M], NaN where two are never valid together.

    The share of equal verdicts; and the correlation of verdicts at equal QP (pooled within QPs), which does not
    count that all are content at low QPs and none at high ones.
    """
    columns = [at for at, qp in enumerate(verdicts.qps) if qp != ORIGINAL_QP]
    valid = verdicts.valid[:, :, columns].astype(np.float64)
    satisfied = verdicts.satisfied[:, :, columns].astype(np.float64)
    both = np.einsum("paq,pbq->qab", valid, valid)
    yes_yes = np.einsum("paq,pbq->qab", satisfied, satisfied)
    # Satisfied in the rows' machine where the columns' machine is valid as well.
    yes = np.einsum("paq,pbq->qab", satisfied, valid)
    yes_other = yes.transpose(0, 2, 1)
    with np.errstate(divide="ignore", invalid="ignore"):
        equal = (both - yes - yes_other + 2 * yes_yes).sum(axis=0) / both.sum(axis=0)
        covariance = np.nansum(yes_yes - yes * yes_other / both, axis=0)
        variance = np.nansum(yes - yes * yes / both, axis=0)
        correlation = covariance / np.sqrt(variance * variance.T)
    return equal, correlation
