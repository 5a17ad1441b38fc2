"""Methods that choose one level per unit: flat, exhaustive, measured, blind, by picture quality, and controls."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from vcm_ratecontrol.bench.choice import MACHINES, NOTHING, Choice, Flags
from vcm_ratecontrol.bench.table import Floats, Indices
from vcm_ratecontrol.bench.view import View
from vcm_ratecontrol.ratecontrol import pooling
from vcm_ratecontrol.ratecontrol.measured import MAX_PROBES
from vcm_ratecontrol.ratecontrol.search import QpSearch, SmrSample
from vcm_ratecontrol.ratecontrol.shift import pilot_mean_curve, shift_model


def nothing_probed(view: View) -> Flags:
    return np.zeros(view.shape, bool)


def all_probed(view: View) -> Flags:
    return np.ones(view.shape, bool)


def pooled(view: View, smr: Floats, bits: Floats, target: float) -> Indices:
    """The Lagrangian's levels for some curves."""
    return pooling.mean(np.clip(smr, 0, 1), bits, view.levels, target, weights=view.weights).index


def each(view: View, smr: Floats, bits: Floats, target: float) -> Indices:
    """Per unit the highest level that meets the target."""
    return pooling.each(np.clip(smr, 0, 1), bits, view.levels, target).index


@dataclass(frozen=True)
class Flat:
    """One level for all: the anchor. Its settings are levels."""

    name: str = "flat"
    label: str = "one QP for all (anchor)"
    asks: str = NOTHING

    def settings(self, view: View, targets: Sequence[float]) -> Sequence[float]:
        return [float(level) for level in view.levels[::-1]]

    def choose(self, view: View, setting: float) -> Choice:
        column = int(np.flatnonzero(view.levels == setting)[0])
        return Choice(np.full(view.shape[0], column), nothing_probed(view))


@dataclass(frozen=True)
class Targeted:
    """A method that is asked for an SMR."""

    name: str
    label: str
    asks: str
    chooser: Callable[[View, float], Choice]

    def settings(self, view: View, targets: Sequence[float]) -> Sequence[float]:
        return targets

    def choose(self, view: View, setting: float) -> Choice:
        return self.chooser(view, setting)


def _oracle_each(view: View, target: float) -> Choice:
    return Choice(each(view, view.smr, view.bits, target), all_probed(view))


def _oracle_pooled(view: View, target: float) -> Choice:
    return Choice(pooled(view, view.smr, view.bits, target), all_probed(view))


def _pooled_blind(view: View, target: float) -> Choice:
    mean = np.broadcast_to(np.minimum.accumulate(view.mean), view.shape)
    return Choice(pooled(view, mean, view.bits, target), all_probed(view))


def _pooled_other_machines(view: View, target: float) -> Choice:
    model = shift_model(np.minimum.accumulate(view.mean), view.levels, view.levels, view.smr)
    return Choice(pooled(view, model.smr, view.bits, target), all_probed(view))


def _measured(view: View, target: float) -> Choice:
    """The probing search of vcm-encode, on the levels given."""
    prior = pilot_mean_curve(view.levels)
    probed = nothing_probed(view)
    columns = [search_smr(view, unit, target, MAX_PROBES, prior, probed[unit]) for unit in range(view.shape[0])]
    return Choice(np.array(columns, np.intp), probed)


def search_smr(view: View, unit: int, target: float, probes: int, prior: Floats, probed: Flags) -> int:
    """The level at which the search of one unit ends. prior: float64 [L]; probed: bool [L], where probes are noted."""
    machines = max(1, view.n_machines)
    search = QpSearch(target, 0, view.shape[1] - 1, max_probes=probes, prior=prior, machines=machines)
    while (at := search.next_probe()) is not None:
        probed[at] = True
        search.tell(at, SmrSample(float(view.smr[unit, at])))
    return search.best().qp


def _dealt(view: View, target: float) -> Choice:
    """What pooling over the measured shifts chooses, dealt to the units at random."""
    rng = np.random.default_rng(view.seed)
    columns = _pooled_other_machines(view, target).columns
    return Choice(columns[rng.permutation(len(columns))], nothing_probed(view))


MEASURED: tuple[Targeted, ...] = (
    Targeted("smr-measured", "measured search, each picture", MACHINES, _measured),
    Targeted("oracle-each", "exhaustive, each picture", MACHINES, _oracle_each),
    Targeted("oracle-pooled", "exhaustive, pooled", MACHINES, _oracle_pooled),
    Targeted("pooled-blind", "mean curve for all, true bits, pooled", MACHINES, _pooled_blind),
    Targeted("pooled-other-machines", "measured shift, shrunk, pooled (ceiling)", MACHINES, _pooled_other_machines),
    Targeted("random-levels", "control: those levels dealt at random", NOTHING, _dealt),
)


@dataclass(frozen=True)
class QualityTarget:
    """One value of a quality metric for the whole set, searched for in each unit as ab-av1 does.

    Its settings are the mean values of the flat levels; which of them meets an SMR target is known afterwards
    only: it is what a user does at best.
    """

    name: str
    label: str

    @property
    def asks(self) -> str:
        return self.name

    def settings(self, view: View, targets: Sequence[float]) -> Sequence[float]:
        return sorted({float(value) for value in view.quality[self.name].mean(axis=0)})

    def choose(self, view: View, setting: float) -> Choice:
        values = view.quality[self.name]
        probed = nothing_probed(view)
        columns = [search_quality(values[unit], setting, probed[unit]) for unit in range(len(values))]
        return Choice(np.array(columns, np.intp), probed)


QUALITY = (
    QualityTarget("vmaf", "VMAF target"),
    QualityTarget("psnr", "PSNR target"),
    QualityTarget("ssim", "SSIM target"),
)


def search_quality(values: Floats, threshold: float, probed: Flags) -> int:
    """The highest level whose value meets the threshold, by interpolated bisection; the lowest level if none does.

    values: float64 [L], falling but for noise. probed: bool [L], where what is looked at is noted.
    """
    low, high = -1, len(values)
    while high - low > 1:
        middle = (low + high) // 2
        if low >= 0 and high < len(values) and values[low] > values[high]:
            share = (values[low] - threshold) / (values[low] - values[high])
            middle = min(max(int(low + share * (high - low)), low + 1), high - 1)
        probed[middle] = True
        if values[middle] >= threshold:
            low = middle
        else:
            high = middle
    return max(low, 0)


def permuted(view: View, values: Floats) -> Floats:
    """Rows of the units in another order, the same for the same seed; no row stays where two units or more are."""
    rng = np.random.default_rng(view.seed)
    order = rng.permutation(len(values))
    mixed = np.empty_like(values)
    mixed[order] = values[np.roll(order, 1)]
    return mixed
