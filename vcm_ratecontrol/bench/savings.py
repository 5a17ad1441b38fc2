"""What a method saves against the flat anchor at equal satisfaction, with intervals over items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vcm_ratecontrol.bench.bdrate import BdRateError, MeanBdRate, RateCurve, mean_bd_rate
from vcm_ratecontrol.bench.evaluate import Scores
from vcm_ratecontrol.bench.matched import MatchedSaving, NoMatchError, bits_at, matched_saving
from vcm_ratecontrol.bench.table import Floats

# How far beyond the end of a method's sweep a judged SMR may lie for the end to stand for it.
NEAR = 0.03


@dataclass(frozen=True, eq=False)
class FlatCurve:
    """The anchor: scores of every flat level, by rising level."""

    scores: tuple[Scores, ...]

    @property
    def smr(self) -> Floats:
        """float64 [items, L]."""
        return np.stack([scores.item_smr for scores in self.scores], axis=1)

    @property
    def bits(self) -> Floats:
        """float64 [items, L]."""
        return np.stack([scores.item_bits for scores in self.scores], axis=1)

    def level_like(self, smr: float) -> float:
        """Number of the level (a fraction between two) that has this mean SMR, by bits."""
        total = np.array([scores.bits for scores in self.scores])
        bits, _ = bits_at(self.smr.mean(axis=0), total, smr)
        falling = np.minimum.accumulate(total)
        return float(np.interp(-np.log(bits), -np.log(falling), np.arange(len(total))))


@dataclass(frozen=True)
class Saving:
    """At one judged SMR. point: number of the operating point of the method's sweep that has it, or lies nearest to it.
    error: why there is no figure."""

    point: int
    matched: MatchedSaving | None
    error: str | None = None


def saving_at(flat: FlatCurve, point: int, scores: Scores, seed: int, n_resamples: int) -> Saving:
    """The matched-point saving of one operating point, flat being taken at the very same judged mean SMR."""
    return _matched(flat, point, scores.item_smr, scores.item_bits, seed, n_resamples)


def saving_near(flat: FlatCurve, sweep: Sequence[Scores], target: float, seed: int, n_resamples: int) -> Saving | None:
    """The saving where a method's judged mean SMR is the target, flat being taken there, too.

    Between the two operating points of the sweep next below and above, SMR and log bits are interpolated, as they are
    between two levels of the anchor. Beyond the ends of a sweep the end itself counts, if it is not further than NEAR
    away; else there is none (None).
    """
    smr = np.array([scores.smr for scores in sweep])
    bits = np.array([scores.bits for scores in sweep])
    order = np.lexsort((bits, np.round(np.abs(smr - target), 9)))
    nearest = int(order[0])
    below = next((int(at) for at in order if smr[at] <= target), None)
    above = next((int(at) for at in order if smr[at] >= target), None)
    if below is None or above is None:
        return (
            saving_at(flat, nearest, sweep[nearest], seed, n_resamples) if abs(smr[nearest] - target) <= NEAR else None
        )
    a, b = sweep[below], sweep[above]
    part = (target - a.smr) / (b.smr - a.smr) if b.smr > a.smr else 0.0
    item_smr = (1 - part) * a.item_smr + part * b.item_smr
    item_bits = a.item_bits ** (1 - part) * b.item_bits**part
    # So that the total, too, is on the line between the two.
    item_bits *= a.bits ** (1 - part) * b.bits**part / item_bits.sum()
    return _matched(flat, nearest, item_smr, item_bits, seed, n_resamples)


def _matched(flat: FlatCurve, point: int, item_smr: Floats, item_bits: Floats, seed: int, n_resamples: int) -> Saving:
    try:
        return Saving(
            point, matched_saving(flat.smr, flat.bits, item_smr, item_bits, seed=seed, n_resamples=n_resamples)
        )
    except NoMatchError as error:
        return Saving(point, None, str(error))


def saving_at_equal_map(flat: FlatCurve, scores: Scores) -> float | None:
    """Percent of bits saved against the flat QP of the same mAP@0.5 (pseudo ground truth); None where none has it."""
    curve = [one.pseudo for one in flat.scores]
    if scores.pseudo is None or any(pair is None for pair in curve):
        return None
    values = np.array([pair[0] for pair in curve if pair is not None])
    bits, inside = bits_at(values, np.array([one.bits for one in flat.scores]), scores.pseudo[0])
    return 100.0 * (1.0 - scores.bits / bits) if inside else None


def item_savings(flat: FlatCurve, scores: Scores) -> Floats:
    """Percent saved on each item against its own bits at the flat QP that has the point's mean SMR: float64 [items]."""
    at = flat.level_like(scores.smr)
    log_bits = np.log(flat.bits)
    low = min(int(at), log_bits.shape[1] - 1)
    high = min(low + 1, log_bits.shape[1] - 1)
    anchor = np.exp(log_bits[:, low] + (at - low) * (log_bits[:, high] - log_bits[:, low]))
    saved: Floats = 100.0 * (1.0 - scores.item_bits / anchor)
    return saved


def bd_rates(flat: FlatCurve, sweep: Sequence[Scores], names: Sequence[str], seed: int) -> MeanBdRate | str:
    """Mean of the items' BD-rates (bits over SMR), or why there is none."""
    bits = np.stack([scores.item_bits for scores in sweep], axis=1)
    smr = np.stack([scores.item_smr for scores in sweep], axis=1)
    pairs = {
        f"{at}:{name}": (RateCurve(flat.bits[at], flat.smr[at]), RateCurve(bits[at], smr[at]))
        for at, name in enumerate(names)
    }
    try:
        return mean_bd_rate(pairs, seed=seed)
    except BdRateError as error:
        return str(error)
