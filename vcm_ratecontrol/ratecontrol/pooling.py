"""One QP per item so that all items together meet a target: the two readings of 'SMR at least t'.

Items are pictures of a folder or segments of a clip, each with its SMR and its bits at every level.

- `each`: every item meets the target by itself. Nothing to plan across items.
- `mean`: the mean over items meets it, in the fewest bits. Items whose SMR falls late pay for those whose SMR falls
  early, which is where most of the saving over one flat QP comes from.

`mean` is a multiple-choice knapsack: minimise the sum of bits subject to mean SMR >= target. Its Lagrangian - for every
price lambda of SMR, each item takes argmin bits - lambda * SMR - is solved for all prices at once: only levels on the
lower convex hull of an item's (SMR, bits) points are ever chosen, and going through all hull edges of all items in the
order of their price is going through all lambda (Shoham and Gersho 1988; Ramchandran and Vetterli 1993). The last step
of that walk before the target is reached leaves a gap, because a step is a whole hull edge. The gap is closed
by looking at every change of one item, in small problems of two items, that reaches the target from there, and
at every flat level; the cheapest of all these is taken. This keeps what a user expects: never more bits than the best
flat level that meets the target, never fewer bits for a higher target, and no influence of the order of items.

Feed it smooth curves (see `shift`). On raw measured curves of a few machines it finds the lucky noise, and what it
gains there is lost when other machines judge.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codec_wrappers.errors import InputError

Floats = NDArray[np.float64]
Indices = NDArray[np.intp]
Flags = NDArray[np.bool_]

# SMR is compared with this slack: 9 / 10 must meet 0.9 whatever the rounding.
TOLERANCE = 1e-9

# Where labels end a predicted curve is flat in SMR and in bits: of levels that are alike the highest QP is taken, since
# going lower buys nothing. This share of the bits, which is none that anybody measures, makes each QP cheaper than the
# one below.
_PER_LEVEL = 1e-14

# Up to this many changes (items x levels; 20 items of 64), changes of two items at once are looked at too: tens of
# milliseconds and megabytes. With more items, one step of one item is too small a part of the total to matter.
_MAX_CHANGES_FOR_PAIRS = 1280


@dataclass(frozen=True, eq=False)
class PoolingResult:
    """index: intp [items], the chosen level's column; qp: float64 [items], that level. mean_smr: weighted mean of
    the given SMR there; total_bits: sum of the given bits there. reached: bool [items], for `each` whether the
    item meets the target, for `mean` whether all together do (the same for all) and the item its floor."""

    index: Indices
    qp: Floats
    mean_smr: float
    total_bits: float
    reached: Flags


@dataclass(frozen=True, eq=False)
class _Problem:
    """smr, bits: float64 [items, levels]; smr already times the item's share of the weight, so that a plain sum is
    the mean. allowed: bool [items, levels], the levels that meet the item's floor, at least one per item."""

    smr: Floats
    bits: Floats
    allowed: Flags


def each(
    smr: ArrayLike,
    bits: ArrayLike,
    levels: ArrayLike,
    target: float,
    *,
    lasting: bool = False,
    weights: ArrayLike | None = None,
    allowed: ArrayLike | None = None,
) -> PoolingResult:
    """Per item the highest level whose SMR meets the target.

    smr: float [items, levels] in 0..1; bits: float [items, levels] >= 0; levels: float [levels], rising QPs;
    target 0..1. lasting: the highest level up to which all lower ones meet it too (they differ where a curve
    is not monotone). weights: float [items] > 0, for the mean that is reported only. allowed: bool [items, levels], at
    least one of each item, default all. An item that no level satisfies takes its highest SMR, of equals the highest
    QP, with reached False. Raises InputError for shapes or values that do not fit.
    """
    values, costs, grid = _checked(smr, bits, levels, target)
    usable_at = _allowed(allowed, values)
    meets = values >= target - TOLERANCE
    usable = (np.logical_and.accumulate(meets, axis=1) if lasting else meets) & usable_at
    reached = np.asarray(usable.any(axis=1))
    last = grid.size - 1
    highest = last - np.argmax(usable[:, ::-1], axis=1)
    best_effort = last - np.argmax(np.where(usable_at, values, -1.0)[:, ::-1], axis=1)
    index = np.where(reached, highest, best_effort)
    return _result(values, costs, grid, index, reached, _shares(weights, len(values)))


def mean(
    smr: ArrayLike,
    bits: ArrayLike,
    levels: ArrayLike,
    target: float,
    *,
    floor: ArrayLike | None = None,
    weights: ArrayLike | None = None,
    allowed: ArrayLike | None = None,
) -> PoolingResult:
    """The levels of fewest total bits whose weighted mean SMR meets the target.

    smr: float [items, levels] in 0..1; bits: float [items, levels] >= 0, totals per item; levels: float [levels],
    rising QPs; target 0..1. floor: lowest SMR that an item may have, a number or float [items]; an item that
    cannot have it takes its highest SMR. weights: float [items] > 0, frames of each segment, for the mean
    only. allowed: bool [items, levels], at least one of each item, default all. When the target is out of reach
    every item takes its highest SMR and reached is False.
    Raises InputError for shapes or values that do not fit.
    """
    values, costs, grid = _checked(smr, bits, levels, target)
    floors = np.broadcast_to(np.asarray(0.0 if floor is None else floor, np.float64), len(values))
    share = _shares(weights, len(values))
    # A canonical order of items: rounding and ties then cannot depend on the order in which they came.
    usable = _allowed(allowed, values)
    keys = np.hstack([values, costs, floors[:, None], share[:, None], usable])
    order = np.lexsort(keys.T[::-1])
    above_floor = usable & (values >= floors[:, None] - TOLERANCE)
    highest = usable & (values >= np.where(usable, values, -1.0).max(1, keepdims=True))
    choice = np.where(above_floor.any(1, keepdims=True), above_floor, highest)
    falling = costs * (1.0 - _PER_LEVEL * np.arange(grid.size))
    problem = _Problem((values * share[:, None])[order], falling[order], choice[order])

    index = np.empty(len(values), np.intp)
    index[order] = _fewest_bits(problem, target)
    met = float(share @ values[np.arange(len(values)), index]) >= target - TOLERANCE
    reached = np.asarray(above_floor.any(axis=1)) & met
    return _result(values, costs, grid, index, reached, share)


def _fewest_bits(problem: _Problem, target: float) -> Indices:
    """The chosen level of every item, or of each its highest SMR where the target is out of reach."""
    rows = np.arange(len(problem.smr))
    goal = target - TOLERANCE / 2  # half of it here, so that sums in another order still meet the target
    start, steps = _hull_walk(problem)
    index = start.copy()
    smr = float(problem.smr[rows, index].sum())
    # The last point of the walk that misses the target; the step after it would meet it.
    for item, level, gain in steps:
        if smr + gain >= goal:
            break
        smr += gain
        index[item] = level
    smr = float(problem.smr[rows, index].sum())
    if smr >= goal:
        return index
    candidates = [*_flat_levels(problem), *_changed(problem, index, goal)]
    candidates = [c for c in candidates if problem.smr[rows, c].sum() >= goal - TOLERANCE / 4]
    if not candidates:
        return _highest_smr(problem)
    return min(candidates, key=lambda c: (problem.bits[rows, c].sum(), -problem.smr[rows, c].sum()))


def _hull_walk(problem: _Problem) -> tuple[Indices, list[tuple[int, int, float]]]:
    """The Lagrangian's solutions for all prices: the cheapest levels [items], then the steps (item, new level, gain in
    mean SMR) in the order of falling gain per bit."""
    start = np.empty(len(problem.smr), np.intp)
    steps: list[tuple[float, int, int, int, float]] = []
    for item, (smr, bits, allowed) in enumerate(zip(problem.smr, problem.bits, problem.allowed, strict=True)):
        hull = _lower_hull(smr, bits, np.flatnonzero(allowed))
        start[item] = hull[0]
        price = 0.0
        for number, (before, after) in enumerate(pairwise(hull)):
            gain = float(smr[after] - smr[before])
            # Rounding may turn two nearly equal prices round; an item's steps must stay in their order.
            price = max(price, float(bits[after] - bits[before]) / gain)
            steps.append((price, item, number, after, gain))
    steps.sort()
    return start, [(item, level, gain) for _, item, _, level, gain in steps]


def _lower_hull(smr: Floats, bits: Floats, levels: Indices) -> list[int]:
    """Levels on the lower convex hull of (SMR, bits), from the fewest bits to the highest SMR."""
    hull: list[int] = []
    for level in levels[np.lexsort((bits[levels], smr[levels]))]:
        # Same or higher SMR for no more bits: what lies to the left is never chosen.
        while hull and bits[hull[-1]] >= bits[level]:
            hull.pop()
        if hull and smr[hull[-1]] >= smr[level]:
            continue
        while len(hull) > 1:
            first, second = hull[-2], hull[-1]
            rise = (bits[second] - bits[first]) * (smr[level] - smr[first])
            if rise <= (bits[level] - bits[first]) * (smr[second] - smr[first]):
                break
            hull.pop()
        hull.append(int(level))
    return hull


def _flat_levels(problem: _Problem) -> list[Indices]:
    """Every flat level; an item whose floor forbids it takes its nearest lower allowed level, else the next above."""
    n_levels = problem.smr.shape[1]
    columns = np.arange(n_levels)
    flats = []
    for level in range(n_levels):
        below = np.where(problem.allowed & (columns <= level), columns, -1).max(1)
        above = np.where(problem.allowed & (columns > level), columns, n_levels).min(1)
        flats.append(np.where(below >= 0, below, above))
    return flats


def _changed(problem: _Problem, index: Indices, goal: float) -> list[Indices]:
    """The cheapest change of one item's level, and of two items', that takes `index` to the goal."""
    rows = np.arange(len(index))
    missing = goal - problem.smr[rows, index].sum()
    gain = problem.smr - problem.smr[rows, index][:, None]
    cost = np.where(problem.allowed, problem.bits - problem.bits[rows, index][:, None], np.inf)
    found = []
    single = np.where(gain >= missing, cost, np.inf)
    if np.isfinite(single).any():
        item, level = np.unravel_index(np.argmin(single), single.shape)
        found.append(_with(index, [(item, level)]))
    if problem.smr.size <= _MAX_CHANGES_FOR_PAIRS:
        flat_gain, flat_cost = gain.ravel(), cost.ravel()
        owner = np.repeat(rows, problem.smr.shape[1])
        pair_cost = flat_cost[:, None] + flat_cost[None, :]
        impossible = (flat_gain[:, None] + flat_gain[None, :] < missing) | (owner[:, None] == owner[None, :])
        pair_cost[impossible] = np.inf
        if np.isfinite(pair_cost).any():
            pair = np.unravel_index(np.argmin(pair_cost), pair_cost.shape)
            found.append(_with(index, [np.unravel_index(entry, gain.shape) for entry in pair]))
    return found


def _with(index: Indices, changes: list[tuple[np.intp, ...]]) -> Indices:
    changed = index.copy()
    for item, level in changes:
        changed[item] = level
    return changed


def _highest_smr(problem: _Problem) -> Indices:
    """Best effort: every item's highest SMR, of equals the fewest bits, hence the highest QP of what is alike."""
    smr = np.where(problem.allowed, problem.smr, -1.0)
    top = smr >= smr.max(1, keepdims=True)
    cheapest: Indices = np.argmin(np.where(top, problem.bits, np.inf), axis=1)
    return cheapest


def _result(smr: Floats, bits: Floats, levels: Floats, index: Indices, reached: Flags, share: Floats) -> PoolingResult:
    rows = np.arange(len(index))
    return PoolingResult(
        index=index,
        qp=levels[index],
        mean_smr=float(share @ smr[rows, index]),
        total_bits=float(bits[rows, index].sum()),
        reached=reached,
    )


def _shares(weights: ArrayLike | None, n_items: int) -> Floats:
    given = np.ones(n_items) if weights is None else np.asarray(weights, np.float64)
    if given.shape != (n_items,) or not np.isfinite(given).all() or (given <= 0).any():
        raise InputError(f"pooling: weights must be {n_items} numbers above 0, one for each item")
    share: Floats = given / given.sum()
    return share


def _allowed(allowed: ArrayLike | None, values: Floats) -> Flags:
    flags = np.ones(values.shape, bool) if allowed is None else np.asarray(allowed, bool)
    if flags.shape != values.shape or not flags.any(axis=1).all():
        raise InputError("pooling: every item needs a level that is allowed")
    return flags


def _checked(smr: ArrayLike, bits: ArrayLike, levels: ArrayLike, target: float) -> tuple[Floats, Floats, Floats]:
    values, costs, grid = (np.asarray(array, np.float64) for array in (smr, bits, levels))
    if values.ndim != 2 or 0 in values.shape or values.shape != costs.shape or grid.shape != values.shape[1:]:
        raise InputError(
            f"pooling: SMR {values.shape}, bits {costs.shape} and levels {grid.shape} must be [items, levels], "
            "the same, and [levels]"
        )
    if (np.diff(grid) <= 0).any():
        raise InputError("pooling: levels must be rising QPs")
    if not 0.0 <= target <= 1.0:
        raise InputError(f"target SMR {target} is outside 0..1")
    if not ((values >= 0) & (values <= 1)).all():
        raise InputError("pooling: an SMR is not in 0..1; leave items without valid machines out")
    if not (np.isfinite(costs) & (costs >= 0)).all():
        raise InputError("pooling: bits must be finite and not negative")
    return values, costs, grid
