"""How much of an SMR is chance of the library: one half of the judging machines predicts the other.

A library of n machines is a sample of all machines. Their verdicts on a picture vary with variance s2, so an SMR over n
has the variance s2 / n around what all machines would say. Two halves A and B of n / 2 machines each differ by
Var(A - B) = 2 s2 / (n / 2) = 4 s2 / n, which is four times that: the mean absolute error that the finite library alone
leaves is half the mean absolute difference of its halves, as far as both errors have one shape. Means of a few
yes-or-no verdicts agree too often: simulated, the floor is 12 to 18 % too low for four machines, 5 to 8 % for ten and
right from fifteen on; so it flatters no predictor. A predictor that knows nothing of the judges, however good, stays
above it. What correlation is left follows from that between the halves, r: the whole has the reliability 2 r / (1 + r)
(Spearman and Brown), and nothing that knows nothing of the judges correlates with it by more than the root of that.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from vcm_ratecontrol.training.evaluation.figures import Figure, Resampling, figure, mean_figure, share_figure

Floats = npt.NDArray[np.float64]
Flags = npt.NDArray[np.bool_]

DRAWS = 40
"""Divisions of the machines that are averaged."""


@dataclass(frozen=True, eq=False)
class Halves:
    """SMRs of P pictures over the two halves of each division: float64 [draws, P] both, NaN where fewer than two
    machines are valid. whole: float64 [P], the error of the whole library per difference of its halves: one half, a
    little less where n is odd."""

    first: Floats
    second: Floats
    whole: Floats


def split_halves(valid: Flags, satisfied: Flags, tasks: Sequence[str], draws: int = DRAWS, seed: int = 0) -> Halves:
    """Divide the valid machines of each picture at random, those of each task alike: the library's mix of tasks is no
    chance. valid, satisfied: bool [P, M]; tasks: of the M machines."""
    rng = np.random.default_rng(seed)
    of = np.unique(np.asarray(tasks), return_inverse=True)[1]
    total = valid.sum(axis=1)
    found = np.full((2, draws, len(valid)), np.nan)
    for draw in range(draws):
        # In the order of tasks, at random within each, every second machine goes to the first half.
        rank = np.where(valid, of + rng.random(valid.shape), np.inf).argsort(axis=1).argsort(axis=1)
        first = valid & ((rank + rng.integers(0, 2, (len(valid), 1))) % 2 == 0)
        for side, members in enumerate((first, valid & ~first)):
            number = members.sum(axis=1)
            np.divide((members & satisfied).sum(axis=1), number, out=found[side, draw], where=number > 0)
    found[:, :, total < 2] = np.nan
    size = total // 2
    return Halves(found[0], found[1], np.sqrt(size * (total - size)) / np.maximum(1, total))


def between_halves(halves: Halves, how: Resampling) -> dict[str, Figure]:
    """How well one half predicts the other."""
    error = np.abs(halves.first - halves.second).mean(axis=0)
    correlation = figure(lambda items: _between(halves, items), len(error), how)
    return {"MAE": mean_figure(error, how), "SMR correlation": correlation}


def floor_figures(halves: Halves, mean_error: Floats, how: Resampling) -> dict[str, Figure]:
    """What the finite library alone leaves for a perfect predictor. mean_error: float64 [P], of the mean curve."""
    error = halves.whole * np.abs(halves.first - halves.second).mean(axis=0)

    def ceiling(items: npt.NDArray[np.intp]) -> float:
        r = max(0.0, _between(halves, items))
        return float(np.sqrt(2 * r / (1 + r)))

    return {
        "MAE": mean_figure(error, how),
        "% of the mean curve's error": share_figure(error, mean_error, how),
        "SMR correlation": figure(ceiling, len(error), how),
    }


def _between(halves: Halves, items: npt.NDArray[np.intp]) -> float:
    """Mean over the divisions of the correlation between the halves; NaN where a half does not vary."""
    first, second = (
        side[:, items] - side[:, items].mean(axis=1, keepdims=True) for side in (halves.first, halves.second)
    )
    spread = np.sqrt((first**2).sum(axis=1) * (second**2).sum(axis=1))
    if (spread < 1e-12).any():
        return float("nan")
    return float(((first * second).sum(axis=1) / spread).mean())
