"""What a method saves against the flat anchor at equal satisfaction, with intervals over items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from vcm_ratecontrol.bench.bdrate import BdRateError, MeanBdRate, RateCurve, mean_bd_rate
from vcm_ratecontrol.bench.evaluate import Scores
from vcm_ratecontrol.bench.matched import MatchedSaving, NoMatchError, bits_at, matched_saving
from vcm_ratecontrol.bench.table import Floats

# How far the judged SMR of an operating point may lie from the one that is asked of the table of savings.
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
    """At one operating point: `point` is its number in the method's sweep. error: why there is no figure."""

    point: int
    matched: MatchedSaving | None
    error: str | None = None


def saving_at(flat: FlatCurve, point: int, scores: Scores, seed: int, n_resamples: int) -> Saving:
    """The matched-point saving of one operating point, flat being taken at the very same judged mean SMR."""
    try:
        matched = matched_saving(
            flat.smr, flat.bits, scores.item_smr, scores.item_bits, seed=seed, n_resamples=n_resamples
        )
        return Saving(point, matched)
    except NoMatchError as error:
        return Saving(point, None, str(error))


def saving_near(flat: FlatCurve, sweep: Sequence[Scores], target: float, seed: int, n_resamples: int) -> Saving | None:
    """The saving at that operating point of a sweep whose judged mean SMR is nearest to the target (equal: fewer bits).

    None when none is nearer than NEAR.
    """
    distance = [abs(scores.smr - target) for scores in sweep]
    order = sorted(range(len(sweep)), key=lambda at: (round(distance[at], 9), sweep[at].bits))
    if not order or distance[order[0]] > NEAR:
        return None
    return saving_at(flat, order[0], sweep[order[0]], seed, n_resamples)


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
