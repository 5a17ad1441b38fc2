"""What a choice of QPs is worth: bits against the best single QP with the same true mean SMR, and shortfalls."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.bench.bootstrap import Interval
from vcm_ratecontrol.bench.matched import NoMatchError, bits_at, matched_saving
from vcm_ratecontrol.ratecontrol import pooling
from vcm_ratecontrol.ratecontrol.exploration import next_levels
from vcm_ratecontrol.ratecontrol.shift import MeasuredSmr, fragile, margin, refine

Floats = npt.NDArray[np.float64]
Indices = npt.NDArray[np.intp]

TARGETS = (0.8, 0.9)
"""Mean SMRs that are asked for."""


@dataclass(frozen=True, eq=False)
class Truth:
    """What really is: smr: float64 [N, Q] of the judges; bits: float64 [N, Q]; qps: [Q], rising."""

    smr: Floats
    bits: Floats
    qps: tuple[int, ...]


def pooled(truth: Truth, smr: Floats, bits: Floats, target: float) -> Indices:
    """Columns that the Lagrangian chooses for predicted SMR and bits, both float64 [N, Q]: intp [N]."""
    return pooling.mean(np.clip(smr, 0, 1), bits, truth.qps, target).index


def each(truth: Truth, smr: Floats, bits: Floats, deviation: Floats, target: float) -> Indices:
    """Columns of the highest QP at which each picture's SMR meets the target: intp [N].

    deviation: [N], QPs, what predicted curves may be off, for which the planning keeps a margin; 0 keeps none.
    """
    safe = fragile(np.clip(smr, 0, 1), truth.qps, margin(deviation))
    return pooling.each(safe, bits, truth.qps, target).index


def outcome(truth: Truth, index: Indices) -> tuple[Floats, Floats]:
    """True SMR and bits of each picture under a choice: float64 [N] each."""
    rows = np.arange(len(index))
    return truth.smr[rows, index], truth.bits[rows, index]


def saving(truth: Truth, index: Indices) -> float:
    """Percent of bits saved against the best flat QP with the same true mean SMR; NaN where no flat QP has it."""
    smr, bits = outcome(truth, index)
    flat, inside = bits_at(truth.smr.mean(0), truth.bits.sum(0), float(smr.mean()))
    return 100.0 * (1.0 - float(bits.sum()) / flat) if inside else float("nan")


def saving_interval(truth: Truth, index: Indices, seed: int, n_resamples: int) -> Interval | None:
    """The same with a bootstrap interval over pictures; None where no flat QP has that mean SMR."""
    smr, bits = outcome(truth, index)
    try:
        return matched_saving(truth.smr, truth.bits, smr, bits, seed=seed, n_resamples=n_resamples).saving
    except NoMatchError:
        return None


def shortfall(truth: Truth, index: Indices, target: float) -> Floats:
    """By how much each picture's true SMR misses the target, 0 where it does not: float64 [N]."""
    missed: Floats = np.maximum(0.0, target - outcome(truth, index)[0])
    return missed


def probed(truth: Truth, smr: Floats, bits: Floats, target: float, probes: int) -> Indices:
    """Pooling with known machines: predicted curves, and up to `probes` measured QPs per picture.

    Every picture is measured where most is promised (`ratecontrol.exploration`); what was measured moves the curves.
    Only measured QPs are chosen: nothing is coded that no machine has seen.
    """
    levels = np.asarray(truth.qps, float)
    share = np.full(len(smr), 1 / len(smr))
    measured: dict[int, list[MeasuredSmr]] = {item: [] for item in range(len(smr))}
    seen = np.zeros(truth.smr.shape, bool)
    believed, cost = np.clip(smr, 0, 1), bits
    for left in range(probes, 0, -1):
        columns = next_levels(np.where(seen, truth.smr, believed), cost, levels, seen, share, target, left)
        for item in np.flatnonzero(columns >= 0).tolist():
            at = int(columns[item])
            seen[item, at] = True
            measured[item].append(MeasuredSmr(truth.qps[at], float(truth.smr[item, at])))
        error = np.where(seen, np.log2(truth.bits / bits), 0).sum(axis=1) / np.maximum(seen.sum(axis=1), 1)
        cost = np.where(seen, truth.bits, bits * 2.0 ** error[:, None])
        believed = np.clip(refine(smr, levels, measured, weight=1.0), 0, 1)
    return _among_measured(truth, seen, target)


def _among_measured(truth: Truth, seen: npt.NDArray[np.bool_], target: float) -> Indices:
    """The pooled choice among what was measured; unmeasured columns cost more than any choice can."""
    dear = truth.bits.sum() * 2
    smr = np.where(seen, truth.smr, 0.0)
    bits = np.where(seen, truth.bits, dear)
    index = pooling.mean(smr, bits, truth.qps, target).index
    best = np.where(seen, truth.smr, -1.0).argmax(axis=1)
    rows = np.arange(len(index))
    return np.where(seen[rows, index], index, best)
