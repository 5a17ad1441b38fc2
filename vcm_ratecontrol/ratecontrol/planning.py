"""From curves to QPs: what is asked, what is known of each item, which QPs follow, and what probes change.

Items are pictures of a set or segments of clips. Nothing here runs an encoder or a network.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from codec_wrappers.errors import InputError
from vcm_ratecontrol.ratecontrol import pooling
from vcm_ratecontrol.ratecontrol.shift import (
    TRANSFER_SHRINK,
    MeasuredSmr,
    fragile,
    margin,
    pinned,
    probed_shift,
    shift_curve,
    through,
)
from vcm_ratecontrol.scoring import Tasks

Floats = NDArray[np.float64]
Flags = NDArray[np.bool_]

Pool = Literal["each", "mean"]

# A probe this near below the planned QP is kept: coding again would cost more time than it saves bits, and under
# `mean` the other items make up for it.
NEAR_QP = 1
# A plan that has changed is coded again for this share of the frames at most, where it has changed most: the whole job
# shall take less than twice one encode.
RECODED_SHARE = 0.6
# Pulls the slope of the correction of log2 bits to 0, in QP^2: two probes 2 QP apart are trusted by half.
_SLOPE_RIDGE = 2.0


@dataclass(frozen=True)
class Target:
    """What the user asks: a Satisfied Machine Ratio of at least `smr` (0..1) over the machines of a task.

    pool: 'each' item meets it, or all in the 'mean', weighted by frames; None: by what is coded ('each' for one still).
    floor: under `mean`, the lowest SMR that an item may have, 0..smr.
    """

    smr: float
    task: Tasks = "both"
    pool: Pool | None = None
    floor: float = 0.0

    def check(self) -> None:
        """Raises InputError for values out of range or without a meaning together."""
        if not 0.0 <= self.smr <= 1.0:
            raise InputError(f"--target-smr {self.smr}: must lie in 0..1")
        if not 0.0 <= self.floor <= self.smr:
            raise InputError(f"--floor {self.floor}: must lie in 0..{self.smr}, the target")
        if self.floor and self.pool == "each":
            raise InputError("--floor: only with --pool mean; under 'each' every item meets the target itself")


@dataclass(frozen=True, eq=False)
class Curves:
    """What is known of I items at the L QPs of an encoder.

    qps: int64 [L], rising. smr, low, high: float64 [I, L], 0..1: the curve and its band. bits: float64 [I, L], of the
    whole item. deviation: float64 [I], QP: how far the curve may be off. margin: float64 [I], QP: plans take the curve
    for so much more fragile. known: int64 [I], the QP below which a curve is extrapolated. weights: float64 [I],
    frames. seen: bool [I], False where no machine sees anything: such an item counts in no mean and keeps its first QP.
    """

    qps: NDArray[np.int64]
    smr: Floats
    low: Floats
    high: Floats
    bits: Floats
    deviation: Floats
    margin: Floats
    known: NDArray[np.int64]
    weights: Floats
    seen: Flags

    def __len__(self) -> int:
        return len(self.smr)

    def column(self, qp: int) -> int:
        return int(qp - self.qps[0])

    @property
    def safe(self) -> Floats:
        """SMR as plans take it, float64 [I, L]: with the margin, but for QPs at which nothing was ever measured: they
        are dear, and a guess is not made better by another one."""
        if not self.margin.any():
            return self.smr
        return np.where(self.qps < self.known[:, None], self.smr, fragile(self.smr, self.qps, self.margin))

    def pick(self, rows: ArrayLike) -> Curves:
        """The curves of some items."""
        at = np.asarray(rows)
        names = ("smr", "low", "high", "bits", "deviation", "margin", "known", "weights", "seen")
        return replace(self, **{name: getattr(self, name)[at] for name in names})


def joined(parts: Sequence[Curves]) -> Curves:
    """The curves of several files at the same QPs as those of one."""
    names = ("smr", "low", "high", "bits", "deviation", "margin", "known", "weights", "seen")
    return replace(parts[0], **{name: np.concatenate([getattr(part, name) for part in parts]) for name in names})


def with_margin(curves: Curves, target: Target, n_files: int) -> Curves:
    """Curves to plan by where nobody will measure: with a margin, the smaller the more files make up for each other.

    Segments of one clip do not: what a prediction misses of one, it misses of the others too.
    """
    return replace(curves, margin=margin(curves.deviation, 1 if target.pool == "each" else n_files))


def without_margin(curves: Curves) -> Curves:
    """Curves whose predictions are taken at their word."""
    return replace(curves, margin=np.zeros(len(curves)))


@dataclass(frozen=True)
class ProbePoint:
    """What a probe found. smr: 0..1, None where nobody can tell; bits: of the coded item."""

    qp: int
    smr: float | None
    bits: int


@dataclass(frozen=True, eq=False)
class Plan:
    """qps: int64 [I]; reached: bool [I], margin included: for `each` by item, for `mean` all alike unless an item is
    below its floor."""

    qps: NDArray[np.int64]
    reached: Flags


def plan(curves: Curves, target: Target, allowed: Flags | None = None) -> Plan:
    """The QPs that the curves ask for, see `pooling`. allowed: bool [I, L], at least one of each item."""
    usable = np.ones(curves.smr.shape, bool) if allowed is None else allowed
    grid = curves.qps.astype(np.float64)
    qps = np.zeros(len(curves), np.int64)
    reached = np.ones(len(curves), bool)
    for rows in (np.flatnonzero(curves.seen), np.flatnonzero(~curves.seen)):
        if not rows.size:
            continue
        part, part_allowed = curves.pick(rows), usable[rows]
        if not part.seen[0]:
            found = pooling.each(part.smr, part.bits, grid, target.smr, allowed=part_allowed)
        elif target.pool == "each":
            found = pooling.each(part.safe, part.bits, grid, target.smr, allowed=part_allowed)
        else:
            found = pooling.mean(
                part.safe, part.bits, grid, target.smr, floor=target.floor, weights=part.weights, allowed=part_allowed
            )
        qps[rows] = part.qps[found.index]
        if part.seen[0]:
            reached[rows] = found.reached
    return Plan(qps, reached)


def replan(curves: Curves, target: Target, probed: Sequence[Mapping[int, ProbePoint]], near: int = NEAR_QP) -> Plan:
    """The plan, with probes kept where they lie at most `near` QPs beside it, or where little would change, and the
    target is met all the same."""
    free = plan(curves, target)
    chosen = _if_as_good(plan(curves, target, _kept(curves, target, probed, free, near)), free)
    moved = _most_moved(curves, probed, chosen)
    bounded = _kept(curves, target, probed, chosen, len(curves.qps))
    bounded[moved] = True
    return _if_as_good(plan(curves, target, bounded), chosen)


def _if_as_good(plan_: Plan, other: Plan) -> Plan:
    return plan_ if plan_.reached.sum() >= other.reached.sum() else other


def _kept(
    curves: Curves, target: Target, probed: Sequence[Mapping[int, ProbePoint]], wanted: Plan, within: int
) -> Flags:
    """bool [I, L]: of items with a probe at most `within` QP from the plan that one only, of others all."""
    allowed = np.ones(curves.smr.shape, bool)
    for item, points in enumerate(probed):
        gaps = {qp: int(wanted.qps[item]) - qp for qp in points}
        # Under `each` a probe above the plan would miss the target.
        lowest = 0 if target.pool == "each" else -within
        near = [qp for qp, gap in gaps.items() if lowest <= gap <= within]
        if near:
            allowed[item] = False
            allowed[item, curves.column(min(near, key=lambda qp: abs(gaps[qp])))] = True
    return allowed


def _most_moved(curves: Curves, probed: Sequence[Mapping[int, ProbePoint]], wanted: Plan) -> NDArray[np.intp]:
    """The items to code again: those that move most, until `RECODED_SHARE` of the frames is reached."""
    moves = np.array(
        [min((abs(int(qp) - at) for at in points), default=0) for qp, points in zip(wanted.qps, probed, strict=True)]
    )
    order = np.argsort(-moves * curves.weights, kind="stable")
    order = order[moves[order] > 0]
    before = np.cumsum(curves.weights[order]) - curves.weights[order]
    chosen: NDArray[np.intp] = order[before < RECODED_SHARE * curves.weights.sum()]
    return chosen


def among_probed(curves: Curves, target: Target, probed: Sequence[Mapping[int, ProbePoint]]) -> Plan:
    """The plan when only probed QPs may be taken; items without a probe are free."""
    allowed = np.ones(curves.smr.shape, bool)
    for item, points in enumerate(probed):
        if points:
            allowed[item] = False
            allowed[item, [curves.column(qp) for qp in points]] = True
    return plan(curves, target, allowed)


def lowered(curves: Curves, target: Target, qps: NDArray[np.int64], aim: float) -> NDArray[np.int64]:
    """QPs lowered where that is cheapest until the target is met by the curves; unchanged where nothing helps.

    aim: the mean that is wanted, at least the target (more where curves proved too hopeful before).
    """
    smr = curves.safe
    columns = np.array([curves.column(int(qp)) for qp in qps])
    rows = np.arange(len(curves))
    wanted = np.full(len(curves), target.smr if target.pool == "each" else target.floor)
    for item in np.flatnonzero(curves.seen & (smr[rows, columns] < wanted - pooling.TOLERANCE)):
        columns[item] = _highest_meeting(smr[item, : columns[item] + 1], float(wanted[item]))
    if target.pool == "mean" and curves.seen.any():
        share = np.where(curves.seen, curves.weights, 0.0) / curves.weights[curves.seen].sum()
        while (missing := aim - float(share @ smr[rows, columns])) > pooling.TOLERANCE:
            step = _cheapest_step(smr, curves.bits, share, columns, missing)
            if step is None:
                break
            columns[step[0]] = step[1]
    chosen: NDArray[np.int64] = curves.qps[columns]
    return chosen


def _highest_meeting(smr: Floats, wanted: float) -> int:
    """The highest column that meets a value, else that of the highest SMR (of equals the highest)."""
    met = np.flatnonzero(smr >= wanted - pooling.TOLERANCE)
    return int(met[-1]) if met.size else int(len(smr) - 1 - np.argmax(smr[::-1]))


def _cheapest_step(
    smr: Floats, bits: Floats, share: Floats, columns: NDArray[np.intp], missing: float
) -> tuple[int, int] | None:
    """The item and lower column with the fewest bits for each unit of the missing mean SMR, of equals the highest QP;
    None when there is none."""
    rows = np.arange(len(smr))
    gain = share[:, None] * (smr - smr[rows, columns][:, None])
    cost = np.maximum(bits - bits[rows, columns][:, None], 1.0)
    useful = (np.arange(smr.shape[1])[None] < columns[:, None]) & (gain > pooling.TOLERANCE)
    if not useful.any():
        return None
    price = np.where(useful, cost / np.minimum(np.where(useful, gain, 1.0), missing), np.inf)
    item, from_last = np.unravel_index(np.argmin(price[:, ::-1]), price.shape)
    return int(item), price.shape[1] - 1 - int(from_last)


def refined(
    curves: Curves,
    probed: Sequence[Mapping[int, ProbePoint]],
    *,
    judges: bool,
    pin: bool = True,
    nearby: bool = False,
) -> Curves:
    """The one-shot curves moved towards what probes found. Give it the first curves and all probes each time.

    judges: the probes were measured with the machines that count; then the curve goes through them. Else they
    are a predictor's, which is trusted in part, and must fall with QP (see `safe_side`). pin: with judges, QPs between
    probes lie between what was measured, too; without, a QP may be hoped to be better than a lower one that was
    measured. nearby: pinned curves take over beside the probes what was measured beyond the shift: to look for
    better QPs, not to promise anything.
    """
    smr, low, high, bits = (np.array(values) for values in (curves.smr, curves.low, curves.high, curves.bits))
    grid = curves.qps.astype(np.float64)
    for item, points in enumerate(probed):
        told = [MeasuredSmr(point.qp, point.smr) for point in points.values() if point.smr is not None]
        if told:
            trusted = told if judges else safe_side(told)
            move = probed_shift(smr[item], grid, trusted, shift_sd=float(curves.deviation[item]))
            move *= 1.0 if judges else TRANSFER_SHRINK
            for values in (smr, low, high):
                values[item] = shift_curve(values[item], grid, move)
            if judges and pin:
                smr[item] = pinned(through(smr[item], grid, told) if nearby else smr[item], grid, told)
            elif judges:
                smr[item, [curves.column(int(point.qp)) for point in told]] = [point.smr for point in told]
        if points:
            bits[item] = _bits_through(bits[item], grid, list(points.values()))
    return replace(curves, smr=smr, low=low, high=high, bits=bits)


def safe_side(points: Sequence[MeasuredSmr]) -> list[MeasuredSmr]:
    """Predictions that fall with QP: one above what the same predictor said at a lower QP is lowered to that."""
    lowest = 1.0
    falling = []
    for point in sorted(points, key=lambda point: point.qp):
        lowest = min(lowest, point.smr)
        falling.append(MeasuredSmr(point.qp, lowest))
    return falling


def contradicts(points: Mapping[int, ProbePoint]) -> bool:
    """Whether predictions rise with QP somewhere."""
    told = [MeasuredSmr(point.qp, point.smr) for point in points.values() if point.smr is not None]
    return safe_side(told) != sorted(told, key=lambda point: point.qp)


def _bits_through(bits: Floats, grid: Floats, points: Sequence[ProbePoint]) -> Floats:
    """A bits curve through measured bits: its logarithm moved and, with two probes, tilted; still falling."""
    log2 = np.log2(np.maximum(bits, 1.0))
    at = np.array([point.qp for point in points], np.float64)
    true = np.log2([max(point.bits, 1) for point in points])
    error = true - np.interp(at, grid, log2)
    centre, offset = at.mean(), error.mean()
    slope = ((at - centre) @ (error - offset)) / (((at - centre) ** 2).sum() + _SLOPE_RIDGE)
    through = np.minimum.accumulate(log2 + offset + slope * (grid - centre))
    through[np.searchsorted(grid, at)] = true
    curve: Floats = np.exp2(through)
    return curve
